"""Elastic shards: what runs is what was planned, gives the logits of the shards loaded at once, and says why not."""

import itertools
import threading

import numpy as np
import pytest
import torch
from edgeinfer.memory.offload import Budget, exhaustive
from edgeinfer.memory.offload.elastic_file import BLOCK, ShardFile, write_shards
from edgeinfer.memory.offload.elastic_pipeline import ElasticPipeline, layer_seconds, read_rate
from edgeinfer.memory.offload.elastic_plan import Schedule, Sizes, holds, predict, schedule, uniform
from edgeinfer.memory.offload.elastic_run import LOAD_FIRST, PLANNED, UNIFORM, decide, execute, lanes
from edgeinfer.memory.offload.shards import ShardedModel
from edgeinfer.models import Config, Decoder
from edgeinfer.models.weights import Weights, file_name, linear_shapes
from hypothesis import given, settings
from hypothesis import strategies as st

BITS = (2, 3, 4, 8)


def random_model(experts=0, dtype=torch.float32, layers=3, hidden=32):
    config = Config(
        50, hidden, 64, layers, 4, 2, 8, 64, 1e-5, 10000.0, num_local_experts=experts, num_experts_per_tok=2
    )
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens": (50, hidden), "model.norm": (hidden,)}
    for n, kind in itertools.product(range(layers), ("input", "post_attention")):
        shapes[f"model.layers.{n}.{kind}_layernorm"] = (hidden,)
    shapes |= {file_name(name): shape for name, shape in linear_shapes(config).items()}
    tensors = {f"{name}.weight": torch.randn(shape, generator=generator) / 4 for name, shape in shapes.items()}
    return Decoder(config, Weights(config, tensors, dtype))


def written(model, path, bits=BITS):
    sharded = ShardedModel(model, bits, 16)
    write_shards(path, sharded, sharded.profile(torch.arange(34).view(2, 17)))
    return sharded


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def sharded(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("elastic") / "shards.bin"
    return path, written(model, path)


@pytest.fixture
def file(sharded):
    with ShardFile(sharded[0]) as file:
        yield file


def chosen(kinds, held):
    return Schedule(tuple(kinds), held, 0, 0, 0.0, (), (), 0.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(BITS) - 1), min_size=6, max_size=6), st.integers(0, 6), st.booleans())
def test_the_pipeline_gives_exactly_the_logits_of_the_same_shards_loaded_at_once(model, sharded, kinds, held, overlap):
    tokens = torch.arange(24).view(2, 12)
    with ShardFile(sharded[0]) as file:
        logits, request = ElasticPipeline(model, file, chosen(kinds, held)).run(tokens, overlap)
        assert torch.equal(logits, file.load(model, kinds).prefill(tokens)[0])
    sharded[1].apply(kinds)
    assert torch.allclose(logits, sharded[1].model.prefill(tokens)[0], atol=1e-4)
    sizes = [file.sizes.sizes[i, k] for i, k in enumerate(kinds)]
    assert request.read_bytes == sum(sizes[held:]) and len(request.stalls) == 3
    assert request.peak_bytes >= sum(sizes[:held])


@pytest.mark.parametrize(("experts", "dtype"), [(3, torch.float32), (0, torch.bfloat16)])
def test_a_mixture_of_experts_and_another_type_run_as_well(tmp_path, experts, dtype):
    model = random_model(experts, dtype)
    written(model, tmp_path / "s")
    tokens = torch.arange(20).view(1, 20)
    with ShardFile(tmp_path / "s") as file:
        assert len(file.names) == (3 * (2 + experts) if experts else 6)
        kinds = [i % len(BITS) for i in range(len(file.names))]
        logits, _ = ElasticPipeline(model, file, chosen(kinds, 2)).run(tokens)
        assert torch.equal(logits, file.load(model, kinds).prefill(tokens)[0])


def test_requests_after_one_another_find_the_buffer_as_it_was(model, file):
    pipeline = ElasticPipeline(model, file, chosen([2] * 6, 3))
    tokens = torch.arange(10).view(1, 10)
    first = pipeline.run(tokens)[0]
    file.cold.bytes_read = 0
    again, request = pipeline.run(tokens)
    assert torch.equal(first, again)
    assert file.cold.bytes_read == request.read_bytes == file.sizes.sizes[3:, 2].sum()
    assert pipeline.held_bytes == file.sizes.sizes[:3, 2].sum()


