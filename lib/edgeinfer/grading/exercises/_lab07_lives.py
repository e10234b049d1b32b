"""Lab 7, exercises 1 and 2: between which steps a buffer is alive, and the bytes alive in each step.

Source: transformer-lite.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

# ---------------------------------------------------------------- 1. lifetimes


def program(rng: np.random.Generator, steps: int, spare: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    """A random straight program: reads (steps, 3), padded with -1, writes (steps,), and the buffer it returns."""
    reads = np.full((steps, 3), -1, np.int64)
    writes = np.zeros(steps, np.int64)
    count = 0
    for s in range(steps):
        for r in range(min(count, int(rng.integers(0, 4)))):
            reads[s, r] = int(rng.integers(max(0, count - 4), count))
        if count and rng.random() < 0.25:  # in place
            writes[s] = int(rng.integers(max(0, count - 3), count))
        else:
            writes[s], count = count, count + 1
    order = rng.permutation(count)  # the numbers say nothing about the order
    reads = np.where(reads < 0, -1, order[reads])
    return reads, order[writes], int(order[int(rng.integers(count))])


def _life_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = [program(rng, steps) for steps in (12, 7, 25, 40)]
    cases.append((np.array([[-1, -1, -1]]), np.array([0]), 0))
    # nobody reads buffer 1; buffer 2 is written last and read by nobody, buffer 0 is returned
    cases.append((np.array([[-1, -1], [0, -1], [0, 0], [-1, -1]]), np.array([0, 1, 0, 2]), 0))
    return cases


def lives(reads: np.ndarray, writes: np.ndarray, result: int) -> tuple[np.ndarray, np.ndarray]:
    count = int(max(writes)) + 1
    first, last = [-1] * count, [-1] * count
    for step in range(len(writes)):
        for buffer in [*(int(b) for b in reads[step] if b >= 0), int(writes[step])]:
            if first[buffer] < 0:
                first[buffer] = step
            last[buffer] = step
    last[result] = len(writes) - 1
    return np.array(first), np.array(last)


def _mistaken(
    reads: np.ndarray,
    writes: np.ndarray,
    result: int,
    padding: bool = False,
    returned: bool = True,
    in_place: bool = True,
    again: bool = False,
    only_first: bool = False,
    beyond: int = 0,
    begins: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Lives with one screw loose."""
    count = int(writes.max()) + 1
    first, last = np.full(count, -1), np.full(count, -1)
    for step, buffer in enumerate(writes):
        for read in reads[step]:
            if (read >= 0 or padding) and not (only_first and last[read] > first[read]):
                last[read] = step
        if first[buffer] < 0 or again:
            first[buffer] = step
        if in_place or last[buffer] < 0:
            last[buffer] = step
    if returned:
        last[result] = len(writes) - 1
    return first + begins, last + beyond


LIFETIMES = Exercise(
    name="lifetimes",
    contract="reads int (S, R): the buffers that step s reads, filled up with -1; writes int (S,): the buffer it "
    "writes, new or in place; result int: the buffer that is returned -> first integer (B,), last integer (B,): the "
    "first and the last step in which buffer b is written or read; the result lives to step S - 1; B = max(writes) + 1",
    make_cases=_life_cases,
    oracle=lives,
    returns=(Returns("first", dtype="integer"), Returns("last", dtype="integer")),
    misconceptions=[
        Misconception(
            "padding-is-a-buffer",
            "-1 stands for nothing. As an index it means the last buffer, which then seems to be read all the time.",
            produces=partial(_mistaken, padding=True),
        ),
        Misconception(
            "result-dies",
            "The caller still needs the result: it lives to the last step, whoever read it before.",
            produces=partial(_mistaken, returned=False),
        ),
        Misconception(
            "zero-is-padding",
            "Buffer 0 is a buffer like the others. Only -1 stands for nothing.",
            produces=lambda reads, writes, result: _mistaken(np.where(reads == 0, -1, reads), writes, result),
        ),
        Misconception(
            "length-for-last",
            "The second result is the number of steps of a life. Asked is the last step itself.",
            recognises=lambda args, got, want: np.array_equal(got[1], want[1] - want[0] + 1),
        ),
        Misconception(
            "end-excluded",
            "`last` is the last step that uses the buffer, not the step after it.",
            produces=partial(_mistaken, beyond=1),
        ),
        Misconception(
            "begins-a-step-late",
            "A buffer is alive in the step that writes it, not from the next one on.",
            produces=partial(_mistaken, begins=1),
        ),
        Misconception(
            "in-place-is-a-birth",
            "A step that writes a buffer in place does not begin its life: `first` is the FIRST step.",
            produces=partial(_mistaken, again=True),
        ),
        Misconception(
            "in-place-is-no-use",
            "Writing into a buffer that lives already is a use, too: somebody will read what was written.",
            produces=partial(_mistaken, in_place=False),
        ),
        Misconception(
            "first-read-ends-it",
            "A buffer may be read several times. Its life ends with the LAST use.",
            produces=partial(_mistaken, only_first=True),
        ),
        Misconception(
            "unread-has-no-life",
            "Right but for buffers that nobody reads: these live in the one step that writes them (last = first).",
            recognises=lambda args, got, want: bool(
                np.array_equal(got[0], want[0])
                and all(
                    not (args[0] == b).any() and b != args[2] for b in np.flatnonzero(np.asarray(got[1]) != want[1])
                )
            ),
        ),
    ],
    hint="Pick a buffer that comes out wrong and mark every step in which its number occurs, as something read or "
    "as what is written. What are the first mark and the last? Which buffer has one reader more, outside of "
    "the program?",
    points=2,
)

