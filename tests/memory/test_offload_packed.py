"""Four bits on every tier: the numbers are those of the reference, the bytes are fewer, and what is broken is said."""

import errno
import itertools
import resource
import threading

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.kernels.kv_quantize import quantize_values
from edgeinfer.memory.locality.layer_file import LayerFile, write_layers
from edgeinfer.memory.offload import Machine, Policy, Workload, cost, fits, on_a_grid, packed, search
from edgeinfer.memory.offload.block import below, run_block
from edgeinfer.memory.offload.caches import FourBitCache
from edgeinfer.memory.offload.model_files import LAYERS, PACKED, open_skeleton, workload, write_model
from edgeinfer.memory.offload.roads import Road
from edgeinfer.memory.offload.tiers import SlowTier, TieredWeights
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def model():
    return models.load("draft")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed")
    write_model(model, path)
    SlowTier.make(path / "slow", 16 << 20)
    return path


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 150), st.integers(0, 2**31))
def test_numbers_come_back_as_the_reference_has_them(lead, rows, columns, seed):
    values = np.random.default_rng(seed).standard_normal((lead, rows, columns)).astype(np.float32)
    raw = packed.pack(values)
    groups = packed.view(raw, values.shape)
    assert raw.nbytes == groups.nbytes == packed.packed_bytes(lead * rows, columns)
    got = np.full_like(values, 7)
    groups.unpack(got, slice(0, rows - 1))
    assert (got[:, rows - 1 :] == 7).all()
    groups.unpack(got, slice(rows - 1, rows))
    np.testing.assert_array_equal(got, quantize_values(values, 4, 64).dequantize())


def test_rows_are_stored_one_by_one_as_they_would_be_together():
    values = np.random.default_rng(1).standard_normal((3, 6, 70)).astype(np.float32)
    raw = np.zeros(packed.packed_bytes(18, 70), np.uint8)
    for row in range(6):
        packed.view(raw, values.shape).set(values[:, row : row + 1], slice(row, row + 1))
    np.testing.assert_array_equal(raw, packed.pack(values))


def test_bytes_of_another_tensor_are_refused():
    with pytest.raises(ValueError, match=r"10 bytes were given and numbers of shape .* take 72"):
        packed.view(np.zeros(10, np.uint8), (2, 64))
    bad = np.full((1, 64), np.nan, np.float32)
    with pytest.raises(ValueError, match="NaN"):
        packed.pack(bad)


@pytest.mark.parametrize(
    ("shares", "kv", "forms", "ahead"),
    [
        (*where, forms, ahead)
        for where, forms, ahead in itertools.product(
            [((1, 0, 0), (1, 0)), ((0.4, 0.3, 0.3), (0.5, 0.5)), ((0, 0.5, 0.5), (0, 1))],
            [(True, False), (False, True), (True, True)],
            [True, False],
        )
        if ahead or forms == (True, True)
    ],
)
def test_packed_tiers_write_the_tokens_of_their_unpacked_reference(model, folder, shares, kv, forms, ahead):
    prompts = list(models.held_out_tokens()[:90].view(3, 2, 15))
    reference = packed.as_four_bits(model) if forms[0] else model.clone()
    if forms[1]:
        reference.cache_factory = FourBitCache
    wanted = [models.generate(reference, p, 6)[:, 15:] for p in prompts]
    slow = SlowTier(folder / "slow")
    with TieredWeights(folder / (PACKED if forms[0] else LAYERS), shares, slow, ahead) as store:
        policy = Policy(2, 3, shares, kv, *forms)
        answers, moved = run_block(open_skeleton(folder), store, prompts, 6, policy, slow)
        per_step = store.layers * store.file.ranges[0][1]
        assert moved.disk == pytest.approx(6 * per_step * store.shares[2])
    assert all(torch.equal(a, w) for a, w in zip(answers, wanted, strict=True))


def test_four_bits_are_a_seventh_of_the_bytes_and_any_reader_opens_the_file(model, folder):
    floats, small = LayerFile(folder / LAYERS), LayerFile(folder / PACKED)
    assert 6.8 < floats.nbytes / small.nbytes < 32 / 4.5 + 1e-9
    tensors = load_file(folder / PACKED)
    assert set(tensors) == set(model.linears()) and all(t.dtype == torch.uint8 for t in tensors.values())
    work = workload(folder, 32)
    assert work.packed_layer_bytes == small.ranges[0][1] and work.packed_kv_bytes < work.kv_bytes / 6


