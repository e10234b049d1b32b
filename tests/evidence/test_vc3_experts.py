"""What the chapter about experts and contexts says must be found, in its direction, by its evidence."""

import pytest
from edgeinfer.evidence import vc3_contexts

from tests.evidence.findings import found, value


def test_experts_repeat_more_often_than_blind_draws_and_less_than_the_optimum():
    blind = value("mixtral-offloading", "uses found, 2 kept, experts drawn blindly")
    assert value("mixtral-offloading", "uses found, 2 of 8 kept, LRU") > blind + 0.05
    lru, lfu, best = (
        value("mixtral-offloading", f"uses found, 4 of 8 kept, {p}") for p in ("LRU", "LFU", "best possible")
    )
    assert max(lru, lfu) < best


def test_random_gates_look_better_than_trained_ones_and_so_say_nothing():
    trained = value("mixtral-offloading", "uses found, 2 of 8 kept, LRU")
    assert value("mixtral-offloading", "uses found, 2 kept, random gates") > trained


def test_kept_experts_save_bytes_and_change_nothing():
    assert value("mixtral-offloading", "bytes a token, 4 kept") < value("mixtral-offloading", "bytes a token, 1 kept")
    assert value("mixtral-offloading", "largest difference of logits") < 1e-3


def test_trained_pregates_lie_between_own_gates_and_the_untrained_shift():
    own, trained, shifted = (
        value("pre-gated-moe", f"perplexity, {n}") for n in ("own gates", "trained", "shifted, untrained")
    )
    assert own < trained < shifted
    assert value("pre-gated-moe", "memory of experts over all of them") <= 6 / 64
    assert value("pre-gated-moe", "end on demand over a block early") == pytest.approx(16 / 9)


def test_bits_by_attention_cost_less_than_bits_against_it():
    base = "perplexity after 512 tokens in "
    by, against = (value("llms", f"{base}2.5 bits, {w}") for w in ("by attention", "against it"))
    assert value("llms", base + "8 bits") < by < against
    assert value("llms", "recall after switching, 4 bits") >= 0.9
    assert value("llms", "bytes of a switch, 16-bit cache over chunks") > 2.5


def test_old_keys_on_disk_change_nothing_and_bound_memory():
    disk = vc3_contexts.kv_on_disk(tokens=4)
    assert disk.equal and disk.waited == 0 and disk.prefetched > 0
    assert disk.peak_bytes < 0.6 * disk.plain_bytes


def test_modelled_split_of_equal_ways_halves_the_time():
    assert vc3_contexts.modelled_loading(16, 1.0, 1.0)["split"] == 8.0


@pytest.mark.parametrize("system", ["mixtral-offloading", "pre-gated-moe", "llms"])
def test_verdict_has_its_reason(system):
    assert found(system).reason and found(system).claim.verified
