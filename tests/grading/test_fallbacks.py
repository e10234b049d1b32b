"""What a lab falls back on keeps the contracts of its exercises, whatever the seed."""

import pytest
from edgeinfer.grading.exercise import load_lab
from edgeinfer.grading.judge import Key, judge
from edgeinfer.grading.runner import call_case
from edgeinfer.kernels import kv_steps, quantize_steps, sparse_steps, structured_steps
from edgeinfer.memory.buffers import buffer_steps
from edgeinfer.memory.flash import steps as flash_steps
from edgeinfer.memory.paging import steps as paging_steps

FALLBACKS = {
    "lab01_quantization": {
        "quantize_symmetric": quantize_steps.symmetric_codes,
        "quantize_groups": quantize_steps.group_codes,
        "integer_matvec": quantize_steps.code_matvec,
        "activation_scale": quantize_steps.scale_columns,
        "second_order_step": quantize_steps.compensated_column,
    },
    "lab03_kv_and_attention": {
        "quantize_keys": kv_steps.key_grids,
        "append_token": kv_steps.append_to_grids,
        "merge_layers": kv_steps.merge_directions,
        "filter_keys": kv_steps.filter_rounds,
        "cascade_prune": kv_steps.cascade,
    },
    "lab04_sparse_products": sparse_steps,  # by the exercise's own name
    "lab05_structured_sparsity": structured_steps,
    "lab07_activation_buffers": buffer_steps,
    "lab08_paged_kv": paging_steps,
    "lab09_locality": flash_steps,
}
EXERCISES = [(lab, exercise.name) for lab in FALLBACKS for exercise in load_lab(lab).exercises]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("lab", "name"), EXERCISES)
def test_fallback_keeps_the_contract(lab, name, seed):
    home = FALLBACKS[lab]
    fallback = home[name] if isinstance(home, dict) else getattr(home, name)
    exercise = load_lab(lab)[name]
    key = Key(exercise, exercise.cases(seed))
    verdict = judge(key, [call_case(fallback, args) for args in [*key.cases, key.cases[0]]])
    assert verdict.passed, verdict.message
