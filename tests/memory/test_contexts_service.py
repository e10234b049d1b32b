"""Contexts of several apps: the budget holds whatever happens, errors leave every context as it was, nothing leaks."""

import contextlib
import itertools
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.memory import contexts
from edgeinfer.memory.contexts import ContextFileError, ContextService, Costs, split_point
from edgeinfer.memory.contexts.eviction import Candidate, eviction_order
from edgeinfer.models import Config, Decoder
from edgeinfer.models.weights import Weights, file_name, linear_shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

COSTS = Costs(1e-4, 1e9, 1e-3)
CONFIG = Config(50, 16, 32, 2, 2, 1, 8, 256, 1e-5, 10000.0)


def tiny():
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens": (50, 16), "model.norm": (16,)}
    shapes |= {f"model.layers.{n}.{k}_layernorm": (16,) for n in (0, 1) for k in ("input", "post_attention")}
    shapes |= {file_name(name): shape for name, shape in linear_shapes(CONFIG).items()}
    tensors = {f"{name}.weight": torch.randn(shape, generator=generator) / 3 for name, shape in shapes.items()}
    return Decoder(CONFIG, Weights(CONFIG, tensors, torch.float32))


TINY = tiny()


@contextlib.contextmanager
def full_disk(size=64):
    """No file may grow beyond `size` bytes: to a writer this is what a full disk is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def chunk_bytes(bits=8, n=8):
    nothing = np.zeros((2, 1, n, 8), np.float32)
    return contexts.compress(0, np.zeros(n, np.int64), nothing, nothing, bits).nbytes


class Apps(RuleBasedStateMachine):
    """Three apps, a small budget, damaged files and a full disk, in any order."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.service = self.open()
        self.expected = {}
        self.damaged = set()

    def open(self):
        return ContextService(TINY, self.folder, 3 * chunk_bytes(), COSTS, chunk_tokens=8)

    def teardown(self):
        shutil.rmtree(self.folder)

    apps = st.sampled_from("abc")

    @rule(app=apps, tokens=st.lists(st.integers(0, 49), min_size=1, max_size=20))
    def run(self, app, tokens):
        if len(self.expected.get(app, [])) + len(tokens) > 256:
            return
        try:
            logits = self.service.run(app, torch.tensor(tokens))
        except ContextFileError:
            assert app in self.damaged
            logits = self.service.run(app, torch.tensor(tokens)) if self.damaged == {app} else None
        if logits is None:
            return
        assert torch.isfinite(logits).all()
        self.expected[app] = self.expected.get(app, []) + tokens

    @rule(app=apps, tokens=st.lists(st.integers(0, 49), min_size=9, max_size=20))
    def run_on_a_full_disk(self, app, tokens):
        if app in self.damaged or len(self.expected.get(app, [])) + len(tokens) > 256:
            return
        with full_disk(), pytest.raises(OSError, match="could not write"):
            self.service.run(app, torch.tensor(tokens))

    @rule(app=apps)
    def forget(self, app):
        self.service.forget(app)
        self.expected.pop(app, None)
        self.damaged.discard(app)

    @rule(app=apps, share=st.floats(0, 0.99))
    def cut_a_file(self, app, share):
        files = sorted(self.folder.glob(f"{app}.*.kv"))
        if files and not self.damaged:
            with open(files[-1], "r+b") as file:
                file.truncate(int(files[-1].stat().st_size * share))
            self.damaged.add(app)

    @rule()
    def restart(self):
        self.service = self.open()
        for app in list(self.expected):
            whole = len(self.expected[app]) // 8 * 8
            kept = self.service.tokens(app)
            assert kept == self.expected[app][: len(kept)]
            assert len(kept) == whole or app in self.damaged
            self.expected[app] = kept
            if not kept:
                del self.expected[app]
        self.damaged.clear()

    @invariant()
    def contexts_are_what_the_apps_said(self):
        assert set(self.service.apps()) == set(self.expected)
        for app, tokens in self.expected.items():
            assert self.service.tokens(app) == tokens
            assert len(self.service.chunks(app)) == len(tokens) // 8

    @invariant()
    def memory_is_counted_and_bounded(self):
        held = [p.chunk.nbytes for c in self.service._contexts.values() for p in c.places if p.chunk is not None]
        assert self.service.memory_bytes == sum(held) <= self.service.budget_bytes

    @invariant()
    def files_belong_to_contexts(self):
        wanted = {f"{app}.{n:05d}.kv" for app, tokens in self.expected.items() for n in range(len(tokens) // 8)}
        assert {p.name for p in self.folder.iterdir()} == wanted


TestApps = Apps.TestCase
TestApps.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


@pytest.fixture(scope="module")
def target():
    torch.set_num_threads(1)
    return models.load("draft")


@pytest.fixture(scope="module")
def text():
    return models.held_out_tokens("text")


@pytest.mark.parametrize("loading", ["split", "read", "recompute"])
def test_contexts_switching_back_changes_logits_no_more_than_eight_bits_do(target, text, tmp_path, loading):
    service = ContextService(target, tmp_path, 150_000, COSTS, average_bits=8)
    service.loading = loading
    for app in "ab":
        service.run(app, text[:200] if app == "a" else text[500:700])
    got = service.run("a", text[200:232], last_only=False)
    want = target.prefill(text[None, :232])[0][0, 200:]
    assert service.last.read + service.last.recomputed + service.last.in_memory == 6
    assert service.last.recomputed == {"read": 0}.get(loading, service.last.recomputed)
    assert (got - want).abs().max() < 0.35 and (got.argmax(-1) == want.argmax(-1)).float().mean() > 0.9


def test_contexts_damaged_chunk_is_said_once_and_computed_again(target, text, tmp_path):
    service = ContextService(target, tmp_path, 60_000, COSTS)
    service.loading = "read"
    service.run("a", text[:256])
    service.run("b", text[300:620])
    gone = next(n for n, (_, in_memory) in enumerate(service.chunks("a")) if not in_memory)
    path = tmp_path / f"a.{gone:05d}.kv"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ContextFileError, match="cut short"):
        service.run("a", text[256:258])
    assert service.tokens("a") == text[:256].tolist()
    assert torch.isfinite(service.run("b", text[620:622])).all()
    assert torch.isfinite(service.run("a", text[256:258])).all() and service.last.recomputed == 1


def test_contexts_budget_below_one_chunk_and_bad_calls_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds no chunk"):
        ContextService(TINY, tmp_path, chunk_bytes() - 1, COSTS, chunk_tokens=8)
    service = ContextService(TINY, tmp_path, chunk_bytes(), COSTS, chunk_tokens=8)
    with pytest.raises(ValueError, match="letters, digits"):
        service.run("../a", torch.tensor([1]))
    with pytest.raises(ValueError, match="at least one token"):
        service.run("a", torch.tensor([], dtype=torch.long))
    with pytest.raises(ValueError, match="max_position_embeddings"):
        service.run("a", torch.zeros(257, dtype=torch.long))
    assert service.apps() == [] and not list(tmp_path.iterdir())


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=9))
def test_contexts_split_is_the_best_prefix_and_the_smallest_of_equals(times):
    read, again = [r for r, _ in times], [c for _, c in times]
    end = [max(sum(again[:n]), sum(read[n:])) for n in range(len(times) + 1)]
    assert split_point(read, again) == min(range(len(end)), key=lambda n: (end[n], n))
    with pytest.raises(ValueError, match="one time per chunk"):
        split_point([1.0], [])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.floats(2, 8))
