"""The cost model of CENT: close to the published points it was not fitted to, and moving as the hardware would."""

import pytest
from edgeinfer.devices import cent


@pytest.mark.parametrize("point", [p for p in cent.PUBLISHED_CENT if p not in cent.FITTED])
def test_model_is_close_to_published_simulations_it_was_not_fitted_to(point):
    assert abs(cent.deviation(*point)) < (0.11 if point != ("7B", 1) else 0.21)


def test_fitted_points_are_met():
    assert all(abs(cent.deviation(*point)) < 0.03 for point in cent.FITTED)


def test_block_bytes_are_those_of_the_model():
    assert cent.LLAMA2_7B.weight_bytes == pytest.approx(2 * 6.476e9, rel=1e-3)  # without embedding and head
    assert cent.LLAMA2_70B.kv_bytes(1) == 2 * 2 * 80 * 8 * 128


def test_throughput_grows_with_the_batch_until_the_pipeline_is_full():
    system, model = cent.Cent(), cent.LLAMA2_70B
    rates = [system.tokens_per_second(model, batch, 32) for batch in (1, 8, 32, 64)]
    assert rates[1] == pytest.approx(8 * rates[0]) and rates[2] == pytest.approx(32 * rates[0]) and rates[3] == rates[2]


def test_splitting_blocks_wins_alone_and_pipelining_wins_in_a_crowd():
    system = cent.Cent()
    assert system.best(cent.LLAMA2_70B, 1)[1] == 1
    assert system.best(cent.LLAMA2_70B, 128)[1] >= 32
    rates = [system.best(cent.LLAMA2_70B, batch)[0] for batch in (1, 2, 4, 8, 16, 32, 64)]
    assert rates == sorted(rates)


def test_gpu_limit_is_memory_alone_at_batch_one_and_lies_above_every_measurement():
    gpu, model = cent.Gpu(), cent.LLAMA2_70B
    moved = model.weight_bytes + model.kv_bytes(cent.PROMPT + cent.ANSWER / 2)
    assert gpu.tokens_per_second(model, 1) == pytest.approx(4 * 2039e9 / moved)
    assert all(gpu.tokens_per_second(model, b) > cent.published_gpu_70b(b) for b in cent.PUBLISHED_GPU_70B)
    assert gpu.fits(model, 128) and not gpu.fits(model, 512)


def test_a_dollar_buys_what_a_dollar_of_hours_buys():
    assert cent.tokens_per_dollar(100, 0.5) == 720_000


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cent.Cent().latency_ms(cent.LLAMA2_70B, 3), "3 stages do not divide 32 devices; choose 80"),
        (lambda: cent.Cent().tokens_per_second(cent.LLAMA2_70B, 0, 32), "batch must be at least 1, got 0"),
        (lambda: cent.Gpu().tokens_per_second(cent.LLAMA2_70B, 0), "batch must be at least 1, got 0"),
        (lambda: cent.Cent().block_ms(cent.LLAMA2_70B, 4, 3), "one of the two must be 1"),
        (lambda: cent.published_gpu_70b(3), "no published measurement for batch 3"),
    ],
)
def test_wrong_input_gets_one_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()
