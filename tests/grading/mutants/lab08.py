"""Plausible wrong answers to lab 8, as students write them, and right ones in other styles."""

import math

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants("lab08_paged_kv")

# ---------------------------------------------------------------- grow_table


@mutants.right("grow_table")
def with_ceil_and_lists(table, length, count, free, block_size):
    new = math.ceil((length + count) / block_size) - len(table)
    if new > len(free):
        return list(table), list(free)
    return list(table) + list(free[:new]), list(free[new:])


@mutants.right("grow_table")
def by_room(table, length, count, free, block_size):
    table, left, room = table.tolist(), free.tolist(), len(table) * block_size - length
    while room < count and left:
        table.append(left.pop(0))
        room += block_size
    if room < count:
        return None if False else (np.array(table[: math.ceil(length / block_size)], int), free)
    return np.array(table, int), np.array(left, int)


@mutants.wrong("grow_table", named="ignores-room-in-the-last-block")
def blocks_for_the_new_tokens(table, length, count, free, block_size):
    new = math.ceil(count / block_size)
    if new > len(free):
        return table, free
    return np.concatenate([table, free[:new]]), free[new:]


@mutants.wrong("grow_table", named="a-block-for-every-token")
def one_each(table, length, count, free, block_size):
    return (table, free) if count > len(free) else (np.append(table, free[:count]), free[count:])


