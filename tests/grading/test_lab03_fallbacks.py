"""What lab 3 falls back on keeps the contracts of its exercises, whatever the seed."""

import pytest
from edgeinfer.grading.exercise import load_lab
from edgeinfer.grading.judge import Key, judge
from edgeinfer.grading.runner import call_case
from edgeinfer.kernels import kv_steps

LAB = load_lab("lab03_kv_and_attention")
FALLBACKS = {
    "quantize_keys": kv_steps.key_grids,
    "append_token": kv_steps.append_to_grids,
    "merge_layers": kv_steps.merge_directions,
    "filter_keys": kv_steps.filter_rounds,
    "cascade_prune": kv_steps.cascade,
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", [exercise.name for exercise in LAB.exercises])
def test_fallback_keeps_the_contract(name, seed):
    key = Key(LAB[name], LAB[name].cases(seed))
    verdict = judge(key, [call_case(FALLBACKS[name], args) for args in [*key.cases, key.cases[0]]])
    assert verdict.passed, verdict.message
