"""V.A kernels: products that read few bits per weight, or skip the weights that are zero.

Small modules, one idea each. Where to enter:

- machine: `simd` (vector registers), `threads`, `memory` (huge pages), `validate` (the sentences of errors)
- choosing codes: `quantize` and, on top of it, `gptq`, `awq`, `low_rank`, `outliers`, `any_precision`, `bcq`, `w4a8`
- formats of real chips: `mnn_weights`, `shadow`, `float4`, `mixed_temperature`
- products: `packing` + `integer`, `lookup`, `ternary`; in a model: `adaptor`, or a whole step at once: `fused_decode`
- keys, values, attention: `kv_quantize`, `kv_cache`, `attention_low_bit`; then `minicache`, `energon`, `spatten`
- zeros anywhere: `pruning`, `sparse_*` (formats, `sparse_product` multiplies them all)
- zeros in a pattern, two kinds of worker: `n_m*`, `hierarchical`; `spmm`, `hot_tiles`, `hc_spmm`, `row_permutation`
- `*_steps`: the same ideas in plain NumPy, which the labs compare with

Vector code runs where AVX-512 VNNI and VBMI are present (`simd.available()`), portable code elsewhere; EDGEINFER_SIMD=0
forces the latter. Needs NumPy and Numba; torch is imported only where it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from edgeinfer.kernels import energon, hc_spmm, hot_tiles, minicache, row_permutation
from edgeinfer.kernels.activations import QuantizedActivations, quantize_activations
from edgeinfer.kernels.adaptor import KernelLinear, QuantizedModel, quantize_model
from edgeinfer.kernels.any_precision import AnyPrecisionWeight, any_precision_matmul, any_precision_quantize
from edgeinfer.kernels.attention_layout import PackedKV
from edgeinfer.kernels.attention_low_bit import attend_low_bit, exact_attention, pack_kv
from edgeinfer.kernels.awq import ActivationAware, activation_aware_scale
from edgeinfer.kernels.bcq import BinaryCodedWeight, binary_coding, binary_matmul
from edgeinfer.kernels.bits import pack_bits, unpack_bits
from edgeinfer.kernels.float4 import Float4Weight, pack_float4, quantize_float4
from edgeinfer.kernels.fused_decode import FusedDecoder
from edgeinfer.kernels.gptq import gptq_quantize, output_error, second_moment
from edgeinfer.kernels.hierarchical import HierarchicalNM, hierarchical_matmul, hierarchical_n_m
from edgeinfer.kernels.integer import int2_matvec, int4_matvec, int8_matvec, matmul
from edgeinfer.kernels.kv_fp8 import fp8_table, from_fp8, quantize_fp8, to_fp8
from edgeinfer.kernels.kv_quantize import QuantizedKV, quantize_keys, quantize_values
from edgeinfer.kernels.lookup import (
    LookupTables,
    LookupWeight,
    build_tables,
    lookup_matmul,
    pack_lookup,
    quantize_sign,
)
from edgeinfer.kernels.low_rank import LowRank, low_rank_compensation
from edgeinfer.kernels.mixed_temperature import MixedNetwork, activation_frequency, quantize_by_temperature
from edgeinfer.kernels.mnn_weights import FileEmbedding
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
from edgeinfer.kernels.shadow import ShadowLinear, shadow_linear
from edgeinfer.kernels.sparse_bitmap import BitmapWeight, pack_bitmap
from edgeinfer.kernels.sparse_csr import CSRWeight, pack_csr
from edgeinfer.kernels.sparse_product import pack_sparse, sparse_matmul
from edgeinfer.kernels.sparse_tiled import TiledWeight, pack_tiled
from edgeinfer.kernels.spmm import CSR, csr_matmul, from_dense
from edgeinfer.kernels.ternary import TernaryWeight, pack_ternary, pack_ternary_int2, ternarize, ternary_matmul
from edgeinfer.kernels.w4a8 import W4A8Weight, clip_search, pack_w4a8, quantize_clipped, w4a8_matmul

_NEED_TORCH = {"EncodedCache": "kv_cache", "LowBitCache": "kv_cache", "use_low_bit_cache": "kv_cache", "spatten": ""}

if TYPE_CHECKING:
    from edgeinfer.kernels import spatten
    from edgeinfer.kernels.kv_cache import EncodedCache, LowBitCache, use_low_bit_cache


def __getattr__(name: str) -> Any:
    """Caches and attentions of the decoder are imported when first asked for: they need torch."""
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_NEED_TORCH[name] or name}")
    return getattr(module, name) if _NEED_TORCH[name] else module


__all__ = [
    "CSR",
    "ActivationAware",
    "AnyPrecisionWeight",
    "BinaryCodedWeight",
    "BitmapWeight",
    "CSRWeight",
    "EncodedCache",
    "FileEmbedding",
    "Float4Weight",
    "FusedDecoder",
    "HierarchicalNM",
    "KernelLinear",
    "LookupTables",
    "LookupWeight",
    "LowBitCache",
    "LowRank",
    "MixedNetwork",
    "NMWeight",
    "OutlierSplit",
    "PackedKV",
    "PackedWeight",
    "Permutation",
    "QuantizedActivations",
    "QuantizedKV",
    "QuantizedModel",
    "QuantizedWeight",
    "ShadowLinear",
    "TernaryWeight",
    "TiledWeight",
    "W4A8Weight",
    "activation_aware_scale",
    "activation_frequency",
    "activation_importance",
    "any_precision_matmul",
    "any_precision_quantize",
    "attend_low_bit",
    "binary_coding",
    "binary_matmul",
    "build_tables",
    "clip_search",
    "csr_matmul",
    "energon",
    "exact_attention",
    "fp8_table",
    "from_codes",
    "from_dense",
    "from_fp8",
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
    "minicache",
    "n_m_bytes",
    "n_m_mask",
    "n_m_matmul",
    "outlier_columns",
    "output_error",
    "pack",
    "pack_bitmap",
    "pack_bits",
    "pack_csr",
    "pack_float4",
    "pack_int2",
    "pack_int4",
    "pack_int8",
    "pack_kv",
    "pack_lookup",
    "pack_n_m",
    "pack_sparse",
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
    "quantize_by_temperature",
    "quantize_clipped",
    "quantize_float4",
    "quantize_fp8",
    "quantize_groupwise",
    "quantize_keys",
    "quantize_model",
    "quantize_per_channel",
    "quantize_per_tensor",
    "quantize_sign",
    "quantize_values",
    "row_permutation",
    "search_permutation",
    "second_moment",
    "shadow_linear",
    "sparse_matmul",
    "spatten",
    "split_outliers",
    "ternarize",
    "ternary_matmul",
    "to_fp8",
    "unpack_bits",
    "use_low_bit_cache",
    "w4a8_matmul",
]
