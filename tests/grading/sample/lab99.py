"""Exercises of the sample lab that only the tests use."""

import numpy as np
from edgeinfer.grading.exercise import Exercise, Lab, Misconception, Returns


def _weights(rng):
    return [(rng.normal(size=n).astype(np.float32), bits) for n, bits in ((7, 4), (64, 8), (1, 2), (33, 3), (257, 4))]


def _quantize(weight, bits):
    top = 2 ** (bits - 1) - 1
    scale = max(abs(float(v)) for v in weight) / top
    return np.array([round(float(v) / scale) for v in weight], dtype=np.int8), scale


def _no_sign_bit(weight, bits):
    scale = np.abs(weight).max() / (2**bits - 1)
    return np.round(weight / scale).astype(np.int8), scale


def _signed_maximum(weight, bits):
    scale = weight.max() / (2 ** (bits - 1) - 1)
    return np.round(weight / scale).astype(np.int8), scale


def _truncates(weight, bits):
    scale = np.abs(weight).max() / (2 ** (bits - 1) - 1)
    return (weight / scale).astype(np.int8), scale


def _codes(rng):
    return [(rng.integers(-7, 8, size=n).astype(np.int8), float(rng.uniform(0.01, 2))) for n in (1, 5, 64)]


LAB = Lab(
    name="lab99_sample",
    setup="import numpy as np",
    exercises=[
        Exercise(
            name="quantize",
            contract="weight float32 (N,), bits int -> codes int8 (N,), scale float",
            make_cases=_weights,
            oracle=_quantize,
            returns=(Returns("codes", dtype="int8"), Returns("scale", dtype="floating", rtol=1e-5)),
            misconceptions=[
                Misconception(
                    "no-sign-bit",
                    "One of the bits is the sign: the largest code is 2**(bits-1) - 1, not 2**bits - 1.",
                    produces=_no_sign_bit,
                ),
                Misconception(
                    "forgets-negative-weights",
                    "The largest magnitude may be negative: take the maximum of |weight|.",
                    produces=_signed_maximum,
                ),
                Misconception(
                    "truncates", "astype(int) cuts the fraction off; round first (np.round).", produces=_truncates
                ),
                Misconception(
                    "scale-upside-down",
                    "The scale is a step size (largest magnitude / largest code); you return its inverse.",
                    recognises=lambda args, got, want: bool(np.allclose(got[1] * want[1], 1.0, rtol=1e-3)),
                ),
            ],
            points=2,
            seconds=1,
        ),
        Exercise(
            name="dequantize",
            contract="codes int8 (N,), scale float -> weight floating (N,)",
            make_cases=_codes,
            oracle=lambda codes, scale: np.array([int(c) * scale for c in codes]),
            returns=(Returns("weight", dtype="floating", rtol=1e-5),),
            misconceptions=[
                Misconception(
                    "divides", "Going back multiplies by the scale.", produces=lambda codes, scale: codes / scale
                ),
            ],
            points=1,
            seconds=1,
        ),
    ],
)
