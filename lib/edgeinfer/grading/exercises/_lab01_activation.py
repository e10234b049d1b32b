"""Lab 1, exercise activation_scale: columns with loud activations get more of the grid.

Source: awq.
"""

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns


def _activation_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for n, k, tokens, alpha in ((4, 8, 32, 0.5), (3, 6, 10, 1.0), (2, 12, 20, 0.25), (5, 4, 7, 0.0), (3, 8, 16, 0.5)):
        magnitude = np.exp(rng.normal(0, 1.5, k))
        inputs = (rng.normal(0.2, 1, (tokens, k)) * magnitude).astype(np.float32)
        cases.append((rng.normal(size=(n, k)).astype(np.float32), inputs, alpha))
    silent = cases[-1][1]
    silent[:, 3] = 0  # a channel that never fires
    return cases


def _factors(inputs: np.ndarray, alpha: float) -> np.ndarray:
    raw = [max(sum(abs(float(v)) for v in column) / len(column), 1e-5) ** alpha for column in inputs.T]
    middle = (max(raw) * min(raw)) ** 0.5
    return np.array([v / middle for v in raw])


def _activation(weight: np.ndarray, inputs: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    factor = _factors(inputs, alpha)
    return np.stack([weight[:, k].astype(np.float64) * f for k, f in enumerate(factor)], 1), factor


def _mistaken_factor(
    weight: np.ndarray, magnitude: np.ndarray, alpha: float, normalise: str = "middle"
) -> tuple[np.ndarray, np.ndarray]:
    raw = np.maximum(np.asarray(magnitude, np.float64), 1e-5) ** alpha
    by = {
        "middle": np.sqrt(raw.max() * raw.min()),
        "no": 1.0,
        "max": raw.max(),
        "mean": raw.mean(),
        "sum": raw.max() * raw.min(),
    }[normalise]
    return weight * (raw / by), raw / by


def _size(inputs: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(inputs.astype(np.float64)).mean(0))


def _divides(weight: np.ndarray, inputs: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    factor = _factors(inputs, alpha)
    return weight / factor, factor


def _factor_turned(weight: np.ndarray, inputs: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    scaled, factor = _activation(weight, inputs, alpha)
    return scaled, 1 / factor


def _root_of_magnitudes(weight: np.ndarray, inputs: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    size = np.maximum(_size(inputs), 1e-5)
    factor = size**alpha / np.sqrt(size.max() * size.min())
    return weight * factor, factor


def _inverse(weight: np.ndarray, inputs: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    factor = 1 / _factors(inputs, alpha)
    return weight * factor, factor


ACTIVATION = Exercise(
    name="activation_scale",
    contract="weight float32 (N, K), inputs float32 (T, K) seen by the layer, alpha float 0..1 -> scaled floating "
    "(N, K) = weight with column k times factor[k], factor floating (K,) = m**alpha / sqrt(max(m**alpha) * "
    "min(m**alpha)) with m[k] the mean of |inputs[:, k]|, at least 1e-5",
    make_cases=_activation_cases,
    oracle=_activation,
    returns=(Returns("scaled", dtype="floating", rtol=1e-3, atol=1e-6), Returns("factor", dtype="floating", rtol=1e-3)),
    misconceptions=[
        Misconception(
            "scales-down-the-important",
            "The columns that matter are made SMALLER, so they lose more in rounding. Multiply the weights by the "
            "factor; it is the activations that are divided.",
            produces=_divides,
        ),
        Misconception(
            "inverse-factor",
            "The factor is upside down: a channel with large activations gets a large factor, so that its weights use "
            "more of the grid.",
            produces=_inverse,
        ),
        Misconception(
            "factor-of-the-activations",
            "The weights are right, but the factor you return is upside down: return what the weights were multiplied "
            "with. Whoever calls divides by it.",
            produces=_factor_turned,
        ),
        Misconception(
            "root-before-the-power",
            "The root is taken of m, not of m**alpha: first the power, then the largest and the smallest of its "
            "values.",
            produces=_root_of_magnitudes,
        ),
        Misconception(
            "signed-mean",
            "The mean of signed activations is near zero however large they are. Take the mean of their magnitude.",
            produces=lambda w, x, a: _mistaken_factor(w, np.abs(x.astype(np.float64).mean(0)), a),
        ),
        Misconception(
            "signed-mean-floored",
            "The mean of signed activations is near zero however large they are. Take the mean of their magnitude.",
            produces=lambda w, x, a: _mistaken_factor(w, x.astype(np.float64).mean(0), a),
        ),
        Misconception(
            "largest-activation",
            "You use the largest activation. One rare token would decide alone; this method takes the mean magnitude.",
            produces=lambda w, x, a: _mistaken_factor(w, np.abs(x).max(0), a),
        ),
        Misconception(
            "root-mean-square",
            "You use the root mean square; the contract asks for the mean magnitude.",
            produces=lambda w, x, a: _mistaken_factor(w, np.sqrt((x.astype(np.float64) ** 2).mean(0)), a),
        ),
        Misconception(
            "weight-magnitude",
            "You measure the weights. What makes a channel important is the size of its ACTIVATIONS.",
            produces=lambda w, x, a: _mistaken_factor(w, np.abs(w).mean(0), a),
        ),
        Misconception(
            "not-normalised",
            "The factors are not normalised: divide by sqrt(max * min), so that the grid as a whole stays put.",
            produces=lambda w, x, a: _mistaken_factor(w, _size(x), a, "no"),
        ),
        Misconception(
            "normalised-to-the-largest",
            "Normalised to the largest factor: every column shrinks. Divide by sqrt(max * min), so that factors lie on "
            "both sides of 1.",
            produces=lambda w, x, a: _mistaken_factor(w, _size(x), a, "max"),
        ),
        Misconception(
            "normalised-to-the-mean",
            "Normalised to the mean; the contract asks for sqrt(max * min), the middle on a logarithmic scale.",
            produces=lambda w, x, a: _mistaken_factor(w, _size(x), a, "mean"),
        ),
        Misconception(
            "forgets-the-root",
            "Divide by the SQUARE ROOT of max * min.",
            produces=lambda w, x, a: _mistaken_factor(w, _size(x), a, "sum"),
        ),
        Misconception(
            "ignores-alpha",
            "alpha is an exponent that sets how much is done: 0 nothing, 1 everything. Here it is missing.",
            produces=lambda w, x, a: _mistaken_factor(w, _size(x), 1.0),
        ),
        Misconception(
            "alpha-as-factor",
            "alpha is an exponent, not a factor: m**alpha, not m * alpha. (A common factor cancels.)",
            produces=lambda w, x, a: _mistaken_factor(w, a * _size(x), 1.0),
        ),
        Misconception(
            "silent-channel",
            "Right until a channel never fires: its magnitude is 0, and so are its factor and the normalisation. Keep "
            "the magnitudes at 1e-5 or above.",
            recognises=lambda args, got, want: bool((np.abs(args[1]).max(0) == 0).any()),
        ),
    ],
    hint="Take two channels, one ten times as loud, and alpha 0, 1 and 0.5. What should happen to the loud one's "
    "weights? Which product of the largest and the smallest factor must come out?",
    points=3,
)
