"""What must hold of the evidence for formats on real chips on any machine: exactness, bytes, order of qualities."""

import numpy as np
import pytest
from edgeinfer.evidence import va1_serving, va1_systems, va1_temperature

from .findings import found, value


@pytest.mark.parametrize("system", ["powerinfer-2", "mllm-npu", "transformer-lite"])
def test_speeds_of_phones_are_left_open(system):
    assert found(system).holds is None
    assert not [r.name for r in found(system).results if r.unit == "x" and ("speed" in r.name or "time" in r.name)]


# ---- PowerInfer-2


def test_more_bits_for_all_neurons_are_better_and_three_everywhere_beat_the_mixtures():
    by_bits = {bits: value("powerinfer-2", f"perplexity, all neurons {bits} bits") for bits in (2, 3, 4)}
    assert by_bits[2] > by_bits[3] > by_bits[4]
    for how in ("most frequent", "largest contribution", "at random"):
        assert by_bits[3] < value("powerinfer-2", f"perplexity, quarter at 8 bits, rest 2, {how}") < by_bits[2]


def test_skipping_closed_gates_reads_less_than_all_bytes():
    assert 0.4 < value("powerinfer-2", "bytes a token reads over all bytes, hot 8, cold 4") < 0.9
    assert 0.05 < value("powerinfer-2", "neurons that fire for a token") < 0.6


def test_temperature_is_not_taken_from_the_text_that_is_evaluated():
    neurons = va1_temperature.Neurons(tokens=512)
    evaluated, calibration = neurons.subject.text[: neurons.subject.tokens + 1], neurons._text
    assert len(neurons.subject.text) - len(calibration) > len(evaluated)
    assert all(f.shape == (640,) and ((f >= 0) & (f <= 1)).all() for f in neurons.frequency)


# ---- MNN-LLM


def test_folding_is_exact_the_mistake_is_not_and_the_embedding_changes_no_bit():
    assert value("mnn-llm", "sums that differ when the zero point is folded") == 0
    assert value("mnn-llm", "error when the number of columns stands for the activation sum") > 0.1
    assert value("mnn-llm", "largest difference of a logit, embedding in its file") == 0
    assert value("mnn-llm", "bytes of the file that a decoded token reads") == 512


def test_asymmetric_weights_are_better_at_two_bits():
    assert value("mnn-llm", "perplexity, 2 bits, asymmetric") < value("mnn-llm", "perplexity, 2 bits, symmetric") / 2
    assert found("mnn-llm").holds is True


# ---- mllm-NPU


def test_injected_outliers_leave_the_function_as_it_is():
    loud = va1_systems.loud_subject()
    assert loud.perplexity() == pytest.approx(va1_systems.Subject().perplexity(), rel=1e-4)


def test_shadow_path_brings_back_what_one_scale_costs():
    base, fits, clipped, shadow = (
        value("mllm-npu", f"perplexity, {how}")
        for how in ("float", "scale fits the outliers", "outliers clipped", "shadow path")
    )
    assert base < shadow < clipped < fits
    assert np.log(shadow / base) < 0.2 * np.log(clipped / base)
    assert value("mllm-npu", "largest error of the split") <= 0.501
    assert value("mllm-npu", "error if outliers are clipped and then added as well") > 100
    assert 1 < value("mllm-npu", "outlier channels of a layer's input") < 13  # of 256 (640 in the down projection)


# ---- Transformer-Lite


def test_decoders_agree_and_the_fraction_needs_fewer_operations_and_no_conversion():
    assert value("transformer-lite", "weights in which the two decoders differ") == 0
    assert value("transformer-lite", "conversions per weight, code in the fraction") == 0
    assert value("transformer-lite", "bit operations per weight, code in the fraction") == 2.25
    assert value("transformer-lite", "largest difference from int4 in float32") < 0.02


def test_evenly_spaced_codes_are_better_than_powers_of_two():
    assert value("transformer-lite", "error, code in the fraction") < value(
        "transformer-lite", "error, code in the exponent"
    )


def test_keys_in_place_are_never_copied():
    joined, placed = (
        value("transformer-lite", f"bytes of old keys and values copied, {how}") for how in ("joined", "in place")
    )
    token = 2 * 8 * 4 * 32 * 4  # keys and values, layers, heads, head size, float32
    assert placed == 0 and joined == token * sum(range(128, 128 + 64))
    cached = va1_systems.cache_traffic(prompt=16, steps=3)
    assert cached["joined"][2] == cached["in place"][2]


# ---- CENT


def test_cent_model_is_close_where_it_was_not_fitted_and_shows_the_spread():
    assert value("cent", "median deviation from the published simulation") < 5
    assert value("cent", "largest deviation from it") < 25
    assert value("cent", "decoding speed against GPUs, 13B") > value("cent", "decoding speed against GPUs, 70B") > 1
    assert 1.8 < value("cent", "decoding speed against GPUs, mean") < 3.2
    assert 4 < value("cent", "tokens per dollar against GPUs, mean") < 7
    assert value("cent", "speed against the GPUs' own limit at batch 128, 70B") < 1
    assert all(r.method == "modelled" for r in found("cent").results)


# ---- Jupiter


def test_pipeline_gives_the_logits_of_one_process_and_the_schedule_its_bounds():
    assert value("jupiter", "largest difference of a logit") < 1e-3
    assert value("jupiter", "tokens that differ when points are continued together") == 0
    for devices in (2, 4, 8):
        assert 1 < value("jupiter", f"speed of prefill, {devices} devices over one") <= devices
    assert 3 < value("jupiter", "speed of decoding four points together, 4 devices") <= 4
    modelled = [r for r in found("jupiter").results if r.name.endswith("devices over one")]
    assert {r.method for r in modelled} == {"modelled"}  # two processes are measured, more devices are not


# ---- RTP-LLM


def test_reuse_saves_most_of_the_prefill_and_changes_no_answer():
    assert value("rtp-llm", "turns whose answer differs") == 0
    saved, tight = value("rtp-llm", "share of prefill saved"), value("rtp-llm", "share saved with a third of that room")
    assert 0.6 < saved < 1 and 0 < tight < saved
    assert found("rtp-llm").holds is True


def test_without_room_nothing_is_saved():
    none = va1_serving.converse(0, users=2, turns=2, answer_tokens=2)
    assert none.prefilled == none.prompts
