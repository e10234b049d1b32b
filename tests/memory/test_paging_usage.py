"""Reserved and used memory: the formulas against a count, the pool against its limits."""

import pytest
from edgeinfer.memory.paging import usage
from edgeinfer.memory.serving.trace import Arrival, make_trace
from hypothesis import given, settings
from hypothesis import strategies as st

ONE = Arrival(0, 3, 5)


def test_waste_of_one_request_counted_by_hand():
    used = 4 + 5 + 6 + 7 + 8
    assert usage.waste([ONE], "oracle") == pytest.approx(1 - used / (5 * 8))
    assert usage.waste([ONE], "longest text", longest=10) == pytest.approx(1 - used / 50)
    assert usage.waste([ONE], "blocks", block_size=4) == pytest.approx(1 - used / (4 + 4 * 8))
    assert usage.waste([ONE], "power of two", longest=100) == pytest.approx(1 - used / (4 + 5 + 7 + 7 + 11))
    assert usage.waste([ONE], "blocks", block_size=1) == 0


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 33), st.sampled_from(usage.WAYS))
def test_never_less_is_held_than_used(prompt, output, size, way):
    request = Arrival(0, prompt, output)
    for now in range(prompt + 1, prompt + output + 1):
        held = usage.reserved(request, now, way, size, 128)
        assert held >= now
        if way == "blocks":
            assert held - now < size


@pytest.mark.parametrize("way", ["longest text", "oracle", "blocks"])
def test_serving_wastes_what_the_count_says_and_ends(way):
    trace = make_trace(3, 30, prompt_mean=20, output_mean=30, longest=60)
    served = usage.serve(trace, way, 600, 8, longest=120)
    assert served.waste == pytest.approx(usage.waste(trace, way, 8, longest=120), abs=0.02)
    assert served.running * served.steps == pytest.approx(sum(r.output_tokens for r in trace))
    assert way == "blocks" or served.preempted == 0


def test_who_stepped_back_is_served_before_those_that_had_not_begun():
    served = usage.serve([Arrival(0, 4, 14)] * 4, "blocks", 24, 4)
    assert served.preempted > 0
    assert served.ended == (0, 1, 2, 3)


def test_mistakes_are_said_in_a_sentence():
    with pytest.raises(ValueError, match="way 'pages' is unknown"):
        usage.waste([ONE], "pages")
    with pytest.raises(ValueError, match="a request needs"):
        usage.serve([ONE], "blocks", 4, 4, longest=8)
