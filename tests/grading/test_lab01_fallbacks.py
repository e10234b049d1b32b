"""What lab 1 falls back on keeps the contracts of its exercises, whatever the seed."""

import pytest
from edgeinfer.grading.exercise import load_lab
from edgeinfer.grading.judge import Key, judge
from edgeinfer.grading.runner import call_case
from edgeinfer.kernels import quantize_steps

LAB = load_lab("lab01_quantization")
FALLBACKS = {
    "quantize_symmetric": quantize_steps.symmetric_codes,
    "quantize_groups": quantize_steps.group_codes,
    "integer_matvec": quantize_steps.code_matvec,
    "activation_scale": quantize_steps.scale_columns,
    "second_order_step": quantize_steps.compensated_column,
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", [exercise.name for exercise in LAB.exercises])
def test_fallback_keeps_the_contract(name, seed):
    key = Key(LAB[name], LAB[name].cases(seed))
    verdict = judge(key, [call_case(FALLBACKS[name], args) for args in [*key.cases, key.cases[0]]])
    assert verdict.passed, verdict.message
