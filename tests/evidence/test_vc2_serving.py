"""What must hold of the evidence for Orca on any machine: counted rows, equal answers, direction of the gain."""

import math

import pytest
from edgeinfer.evidence import vc2_serving
from edgeinfer.memory.serving import CostModel, make_trace

from .findings import found, value

FLAT = CostModel(1e-3, 0, 0, 0)  # every step takes a millisecond


def test_requests_leave_at_once_so_fewer_iterations_are_needed():
    assert value("orca", "iterations, iteration-level") < value("orca", "iterations, request-level") / 2
    assert value("orca", "rows that were not idle, request-level") < 50


def test_throughput_doubles_at_less_latency():
    assert value("orca", "throughput over request-level") > 1.8
    assert value("orca", "median latency over request-level") < 1
    assert value("orca", "rate served at the same latency per token") > 1.2


def test_answers_do_not_depend_on_who_is_computed_beside():
    assert value("orca", "answers that differ from those alone") == 0


def test_the_claim_holds_in_direction_and_says_that_the_size_does_not():
    assert found("orca").holds is True
    assert "far from its size" in found("orca").reason


def test_without_spread_in_the_lengths_there_is_nothing_to_gain():
    even = make_trace(0, 64, rate=math.inf, output_spread=0, prompt_spread=0, prompt_mean=8)
    pair = vc2_serving.simulate(even, FLAT)
    assert pair.static.useful == 1
    assert pair.throughput == pytest.approx(1, abs=0.1)


def test_both_schedulers_make_the_same_tokens():
    pair = vc2_serving.simulate(make_trace(3, 50), FLAT)
    assert [len(s.tokens) for s in pair.static.served] == [len(s.tokens) for s in pair.continuous.served]


def test_a_rate_between_two_points_is_interpolated():
    latencies = [1.0] * 5 + [4.0] * 8
    low, high = vc2_serving.LOADS[4], vc2_serving.LOADS[5]
    assert vc2_serving.load_at(latencies, 2.0) == pytest.approx(math.sqrt(low * high))
    assert vc2_serving.load_at(latencies, 9.0) == vc2_serving.LOADS[-1]
    assert vc2_serving.load_at(latencies, 0.5) == vc2_serving.LOADS[0]
