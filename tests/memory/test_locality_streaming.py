"""Streamed layers: the same tokens as in memory, every byte read once for all sub-batches, no torn file."""

import pytest
import torch
from edgeinfer.memory.locality.layer_file import LayerFile, LayerStream, write_layers
from edgeinfer.memory.locality.sub_batches import SubBatchRunner, pipeline_seconds
from edgeinfer.models import generate, held_out_tokens, load
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def model():
    return load("draft")


@pytest.fixture(scope="module")
def layers(model, tmp_path_factory):
    return write_layers(model, tmp_path_factory.mktemp("layers") / "layers.safetensors")


@pytest.fixture(scope="module")
def prompts():
    tokens = held_out_tokens("text")
    return [tokens[i * 40 : i * 40 + 12 * rows].view(rows, 12) for i, rows in enumerate((2, 1, 3))]


def test_the_file_is_a_safetensors_file_with_the_models_weights(model, layers):
    stored, mine = load_file(layers.path), model.linears()
    assert stored.keys() == mine.keys() and all(torch.equal(stored[n], mine[n]) for n in mine)
    assert layers.nbytes == sum(w.nbytes for w in mine.values())


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("together", [1, 2, 3])
def test_tokens_are_those_of_the_model_in_memory_and_bytes_fall_with_the_sub_batches(
    model, layers, prompts, together, ahead
):
    with LayerStream(layers, piece_bytes=8192, ahead=ahead) as stream, SubBatchRunner(model, stream) as runner:
        made = runner.generate(prompts, 4, together)
        passes = 4 * -(-len(prompts) // together)
        assert runner.passes == passes and runner.tokens == 4 * 6
        assert passes * layers.nbytes <= stream.bytes_read < 1.2 * passes * layers.nbytes
    for prompt, tokens in zip(prompts, made, strict=True):
        assert torch.equal(tokens, generate(model, prompt, 4)[:, -4:])


def test_logits_equal_those_of_the_same_products_in_memory_bit_for_bit(model, layers, prompts):
    class Whole:
        tensors = load_file(layers.path)

        def fetch(self, name):
            return self.tensors[name]

    from edgeinfer.models.cache import PlainCache

    with LayerStream(layers) as stream, SubBatchRunner(model, stream) as runner:
        caches = [PlainCache(model.config, len(p), model.dtype) for p in prompts]
        streamed = runner.step(prompts, caches)
    model.weight_store = Whole()
    try:
        for prompt, logits in zip(prompts, streamed, strict=True):
            assert torch.equal(model.prefill(prompt, last_only=True)[0][:, 0], logits)
    finally:
        model.restore()


def test_memory_for_weights_is_two_layers(layers):
    with LayerStream(layers) as two, LayerStream(layers, ahead=False) as one:
        assert two.buffer_bytes == 2 * one.buffer_bytes == 2 * max(length for _, length in layers.ranges)


def test_a_pass_that_was_left_halfway_does_not_spoil_the_next(model, layers):
    mine = model.linears()
    with LayerStream(layers) as stream:
        for number, _ in stream.one_pass():
            if number == 0:
                break
        for _, tensors in stream.one_pass():
            assert all(torch.equal(weight, mine[name]) for name, weight in tensors.items())


def test_reading_ahead_hides_the_shorter_of_the_two():
    assert pipeline_seconds(2, 1, 8, 1, ahead=False) == 24
    assert pipeline_seconds(2, 1, 8, 1) == 2 + 7 * 2 + 1
    assert pipeline_seconds(2, 1, 8, 4) == 2 + 7 * 4 + 4
    assert pipeline_seconds(2, 1, 8, 4) < 4 * pipeline_seconds(2, 1, 8, 1)


def test_refusals_are_one_sentence(model, layers, tmp_path):
    (tmp_path / "text").write_text("not weights")
    with pytest.raises(ValueError, match="is not a layer file"):
        LayerFile(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        LayerFile(tmp_path / "nothing")
    with pytest.raises(ValueError, match="at least 4096"):
        LayerStream(layers, piece_bytes=1)
    with pytest.raises(ValueError, match="at least one layer"):
        pipeline_seconds(1, 1, 0, 1)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(layers.path.read_bytes()[:-5000])
    with LayerStream(LayerFile(cut)) as stream, pytest.raises(ValueError, match="cut short"):
        list(stream.one_pass())
    with LayerStream(layers) as stream, SubBatchRunner(model, stream) as runner:
        with pytest.raises(ValueError, match="at least one sub-batch"):
            runner.generate([], 1)
        with pytest.raises(RuntimeError, match="is not loaded now"):
            model.prefill(torch.zeros(1, 3, dtype=torch.long))
