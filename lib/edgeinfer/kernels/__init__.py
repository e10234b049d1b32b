"""V.A kernels: quantization, and the products that read few bits per weight.

Small modules, one idea each. Vector code runs where AVX-512 VNNI and VBMI are present (`simd.available()`), portable
code elsewhere; EDGEINFER_SIMD=0 forces the latter. Needs NumPy and Numba; torch only inside `adaptor`.
"""

from edgeinfer.kernels.activations import QuantizedActivations, quantize_activations
from edgeinfer.kernels.bits import pack_bits, unpack_bits
from edgeinfer.kernels.integer import int2_matvec, int4_matvec, int8_matvec, matmul
from edgeinfer.kernels.lookup import (
    LookupTables,
    LookupWeight,
    build_tables,
    lookup_matmul,
    pack_lookup,
    quantize_sign,
)
from edgeinfer.kernels.packing import PackedWeight, pack, pack_int2, pack_int4, pack_int8
from edgeinfer.kernels.quantize import (
    QuantizedWeight,
    quantization_error,
    quantize_groupwise,
    quantize_per_channel,
    quantize_per_tensor,
)
from edgeinfer.kernels.ternary import TernaryWeight, pack_ternary, ternarize, ternary_matmul

__all__ = [
    "LookupTables",
    "LookupWeight",
    "PackedWeight",
    "QuantizedActivations",
    "QuantizedWeight",
    "TernaryWeight",
    "build_tables",
    "int2_matvec",
    "int4_matvec",
    "int8_matvec",
    "lookup_matmul",
    "matmul",
    "pack",
    "pack_bits",
    "pack_int2",
    "pack_int4",
    "pack_int8",
    "pack_lookup",
    "pack_ternary",
    "quantization_error",
    "quantize_activations",
    "quantize_groupwise",
    "quantize_per_channel",
    "quantize_per_tensor",
    "quantize_sign",
    "ternarize",
    "ternary_matmul",
    "unpack_bits",
]
