"""Wrong and right answers of the sample lab."""

from pathlib import Path

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants(Path(__file__).with_name("lab99.py"))


@mutants.wrong("quantize", named="no-sign-bit")
def counts_the_sign_bit(weight, bits):
    scale = np.max(np.abs(weight)) / (2**bits - 1)
    return np.round(weight / scale).astype(np.int8), scale


@mutants.wrong("quantize", named="truncates")
def astype_without_round(weight, bits):
    scale = np.abs(weight).max() / (2 ** (bits - 1) - 1)
    return (weight / scale).astype(np.int8), scale


@mutants.wrong("quantize", named="scale-upside-down")
def returns_the_inverse(weight, bits):
    inverse = (2 ** (bits - 1) - 1) / np.abs(weight).max()
    return np.round(weight * inverse).astype(np.int8), inverse


@mutants.wrong("quantize")
def int64_codes(weight, bits):
    scale = np.abs(weight).max() / (2 ** (bits - 1) - 1)
    return np.round(weight / scale).astype(np.int64), scale


@mutants.wrong("quantize", named="changes-its-input")
def divides_in_place(weight, bits):
    scale = np.abs(weight).max() / (2 ** (bits - 1) - 1)
    weight /= scale
    return np.round(weight).astype(np.int8), scale


@mutants.wrong("quantize")
def all_zero(weight, bits):
    return np.zeros(weight.shape, np.int8), 1.0


@mutants.wrong("quantize")
def raises(weight, bits):
    return undefined_helper(weight), 1.0  # noqa: F821


@mutants.wrong("quantize")
def codes_only(weight, bits):
    scale = np.abs(weight).max() / (2 ** (bits - 1) - 1)
    return np.round(weight / scale).astype(np.int8)


@mutants.right("quantize")
def with_a_loop(weight, bits):
    scale = max(abs(v) for v in weight.tolist()) / (2 ** (bits - 1) - 1)
    return np.array([round(v / scale) for v in weight.tolist()], dtype=np.int8), scale


@mutants.right("quantize")
def through_float64(weight, bits):
    wide = weight.astype(np.float64)
    scale = max(wide.max(), -wide.min()) / ((1 << bits - 1) - 1)
    return np.rint(wide / scale).astype(np.int8), np.float32(scale)


@mutants.wrong("dequantize", named="divides")
def divides(codes, scale):
    return codes / scale


@mutants.right("dequantize")
def multiplies(codes, scale):
    return np.multiply(codes, scale)
