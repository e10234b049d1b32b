"""What the evidence on flash rests on: counted reads are those of a real file; nothing is fitted on the test text."""

import pytest
import torch
from edgeinfer import models
from edgeinfer.evidence import vc2_flash
from edgeinfer.memory import flash
from edgeinfer.memory.flash.traces import network_weights

from .findings import found, value


@pytest.mark.parametrize(("window", "bundled", "gap"), [(None, True, 0), (0, False, 0), (4, True, 0), (4, True, 2)])
def test_counted_reads_are_those_of_the_real_file(tmp_path, window, bundled, gap):
    activity = vc2_flash.reading_activity(7)
    flash.write_neurons(tmp_path / "n", network_weights(vc2_flash.relu_model()), bundled=bundled)
    with flash.NeuronFile(tmp_path / "n") as file:
        real = vc2_flash.replay(file, activity, window, gap, warm=5)
    count = vc2_flash.counted(activity, 256, window, bundled, gap, warm=5)
    assert (real.bytes, real.requests, real.neurons) == (count.bytes, count.requests, count.neurons)


def test_fitted_and_tested_texts_do_not_overlap():
    training, tested = flash.training_tokens(6144), models.held_out_tokens("text")[:2048]
    windows = {tuple(part.tolist()) for part in training.unfold(0, 64, 1)}
    assert not any(tuple(part.tolist()) in windows for part in tested.unfold(0, 64, 16))
    assert not torch.equal(training[:100], tested[:100])


def test_each_step_of_llm_in_a_flash_saves():
    for name in ("bundles of 1.5 KiB", "bundles of 12 KiB"):
        requests = [value("llm-in-a-flash", f"requests per token, {name}, {step}") for step in vc2_flash.STEPS[1:]]
        assert requests == sorted(requests, reverse=True)
        assert value("llm-in-a-flash", f"bytes saved, {name}") > 4
    assert value("llm-in-a-flash", "tokens equal to the model in memory") == 16
    assert value("llm-in-a-flash", "runs from flash, fails when loaded whole") == 1


def test_the_path_saves_requests_and_bytes_on_text_it_has_not_seen():
    assert found("ripple").holds is False
    assert value("ripple", "of these by the order alone, gap 0, window of 0") > 1.1
    assert value("ripple", "requests saved, path and gap 2, window of 0") > 2
    assert value("ripple", "bytes read over those before, gap 2, window of 0") < 1


def test_predicted_neurons_keep_the_perplexity_and_cost_less_than_all():
    before = value("deja-vu", "perplexity, all neurons")
    name = "rank 64, threshold at 95%"
    assert before < value("deja-vu", f"perplexity, {name}") < 1.03 * before
    assert value("deja-vu", f"work with the predictor, {name}") < 0.75
    assert found("deja-vu").holds is False and found("deja-vu").reason
