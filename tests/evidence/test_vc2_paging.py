"""What must hold of the evidence for PagedAttention, whatever the machine: counts, exactness, kinds of figures."""

from edgeinfer.evidence import vc2_paging

from .findings import found, value


def test_blocks_waste_next_to_nothing_and_reserving_most():
    assert value("pagedattention", "waste, blocks of 16") < 4
    assert 60 < value("pagedattention", "waste, longest text reserved") < 85
    assert value("pagedattention", "waste, reserved by an oracle") > 20
    assert value("pagedattention", "requests at once, blocks over reserved") > 2


def test_tokens_are_the_same():
    assert value("pagedattention", "tokens unlike those of a plain cache") == 0


def test_samples_share_their_prompt():
    assert value("pagedattention", "blocks of four samples, shared over copied") == 14 / 32


def test_times_are_ratios():
    for result in found("pagedattention").results:
        if "time" in result.name or "per second" in result.name:
            assert result.unit == "x" and result.value > 0


def test_waste_grows_with_the_block():
    wasted = [vc2_paging.wasted("blocks", size) for size in (1, 4, 16, 64, 256)]
    assert wasted == sorted(wasted) and wasted[0] == 0
