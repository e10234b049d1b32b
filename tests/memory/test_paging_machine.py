"""The block manager over long random histories: no block is lost or held twice, nobody reads another's token."""

from collections.abc import Iterator

import pytest
from edgeinfer.memory.paging.blocks import BlockManager, OutOfBlocks
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

WORDS = st.lists(st.integers(0, 2), min_size=1, max_size=9)  # few words, so that prompts often begin alike


class Histories(RuleBasedStateMachine):
    """Sequences open, grow, fork, are cancelled, leave the pool and come back; a pool of tokens is kept beside them."""

    @initialize(blocks=st.integers(1, 14), size=st.integers(1, 4))
    def begin(self, blocks, size):
        self.manager, self.size = BlockManager(blocks, size), size
        self.pool = [[None] * size for _ in range(blocks)]
        self.texts: dict[str, list[int]] = {}
        self.outside: dict[str, list[int]] = {}
        self.names: Iterator[str] = map(str, range(10_000))

    def write(self, name, tokens):
        """Append tokens as a runner does: copies first, then each token into its place."""
        before = self.manager.block_table(name), self.manager.length(name), self.manager.free_blocks
        possible = self.manager.can_append(name, len(tokens))
        try:
            copies = self.manager.append(name, len(tokens), tokens)
        except OutOfBlocks:
            assert not possible
            assert before == (self.manager.block_table(name), self.manager.length(name), self.manager.free_blocks)
            return False
        assert possible
        for source, target in copies:
            self.pool[target] = list(self.pool[source])
        table, start = self.manager.block_table(name), self.manager.length(name) - len(tokens)
        for place, token in enumerate(tokens, start):
            self.pool[table[place // self.size]][place % self.size] = token
        return True

    def pick(self, data, among):
        return data.draw(st.sampled_from(sorted(among))) if among else None

    @rule(prompt=WORDS)
    def arrive(self, prompt):
        name = next(self.names)
        found = self.manager.add(name, prompt)
        assert found % self.size == 0 and found < len(prompt)
        self.texts[name] = prompt[:found]
        if self.write(name, prompt[found:]):
            self.texts[name] = prompt
        else:
            self.manager.free(name)
            del self.texts[name]

    @rule(data=st.data(), tokens=WORDS)
    def grow(self, data, tokens):
        name = self.pick(data, self.texts)
        if name is not None and self.write(name, tokens):
            self.texts[name] = self.texts[name] + tokens

    @rule(data=st.data())
    def fork(self, data):
        parent = self.pick(data, self.texts)
        if parent is not None:
            child = next(self.names)
            before = self.manager.free_blocks
            self.manager.fork(parent, child)
            assert self.manager.free_blocks == before
            self.texts[child] = self.texts[parent]

    @rule(data=st.data())
    def cancel(self, data):
        name = self.pick(data, self.texts)
        if name is not None:
            self.manager.free(name)
            del self.texts[name]

    @rule(data=st.data())
    def move_out(self, data):
        name = self.pick(data, self.texts)
        if name is not None:
            self.outside[name] = self.texts.pop(name)
            self.manager.free(name)

    @rule(data=st.data())
    def move_in(self, data):
        name = self.pick(data, self.outside)
        if name is not None:
            self.manager.add(name)
            if self.write(name, self.outside[name]):
                self.texts[name] = self.outside.pop(name)
            else:
                self.manager.free(name)

    @invariant()
    def books_are_right(self):
        if hasattr(self, "manager"):
            self.manager.check()
            assert set(self.manager.sequences) == set(self.texts)

    @invariant()
    def everybody_reads_what_they_wrote(self):
        for name, text in getattr(self, "texts", {}).items():
            table = self.manager.block_table(name)
            assert self.manager.length(name) == len(text)
            assert [self.pool[table[i // self.size]][i % self.size] for i in range(len(text))] == text

    def teardown(self):
        for name in list(getattr(self, "texts", {})):
            self.manager.free(name)
        if hasattr(self, "manager"):
            self.manager.check()
            assert self.manager.free_blocks == self.manager.num_blocks


Histories.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHistories = Histories.TestCase


def test_the_block_used_longest_ago_is_given_out_first():
    manager = BlockManager(3, 2)
    for name, prompt in (("a", [1, 2, 3]), ("b", [4, 5])):
        manager.add(name, prompt)
        manager.append(name, len(prompt), prompt)
        manager.free(name)
    manager.add("c")
    manager.append("c", 4)  # one empty block, and the one that "a" left
    manager.check()
    assert manager.add("again a", [1, 2, 3]) == 0
    assert manager.add("again b", [4, 5, 6]) == 2
    manager.check()


def test_a_prefix_in_use_is_not_given_away():
    manager = BlockManager(2, 2)
    manager.add("a", [1, 2, 3])
    manager.append("a", 2, [1, 2])
    assert manager.add("b", [1, 2, 9]) == 2
    manager.append("b", 1, [9])
    manager.free("a")
    assert not manager.can_append("b", 2)
    with pytest.raises(OutOfBlocks, match="needs 1 more blocks, but 0 of 2 are free"):
        manager.append("b", 2, [9, 9])
    manager.check()


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda m: m.add("a"), ValueError, "already open"),
        (lambda m: m.free("x"), KeyError, "no sequence is called 'x'"),
        (lambda m: m.fork("a", "a"), ValueError, "already open"),
        (lambda m: m.append("a", 2, [1]), ValueError, "number of tokens"),
        (lambda m: m.append("a", -1), ValueError, "came -1"),
        (lambda m: BlockManager(0), ValueError, "at least one block"),
    ],
)
def test_mistakes_are_said_in_a_sentence(act, error, words):
    manager = BlockManager(4, 2)
    manager.add("a")
    with pytest.raises(error, match=words):
        act(manager)
    manager.check()
