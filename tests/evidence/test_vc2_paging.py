"""What must hold of the evidence for PagedAttention, whatever the machine: counts, exactness, kinds of figures."""

from edgeinfer.evidence import vc2_paging, vc2_prefixes

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


def test_shared_beginnings_are_read_once_and_change_no_answer():
    assert value("pagedattention", "answers changed by sharing") == 0
    assert value("pagedattention", "prompt tokens read, shared beginnings over none") < 0.4
    assert value("pagedattention", "blocks held at most, shared beginnings over none") < 0.8


def test_without_a_common_beginning_sharing_changes_nothing():
    pair = vc2_prefixes.simulate(*vc2_prefixes.asked(30, beginning=0))
    assert (pair.read, pair.blocks, pair.first_token, pair.shared.reused) == (1, 1, 1, 0)


def test_more_different_beginnings_leave_less_to_share():
    read = [vc2_prefixes.simulate(*vc2_prefixes.asked(60, kinds=kinds)).read for kinds in (1, 5, 40)]
    assert read == sorted(read) and read[-1] < 1


def test_times_are_ratios():
    for result in found("pagedattention").results:
        if "time" in result.name or "per second" in result.name:
            assert result.unit == "x" and result.value > 0


def test_waste_grows_with_the_block():
    wasted = [vc2_paging.wasted("blocks", size) for size in (1, 4, 16, 64, 256)]
    assert wasted == sorted(wasted) and wasted[0] == 0
