"""What must hold of the schedulers: answers as if alone, no block lost, progress, fairness, clear refusals."""

import pytest
from edgeinfer.memory.serving.engine import Engine
from edgeinfer.memory.serving.requests import QueueFull, Request, RequestRefused
from edgeinfer.memory.serving.static import StaticBatching
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .serving_fake import HashRunner, answer

SCHEDULERS = {
    "recompute": lambda runner, batch: Engine(runner, batch, batch + 3, "recompute"),
    "swap": lambda runner, batch: Engine(runner, batch, batch + 3, "swap"),
    "no sharing": lambda runner, batch: Engine(runner, batch, batch + 3, share_prefixes=False),
    "static": StaticBatching,
}


def request(name, prompt=3, count=4, **options):
    return Request(str(name), tuple(range(1, prompt + 1)), count, **options)


def run(scheduler):
    """Step to the end; return the tokens of every request, and the names in order of their ends."""
    answers, ends = {}, []
    for _ in range(10_000):
        if not scheduler.busy:
            return answers, ends
        for event in scheduler.step():
            answers.setdefault(event.request_id, []).append(event.token)
            if event.finish_reason:
                ends.append(event.request_id)
    raise AssertionError("the scheduler makes no progress")


@settings(deadline=None)
@given(
    st.sampled_from(sorted(SCHEDULERS)),
    st.integers(1, 5),
    st.integers(4, 12),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 8)), min_size=1, max_size=9),
)
def test_every_answer_is_the_one_of_a_request_alone_and_no_block_is_lost(kind, batch, blocks, sizes):
    runner = HashRunner(blocks)
    scheduler = SCHEDULERS[kind](runner, batch)
    requests = [request(i, prompt, count) for i, (prompt, count) in enumerate(sizes)]
    for one in requests:
        scheduler.add(one)
    answers, _ = run(scheduler)
    assert answers == {one.id: answer(one.prompt, one.max_tokens) for one in requests}
    assert runner.free_blocks == blocks
    assert not runner.here
    runner.blocks.check()


# Few words and few ways to begin, so that many prompts share blocks and some are equal.
PROMPTS = st.tuples(st.sampled_from([0, 4, 5]), st.lists(st.integers(0, 1), min_size=1, max_size=6)).map(
    lambda made: [7] * made[0] + made[1]
)


