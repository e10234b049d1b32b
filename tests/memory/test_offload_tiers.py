"""A decoder writes the same tokens wherever its weights and caches lie; what crosses is what the policy says."""

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.memory.locality.layer_file import write_layers
from edgeinfer.memory.offload import Policy
from edgeinfer.memory.offload.block import run_block
from edgeinfer.memory.offload.model_files import open_skeleton, workload, write_random_model
from edgeinfer.memory.offload.readers import parts, read_together
from edgeinfer.memory.offload.shards import ShardedModel, mean_loss
from edgeinfer.memory.offload.tiers import SlowTier, TieredWeights, achieved, place
from edgeinfer.memory.storage import ColdFile, write_whole
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def model():
    return models.load("draft")


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiers") / "layers.safetensors"
    write_layers(model, path)
    return path


@pytest.fixture
def slow(tmp_path):
    SlowTier.make(tmp_path / "slow", 24 << 20)
    return SlowTier(tmp_path / "slow")


WHERE = [((1, 0, 0), (1, 0)), ((0, 0, 1), (1, 0)), ((0, 1, 0), (0, 1)), ((0.4, 0.3, 0.3), (0.5, 0.5))]


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize(("weights", "kv"), WHERE)
def test_the_tokens_do_not_depend_on_where_things_lie(model, file, slow, weights, kv, ahead):
    prompts = list(models.held_out_tokens()[:60].view(3, 2, 10))
    wanted = [models.generate(model, p, 5)[:, 10:] for p in prompts]
    policy = Policy(2, 3, weights, kv)
    with TieredWeights(file, weights, slow, ahead) as store:
        answers, moved = run_block(model, store, prompts, 5, policy, slow)
        assert all(torch.equal(a, w) for a, w in zip(answers, wanted, strict=True))
        per_step = store.layers * store.file.ranges[0][1]
        assert moved.disk == pytest.approx(5 * per_step * store.shares[2])
        if kv[1] == 0:
            assert moved.copied == pytest.approx(5 * per_step * store.shares[1])
    assert len(moved.steps) == 5
    assert torch.equal(models.generate(model, prompts[0], 5)[:, 10:], wanted[0])  # the model has its weights back


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_no_upper_tier_holds_more_than_its_share(sizes, a, b):
    fast, slow = min(a, b), abs(a - b)
    names = {str(i): size for i, size in enumerate(sizes)}
    shares = achieved(names, place(names, (fast, slow, 1 - fast - slow)))
    assert shares[0] <= fast + 1e-6 and sum(shares) == pytest.approx(1)


def test_a_weight_of_another_layer_is_not_given(file):
    with TieredWeights(file, (0, 0, 1)) as store:
        store.enter(0, None)
        assert store.fetch("layers.0.attention.q_proj").dim() == 2
        with pytest.raises(RuntimeError, match="enter its layer"):
            store.fetch("layers.1.attention.q_proj")


def test_a_full_slow_tier_and_a_broken_file_are_said(file, tmp_path):
    SlowTier.make(tmp_path / "small", 1000)
    with pytest.raises(MemoryError, match="the slow tier has 1000 bytes left"):
        TieredWeights(file, (0, 1, 0), SlowTier(tmp_path / "small"))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="cut short"):
        TieredWeights(broken, (1, 0, 0))
    with pytest.raises(FileNotFoundError):
        TieredWeights(tmp_path / "none.safetensors", (1, 0, 0))


def test_a_model_without_weights_has_the_answers_of_the_one_with_them(tmp_path):
    write_random_model(tmp_path, 64, 3, 32)
    work = workload(tmp_path, 16)
    assert work.layers == 3 and work.kv_bytes == 2 * 64 * 16 * 4
    prompts = [torch.arange(8)[None]]
    answers = []
    for shares in ((1, 0, 0), (0, 0, 1)):
        with TieredWeights(tmp_path / "layers.safetensors", shares) as store:
            answers.append(run_block(open_skeleton(tmp_path), store, prompts, 4, Policy(1, 1, shares))[0][0])
    assert torch.equal(*answers)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50_000), st.integers(1, 7))
def test_readers_divide_a_read_without_gap_or_overlap(length, readers):
    runs = parts(length, readers)
    assert [a for a, _ in runs] == [0, *[b for _, b in runs]][: len(runs)]
    assert sum(b - a for a, b in runs) == length and len(runs) <= readers


def test_readers_fill_the_array(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 100_001, dtype=np.uint8)
    write_whole(tmp_path / "x", [data])
    with ColdFile(tmp_path / "x") as cold:
        for readers in (1, 3, 8):
            got = np.empty(90_000, np.uint8)
            read_together(cold, 5000, got, readers)
            np.testing.assert_array_equal(got, data[5000:95_000])
    with pytest.raises(ValueError, match="at least 1"):
        parts(10, 0)


def test_shards_are_profiled_and_set(model):
    tokens = models.held_out_tokens("train")[:130].view(2, 65)
    sharded = ShardedModel(model, bits=(2, 8))
    shards = sharded.profile(tokens)
    assert len(shards.names) == 2 * model.config.num_hidden_layers
    assert (np.diff(shards.sizes, axis=1) > 0).all() and (np.diff(shards.losses, axis=1) < 0).all()
    exact = mean_loss(model, tokens)
    sharded.apply([1] * len(shards.names))
    fine = mean_loss(sharded.model, tokens)
    sharded.apply([0] * len(shards.names))
    assert abs(fine - exact) < 0.05 < mean_loss(sharded.model, tokens) - exact
    assert sharded.bytes_of([0] * len(shards.names)) == shards.sizes[:, 0].sum()
