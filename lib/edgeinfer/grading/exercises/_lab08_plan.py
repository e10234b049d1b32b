"""Lab 8, exercise 5: who is computed in the next step.

The oracle gives out the budget token by token. R requests. Source: orca, sarathi-serve.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns


def _cases(rng: np.random.Generator) -> list[Args]:
    def case(missing: list[int], decoding: list[int], budget: int) -> Args:
        return np.array(missing, np.int64), np.array(decoding, bool), budget

    several = rng.integers(2, 30, 6)
    flags = np.array([False, True, False, True, True, False])
    several[flags] = 1
    return [
        case([40, 1, 7, 1], [0, 1, 0, 1], 16),  # a long prompt came first
        case([5, 1, 7, 1], [0, 1, 0, 1], 9),
        case([5, 1, 1, 9, 1], [0, 1, 0, 0, 1], 12),  # a prompt of which one token is left
        case([1, 12, 1, 1], [0, 0, 1, 1], 2),  # the last token of a prompt is no decoding
        case([1, 1, 1, 1], [1, 1, 1, 1], 2),  # more requests than budget
        case([3, 3, 3], [0, 0, 0], 64),
        case([20, 3], [0, 0], 12),  # the second would fit, but may not overtake
        case([1, 8, 2], [1, 0, 0], 9),  # exactly used up
        case([9], [0], 4),
        case([], [], 8),
        case([6, 1], [0, 1], 1),
        (several, flags, int(several.sum()) // 2 + 2),
    ]


def _oracle(missing: np.ndarray, decoding: np.ndarray, budget: int) -> np.ndarray:
    plan = [0] * len(missing)
    for phase in (True, False):
        for i, (want, decodes) in enumerate(zip(missing, decoding, strict=True)):
            while bool(decodes) == phase and plan[i] < want and sum(plan) < budget:
                plan[i] += 1
    return np.array(plan, np.int64)


def _mistaken(
    missing: np.ndarray,
    decoding: np.ndarray,
    budget: int,
    order: str = "decoding first",
    chunks: str = "right",
    left: str = "right",
    decode: str = "flag",
) -> np.ndarray:
    """Planning a step with one screw loose."""
    flag = decoding if decode == "flag" else missing == 1
    rows = {
        "decoding first": np.argsort(~flag, kind="stable"),
        "arrival": np.arange(len(missing)),
        "prompts first": np.argsort(flag, kind="stable"),
        "shortest first": np.argsort(missing, kind="stable"),
        "latest first": np.concatenate([np.flatnonzero(flag), np.flatnonzero(~flag)[::-1]]),
    }[order]
    plan, rest = np.zeros(len(missing), np.int64), budget
    prompts = 0
    for i in rows:
        want = int(missing[i])
        if left == "forgets decoding" and not flag[i] and prompts == 0:
            rest = budget
        if not flag[i]:
            if chunks == "one prompt" and prompts:
                continue
            if chunks == "waits for decoding" and flag.any():
                continue
            if chunks == "one token":
                want = min(1, want)
            if chunks in ("whole", "whole, overtaking") and want > rest:
                if chunks == "whole":
                    break
                continue
            prompts += 1
        give = want if left == "unlimited" else min(want, rest)
        if left == "too much" and rest > 0:
            give = want
        plan[i] = give
        rest = max(0, rest - give) if left != "each" else budget
    return plan


def _equal_shares(missing: np.ndarray, decoding: np.ndarray, budget: int) -> np.ndarray:
    return np.minimum(missing, budget // max(1, len(missing)))


def _decoding_only(missing: np.ndarray, decoding: np.ndarray, budget: int) -> np.ndarray:
    plan = np.zeros(len(missing), np.int64)
    plan[np.flatnonzero(decoding)[:budget]] = 1
    return plan


def _over(args: Args, got: Arrays, want: Arrays) -> bool:
    return int(got[0].sum()) > args[2]


PLAN = Exercise(
    name="plan_step",
    contract="missing int (R,): tokens of each request that are not computed yet, in order of arrival; decoding bool "
    "(R,): "
    "which requests are past their prompt (then missing is 1); budget int >= 1: most tokens of a step -> tokens int "
    "(R,): how many of each request the step computes. Decoding requests come first; what is left of the budget goes "
    "to "
    "prompts in order of arrival, the last one perhaps in part",
    make_cases=_cases,
    oracle=_oracle,
    returns=(Returns("tokens", dtype="integer"),),
    misconceptions=[
        Misconception(
            "first-come-first-served",
            "You go by order of arrival alone. A long prompt then takes the whole budget, and those who wait for "
            "their next token "
            "stall. Decoding requests come first.",
            produces=partial(_mistaken, order="arrival"),
        ),
        Misconception(
            "prompts-first",
            "Prompts come before decoding requests here. It is the other way round: someone is reading the answer.",
            produces=partial(_mistaken, order="prompts first"),
        ),
        Misconception(
            "shortest-first",
            "You go by length. Among prompts the order is that of arrival; otherwise a long one may never get its "
            "turn.",
            produces=partial(_mistaken, order="shortest first"),
        ),
        Misconception(
            "latest-prompt-first",
            "Prompts are taken from the latest to the first; the order is that of arrival.",
            produces=partial(_mistaken, order="latest first"),
        ),
        Misconception(
            "one-missing-token-is-decoding",
            "You take missing == 1 for decoding. A prompt whose last token is left is still a prompt: look at "
            "`decoding`.",
            produces=partial(_mistaken, decode="missing"),
        ),
        Misconception(
            "whole-prompts-only",
            "A prompt that does not fit into the step as a whole is put off. Give it what is left of the budget: the "
            "rest of it comes "
            "in the next step.",
            produces=partial(_mistaken, chunks="whole"),
        ),
        Misconception(
            "whole-prompts-that-overtake",
            "A prompt that does not fit as a whole is put off, and shorter ones overtake it. Give it what is left of "
            "the budget.",
            produces=partial(_mistaken, chunks="whole, overtaking"),
        ),
        Misconception(
            "one-prompt-a-step",
            "Only one prompt is read in a step. As long as there is budget, the next one gets its share.",
            produces=partial(_mistaken, chunks="one prompt"),
        ),
        Misconception(
            "prompts-wait-for-decoding",
            "No prompt is read while somebody decodes: a batch that nobody can join. That is what continuous "
            "batching does away with.",
            produces=partial(_mistaken, chunks="waits for decoding"),
        ),
        Misconception(
            "never-reads-prompts",
            "Prompts never get a token, so their requests never begin.",
            produces=_decoding_only,
        ),
        Misconception(
            "one-token-each",
            "Each prompt gets one token a step. Its tokens are known, so many can be computed at once: as many as "
            "the budget allows.",
            produces=partial(_mistaken, chunks="one token"),
        ),
        Misconception(
            "equal-shares",
            "The budget was divided equally. Decoding requests need one token each; what is left goes to prompts in "
            "order of arrival.",
            produces=_equal_shares,
        ),
        Misconception(
            "decoding-costs-nothing",
            "Tokens of decoding requests count too: prompts get what they leave of the budget.",
            produces=partial(_mistaken, left="forgets decoding"),
        ),
        Misconception(
            "budget-for-each",
            "The budget is for all requests of a step together, not for each.",
            produces=partial(_mistaken, left="each"),
        ),
        Misconception(
            "overshoots",
            "The last prompt gets all its tokens although the budget is used up: min(missing, what is left).",
            produces=partial(_mistaken, left="too much"),
        ),
        Misconception(
            "over-budget",
            "The step has more tokens than its budget.",
            recognises=_over,
        ),
    ],
    hint="Two passes over the requests, and one number that says what is left.",
    points=3,
)
