"""Experts from a file: bounds of the policies, equality with the model in memory, memory within its budget."""

import itertools

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.memory import experts
from hypothesis import given, settings
from hypothesis import strategies as st

USES = st.lists(st.integers(0, 4), max_size=14)


@pytest.fixture(scope="module")
def moe():
    torch.set_num_threads(1)
    return models.load("moe")


@pytest.fixture(scope="module")
def text():
    return models.held_out_tokens("text")[:96]


@pytest.fixture(scope="module")
def file(moe, tmp_path_factory):
    path = tmp_path_factory.mktemp("experts") / "experts.bin"
    experts.write_experts(path, moe)
    opened = experts.ExpertFile(path)
    yield opened
    opened.close()


@pytest.fixture
def offloaded(moe, file):
    """The model with a store in front of its experts; everything is put back afterwards."""
    made = []

    def make(budget_bytes):
        made.append(experts.ExpertStore(moe.weight_store, file, budget_bytes))
        moe.weight_store = made[-1]
        return made[-1]

    yield make
    for store in made:
        store.close()
    moe.restore()


def most_hits(uses, capacity):
    """The best of all decisions about who leaves, tried one by one."""
    states = {frozenset(): 0}
    for expert in uses:
        after = {}
        for kept, found in states.items():
            if expert in kept:
                nexts = [(kept, found + 1)]
            elif len(kept) < capacity:
                nexts = [(kept | {expert}, found)]
            else:
                nexts = [(kept - {e} | {expert}, found) for e in kept]
            for state, count in nexts:
                after[state] = max(after.get(state, 0), count)
        states = after
    return max(states.values())


@settings(max_examples=60, deadline=None)
@given(USES, st.integers(1, 4))
def test_experts_belady_equals_the_best_of_all_decisions(uses, capacity):
    assert experts.belady_hits(uses, capacity) == most_hits(uses, capacity)


@settings(max_examples=60, deadline=None)
@given(USES, st.integers(0, 5))
def test_experts_no_policy_beats_belady_and_lru_never_loses_by_growing(uses, capacity):
    best = experts.belady_hits(uses, capacity)
    assert max(experts.lru_hits(uses, capacity), experts.lfu_hits(uses, capacity)) <= best
    assert experts.lru_hits(uses, capacity) <= experts.lru_hits(uses, capacity + 1)
    if capacity == 5:
        assert best == len(uses) - len(set(uses))


def test_experts_lru_and_lfu_differ_where_they_should():
    uses = [0, 0, 1, 2, 0]
    assert experts.lru_hits(uses, 2) == 1 and experts.lfu_hits(uses, 2) == 2


def test_experts_wrong_numbers_get_one_sentence():
    with pytest.raises(ValueError, match="0 or more"):
        experts.lru_hits([1], -1)
    with pytest.raises(ValueError, match="choose lru, lfu or belady"):
        experts.hits([1], 1, "fifo")
    with pytest.raises(ValueError, match="one time per block"):
        experts.schedule([1.0], [], True)
    with pytest.raises(ValueError, match="negative"):
        experts.schedule([1.0], [-1.0], True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), max_size=8))
def test_experts_deciding_early_never_ends_later_and_hides_at_most_all_but_the_first_transfer(blocks):
    compute, load = [c for c, _ in blocks], [t for _, t in blocks]
    late, early = (experts.schedule(compute, load, ahead) for ahead in (False, True))
    assert early.end <= late.end + 1e-9
    assert late.end == pytest.approx(sum(compute) + sum(load))
    assert early.end >= max(sum(load), sum(compute) + (load[0] if load else 0)) - 1e-9
    for plan in (late, early):
        assert all(s >= e - 1e-9 for s, e in zip(plan.compute_start, plan.load_end, strict=True))
        assert all(b >= a - 1e-9 for a, b in itertools.pairwise(plan.load_end))


def test_experts_from_the_file_give_the_model_in_memory_bit_for_bit(moe, text, file, offloaded):
    class Plain:
        """Weights in memory, experts row by row as in the file: the layout decides the order of a product's sums."""

        def __init__(self, inner):
            self.inner = inner

        def fetch(self, name):
            weight = self.inner.fetch(name)
            return weight.contiguous() if ".experts." in name else weight

    usual, _ = experts.decode_with(moe, text[:24])
    moe.weight_store = Plain(moe.weight_store)
    same_products, _ = experts.decode_with(moe, text[:24])
    moe.restore()
    store = offloaded(2 * 8 * file.expert_bytes)
    got, _ = experts.decode_with(moe, text[:24])
    assert torch.equal(got, same_products)
    assert torch.equal(got.argmax(-1), usual.argmax(-1)) and torch.allclose(got, usual, atol=1e-4)
    assert store.peak_bytes <= 2 * 8 * file.expert_bytes