@pytest.mark.parametrize("checkpoint", ["moe", "relu"])
def test_other_checkpoints_run_packed_as_well(checkpoint, tmp_path):
    model = models.load(checkpoint)
    write_model(model, tmp_path)
    SlowTier.make(tmp_path / "slow", 24 << 20)
    slow, reference = SlowTier(tmp_path / "slow"), packed.as_four_bits(model)
    reference.cache_factory = FourBitCache
    prompt = models.held_out_tokens()[:8].view(1, 8)
    with TieredWeights(tmp_path / PACKED, (0.2, 0.4, 0.4), slow) as store:
        policy = Policy(1, 1, (0.2, 0.4, 0.4), (0, 1), True, True)
        answers, _ = run_block(open_skeleton(tmp_path), store, [prompt], 4, policy, slow)
    assert torch.equal(answers[0], models.generate(reference, prompt, 4)[:, 8:])


def test_half_floats_keep_their_type(tmp_path):
    model = models.load("draft", torch.bfloat16)
    write_model(model, tmp_path)
    with TieredWeights(tmp_path / PACKED, (0, 0, 1)) as store:
        store.enter(0, None)
        assert store.fetch("layers.0.mlp.up_proj").dtype == torch.bfloat16
        policy = Policy(1, 1, (0, 0, 1), (1, 0), True, True)
        run_block(open_skeleton(tmp_path), store, [torch.arange(8)[None]], 3, policy)


def test_what_does_not_belong_together_is_said(model, folder, tmp_path):
    with TieredWeights(folder / LAYERS, (1, 0, 0)) as store:
        with pytest.raises(ValueError, match="wants weights in four bits and the file holds floats"):
            run_block(model, store, [torch.arange(4)[None]], 2, Policy(1, 1, (1, 0, 0), (1, 0), True))
        with pytest.raises(ValueError, match="the policy keeps caches in the slow tier; give one"):
            run_block(model, store, [torch.arange(4)[None]], 2, Policy(1, 1, (1, 0, 0), (0, 1)))
        with pytest.raises(ValueError, match=r"have one length; came \[4, 5\]"):
            run_block(model, store, [torch.arange(4)[None], torch.arange(5)[None]], 2, Policy(1, 2, (1, 0, 0)))
    content = (folder / PACKED).read_bytes()
    for share in ((0, 0, 1), (1, 0, 0)):
        (tmp_path / "cut.safetensors").write_bytes(content[:-1])
        with pytest.raises(ValueError, match="cut short"):
            TieredWeights(tmp_path / "cut.safetensors", share)
    (tmp_path / "other.safetensors").write_bytes(content.replace(b"groups of 64", b"groups of 32", 1))
    with pytest.raises(ValueError, match=r"holds weights in another form .*; write it with write_packed_layers"):
        TieredWeights(tmp_path / "other.safetensors", (1, 0, 0))


