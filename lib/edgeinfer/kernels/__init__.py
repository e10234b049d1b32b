"""V.A kernels: quantization, and the products that read few bits per weight.

Small modules, one idea each. Vector code runs where AVX-512 VNNI and VBMI are present (`simd.available()`), portable
code elsewhere; EDGEINFER_SIMD=0 forces the latter. Needs NumPy and Numba; torch only inside `adaptor`.
"""

from edgeinfer.kernels import hc_spmm, hot_tiles, row_permutation
from edgeinfer.kernels.activations import QuantizedActivations, quantize_activations
from edgeinfer.kernels.adaptor import KernelLinear, QuantizedModel, quantize_model
from edgeinfer.kernels.any_precision import AnyPrecisionWeight, any_precision_matmul, any_precision_quantize
from edgeinfer.kernels.awq import ActivationAware, activation_aware_scale
from edgeinfer.kernels.bcq import BinaryCodedWeight, binary_coding, binary_matmul
from edgeinfer.kernels.bits import pack_bits, unpack_bits
from edgeinfer.kernels.fused_decode import FusedDecoder
from edgeinfer.kernels.gptq import gptq_quantize, output_error, second_moment
from edgeinfer.kernels.hierarchical import HierarchicalNM, hierarchical_matmul, hierarchical_n_m
from edgeinfer.kernels.integer import int2_matvec, int4_matvec, int8_matvec, matmul
from edgeinfer.kernels.lookup import (
    LookupTables,
    LookupWeight,
    build_tables,
    lookup_matmul,
    pack_lookup,
    quantize_sign,
)
from edgeinfer.kernels.low_rank import LowRank, low_rank_compensation
from edgeinfer.kernels.n_m import NMWeight, activation_importance, n_m_bytes, n_m_mask, n_m_matmul, pack_n_m, prune_n_m
from edgeinfer.kernels.n_m_permutation import Permutation, search_permutation
from edgeinfer.kernels.outliers import OutlierSplit, outlier_columns, split_outliers
from edgeinfer.kernels.packing import PackedWeight, pack, pack_int2, pack_int4, pack_int8
from edgeinfer.kernels.pruning import prune_activation_aware, prune_magnitude, prune_model
from edgeinfer.kernels.quantize import (
    QuantizedWeight,
    from_codes,
    quantization_error,
    quantize_groupwise,
    quantize_per_channel,
    quantize_per_tensor,
)
from edgeinfer.kernels.sparse_bitmap import BitmapWeight, pack_bitmap
from edgeinfer.kernels.sparse_csr import CSRWeight, pack_csr
from edgeinfer.kernels.sparse_product import sparse_matmul
from edgeinfer.kernels.sparse_tiled import TiledWeight, pack_tiled
from edgeinfer.kernels.spmm import CSR, csr_matmul, from_dense
from edgeinfer.kernels.ternary import TernaryWeight, pack_ternary, pack_ternary_int2, ternarize, ternary_matmul
from edgeinfer.kernels.w4a8 import W4A8Weight, clip_search, pack_w4a8, quantize_clipped, w4a8_matmul

__all__ = [
    "CSR",
    "ActivationAware",
    "AnyPrecisionWeight",
    "BinaryCodedWeight",
    "BitmapWeight",
    "CSRWeight",
    "FusedDecoder",
    "HierarchicalNM",
    "KernelLinear",
    "LookupTables",
    "LookupWeight",
    "LowRank",
    "NMWeight",
    "OutlierSplit",
    "PackedWeight",
    "Permutation",
    "QuantizedActivations",
    "QuantizedModel",
    "QuantizedWeight",
    "TernaryWeight",
    "TiledWeight",
    "W4A8Weight",
    "activation_aware_scale",
    "activation_importance",
    "any_precision_matmul",
    "any_precision_quantize",
    "binary_coding",
    "binary_matmul",
    "build_tables",
    "clip_search",
    "csr_matmul",
    "from_codes",
    "from_dense",
    "gptq_quantize",
    "hc_spmm",
    "hierarchical_matmul",
    "hierarchical_n_m",
    "hot_tiles",
    "int2_matvec",
    "int4_matvec",
    "int8_matvec",
    "lookup_matmul",
    "low_rank_compensation",
    "matmul",
    "n_m_bytes",
    "n_m_mask",
    "n_m_matmul",
    "outlier_columns",
    "output_error",
    "pack",
    "pack_bitmap",
    "pack_bits",
    "pack_csr",
    "pack_int2",
    "pack_int4",
    "pack_int8",
    "pack_lookup",
    "pack_n_m",
    "pack_ternary",
    "pack_ternary_int2",
    "pack_tiled",
    "pack_w4a8",
    "prune_activation_aware",
    "prune_magnitude",
    "prune_model",
    "prune_n_m",
    "quantization_error",
    "quantize_activations",
    "quantize_clipped",
    "quantize_groupwise",
    "quantize_model",
    "quantize_per_channel",
    "quantize_per_tensor",
    "quantize_sign",
    "row_permutation",
    "search_permutation",
    "second_moment",
    "sparse_matmul",
    "split_outliers",
    "ternarize",
    "ternary_matmul",
    "unpack_bits",
    "w4a8_matmul",
]