def test_contexts_bits_keep_the_average_and_favour_the_dense(density, average):
    bits = contexts.allot_bits(density, average)
    assert sum(bits) <= average * len(bits) + 1e-9 and set(bits) <= {2, 4, 8}
    for (d, b), (e, c) in itertools.permutations(zip(density, bits, strict=True), 2):
        assert not (d > e * 1000 and b < c and min(b, c) == 2 and e > 0)
    with pytest.raises(ValueError, match="smallest width"):
        contexts.allot_bits(density, 1)


def test_contexts_least_tolerant_chunks_leave_first_then_the_oldest():
    chunks = [Candidate("a", 0, 2, 1), Candidate("a", 1, 8, 9), Candidate("b", 0, 8, 3), Candidate("b", 1, 4, 0)]
    assert [(c.bits, c.used) for c in eviction_order(chunks)] == [(8, 3), (8, 9), (4, 0), (2, 1)]
    assert [c.used for c in eviction_order(chunks, "lru")] == [0, 1, 3, 9]
    with pytest.raises(ValueError, match="choose"):
        eviction_order(chunks, "fifo")


def test_contexts_attention_mass_adds_up_to_the_number_of_queries(target, text):
    mass = contexts.AttentionMass()
    target.attention = mass
    want = target.prefill(text[None, :40])[0]
    target.restore()
    assert torch.equal(want, target.prefill(text[None, :40])[0])
    total = (mass.per_token(40) * (40 - np.arange(40))).sum()  # every query of every layer gives one in all
    assert total == pytest.approx(40, rel=1e-4)


@pytest.mark.parametrize("prefetch", [True, False])
@settings(max_examples=6, deadline=None)
@given(parts=st.lists(st.integers(1, 60), min_size=1, max_size=5), recent=st.integers(16, 70))
def test_contexts_cache_on_disk_gives_the_same_logits_bit_for_bit(
    target, text, tmp_path_factory, prefetch, parts, recent
):
    folder, made = tmp_path_factory.mktemp("kv"), []

    def factory(*shape):
        made.append(contexts.FlashKVCache(*shape, folder, recent=recent, prefetch=prefetch))
        return made[-1]

    def run():
        cache, at, out = None, 0, []
        for part in [*parts, 1, 1]:
            logits, cache = target.prefill(text[None, at : at + part], cache)
            at += part
            out.append(logits[0])
        return torch.cat(out)

    want = run()
    target.cache_factory = factory
    try:
        got = run()
    finally:
        target.restore()
    cache = made[0]
    assert torch.equal(got, want)
    layers, per_token = (
        target.config.num_hidden_layers,
        2 * target.config.num_key_value_heads * target.config.head_dim * 4,
    )
    old = max(0, sum(parts) + 2 - recent + 16)
    assert cache.peak_bytes <= per_token * (layers * recent + 3 * old)
    assert cache.waited == 0 if prefetch else cache.prefetched == 0
    assert not list(folder.iterdir())
    cache.close()


def test_contexts_cache_on_disk_refuses_what_it_cannot_keep(tmp_path):
    with pytest.raises(ValueError, match="at least one block"):
        contexts.FlashKVCache(CONFIG, 1, torch.float32, tmp_path, recent=8)
    with pytest.raises(ValueError, match="float32 or float16"):
        contexts.FlashKVCache(CONFIG, 1, torch.bfloat16, tmp_path)
    assert not list(tmp_path.iterdir())
