"""What must hold of drawing: 0 is the maximum, `top_p` cuts, seeds repeat, chances are those of the softmax."""

import numpy as np
from edgeinfer.memory.serving.requests import Request, draw
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

LOGITS = arrays(np.float32, st.integers(1, 12), elements=st.floats(-30, 30, width=32))


def ask(**options):
    return Request("a", (1,), 1, **options)


@given(LOGITS, st.integers(0, 99))
def test_temperature_zero_and_a_tiny_top_p_take_the_likeliest(logits, seed):
    best = int(logits.argmax())
    assert draw(logits, ask(), np.random.default_rng(seed)) == best
    chosen = draw(logits, ask(temperature=1.0, top_p=0.0), np.random.default_rng(seed))
    assert logits[chosen] == logits[best]


@given(LOGITS, st.floats(0.01, 2), st.floats(0.05, 1), st.integers(0, 99))
def test_draws_stay_within_the_smallest_set_that_reaches_top_p(logits, temperature, top_p, seed):
    chosen = draw(logits, ask(temperature=temperature, top_p=top_p), np.random.default_rng(seed))
    chances = np.exp((logits.astype(float) - logits.max()) / temperature)
    chances /= chances.sum()
    assert chances[chances > chances[chosen]].sum() <= top_p + 1e-9


def test_chances_are_those_of_the_softmax_and_seeds_repeat():
    logits, rng = np.log(np.array([0.5, 0.3, 0.2], np.float32)), np.random.default_rng(0)
    drawn = [draw(logits, ask(temperature=1.0), rng) for _ in range(4000)]
    assert np.allclose(np.bincount(drawn, minlength=3) / 4000, [0.5, 0.3, 0.2], atol=0.03)
    again = np.random.default_rng(0)
    assert drawn[:50] == [draw(logits, ask(temperature=1.0), again) for _ in range(50)]