# ---------------------------------------------------------------- 2. live_bytes


def _byte_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for count, steps in ((12, 9), (5, 4), (30, 20), (8, 30)):
        first = rng.integers(0, steps, count)
        last = np.minimum(first + rng.integers(0, 5, count), steps - 1)
        cases.append((rng.integers(1, 1000, count), first, last))
    cases.append((np.array([7]), np.array([3]), np.array([3])))
    cases.append((np.array([3 << 30, 3 << 30, 5]), np.array([0, 1, 1]), np.array([1, 2, 1])))  # beyond 32 bits
    return cases


def alive(size: np.ndarray, first: np.ndarray, last: np.ndarray, begin: int = 0, end: int = 0) -> np.ndarray:
    total = [0] * (int(max(last)) + 1)
    for s, a, b in zip(size, first, last, strict=True):
        for step in range(int(a) + begin, int(b) + 1 + end):
            if step < len(total):
                total[step] += int(s)
    return np.array(total, np.int64)


def _never_freed(size: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    return alive(size, first, np.full_like(last, last.max()))


def _frees_first(size: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    return alive(size, first, last, 0, -1)


def _counts(size: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    return alive(np.ones_like(size), first, last)


def _ends_only(size: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    once = first == last
    return _padded(alive(size, first, first), last) + alive(np.where(once, 0, size), last, last)


def _padded(total: np.ndarray, last: np.ndarray) -> np.ndarray:
    return np.concatenate((total, np.zeros(int(last.max()) + 1 - len(total), np.int64)))


def _one_of_them(args: Args, got: Arrays, want: Arrays) -> bool:
    """Every entry is 0 or the size of one buffer that is alive, and somewhere more than one is."""
    size, first, last = args
    return all(int(v) in {0, *size[(first <= s) & (s <= last)].tolist()} for s, v in enumerate(got[0]))


def _changes(size: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    out = np.zeros(int(last.max()) + 2, np.int64)
    np.add.at(out, first, size)
    np.add.at(out, last + 1, -size)
    return out[:-1]


def _overwritten(size: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    out = np.zeros(int(last.max()) + 2, np.int64)
    out[first] += size  # repeated numbers count once
    out[last + 1] -= size
    return np.cumsum(out)[:-1]


def _births_only(size: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    out = np.zeros(int(last.max()) + 1, np.int64)
    np.add.at(out, first, size)
    return out


LIVE = Exercise(
    name="live_bytes",
    contract="size integer (B,), first integer (B,), last integer (B,), as `lifetimes` returns them -> alive integer "
    "(max(last) + 1,): the bytes alive in each step, `first` and `last` both included",
    make_cases=_byte_cases,
    oracle=alive,
    returns=(Returns("alive", dtype="integer"),),
    misconceptions=[
        Misconception(
            "frees-too-early",
            "A buffer is still needed in the step that reads it last: `last` is included.",
            produces=_frees_first,
        ),
        Misconception(
            "begins-too-late",
            "A buffer is needed in the step that writes it: `first` is included.",
            produces=partial(alive, begin=1),
        ),
        Misconception(
            "frees-too-late",
            "A buffer is free in the step after `last`; you still count it there.",
            produces=partial(alive, end=1),
        ),
        Misconception(
            "never-frees",
            "Nothing is ever given back: your sums only grow.",
            produces=_never_freed,
        ),
        Misconception("counts-buffers", "You count buffers; the arena needs bytes.", produces=_counts),
        Misconception(
            "ends-only",
            "A buffer counts in its first and in its last step here. It is alive in the steps between, too.",
            produces=_ends_only,
        ),
        Misconception(
            "one-of-them",
            "Where several buffers are alive in one step, only one of them counts. Their bytes add up.",
            recognises=_one_of_them,
        ),
        Misconception(
            "changes-not-sums",
            "These are the changes from step to step. Add them up (np.cumsum).",
            produces=_changes,
        ),
        Misconception(
            "births-only",
            "You add the bytes that are written in a step. Those written before and still needed are alive, too.",
            produces=_births_only,
        ),
        Misconception(
            "repeated-index",
            "a[index] += x counts an index that stands there twice only once. Use np.add.at or a loop.",
            produces=_overwritten,
        ),
        Misconception(
            "thirty-two-bits",
            "Right for small buffers. Bytes beyond 2 GiB do not fit into 32 bits: add in int64.",
            recognises=lambda args, got, want: int(max(args[0])) > 1 << 30,
        ),
    ],
    hint="Take one buffer with first 2 and last 3. Which entries of the result does it raise, and by how much? "
    "Then two that are alive in the same step.",
    points=1,
)