@pytest.mark.parametrize("capacity", [1, 3])
def test_experts_store_hits_as_often_as_the_replayed_policy(moe, text, file, offloaded, capacity):
    used = experts.choices(moe, experts.gate_inputs(moe, text[None, :32]))
    wanted = sum(experts.lru_hits(layer.flatten().tolist(), capacity) for layer in used)
    store = offloaded(capacity * 8 * file.expert_bytes)
    before = file.cold.requests
    experts.decode_with(moe, text[:32])
    assert store.hits == wanted
    assert store.hits + store.misses == 32 * 8 * 2 and file.cold.requests - before == store.misses


def test_experts_fetched_on_suspicion_change_nothing_but_the_waiting(moe, text, file, offloaded):
    plain = offloaded(2 * 8 * file.expert_bytes)
    want, _ = experts.decode_with(moe, text[:24])
    store = offloaded(2 * 8 * file.expert_bytes)
    experts.install_speculation(moe, store, 2)
    got, _ = experts.decode_with(moe, text[:24])
    assert torch.allclose(got, want, atol=1e-4) and torch.equal(got.argmax(-1), want.argmax(-1))
    assert store.foreseen > 0 and store.hits + store.foreseen + store.misses == plain.hits + plain.misses
    assert store.misses < plain.misses
    assert store.peak_bytes <= (2 * 8 + 2 * 2) * file.expert_bytes  # guesses for two layers on top, at most


def test_experts_chosen_a_block_early_are_all_foreseen_but_the_first_layers(moe, text, file, offloaded):
    store = offloaded(None)
    experts.install_pregates(moe, experts.gate_weights(moe), store=store)
    experts.decode_with(moe, text[:16])
    assert store.misses == 16 * 2 and store.foreseen == 16 * 2 * 7 and store.unused == 0
    assert store.peak_bytes <= 8 * file.expert_bytes


def test_experts_pregates_trained_for_a_moment_beat_the_untrained_shift(moe, text):
    train = models.held_out_tokens("text")[50_000:52_048].view(8, 256)
    trained = experts.fit_pregates(moe, train, steps=20)
    inputs, own = experts.gate_inputs(moe, text[None]), experts.gate_weights(moe)
    used = experts.choices(moe, inputs)

    def agreement(gates):
        early = experts.choices(moe, inputs[:-1], gates[1:])
        return np.mean([(a == b).float().mean().item() for a, b in zip(early, used[1:], strict=True)])

    assert agreement(trained) > agreement(own)
    assert torch.equal(trained[0], own[0])
    with pytest.raises(ValueError, match="one gate per layer"):
        experts.install_pregates(moe, own[1:])


def test_experts_the_right_gate_a_block_early_is_the_model_itself_when_all_experts_are_guessed(moe, text):
    inputs = experts.gate_inputs(moe, text[None])
    assert experts.speculation_recall(moe, inputs, 8) == [1.0] * 7
    assert experts.speculation_recall(moe, inputs, 2, ahead=0) == [1.0] * 8
    with pytest.raises(ValueError, match="1 to 8"):
        experts.speculation_recall(moe, inputs, 0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_experts_in_few_bits_are_the_rounded_weights(moe, tmp_path, bits):
    experts.write_experts(tmp_path / "few", moe, bits)
    opened = experts.ExpertFile(tmp_path / "few")
    got = opened.weight(opened.read(3, 5), "down_proj")
    want = moe.linears()["layers.3.moe.experts.5.down_proj"]
    span = want.reshape(want.shape[0], -1, 64)
    step = (span.amax(-1).clamp(min=0) - span.amin(-1).clamp(max=0)) / (2**bits - 1)
    assert ((got - want).abs().reshape(span.shape) <= step[..., None] * 1.01).all()
    assert opened.expert_bytes < 4 * 98304 * (bits + 3) / 32
    opened.close()


def test_experts_budget_below_one_expert_and_damaged_files_get_one_sentence(moe, file, tmp_path):
    with pytest.raises(ValueError, match="keeps no expert per layer"):
        experts.ExpertStore(moe.weight_store, file, 8 * file.expert_bytes - 1)
    whole = file.cold.path.read_bytes()
    (tmp_path / "short").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="cut short"):
        experts.ExpertFile(tmp_path / "short")
    (tmp_path / "other").write_bytes(b"x" * 9000)
    with pytest.raises(ValueError, match="no file of experts"):
        experts.ExpertFile(tmp_path / "other")
    with pytest.raises(ValueError, match="no experts"):
        experts.write_experts(tmp_path / "dense", models.load("draft"))