def test_a_broken_model_folder_is_said(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no model in .*; write one with write_model"):
        open_skeleton(tmp_path)
    for name in ("shape.json", "resident.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes()[:-5])
        with pytest.raises(ValueError, match=r"write the model again with write_model"):
            open_skeleton(tmp_path)
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"there is no slow tier x, or it is empty; make it"):
        SlowTier(tmp_path / "x")


def test_a_full_disk_leaves_no_half_file(model, tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"could not write layers-4bit.safetensors: No space left on device; .*free some"):
        packed.write_packed_layers(model, tmp_path / PACKED)
    assert not list(tmp_path.iterdir())


def test_a_slow_tier_that_has_no_room_is_said(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(
            OSError, match=r"could not make a slow tier of 3 MB: .*; free some space, or make it smaller"
        ):
            SlowTier.make(tmp_path / "slow", 3_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "slow").exists()


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(1, 20))
def test_caches_below_are_at_least_their_share_and_spread(share, sub_batches):
    lower = below(share, sub_batches)
    assert share * sub_batches - 1e-5 <= sum(lower) < share * sub_batches + 1
    gaps = np.diff([n for n, is_below in enumerate(lower) if is_below])
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


MACHINE = Machine(60e6, 40e6, 5e9, 1e9, 2e-3, 3e-4, 3e9, 1e-4, 1e10, 3e9, 2e-4, 0.3, 0.1)
WORK = Workload(6, 20e6, 8e5, 1e4, 2e6, 3e6, 1.2e5, 6e5, 2e4)
rates = st.floats(0.1, 10)


@settings(max_examples=20, deadline=None)
@given(rates, rates, rates, rates, rates)
def test_no_policy_on_a_grid_beats_the_search_where_four_bits_are_offered(fast, slow, disk, unpack, slows):
    machine = Machine(
        fast * 6e7, slow * 4e7, 5e9, disk * 1e9, 2e-3, 3e-4, 3e9, 1e-4, unpack * 3e9, 3e9, 2e-4, slows / 10, 0.1
    )
    known = [cost(machine, WORK, p).tokens_per_second for p in on_a_grid(machine, WORK, (1, 8), (1, 4), steps=5)]
    if known:
        found = search(machine, WORK, (1, 8), (1, 4))
        assert fits(machine, WORK, found)
        assert cost(machine, WORK, found).tokens_per_second >= max(known) * (1 - 1e-6)


def test_four_bits_are_taken_where_they_pay_and_only_there():
    roomy = Machine(1e12, 1e12, 5e9, 1e9, 2e-3, 3e-4, unpack_rate=1e10)
    assert not search(roomy, WORK, (4,), (1,)).pack_weights
    tight = search(Machine(50e6, 0, 5e9, 1e9, 2e-3, 3e-4, unpack_rate=1e10), WORK, (4,), (1,))
    assert tight.pack_weights
    slow_unpacking = Machine(80e6, 0, 5e9, 1e9, 2e-3, 3e-4, unpack_rate=1e8)
    assert not search(slow_unpacking, WORK, (4,), (1,)).pack_weights
    with pytest.raises(ValueError, match="no packed form of weights"):
        cost(roomy, Workload(2, 1e6, 1e5), Policy(1, 1, (1, 0, 0), (1, 0), True))


def test_what_runs_beside_computing_slows_it_and_packed_weights_pass_packed():
    policy = Policy(2, 3, (0.2, 0.3, 0.5), (0.5, 0.5))
    said = cost(MACHINE, WORK, policy)
    assert said.compute == pytest.approx(3 * (2e-3 + 2 * 3e-4) + 0.5 * 3 * 1e-4)
    assert said.copy == pytest.approx(0.3 * 20e6 / 5e9 + 0.5 * 6 * 6e5 / 3e9)
    assert said.disk == pytest.approx(0.5 * 20e6 / 1e9) and said.bound == "disk"
    small = cost(MACHINE, WORK, Policy(2, 3, (0.2, 0.3, 0.5), (0.5, 0.5), True, True))
    assert small.compute == pytest.approx(3 * (2e-3 + 2 * 3e-4 + 2e-4) + 20e6 / 1e10)
    assert small.disk == pytest.approx(0.5 * 3e6 / 1e9)
    assert small.copy == pytest.approx(0.3 * 3e6 / 5e9 + 6 * 6e5 / 3e9)
    assert small.step_seconds == pytest.approx(6 * (small.compute + 0.3 * small.copy + 0.1 * small.disk))
    # Packed shares, a layer of floats, two buffers for what passes, two for caches, activations, what is resident.
    assert small.fast_bytes == pytest.approx(
        2e6 + 6 * 1e4 + 2 * 2e4 + 4 * 8e5 + 20e6 + 2 * 0.8 * 3e6 + 6 * (0.2 * 3e6 + 0.5 * 6 * 1.2e5)
    )


def test_a_road_does_the_urgent_first_and_hands_errors_over():
    done = []
    with Road("test") as road:
        begun, hold = threading.Event(), threading.Event()
        road.submit(lambda: (begun.set(), hold.wait()))
        begun.wait()
        slow_ = [road.submit(done.append, n) for n in (1, 2)]
        road.submit(done.append, 0, urgent=True)
        broken = road.submit(lambda: 1 / 0)
        hold.set()
        slow_[1].result()
        with pytest.raises(ZeroDivisionError):
            broken.result()
    assert done == [0, 1, 2]
    road.close()


def test_layer_files_of_floats_have_no_form(model, tmp_path):
    assert packed.packed_shapes(write_layers(model, tmp_path / "x.safetensors")) is None