class Lifecycle(RuleBasedStateMachine):
    """Requests come, are computed, paused, cancelled in any order; many begin alike. The blocks always add up."""

    @initialize(
        kind=st.sampled_from(["recompute", "swap", "no sharing"]), blocks=st.integers(3, 9), batch=st.integers(1, 4)
    )
    def start(self, kind, blocks, batch):
        self.runner = HashRunner(blocks)
        self.engine = SCHEDULERS[kind](self.runner, batch)
        self.requests, self.answers, self.here, self.count = {}, {}, set(), 0

    @rule(prompt=PROMPTS, count=st.integers(1, 6), copies=st.integers(1, 3))
    def add(self, prompt, count, copies):
        for _ in range(copies):
            one = Request(str(self.count), tuple(prompt), count)
            self.count += 1
            try:
                self.engine.add(one)
            except RequestRefused:
                assert -(-(len(prompt) + count - 1) // 4) > self.runner.num_blocks
                return
            self.requests[one.id], self.answers[one.id] = one, []
            self.here.add(one.id)

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def cancel(self, data):
        name = data.draw(st.sampled_from(sorted(self.here)))
        assert self.engine.cancel(name)
        assert not self.engine.cancel(name)
        assert name not in self.runner.here
        self.here.discard(name)

    @precondition(lambda self: self.here)
    @rule(data=st.data(), how=st.sampled_from(["pause", "resume"]))
    def pause(self, data, how):
        getattr(self.engine, how)(data.draw(st.sampled_from(sorted(self.here))))

    @rule()
    def step(self):
        ready = self.engine.ready
        events = self.engine.step()
        assert (self.engine.last_step is not None) == ready
        for event in events:
            self.answers[event.request_id].append(event.token)
            if event.finish_reason:
                self.here.discard(event.request_id)
            one = self.requests[event.request_id]
            assert self.answers[one.id] == answer(one.prompt, one.max_tokens)[: len(self.answers[one.id])]
            assert 0 <= event.reused <= len(one.prompt)
        if ready:
            assert self.engine.last_step.tokens <= self.engine.token_budget

    @invariant()
    def blocks_add_up(self):
        if not hasattr(self, "engine"):
            return
        self.runner.blocks.check()
        held = {s.id for s in self.engine._all() if s.computed}
        assert self.runner.here == held
        assert {s.id for s in self.engine._all()} == self.here

    def teardown(self):
        if not hasattr(self, "engine"):
            return
        for name in self.here:
            self.engine.resume(name)
        rest, _ = run(self.engine)
        for name in self.here:
            one = self.requests[name]
            assert self.answers[name] + rest.get(name, []) == answer(one.prompt, one.max_tokens)
        assert self.runner.free_blocks == self.runner.num_blocks


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_short_request_leaves_a_running_batch_and_a_waiting_one_takes_its_place():
    engine = Engine(HashRunner(50), max_batch=2, token_budget=8)
    for name, count in (("long", 20), ("short", 2), ("late", 2)):
        engine.add(request(name, count=count))
    assert run(engine)[1] == ["short", "late", "long"]


def test_a_static_batch_answers_when_its_longest_has_ended():
    static = StaticBatching(HashRunner(50), max_batch=2)
    for name, count in (("long", 20), ("short", 2), ("late", 2)):
        static.add(request(name, count=count))
    assert static.step() == []
    idle = 0
    while static.running:
        events = static.step()
        idle += sum(row.phase == "idle" for row in static.last_step.rows)
    assert [e.request_id for e in events if e.finish_reason] == ["long", "short"]
    assert idle == 18
    assert [s.id for s in static.waiting] == ["late"]


def test_a_long_prompt_is_read_in_chunks_beside_the_next_tokens_of_others():
    engine = Engine(HashRunner(50), max_batch=2, token_budget=5)
    engine.add(request("talks", prompt=2, count=9))
    engine.step()
    engine.add(request("reads", prompt=16, count=1))
    shapes = []
    while engine.busy:
        engine.step()
        shapes.append([(row.request_id, row.tokens) for row in engine.last_step.rows])
    assert shapes[:4] == [[("talks", 1), ("reads", 4)]] * 4
    assert shapes[4] == [("talks", 1)]


@pytest.mark.parametrize("kind", ["recompute", "swap"])
def test_the_latest_request_makes_room_and_the_oldest_never_does(kind):
    engine = Engine(HashRunner(6), max_batch=3, token_budget=12, preemption=kind)
    for name in "abc":
        engine.add(request(name, prompt=4, count=14))
    preempted = set()
    while engine.busy:
        engine.step()
        preempted |= set(engine.last_step.preempted)
    assert engine.preemptions > 0
    assert "a" not in preempted


@pytest.mark.parametrize("kind", ["recompute", "swap"])
def test_a_request_that_stepped_back_goes_on_before_those_that_came_after_it(kind):
    engine = Engine(HashRunner(6), max_batch=2, token_budget=8, preemption=kind)
    for name in "abc":
        engine.add(Request(name, (ord(name), 1, 2, 3), 14))
    while not engine.preemptions:
        engine.step()
    assert [s.id for s in engine.waiting] == ["b", "c"]
    assert run(engine)[1] == ["a", "b", "c"]


def test_a_paused_request_gives_its_blocks_to_others_and_goes_on_later():
    runner = HashRunner(4)
    engine = Engine(runner, max_batch=1, token_budget=8)
    engine.add(request("silent", prompt=4, count=8))
    first = [e.token for _ in range(3) for e in engine.step()]
    engine.pause("silent")
    assert not engine.ready
    engine.add(request("other", prompt=8, count=8))
    done = []
    while engine.ready:
        done += [e for e in engine.step() if e.request_id == "other"]
    assert [e.token for e in done] == answer(range(1, 9), 8)
    engine.resume("silent")
    assert first + run(engine)[0]["silent"] == answer(range(1, 5), 8)


def test_a_request_larger_than_the_pool_is_refused_and_others_go_on():
    engine = Engine(HashRunner(4), context=64)
    engine.add(request("fits", prompt=10, count=7))  # 16 tokens are kept: the last one needs no place
    with pytest.raises(RequestRefused, match="which needs 5 blocks of 4 tokens, but the whole cache has 4; shorten"):
        engine.add(request("large", prompt=10, count=8))
    assert run(engine)[0] == {"fits": answer(range(1, 11), 7)}


def test_refusals_say_what_is_wrong():
    engine = Engine(HashRunner(400), max_waiting=1, context=20)
    with pytest.raises(RequestRefused, match="together 21, but the model has a context of 20"):
        engine.add(request("long", prompt=10, count=11))
    with pytest.raises(RequestRefused, match="a prompt of at least one token and max_tokens of 1 or more; came 0"):
        engine.add(request("empty", prompt=0))
    engine.add(request("a"))
    with pytest.raises(RequestRefused, match="'a' is here already"):
        engine.add(request("a"))
    with pytest.raises(QueueFull, match="1 requests are waiting already"):
        engine.add(request("b"))
    with pytest.raises(ValueError, match="token_budget 4 is smaller than max_batch 8"):
        Engine(HashRunner(4), max_batch=8, token_budget=4)
    with pytest.raises(ValueError, match="preemption must be 'recompute' or 'swap'; came 'drop'"):
        Engine(HashRunner(4), preemption="drop")


def test_a_stop_token_ends_an_answer():
    tokens = answer(range(1, 4), 20)
    stop = tokens[5]
    engine = Engine(HashRunner(50))
    engine.add(request("a", count=20, stop_tokens=frozenset({stop})))
    assert run(engine)[0]["a"] == tokens[: tokens.index(stop) + 1]