def test_a_simulated_slow_flash_is_never_faster_than_its_rate(model, file):
    rate = 2e6
    _, request = ElasticPipeline(model, file, chosen([3] * 6, 0), rate).run(torch.arange(8).view(1, 8))
    reads = sorted((number, end) for lane, number, _, end in request.timeline if lane == "read")
    arrived = np.cumsum(file.sizes.sizes[:, 3]) / rate
    assert all(end >= due - 1e-6 for (_, end), due in zip(reads, arrived, strict=True))
    computed = {number: begin for lane, number, begin, _ in request.timeline if lane == "compute"}
    assert all(computed[file.sizes.layer_of[number]] >= end - 1e-6 for number, end in reads)


def test_without_overlap_nothing_is_computed_before_all_is_read(model, file):
    _, request = ElasticPipeline(model, file, chosen([1] * 6, 1), 5e6).run(torch.arange(8).view(1, 8), overlap=False)
    last = max(end for lane, _, _, end in request.timeline if lane == "read")
    assert min(begin for lane, _, begin, _ in request.timeline if lane == "compute") >= last


# ---- planning ----------------------------------------------------------------------------------------------------


def some_sizes(rng, layers, kinds=3):
    sizes = np.sort(rng.integers(1, 9, (2 * layers, kinds)), 1) * BLOCK
    losses = -np.sort(-rng.random((2 * layers, kinds)), 1)
    return Sizes(tuple(i // 2 for i in range(2 * layers)), sizes, losses, (2, 4, 8)[:kinds])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(0, 30), st.floats(0.5, 30))
def test_no_choice_of_fidelities_and_buffer_beats_the_schedule(seed, layers, ready, latency):
    model = some_sizes(np.random.default_rng(seed), layers)
    ready = ready * BLOCK if ready * BLOCK >= model.sizes[0, 0] else 0
    budget = Budget(ready, BLOCK, 1.0, latency, 0.25)
    best = np.inf
    for kinds in itertools.product(range(3), repeat=2 * layers):
        said = predict(model, kinds, holds(model.sizes, kinds, ready), budget)
        if said.finish <= latency:
            best = min(best, said.loss)
    if not np.isfinite(best):
        with pytest.raises(ValueError, match="cannot be met"):
            schedule(model, budget)
        return
    found = schedule(model, budget)
    assert found.loss == pytest.approx(best)
    assert found.finish <= latency * (1 + 1e-9) and found.held_bytes <= ready


def test_without_a_buffer_the_plan_is_that_of_the_staircase():
    model = some_sizes(np.random.default_rng(5), 3)
    budget = Budget(0, BLOCK, 1.0, 24.0)
    limits = [budget.until(layer, 3) for layer in model.layer_of]
    assert schedule(model, budget).loss == pytest.approx(exhaustive(model.sizes, model.losses, limits, BLOCK))


def test_a_buffer_ends_the_stall_before_the_first_layer():
    model = some_sizes(np.random.default_rng(1), 4)
    budget = Budget(0, BLOCK, 4.0, 1e9)
    cold = predict(model, [1] * 8, 0, budget)
    warm = predict(model, [1] * 8, 2, budget)
    assert cold.stalls[0] == pytest.approx(model.sizes[:2, 1].sum() / BLOCK) and warm.stalls[0] == 0
    assert warm.finish < cold.finish
    first_read = predict(model, [1] * 8, 0, budget, overlap=False)
    assert first_read.finish == pytest.approx(model.sizes[:, 1].sum() / BLOCK + 16)


def test_more_time_or_a_larger_buffer_never_loses_more():
    model = some_sizes(np.random.default_rng(3), 5)
    for ready in (0, 40):
        losses = [schedule(model, Budget(ready * BLOCK, BLOCK, 1.0, t)).loss for t in range(60, 90, 3)]
        assert all(a >= b - 1e-12 for a, b in itertools.pairwise(losses))
    losses = [schedule(model, Budget(r * BLOCK, BLOCK, 1.0, 60)).loss for r in range(10, 80, 7)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(losses))


def test_three_ways_within_one_latency(model, file):
    budget = Budget(2 * BLOCK, 1e6, 1e-3, 0.18, 1e-4)
    ways = decide(file, budget)
    assert set(ways) == {PLANNED, UNIFORM, LOAD_FIRST}
    assert ways[PLANNED].schedule.loss <= ways[UNIFORM].schedule.loss <= ways[LOAD_FIRST].schedule.loss
    assert uniform(file.sizes, Budget(0, 1e6, 1e-3, 0.01)) is None
    done = execute(model, file, ways[PLANNED], torch.arange(8).view(1, 8), repeats=2)
    assert done.request.seconds > 0 and len(lanes(done.request)) == 2
    nothing = execute(model, file, decide(file, Budget(0, 1e6, 1e-3, 0.08))[LOAD_FIRST], torch.arange(8).view(1, 8))
    assert nothing.request is None or nothing.schedule is not None


def test_what_is_measured_has_a_sign(model, file):
    layer, head = layer_seconds(model, file, torch.arange(8).view(1, 8), repeats=1)
    assert layer > 0 and head > 0 and read_rate(file) > 0


# ---- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_file_cut_short_is_refused_when_it_is_opened(sharded, tmp_path):
    whole = sharded[0].read_bytes()
    for size, said in (
        (len(whole) - 1, "is cut short"),
        (BLOCK, "is cut short"),
        (40, "inside its head"),
        (3, "no file"),
    ):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=said):
            ShardFile(tmp_path / "cut")
    damaged = bytearray(whole)
    damaged[30] ^= 0xFF
    (tmp_path / "cut").write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match="the head of cut is damaged"):
        ShardFile(tmp_path / "cut")


