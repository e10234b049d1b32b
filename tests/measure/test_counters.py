"""Counts are exact, the same every time, and cost nothing when nobody listens."""

import pytest
from edgeinfer.measure import Counter, count_operations, count_read, count_write, torch_flops
from hypothesis import given
from hypothesis import strategies as st

events = st.lists(
    st.tuples(
        st.sampled_from([count_read, count_write]),
        st.integers(0, 1 << 40),
        st.sampled_from(["DRAM", "disk", "link"]),
        st.sampled_from(["weights", "kv", ""]),
    ),
    max_size=30,
)


@given(events)
def test_totals_are_the_sums_of_their_parts(happened):
    with Counter() as counter:
        for function, amount, tier, label in happened:
            function(amount, tier, label)
    read = [e for e in happened if e[0] is count_read]
    assert counter.bytes_read() == sum(e[1] for e in read)
    assert counter.bytes_moved() == sum(e[1] for e in happened)
    assert counter.bytes_read("disk", "kv") == sum(e[1] for e in read if e[2:] == ("disk", "kv"))
    assert sum(counter.bytes_moved(t) for t in ("DRAM", "disk", "link")) == counter.bytes_moved()


@given(events)
def test_json_round_trip(happened):
    with Counter() as counter:
        for function, amount, tier, label in happened:
            function(amount, tier, label)
    assert Counter.from_json(counter.to_json()).as_dict() == counter.as_dict()


def test_nested_counters_both_count_and_the_inner_one_only_its_part():
    with Counter() as outer:
        count_read(1)
        with Counter() as inner:
            count_read(10)
        count_read(100)
    assert (outer.bytes_read(), inner.bytes_read()) == (111, 10)


def test_nothing_is_counted_outside_a_counter():
    with Counter() as counter:
        pass
    count_read(5)
    assert counter.bytes_read() == 0


def test_intensity_is_operations_per_byte_and_unknown_without_bytes():
    with Counter() as counter:
        count_operations(8, "int", "dot")
    assert counter.intensity is None
    with counter:
        count_read(3)
        count_write(1)
    assert counter.intensity == 2
    assert counter.operations("int") == 8 and counter.operations("float") == 0


def test_the_same_counter_cannot_listen_twice_at_once():
    with Counter() as counter, pytest.raises(RuntimeError, match="already counting"), counter:
        pass


@pytest.mark.parametrize("amount", [-1, 0.5])
def test_impossible_amounts_are_refused(amount):
    with Counter(), pytest.raises(ValueError, match="cannot count"):
        count_read(amount)


def test_reset_and_table():
    with Counter() as counter:
        count_read(1234567, label="w<b>")
    assert "1,234,567" in counter.table()
    assert "<b>" not in counter._repr_html_()
    counter.reset()
    assert counter.bytes_moved() == 0


def test_torch_flops_counts_two_per_multiply_add():
    torch = pytest.importorskip("torch")
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert torch_flops(lambda: a @ b) == 2 * 3 * 4 * 5
