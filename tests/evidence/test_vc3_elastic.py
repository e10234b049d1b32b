"""STI: the plan is the best there is, and what runs is what was planned."""

from .findings import found, value


def test_planned_fidelities_are_the_best_of_all_and_better_than_uniform_ones_at_equal_bytes():
    assert abs(value("sti", "loss of the plan over the least of all plans") - 1) < 1e-9
    assert value("sti", "perplexity of the plan over uniform fidelity, 3 bits") < 1


def test_the_executed_plan_gives_the_logits_of_its_shards_and_beats_both_other_ways_within_the_latency():
    assert value("sti", "logits equal to those of the same shards loaded at once") == 1
    assert value("sti", "perplexity of the plan over one fidelity for all, same latency") < 1
    assert value("sti", "perplexity of the plan over loading all first, same latency") < 1


def test_shards_take_a_small_part_of_the_memory_of_the_weights():
    assert value("sti", "held between requests over the float weights") < 0.1
    # How many bits the plan affords depends on the machine; all shards at eight bits would be a quarter.
    assert value("sti", "most shards in memory at once over the float weights") < 0.2
    assert found("sti").claim.verified
