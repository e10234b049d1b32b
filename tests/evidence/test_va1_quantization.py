"""What the quantization evidence must show, whatever the machine: no assertion about time."""

from functools import cache

import numpy as np
import pytest
from edgeinfer.evidence import va1_quantization as va1

SMALL = 1024  # tokens of a perplexity here


@cache
def subject() -> va1.Subject:
    return va1.Subject(tokens=SMALL)


@cache
def curve() -> va1.RankCurve:
    return va1.rank_curve(subject(), bits=2, ranks=(0, 16))


def test_more_rank_gives_back_quality_and_costs_the_bytes_it_says():
    found = curve()
    assert found.perplexity[16] < found.perplexity[0]
    factors = sum(2 * 16 * sum(w.shape) for w in subject().weights.values())
    assert found.nbytes[16] - found.nbytes[0] == factors


@cache
def widths() -> va1.AnyWidth:
    return va1.any_width(subject(), widths=(3, 5))


def test_bytes_read_are_proportional_to_the_width():
    found = widths()
    assert found.bytes_read[3] * 5 == found.bytes_read[5] * 3
    assert found.bytes_read[5] == found.file_bytes == 5 * subject().count // 8


def test_each_width_of_one_file_is_near_its_own_quantization_and_truncation_is_not():
    found = widths()
    assert found.nested[3] < 1.05 * found.independent[3]
    assert found.nested[5] < 1.05 * found.independent[5]
    assert found.truncated[3] > found.nested[3]


def test_weights_read_back_from_planes_equal_those_of_the_library():
    from edgeinfer.kernels import any_precision_quantize

    rng = np.random.default_rng(0)
    stored = {str(i): any_precision_quantize(rng.normal(size=(5, 16)).astype(np.float32), 2, 4) for i in range(3)}
    planes = np.stack([np.concatenate([w.planes[p].ravel() for w in stored.values()]) for p in range(4)])
    for bits in (2, 3, 4):
        found = va1._from_planes(planes[:bits], stored, bits)
        for name, weight in stored.items():
            np.testing.assert_array_equal(found[name], weight.dequantize(bits))


@pytest.mark.parametrize("seed", range(5))
def test_a_nibble_in_the_high_half_gives_sixteen_times_the_sum_exactly(seed):
    assert va1.high_half_is_exact(seed) == 0


def test_clipping_repairs_a_part_and_int8_activations_harm_little():
    found = va1.channel_quality(subject())
    assert found.baseline < found.clipped[3] < found.plain[3]
    assert found.whole < 1.1 * found.baseline


def test_speed_is_a_ratio_of_interleaved_times():
    ratios = va1.speed_against_others(side=256, rounds=3)
    assert set(ratios) == {"W4A8 in groups", "W8A8 per channel"} and all(r > 0 for r in ratios.values())


def test_recovered_share_runs_from_nothing_to_everything():
    assert va1.recovered(8.0, 8.0, 4.0) == 0
    assert va1.recovered(8.0, 4.0, 4.0) == pytest.approx(1)