def test_a_file_that_is_cut_between_requests_is_one_clear_error_and_no_thread_is_left(model, sharded, tmp_path):
    path = tmp_path / "shards.bin"
    path.write_bytes(sharded[0].read_bytes())
    with ShardFile(path) as file:
        pipeline = ElasticPipeline(model, file, chosen([1] * 6, 1))
        tokens = torch.arange(8).view(1, 8)
        wanted = pipeline.run(tokens)[0]
        with path.open("r+b") as open_file:
            open_file.truncate(file.version("layers.1.mlp", 2)[0])
        with pytest.raises(ValueError, match=r"shards\.bin ended at byte .* another program has cut it"):
            pipeline.run(tokens)
        assert not any(thread.name == "shards" for thread in threading.enumerate())
        path.write_bytes(sharded[0].read_bytes())
        assert torch.equal(pipeline.run(tokens)[0], wanted)


def test_a_fidelity_that_is_not_there_is_said(model, sharded, file, tmp_path):
    with pytest.raises(ValueError, match=r"holds layers\.0\.mlp in 2, 3, 4, 8 bits, not in 5; choose one of these"):
        file.read("layers.0.mlp", 5)
    with pytest.raises(KeyError, match="no shard is called"):
        file.read("layers.9.mlp", 2)
    with pytest.raises(ValueError, match="has no shards in 5 bits; it has 2, 3, 4, 8"):
        write_shards(tmp_path / "s", sharded[1], None, (2, 5))


def test_a_deadline_that_cannot_be_met_is_said_with_the_least_that_can(file):
    budget = Budget(0, 1e6, 1e-3, 0.02, 1e-4)
    with pytest.raises(
        ValueError, match=r"a latency of 20 ms cannot be met: with every shard in 2 bits.* after (\d+) ms"
    ):
        schedule(file.sizes, budget)
    quickest = predict(file.sizes, [0] * 6, 0, budget).finish
    found = schedule(file.sizes, Budget(0, 1e6, 1e-3, quickest, 1e-4))
    assert found.read_bytes == file.sizes.sizes[:, 0].sum() and found.finish <= quickest


def test_a_buffer_smaller_than_one_shard_is_said(file):
    with pytest.raises(ValueError, match=r"a preload buffer of 1000 bytes holds no shard: the first one takes 4096"):
        schedule(file.sizes, Budget(1000, 1e9, 1e-3, 1.0))
    assert schedule(file.sizes, Budget(0, 1e9, 1e-3, 1.0)).held == 0


def test_another_model_and_another_schedule_are_refused(model, file):
    with pytest.raises(ValueError, match=r"belongs to another model: .* is missing there and"):
        ElasticPipeline(random_model(layers=4), file, chosen([0] * 6, 0))
    with pytest.raises(ValueError, match="a schedule of 4 shards was given for a file of 6"):
        ElasticPipeline(model, file, chosen([0] * 4, 0))
    with pytest.raises(ValueError, match="give a positive rate"):
        ElasticPipeline(model, file, chosen([0] * 6, 0), -1.0)