@mutants.wrong("grow_table", named="rounds-down")
def floor(table, length, count, free, block_size):
    new = max(0, (length + count) // block_size - len(table))
    return (table, free) if new > len(free) else (np.append(table, free[:new]), free[new:])


@mutants.wrong("grow_table", named="a-block-too-many-at-the-brim")
def floor_and_one(table, length, count, free, block_size):
    new = (length + count) // block_size + 1 - len(table)
    return (table, free) if new > len(free) else (np.append(table, free[:new]), free[new:])


@mutants.wrong("grow_table", named="one-block-at-most")
def only_if_full(table, length, count, free, block_size):
    new = 1 if length + count > len(table) * block_size else 0
    return (table, free) if new > len(free) else (np.append(table, free[:new]), free[new:])


@mutants.wrong("grow_table", named="takes-what-is-left")
def greedy(table, length, count, free, block_size):
    new = -(-(length + count) // block_size) - len(table)
    return np.append(table, free[:new]), free[new:]


@mutants.wrong("grow_table", named="refuses-exactly-enough")
def wants_one_more(table, length, count, free, block_size):
    new = -(-(length + count) // block_size) - len(table)
    return (np.append(table, free[:new]), free[new:]) if new == 0 or new < len(free) else (table, free)


@mutants.wrong("grow_table", named="takes-from-the-end")
def pops(table, length, count, free, block_size):
    table, left = list(table), list(free)
    new = -(-(length + count) // block_size) - len(table)
    if new > len(left):
        return table, left
    return table + [left.pop() for _ in range(new)], left


@mutants.wrong("grow_table", named="leaves-blocks-in-free")
def forgets_free(table, length, count, free, block_size):
    new = -(-(length + count) // block_size) - len(table)
    return (table, free) if new > len(free) else (np.append(table, free[:new]), free)


@mutants.wrong("grow_table", named="new-blocks-in-front")
def prepends(table, length, count, free, block_size):
    new = -(-(length + count) // block_size) - len(table)
    return (table, free) if new > len(free) else (np.append(free[:new], table), free[new:])


@mutants.wrong("grow_table", named="places-instead-of-blocks")
def indices(table, length, count, free, block_size):
    new = -(-(length + count) // block_size) - len(table)
    return (table, free) if new > len(free) else (np.append(table, np.arange(new)), free[new:])


# ---------------------------------------------------------------- attend_blocks


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


@mutants.right("attend_blocks")
def token_by_token(query, key_pool, value_pool, table, length):
    size, d = key_pool.shape[1:]
    scores = np.array([query @ key_pool[table[t // size]][t % size] for t in range(length)]) / math.sqrt(d)
    return sum(w * value_pool[table[t // size], t % size] for t, w in enumerate(softmax(scores)))


@mutants.right("attend_blocks")
def online_over_blocks(query, key_pool, value_pool, table, length):
    size, d = key_pool.shape[1:]
    top, total, out = -np.inf, 0.0, np.zeros(d)
    for i in range(-(-length // size)):
        count = min(size, length - i * size)
        scores = key_pool[table[i], :count].astype(float) @ query / d**0.5
        new = max(top, scores.max())
        weights = np.exp(scores - new)
        out = out * np.exp(top - new) + weights @ value_pool[table[i], :count]
        total = total * np.exp(top - new) + weights.sum()
        top = new
    return out / total


@mutants.right("attend_blocks")
def masked(query, key_pool, value_pool, table, length):
    k, v = key_pool[table].reshape(-1, len(query)), value_pool[table].reshape(-1, len(query))
    scores = np.where(np.arange(len(k)) < length, k @ query / len(query) ** 0.5, -np.inf)
    return softmax(scores) @ v


def flat(pool, table):
    return pool[table].reshape(-1, pool.shape[2]).astype(np.float64)


@mutants.wrong("attend_blocks", named="ignores-the-table")
def contiguous(query, key_pool, value_pool, table, length):
    k, v = (p.reshape(-1, len(query))[:length] for p in (key_pool, value_pool))
    return softmax(k.astype(float) @ query / len(query) ** 0.5) @ v


@mutants.wrong("attend_blocks", named="values-without-the-table")
def values_contiguous(query, key_pool, value_pool, table, length):
    k, v = flat(key_pool, table)[:length], value_pool.reshape(-1, len(query))[:length]
    return softmax(k @ query / len(query) ** 0.5) @ v


@mutants.wrong("attend_blocks", named="sorts-the-table")
def in_order(query, key_pool, value_pool, table, length):
    table = sorted(table)
    k, v = flat(key_pool, table)[:length], flat(value_pool, table)[:length]
    return softmax(k @ query / len(query) ** 0.5) @ v


@mutants.wrong("attend_blocks", named="reads-the-whole-table")
def no_length(query, key_pool, value_pool, table, length):
    return softmax(flat(key_pool, table) @ query / len(query) ** 0.5) @ flat(value_pool, table)


@mutants.wrong("attend_blocks", named="masks-with-zero")
def zero_mask(query, key_pool, value_pool, table, length):
    k, v = flat(key_pool, table), flat(value_pool, table)
    real = np.arange(len(k)) < length
    return softmax(np.where(real, k @ query / len(query) ** 0.5, 0)) @ np.where(real[:, None], v, 0)


@mutants.wrong("attend_blocks", named="softmax-of-each-block")
def block_by_block(query, key_pool, value_pool, table, length):
    size, outs = key_pool.shape[1], []
    for i in range(-(-length // size)):
        count = min(size, length - i * size)
        k, v = (p[table[i], :count].astype(float) for p in (key_pool, value_pool))
        outs.append(softmax(k @ query / len(query) ** 0.5) @ v)
    return np.mean(outs, axis=0)


@mutants.wrong("attend_blocks", named="no-scale")
def raw_scores(query, key_pool, value_pool, table, length):
    return softmax(flat(key_pool, table)[:length] @ query) @ flat(value_pool, table)[:length]


@mutants.wrong("attend_blocks", named="one-token-short")
def up_to_the_last(query, key_pool, value_pool, table, length):
    n = max(1, length - 1)
    return softmax(flat(key_pool, table)[:n] @ query / len(query) ** 0.5) @ flat(value_pool, table)[:n]


@mutants.wrong("attend_blocks", named="overflows")
def plain_exp(query, key_pool, value_pool, table, length):
    with np.errstate(all="ignore"):
        weights = np.exp((flat(key_pool, table)[:length] @ query / len(query) ** 0.5).astype(np.float32))
        return weights @ flat(value_pool, table)[:length] / weights.sum()


@mutants.wrong("attend_blocks", named="full-blocks-only")
def drops_the_rest(query, key_pool, value_pool, table, length):
    n = max(1, length // key_pool.shape[1] * key_pool.shape[1])
    return softmax(flat(key_pool, table)[:n] @ query / len(query) ** 0.5) @ flat(value_pool, table)[:n]


# ---------------------------------------------------------------- prepare_write


@mutants.right("prepare_write")
def three_cases(table, length, holders, free, block_size):
    table, holders = list(table), list(holders)
    if length % block_size == 0:
        table.append(free[0])
        holders[free[0]] = 1
        return table, holders, (-1, -1)
    old = table[-1]
    if holders[old] == 1:
        return table, holders, (-1, -1)
    table[-1] = free[0]
    holders[old] -= 1
    holders[free[0]] += 1
    return table, holders, (old, free[0])


@mutants.right("prepare_write")
def with_arrays(table, length, holders, free, block_size):
    new, place = free[0], length // block_size
    if place < len(table) and holders[table[place]] <= 1:
        return table, holders, np.array([-1, -1])
    holders, copy = holders.copy(), (-1, -1)
    holders[new] = 1
    if place < len(table):
        copy = (table[place], new)
        holders[table[place]] -= 1
    return np.append(table[:place], new), holders, np.array(copy)


def variant(copies=None, back=1, count=1, pair=None, full=True, put="replace"):
    def answer(table, length, holders, free, block_size):
        table, holders, new = table.copy(), holders.copy(), free[0]
        if length % block_size == 0:
            if full is None:
                return table, holders, (-1, -1)
            if full is False and len(table) and holders[table[-1]] > 1:
                old, table[-1] = table[-1], new
                holders[old] -= 1
                holders[new] += 1
                return table, holders, (old, new)
            holders[new] += count
            return np.append(table, new), holders, (-1, -1)
        old = table[-1]
        if not (copies(table, holders) if copies else holders[old] > 1):
            return table, holders, (-1, -1)
        holders[old] -= back
        holders[new] += count
        if put == "replace":
            table[-1] = new
        else:
            table = np.append(table, new)
        return table, holders, pair(old, new) if pair else (old, new)

    return answer


def wrong_write(name, named, **how):
    answer = variant(**how)
    answer.__name__ = name
    mutants.wrong("prepare_write", named=named)(answer)


wrong_write("writes_into_it", "no-copy-on-write", copies=lambda t, h: False)
wrong_write("copies_every_time", "copies-always", copies=lambda t, h: True)
wrong_write("first_block", "looks-at-the-first-block", copies=lambda t, h: h[t[0]] > 1)
wrong_write("any_block", "copies-if-anything-is-shared", copies=lambda t, h: max(h[t]) > 1)
wrong_write("more_than_two", "two-are-not-enough", copies=lambda t, h: h[t[-1]] > 2)
wrong_write("never_gives_back", "keeps-holding-the-old-block", back=0)
wrong_write("uncounted", "does-not-count-itself", count=0)
wrong_write("target_source", "copies-backwards", pair=lambda old, new: (new, old))
wrong_write("no_copy_said", "forgets-the-tokens-before", pair=lambda old, new: (-1, -1))
wrong_write("copies_full_ones", "copies-a-full-block", full=False)
wrong_write("no_room", "no-new-block", full=None)
wrong_write("appended", "appends-the-copy", put="append")


@mutants.wrong("prepare_write", named="changes-its-input")
def in_place(table, length, holders, free, block_size):
    if length % block_size == 0:
        holders[free[0]] = 1
        return np.append(table, free[0]), holders, (-1, -1)
    old = table[-1]
    if holders[old] == 1:
        return table, holders, (-1, -1)
    holders[old] -= 1
    holders[free[0]] = 1
    table[-1] = free[0]
    return table, holders, (old, free[0])


# ---------------------------------------------------------------- find_prefix


@mutants.right("find_prefix")
def by_dictionary(prompt, contents, parent):
    size, before, found = contents.shape[1], -1, []
    known = {(int(p), *row): c for c, (p, row) in enumerate(zip(parent, contents.tolist(), strict=True))}
    for i in range((len(prompt) - 1) // size):
        before = known.get((before, *prompt[i * size : (i + 1) * size].tolist()))
        if before is None:
            break
        found.append(before)
    return np.array(found, int)


@mutants.right("find_prefix")
def walks_the_blocks(prompt, contents, parent):
    found, before, at = [], -1, 0
    while True:
        for c in range(len(contents)):
            part = prompt[at : at + contents.shape[1]]
            if parent[c] == before and list(contents[c]) == list(part) and at + len(part) < len(prompt):
                break
        else:
            return np.array(found, np.int32)
        found.append(c)
        before, at = c, at + contents.shape[1]


def searching(blocks=None, same=None, chained=True, go_on=False, give=None):
    def answer(prompt, contents, parent):
        size, before, found = contents.shape[1], -1, []
        for i in range(blocks(len(prompt), size) if blocks else (len(prompt) - 1) // size):
            part = prompt[i * size : (i + 1) * size]
            hit = same(contents, part) if same else (contents == part).all(1)
            here = np.flatnonzero(hit & ((parent == before) | (not chained)))
            if len(here):
                before = here[0]
                found.append(before)
            elif not go_on:
                break
        return give(found, size) if give else np.array(found, int)

    return answer


def wrong_search(name, named, **how):
    answer = searching(**how)
    answer.__name__ = name
    mutants.wrong("find_prefix", named=named)(answer)


wrong_search("by_words", "same-words-other-beginning", chained=False)
wrong_search("by_words_jumping", "jumps-over-a-miss", chained=False, go_on=True)
wrong_search("everything", "nothing-left-to-compute", blocks=lambda t, b: t // b)
wrong_search("too_careful", "one-block-too-few", blocks=lambda t, b: max(0, t // b - 1))
wrong_search("one_block", "first-block-only", blocks=lambda t, b: min(1, (t - 1) // b))
wrong_search("any_word", "one-token-is-enough", same=lambda c, p: (c == p).any(1))
wrong_search("first_word", "compares-first-tokens", same=lambda c, p: c[:, 0] == p[0])
wrong_search(
    "same_tokens_in_any_order",
    "order-of-tokens-ignored",
    same=lambda c, p: np.array([sorted(row) == sorted(p.tolist()) for row in c.tolist()], bool),
)
wrong_search("how_many_tokens", "counts-tokens", give=lambda f, b: len(f) * b)
wrong_search("the_last", "last-block-only", give=lambda f, b: f[-1] if f else -1)
wrong_search("from_the_end", "blocks-backwards", give=lambda f, b: np.array(f[::-1], int))

# ---------------------------------------------------------------- plan_step


@mutants.right("plan_step")
def two_passes(missing, decoding, budget):
    plan = [0] * len(missing)
    for wanted in (True, False):
        for i in range(len(missing)):
            if decoding[i] == wanted:
                plan[i] = min(int(missing[i]), budget)
                budget -= plan[i]
    return np.array(plan, int)


@mutants.right("plan_step")
def as_a_list(missing, decoding, budget):
    plan = [0] * len(missing)
    for i in sorted(range(len(missing)), key=lambda i: not decoding[i]):
        plan[i] = min(int(missing[i]), budget)
        budget -= plan[i]
    return plan


@mutants.right("plan_step")
def with_cumulated_sums(missing, decoding, budget):
    first = np.where(decoding, 1, 0)
    first = np.clip(budget - (np.cumsum(first) - first), 0, first)
    rest = np.where(decoding, 0, missing)
    return first + np.clip(budget - first.sum() - (np.cumsum(rest) - rest), 0, rest)


def planning(order=None, share=min, keep=True, flag=None):
    def answer(missing, decoding, budget):
        now = flag(missing, decoding) if flag else decoding
        rows = order(missing, now) if order else [*np.flatnonzero(now), *np.flatnonzero(~now)]
        plan = np.zeros(len(missing), int)
        for i in rows:
            plan[i] = share(int(missing[i]), budget)
            budget -= plan[i] if keep else 0
        return plan

    return answer


def wrong_plan(name, named, **how):
    answer = planning(**how)
    answer.__name__ = name
    mutants.wrong("plan_step", named=named)(answer)


wrong_plan("queue", "first-come-first-served", order=lambda m, d: range(len(m)))
wrong_plan("prefill_first", "prompts-first", order=lambda m, d: [*np.flatnonzero(~d), *np.flatnonzero(d)])
wrong_plan("sorted_by_length", "shortest-first", order=lambda m, d: np.argsort(m, kind="stable"))
wrong_plan("newest", "latest-prompt-first", order=lambda m, d: [*np.flatnonzero(d), *np.flatnonzero(~d)[::-1]])
wrong_plan("ones_decode", "one-missing-token-is-decoding", flag=lambda m, d: m == 1)
wrong_plan("fits_or_not", "whole-prompts-that-overtake", share=lambda m, b: m if m <= b else 0)
wrong_plan("everyone_the_budget", "budget-for-each", keep=False)
wrong_plan("to_the_end", "overshoots", share=lambda m, b: m if b > 0 else 0)


@mutants.wrong("plan_step", named="prompts-wait-for-decoding")
def closed_batch(missing, decoding, budget):
    return planning()(missing, decoding, budget) * (decoding if decoding.any() else 1)


@mutants.wrong("plan_step", named="equal-shares")
def fair(missing, decoding, budget):
    return np.minimum(missing, budget // max(1, len(missing)))


@mutants.wrong("plan_step", named="over-budget")
def no_limit(missing, decoding, budget):
    return missing.copy()


@mutants.wrong("plan_step", named="never-reads-prompts")
def decoders(missing, decoding, budget):
    return np.where(decoding & (np.cumsum(decoding) <= budget), 1, 0)
