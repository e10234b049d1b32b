"""Outlier columns apart: the few inputs with large magnitudes are multiplied in float, all others in integers.

Without it one large input stretches the scale of all others. Source: llm-int8 (and the shadow outliers of mllm-npu).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.integer import matmul
from edgeinfer.kernels.packing import PackedWeight, pack
from edgeinfer.kernels.quantize import quantize_groupwise


@dataclass(frozen=True)
class OutlierSplit:
    """A weight whose outlier columns stay float32.

    Attributes:
        regular: the packed integer weight, with zeros in the outlier columns.
        columns: indices of the outlier columns.
        kept: (N, number of outliers) float32.
    """

    regular: PackedWeight
    columns: NDArray[np.intp]
    kept: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads."""
        return self.regular.nbytes + self.columns.nbytes + self.kept.nbytes

    def matmul(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """y = x W^T for (K,) or (B, K). The outliers leave x before its scale is taken, so none is counted twice."""
        rows = validate.activations(x, self.regular.shape[1])
        outliers = rows[:, self.columns]
        rest = rows.copy()
        rest[:, self.columns] = 0
        y = matmul(self.regular, rest) + outliers @ self.kept.T
        return y[0] if np.ndim(x) == 1 else y


def outlier_columns(inputs: NDArray[np.float32], threshold: float = 6.0) -> NDArray[np.intp]:
    """Columns in which some calibration input reaches the threshold.

    Args:
        inputs: (rows, K) float32.
        threshold: magnitude; 6.0 in the paper, for hidden states of unit scale.
    """
    return np.flatnonzero(np.abs(validate.finite_matrix(inputs, "inputs")).max(0) >= threshold)


def split_outliers(
    weight: NDArray[np.float32], columns: NDArray[np.intp], bits: int = 8, group_size: int | None = None
) -> OutlierSplit:
    """Quantize all columns but the given ones.

    Args:
        weight: (N, K) float32.
        columns: indices of columns that stay float32 (`outlier_columns`).
        bits: of the others.
        group_size: of the others; None is one scale per row.

    Raises:
        ValueError: "column 300 is not one of the 256 columns of this weight."
    """
    weight = validate.finite_matrix(weight, "weight")
    columns = np.unique(np.asarray(columns, np.intp))
    if columns.size and not 0 <= columns[0] <= columns[-1] < weight.shape[1]:
        wrong = columns[-1] if columns[0] >= 0 else columns[0]
        raise ValueError(f"column {wrong} is not one of the {weight.shape[1]} columns of this weight.")
    rest = weight.copy()
    rest[:, columns] = 0
    quantized = quantize_groupwise(rest, bits, group_size or weight.shape[1])
    return OutlierSplit(pack(quantized), columns, np.ascontiguousarray(weight[:, columns]))
