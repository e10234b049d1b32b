"""What `spmm.py` compares: sparse weights times a few columns, by this book, torch (dense and CSR), scipy."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from edgeinfer.kernels import pack_bitmap, pack_csr, pack_tiled, simd, sparse_matmul
from edgeinfer.kernels.memory import in_huge_pages
from edgeinfer.measure import rotating
from numpy.typing import NDArray
from torch.nn import functional

from . import Contender

COLD_BYTES = 128 << 20  # all copies of a contender together
MOST_COPIES = 1500


@dataclass
class SparseProblem:
    """One product y = W x with zeros at random places in W.

    Attributes:
        rows, columns: N and K.
        zeros: share of zeros.
        batch: columns of x.
        threads: of every contender that has any.
        absent: what could not be compared, and why; the peers add to it.
    """

    rows: int
    columns: int
    zeros: float
    batch: int
    threads: int
    absent: dict[str, str] = field(default_factory=dict)

    @cached_property
    def weight(self) -> NDArray[np.float32]:
        rng = np.random.default_rng(0)
        weight = rng.standard_normal((self.rows, self.columns), np.float32)
        weight[rng.random((self.rows, self.columns), np.float32) < self.zeros] = 0
        return weight

    @cached_property
    def x(self) -> NDArray[np.float32]:
        return np.random.default_rng(1).standard_normal((self.batch, self.columns), np.float32)

    @cached_property
    def exact(self) -> NDArray[np.float64]:
        """(B, N) by torch in float64, row block by row block: a whole copy would fill the memory of a small machine."""
        x = torch.from_numpy(self.x).double()
        parts = [x @ torch.from_numpy(self.weight[i : i + 512]).double().T for i in range(0, self.rows, 512)]
        return torch.cat(parts, 1).numpy().reshape(-1)


def _copy(weight: Any) -> Any:
    arrays = {f.name: getattr(weight, f.name) for f in dataclasses.fields(weight)}
    return dataclasses.replace(
        weight, **{name: in_huge_pages(a) for name, a in arrays.items() if isinstance(a, np.ndarray)}
    )


def contenders(problem: SparseProblem) -> list[Contender]:
    """Dense bfloat16, torch's CSR, scipy's CSR, and the three formats of this book."""
    torch.set_num_threads(problem.threads)
    found: list[Contender] = []
    dense = torch.from_numpy(problem.weight)
    half = torch.from_numpy(problem.x).bfloat16()
    wide = (
        problem.x.T
    )  # every contender is given the activations (B, K) of a linear layer; who needs columns turns them

    def add(name: str, call: Callable[[Any], Any], weight: Any, copy: Callable[[Any], Any], nbytes: int, **how) -> None:
        turned = how.get("turned", False)

        def result() -> NDArray:
            y = call(weight)
            y = y.float().numpy() if isinstance(y, torch.Tensor) else y
            return y.T if turned else y

        count = min(MOST_COPIES, max(2, round(COLD_BYTES / nbytes)))
        run = rotating(call, [weight, *(copy(weight) for _ in range(count - 1))])
        found.append(Contender(name, run, nbytes, result, problem.exact, how.get("tolerance", 0.01)))

    add("torch bf16, dense", lambda w: functional.linear(half, w), dense.bfloat16(), torch.clone, 2 * dense.numel())
    _torch_csr(problem, dense, torch.from_numpy(wide), add)
    _scipy_csr(problem, wide, add)
    given = problem.x[0] if problem.batch == 1 else problem.x
    for name, pack in (("bitmap", pack_bitmap), ("CSR, 16-bit columns", pack_csr), ("tiles", pack_tiled)):
        packed = pack(problem.weight)
        add(
            f"this book: {name}",
            lambda w: sparse_matmul(w, given, threads=problem.threads),
            packed,
            _copy,
            packed.nbytes,
        )
        if name == "bitmap" and problem.threads == 1 and simd.available():
            call = lambda w: sparse_matmul(w, given, "portable")  # noqa: E731
            add("this book: bitmap, portable", call, packed, _copy, packed.nbytes)
    return found


def _torch_csr(problem: SparseProblem, dense: torch.Tensor, wide: torch.Tensor, add: Callable[..., None]) -> None:
    warnings.filterwarnings("ignore", message="Sparse")  # CSR is in beta; its indices come from torch itself
    try:
        csr = dense.to_sparse_csr()  # 64-bit indices, which MKL takes too; 32 bits are half the bytes
        parts = (csr.crow_indices().int(), csr.col_indices().int(), csr.values())
        nbytes = sum(p.nbytes for p in parts)
        matrix = torch.sparse_csr_tensor(*parts, csr.shape)
        copy = lambda m: torch.sparse_csr_tensor(  # noqa: E731
            m.crow_indices().clone(), m.col_indices().clone(), m.values().clone(), m.shape
        )
        add(
            "torch CSR fp32 (MKL), 32-bit columns",
            lambda m: m @ wide,
            matrix,
            copy,
            nbytes,
            turned=True,
            tolerance=1e-4,
        )
    except RuntimeError as error:
        problem.absent["torch CSR"] = str(error).splitlines()[0]


def _scipy_csr(problem: SparseProblem, wide: NDArray[np.float32], add: Callable[..., None]) -> None:
    if problem.threads > 1:
        problem.absent["scipy CSR with two threads"] = "scipy's product uses one thread"
        return
    try:
        from scipy import sparse
    except ImportError:
        problem.absent["scipy CSR"] = "scipy is not installed (requirements-dev.txt)"
        return
    matrix = sparse.csr_array(problem.weight)
    given = wide[:, 0].copy() if problem.batch == 1 else wide
    nbytes = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    add("scipy CSR fp32", lambda m: m @ given, matrix, lambda m: m.copy(), nbytes, turned=True, tolerance=1e-4)
