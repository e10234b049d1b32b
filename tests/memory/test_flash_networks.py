"""Predictors, the compiled network of chosen neurons, the file of neurons and the decoder that reads from it."""

import json
import resource
from functools import partial

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.measure.memory_limit import run_limited
from edgeinfer.memory import flash
from edgeinfer.memory.flash.contextual import fit_heads
from edgeinfer.memory.flash.engine import exact_gates
from edgeinfer.memory.flash.neuron_file import to_bits
from edgeinfer.memory.flash.predictor import quality
from edgeinfer.memory.flash.traces import network_weights
from hypothesis import given, settings
from hypothesis import strategies as st


def layer_of(rng, neurons=13, hidden=8):
    draw = partial(rng.standard_normal, dtype=np.float32)
    return draw((neurons, hidden)), draw((neurons, hidden)), draw((hidden, neurons))


def rounded(layer):
    return [torch.from_numpy(part).bfloat16().float().numpy() for part in layer]


@pytest.fixture(scope="module")
def relu():
    return models.load("relu")


@pytest.fixture(scope="module")
def trace(relu):
    return flash.record_trace(relu, flash.training_tokens(2048), heads=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_network_of_chosen_neurons_equals_the_dense_one_with_the_others_masked(seed, neurons, hidden):
    rng = np.random.default_rng(seed)
    layer = layer_of(rng, neurons, hidden)
    chosen = rng.random(neurons) < 0.6
    x = rng.standard_normal(hidden, np.float32)
    gate, up, down = (part.astype(np.float64) for part in rounded(layer))
    wanted = down @ (np.maximum(gate @ x, 0) * (up @ x) * chosen)
    got = flash.gathered_network(x, flash.bundle_layer(*layer), np.flatnonzero(chosen))
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3 * hidden)


def test_wrong_bundles_get_one_sentence():
    rng = np.random.default_rng(0)
    bundles = flash.bundle_layer(*layer_of(rng))
    x = np.ones(8, np.float32)
    with pytest.raises(ValueError, match="too short for inputs of 16"):
        flash.gathered_network(np.ones(16, np.float32), bundles, np.array([0]))
    with pytest.raises(ValueError, match="not all among 13 bundles"):
        flash.gathered_network(x, bundles, np.array([13]))
    with pytest.raises(ValueError, match="bundles must be uint16"):
        flash.gathered_network(x, bundles.astype(np.float32), np.array([0]))
    with pytest.raises(ValueError, match="gate and up must be"):
        flash.bundle_layer(np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 2)))


def test_full_rank_on_a_linear_label_finds_everything_and_low_rank_less():
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((4000, 12)), rng.standard_normal((12, 30))
    active = x @ weight > 0.5
    recalls = [
        quality(flash.fit_predictor(x[:3000], active[:3000], rank).choose(x[3000:]), active[3000:]) for rank in (2, 12)
    ]
    assert all(r > 0.9 for r, _ in recalls)
    assert recalls[1][1] < recalls[0][1] - 0.1  # the same recall with fewer neurons
    everything = flash.fit_predictor(x, active, 12, recall=1.0)
    assert quality(everything.choose(x), active)[0] == 1.0
    assert everything.operations == 12 * (12 + 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank must be from 1 to 4"),
        ({"rank": 5}, "rank must be"),
        ({"rank": 2, "recall": 0}, "recall must"),
    ],
)
def test_predictor_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        flash.fit_predictor(np.ones((5, 4)), np.ones((5, 6), bool), **arguments)
    with pytest.raises(ValueError, match="equally many rows"):
        flash.fit_predictor(np.ones((5, 4)), np.ones((4, 6), bool), 1)


def test_predictors_one_layer_ahead_keep_the_model_and_count_what_they_cost(relu, trace):
    tokens = models.held_out_tokens("text")
    before = models.perplexity(relu, tokens, max_tokens=512)
    sparse = flash.ContextualSparsity(relu, flash.fit_contextual(trace, 64)).install()
    after = models.perplexity(relu, tokens, max_tokens=512)
    relu.restore()
    assert before <= after < 1.05 * before
    assert sparse.tokens == 512 and 0.8 < sparse.recall < 1 and 0.3 < sparse.density < 0.75
    assert sparse.work == pytest.approx(sparse.density + 64 * (256 + 640) / (3 * 256 * 640))
    assert models.perplexity(relu, tokens, max_tokens=512) == before


def test_all_neurons_and_all_heads_predicted_change_nothing(relu, trace):
    tokens = models.held_out_tokens("text")[None, :64]
    want, _ = relu.prefill(tokens)
    everything = flash.ContextualSparsity(relu, [], fit_heads(trace, 8, 8), 8).install()
    got, _ = relu.prefill(tokens)
    relu.restore()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="8 layers need as many predictors; came 1"):
        flash.ContextualSparsity(relu, everything.heads[:1])
    with pytest.raises(ValueError, match="keep_heads must be"):
        flash.ContextualSparsity(relu, [], everything.heads, 9)


def test_head_norms_are_those_of_each_heads_own_product(relu):
    name = "layers.2.attention.o_proj"
    tokens = models.held_out_tokens("text")[:256]
    seen, weight = relu.capture_inputs(tokens[None], [name])[name], relu.linears()[name]
    norms = flash.record_trace(relu, tokens, heads=True).heads[2]
    alone = seen.clone()
    alone[:, : 3 * 32] = 0
    alone[:, 4 * 32 :] = 0
    np.testing.assert_allclose(norms[:, 3], (alone @ weight.T).norm(dim=1), rtol=1e-3)


def test_a_trace_needs_relu_and_a_window(relu):
    with pytest.raises(ValueError, match="a model with ReLU"):
        flash.record_trace(models.load("target"), torch.zeros(256, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 256 tokens; came 3"):
        flash.record_trace(relu, torch.zeros(3, dtype=torch.int64))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(0, 4))
def test_a_file_gives_back_the_bundles_in_any_order(tmp_path_factory, seed, bundled, gap):
    rng = np.random.default_rng(seed)
    layers = [layer_of(rng, 37, 10) for _ in range(2)]
    path = tmp_path_factory.mktemp("neurons") / "n.bin"
    flash.write_neurons(path, layers, [rng.permutation(37) for _ in layers], bundled)
    wanted = rng.permutation(37)[: rng.integers(0, 38)]
    with flash.NeuronFile(path, threads=1 + seed % 2) as file:
        for number, layer in enumerate(layers):
            np.testing.assert_array_equal(file.fetch(number, wanted, gap), flash.bundle_layer(*layer)[wanted])
        np.testing.assert_array_equal(file.read_layer(1), flash.bundle_layer(*layers[1]))
        assert file.cold.requests >= (2 if len(wanted) == 0 else 4) // 2


def test_bundling_asks_a_third_as_often_and_stand_ins_have_their_size(tmp_path):
    layer = layer_of(np.random.default_rng(0), 64, 16)
    flash.write_neurons(tmp_path / "split", [layer], bundled=False)
    flash.write_neurons(tmp_path / "bundled", [layer])
    flash.write_neurons(tmp_path / "wide", [layer], bundle_bytes=8192)
    requests, moved = [], []
    for name in ("split", "bundled", "wide"):
        with flash.NeuronFile(tmp_path / name) as file:
            file.fetch(0, np.arange(0, 64, 2))
            requests.append(file.cold.requests)
            moved.append(file.cold.bytes_read)
    assert requests == [96, 32, 32] and moved[2] == 32 * 8192


def test_bfloat16_rounding_matches_torch():
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    np.testing.assert_array_equal(to_bits(values), torch.from_numpy(values).bfloat16().view(torch.uint16).numpy())


def test_decoding_from_the_file_equals_the_model_in_memory_to_the_bit_under_any_window_and_budget(relu, tmp_path):
    weights, tokens = network_weights(relu), models.held_out_tokens("text")[None, :12]
    dense, _ = relu.prefill(tokens)
    rng = np.random.default_rng(0)
    flash.write_neurons(tmp_path / "n", weights, [rng.permutation(640) for _ in weights])
    outputs, loaded = [], []
    for window, budget, gap in ((0, 983_040, 0), (4, None, 0), (4, 2_500_000, 3), (12, None, 1)):
        with flash.NeuronFile(tmp_path / "n") as file:
            engine = flash.FlashNetwork(file, exact_gates(weights), window, budget, gap).install(relu)
            logits, cache = relu.prefill(tokens[:, :9])
            parts = [logits] + [relu.decode(tokens[:, t : t + 1], cache) for t in range(9, 12)]
            relu.restore()
        assert engine.memory_bytes <= (budget or 9 * 983_040) and engine.ledger.tokens == 12
        outputs.append(torch.cat(parts, 1))
        loaded.append(engine.per_token()["loaded"])
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])
    torch.testing.assert_close(outputs[0], dense, rtol=1e-4, atol=1e-3)
    assert loaded[0] > loaded[2] > loaded[1] > loaded[3]


def test_bad_files_and_budgets_get_one_sentence(relu, tmp_path):
    layer, path = layer_of(np.random.default_rng(0)), tmp_path / "n"
    flash.write_neurons(path, [layer, layer])
    with flash.NeuronFile(path) as file:
        with pytest.raises(ValueError, match=r"a budget of 600 bytes is smaller than one layer \(624 bytes\)"):
            flash.FlashNetwork(file, budget_bytes=600)
        with pytest.raises(ValueError, match="holds 2 layers of 13 neurons for inputs of 8, the model needs 8, 640"):
            flash.FlashNetwork(file).install(relu)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4000])
    with pytest.raises(ValueError, match="where its header asks for 12288: it is cut short"):
        flash.NeuronFile(path)
    path.write_bytes(b"something else altogether" * 900)
    with pytest.raises(ValueError, match="is not a file of neurons"):
        flash.NeuronFile(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is not a file of neurons"):
        flash.NeuronFile(path)
    with pytest.raises(ValueError, match="order of layer 0 must hold each of 13 neurons once"):
        flash.write_neurons(path, [layer], [np.zeros(13, int)])
    with pytest.raises(ValueError, match="bundle_bytes must be an even number of at least 48"):
        flash.write_neurons(path, [layer], bundle_bytes=40)


def test_a_full_disk_leaves_no_file(tmp_path):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    try:
        with pytest.raises(OSError, match="could not write n: "):
            flash.write_neurons(tmp_path / "n", [layer_of(np.random.default_rng(0), 200, 32)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(tmp_path.iterdir()) == []


def test_a_file_larger_than_memory_runs_from_flash_and_not_whole(tmp_path):
    rng = np.random.default_rng(0)
    layers = [layer_of(rng, 256, 16)] * 4
    flash.write_neurons(tmp_path / "n", layers, bundle_bytes=131_072)  # 134 MB
    np.savez(tmp_path / "a.npz", active=rng.random((3, 4, 256)) < 0.05)
    run = run_limited(
        "edgeinfer.memory.flash.limited:run_networks",
        {"path": str(tmp_path / "n"), "activity": str(tmp_path / "a.npz"), "budget_bytes": 100_000},
        500 << 20,
    )
    assert run.outcome == "finished", run.message
    assert json.loads(json.dumps(run.result))["requests"] > 10
