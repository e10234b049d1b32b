# %% [markdown] id="title"
# # Lab 3 · Keys, values and attention in few bits
#
# The weights of a model are read once per token, however long the text is. The **KV cache** grows with the text: every
# token leaves a key and a value in every layer, and every new token reads them all. In this lab you make the cache
# smaller, or read less of it, in four ways, and let a real model say which of them it can bear.
#
# **You will be able to**
# - choose the axis along which keys share a grid, and show what the wrong one costs,
# - let a coded cache grow by a token without touching what is stored,
# - merge the cache of two layers as MiniCache does, and say when that must fail,
# - filter keys by the high bits of their codes as Energon does, and prune tokens from layer to layer as SpAtten does,
# - measure quality against bytes, with a task that has right answers, not with perplexity alone.
#
# **Time** 90 minutes. **Needs** the foundations chapters and Lab 1 (scale, zero point, group).
# **Runs** in less than a minute on two cores.
#
# The chapter *KV cache and attention* tells the story behind it.

# %% id="parameters" tags=["parameters"]
seed = 0
size = "default"

# %% id="imports"
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # many small products: a second thread would mostly wait

import numpy as np
import torch
from edgeinfer import figures, kernels, measure, models
from edgeinfer.grading import checks
from edgeinfer.kernels import kv_cache, kv_steps
from edgeinfer.models import tasks

lab = checks.lab("lab03_kv_and_attention")
figures.use_style()
torch.set_num_threads(1)
rng = np.random.default_rng(seed)

# %% [markdown] id="predict"
# ## Predict
#
# Write down numbers before you run anything. A wrong guess teaches more than none.
#
# 1. Keys and values are stored with 2 bits each. 32 numbers share a scale and an offset of 16 bits each. How many times
#    smaller is the cache than with 16 bits per number? (Not 8 times.)
# 2. A model answers all questions about its context. Some of its key channels are much louder than the others. Now its
#    keys are rounded to 2 bits, with one grid for each *token*. What share of the questions is still answered, 0 to 1?
# 3. Most keys of a context matter little for the next token. What share of the keys could be left out of the softmax,
#    a new choice for each head and token, and every question still be answered?

# %% id="my_predictions"
times_smaller_at_2_bits = "nothing"
recall_with_grids_per_token = "nothing"
share_of_keys_left_out = "nothing"

# %% [markdown] id="contexts_text"
# ## What is measured
#
# The shipped model reads a page of real text in which twelve notes are hidden: `<|note|> key value`. At the end stands
# a question, `<|ask|> key`, and the next token must be the value. **Recall** is the share of right answers. It is a
# hard test for a cache: one token, far back, must be found again.
#
# The page is read exactly, once. Then its keys and values are taken out of the cache, replaced by what your methods
# leave of them, and the model goes on: with the question, or with the next tokens of another text (**perplexity**).

# %% id="contexts"
model = models.load("target")
config = model.config
layers, heads, channels = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
rows, ahead = {"default": (24, 32), "full": (128, 64)}.get(size, (24, 32))  # questions; tokens that perplexity predicts
context, group_size = 256, 32

tokenizer = models.load_tokenizer("target")
text = models.held_out_tokens("text")
questions = tasks.recall_questions(tokenizer, rows, pairs=12, seed=seed, text=text.numpy(), length=context + 3)
prompts = torch.from_numpy(np.stack([q.prompt for q in questions]))
answers = torch.from_numpy(np.concatenate([q.answer for q in questions]))
pages = text[: rows // 2 * (context + ahead + 1)].view(rows // 2, -1)


def read(tokens):
    """Keys and values (layers, B, heads, T, channels) after the model has read tokens (B, T)."""
    _, cache = model.prefill(tokens, last_only=True)
    return tuple(torch.stack(side).numpy() for side in zip(*map(cache.layer, range(layers)), strict=True))


def go_on(reader, kept, tokens):
    """Logits of tokens that are read after a context of which `kept` (keys, values) is left."""
    cache = models.PlainCache(config, len(tokens), torch.float32, context + tokens.shape[1])
    for layer, (k, v) in enumerate(zip(*kept, strict=True)):
        cache.update(layer, torch.from_numpy(k), torch.from_numpy(v))
    cache.advance(context)
    return reader.decode(tokens, cache)


notes, stories = read(prompts[:, :context]), read(pages[:, :context])


def quality(change=lambda keys, values: (keys, values), reader=model):
    """Recall and perplexity of a model that goes on with changed keys and values."""
    logits = go_on(reader, change(*notes), prompts[:, context:])
    recall = float((logits[:, -1].argmax(-1) == answers).float().mean())
    logits = go_on(reader, change(*stories), pages[:, context:-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), pages[:, context + 1 :].flatten())
    return recall, float(loss.exp())


exact_recall, exact_perplexity = quality()
print("the end of a prompt:", repr(tokenizer.decode(prompts[0, -12:].tolist(), skip_special_tokens=False)))
print("its answer:", repr(tokenizer.decode(answers[:1].tolist())))
print(f"exact cache: recall {exact_recall:.2f}, perplexity {exact_perplexity:.2f}")
float16_bytes = 2 * layers * heads * channels * 2
print(f"a token leaves {float16_bytes} bytes in the cache, at 16 bits per number")

# %% [markdown] id="build_1"
# ## Build
#
# ### Exercise 1: a grid for each channel
#
# Take the keys of one head: a row for each token, a column for each channel. In large models some channels are far from
# zero in **every** token. So KIVI, whose layout you build here, gives a grid to a channel, and to a **group** of
# consecutive tokens (you will see why):
#
# $$\begin{gathered}
# \text{key} \approx \text{low} + \text{scale} \cdot \text{code}, \\[4pt]
# \text{low} = \min, \quad \text{scale} = \frac{\max - \min}{2^{\text{bits}} - 1}
# \end{gathered}$$
#
# with the minimum and the maximum over the tokens of the group, in that channel; codes are rounded to the nearest.
# `low` is the offset that you met under *Predict*. Unlike the zero point of Lab 1 it is a value, not a code, and 0 need
# not lie on the grid.
#
# | 3 tokens, 2 channels, one group | channel 0 | channel 1 |
# | --- | --- | --- |
# | keys | 5.0, 5.2, 5.6 | −1.0, 2.0, 0.0 |
# | low, scale at 2 bits | 5.0, 0.2 | −1.0, 1.0 |
# | codes | 0, 1, 3 | 0, 3, 1 |
#
# A loop over groups is fast enough. A loop over channels is not: later, all layers and heads come side by side, as
# columns of one matrix. (The check accepts such a loop, but the table below would take minutes instead of seconds.)


# %% id="quantize_keys" role="solution"
def quantize_keys(keys, bits, group_size):
    """A grid for each channel of each group of tokens.

    keys: float32 (T, D).   bits: int, 2 to 8.   group_size: int, divides T.
    Returns codes: uint8 (T, D), 0 to 2**bits - 1; scale: float (T // group_size, D), 1 where all keys of a group and
    channel are equal; low: float (T // group_size, D), the smallest key. keys is about low + scale * codes.
    """
    ### BEGIN SOLUTION
    tokens, channels = keys.shape
    grouped = keys.reshape(tokens // group_size, group_size, channels)
    low, high = grouped.min(axis=1), grouped.max(axis=1)
    scale = (high - low) / (2**bits - 1)
    scale[scale == 0] = 1
    codes = np.round((grouped - low[:, None]) / scale[:, None])
    return codes.reshape(keys.shape).astype(np.uint8), scale, low
    ### END SOLUTION


# %% id="check_quantize_keys" role="check"
lab.check("quantize_keys", quantize_keys)

# %% [markdown] id="loud_text"
# ### Which axis?
#
# Your function makes grids per channel. On the transposed matrix it makes grids per token. So one function gives both,
# for keys and for values.
#
# Large language models have a few key channels that are much louder than the rest. This model is too small to grow
# them. So we **put them in**, without changing what the model computes: in each head, two channels of the keys (a pair
# that the rotary embedding turns together) are multiplied by 16, and the same channels of the queries divided by 16.
# Every score stays the same.
#
# (From here on, a cell uses your function if its check passed, else the library's, and says so.)

# %% id="loud"
per_channel = lab.fallback("quantize_keys", quantize_keys, kv_steps.key_grids)
queries_per_head = config.num_attention_heads // heads
strength = np.ones((layers, heads, channels), np.float32)
for layer in range(layers):
    for head in range(heads):
        strength[layer, head, rng.integers(channels // 2) + np.array([0, channels // 2])] = 16
loud = model.clone()
for layer in range(layers):
    for name, factor in (("k_proj", strength[layer]), ("q_proj", 1 / strength[layer].repeat(queries_per_head, 0))):
        weight = loud.linears()[f"layers.{layer}.attention.{name}"]
        loud.set_weight(f"layers.{layer}.attention.{name}", weight * torch.from_numpy(factor).reshape(-1, 1))


def made_loud(keys):
    return keys * strength[:, None, :, None]


def rounded(x, bits, along):
    """(..., T, D) rounded to `bits` bits; 32 neighbours share a grid, along "tokens" or along "channels"."""
    table = np.moveaxis(x, -2, 0).reshape(context, -1) if along == "tokens" else x.reshape(-1, channels).T
    codes, scale, low = per_channel(np.ascontiguousarray(table), bits, group_size)
    group = np.arange(len(table)) // group_size
    table = (low[group] + scale[group] * codes).astype(np.float32)
    if along == "tokens":
        return np.ascontiguousarray(np.moveaxis(table.reshape(context, *x.shape[:-2], channels), 0, -2))
    return np.ascontiguousarray(table.T).reshape(x.shape)


same = quality(lambda keys, values: (made_loud(keys), values), loud)
print(f"with loud channels, exact: recall {same[0]:.2f}, perplexity {same[1]:.2f}: the same function")
k = made_loud(notes[0])[layers // 2, 0, 0]
spread = k.max(0) - k.min(0)
print(
    f"range of a key channel in layer {layers // 2}: "
    f"the loudest {spread.max():.0f}, a typical one {np.median(spread):.1f}"
)

# %% [markdown] id="axis_text"
# The table names the axis along which 32 neighbours share a grid. *Along tokens* is a grid per channel: 32 tokens share
# it. *Along channels* is a grid per token: its 32 channels share it.
#
# Before you run the next cell: the grids along tokens will give **exactly** the same numbers with loud channels as
# without. Why?

# %% id="axis"
table = {}
print("the model with loud key channels:")
print("bits  keys along  values along  recall  perplexity")
for bits in (8, 4, 2):
    for key_axis, value_axis in (("tokens", "channels"), ("tokens", "tokens"), ("channels", "channels")):

        def few_bits(keys, values, bits=bits, key_axis=key_axis, value_axis=value_axis):
            return rounded(made_loud(keys), bits, key_axis), rounded(values, bits, value_axis)

        table[bits, key_axis, value_axis] = quality(few_bits, loud)
        recall, perplexity = table[bits, key_axis, value_axis]
        print(f"{bits:4}  {key_axis:10}  {value_axis:12}  {recall:6.2f}  {perplexity:10.2f}")
for name, key_axis in (("channel", "tokens"), ("token", "channels")):
    quiet = quality(lambda keys, values, axis=key_axis: (rounded(keys, 2, axis), rounded(values, 2, "channels")))
    print(f"2 bits, keys per {name}, without loud channels: recall {quiet[0]:.2f}, perplexity {quiet[1]:.2f}")
print(
    f"2 bits, keys per token, with loud channels: recall {table[2, 'channels', 'channels'][0]:.2f}  "
    f"(you predicted: {recall_with_grids_per_token})"
)

# %% [markdown] id="build_2"
# ### Exercise 2: one more token
#
# A new token comes. Its value gets a grid of its own (per token), and nobody else is concerned: the 32 channels of
# a value are all there. Its key is different. A grid per channel needs the other tokens of the group, and they have not
# been written yet.
#
# If all tokens of a channel shared one grid, a new key outside its range would force you to code the whole channel
# again. Hence the groups. The newest keys wait in `recent`, not rounded, until there are `group_size` of them. Then
# they become one more group of codes, and never change again.
#
# ```text
# group_size = 4
#  8 coded, 2 recent  + key ->   8 coded, 3 recent
#  8 coded, 3 recent  + key ->  12 coded, 0 recent
# ```
#
# Call your `quantize_keys`; its check has to be green first.


# %% id="append_token" role="solution"
def append_token(codes, scale, low, recent, key, bits, group_size):
    """The cache of one head after one more token.

    codes: uint8 (C, D), scale, low: float (C // group_size, D): the coded tokens; C may be 0.
    recent: float32 (R, D), R < group_size: the tokens that are not coded yet, in their order.
    key: float32 (D,), the new token.   bits: int.   group_size: int.
    Returns codes, scale, low, recent with the new token. When recent would hold group_size tokens, they become one more
    group of codes, and recent is empty: shape (0, D).
    """
    ### BEGIN SOLUTION
    recent = np.concatenate([recent, key[None]])
    if len(recent) < group_size:
        return codes, scale, low, recent
    new_codes, new_scale, new_low = quantize_keys(recent, bits, group_size)
    return (
        np.concatenate([codes, new_codes]),
        np.concatenate([scale, new_scale]),
        np.concatenate([low, new_low]),
        recent[:0],
    )
    ### END SOLUTION


# %% id="check_append_token" role="check"
lab.check("append_token", append_token)

# %% [markdown] id="stream_text"
# Let real keys of one head come in, one after the other. How many codes that were already stored have to be written
# again, with your groups, and with a single grid per channel over all tokens so far? (A code may count more than once.)

# %% id="stream"
append = lab.fallback("append_token", append_token, kv_steps.append_to_grids)
arriving = notes[0][layers // 2, 0, 0]
state = (
    np.zeros((0, channels), np.uint8),
    *[np.zeros((0, channels), np.float32)] * 2,
    np.zeros((0, channels), np.float32),
)
rewritten, rewritten_whole, whole = 0, 0, np.zeros((0, channels), np.uint8)
for count, key in enumerate(arriving, 1):
    before = state[0]
    state = append(*state, key, 4, group_size)
    rewritten += int((state[0][: len(before)] != before).sum())
    now = per_channel(arriving[:count], 4, count)[0]
    rewritten_whole += int((now[:-1] != whole).sum())
    whole = now
print(f"{count} tokens: {len(state[0])} coded, {len(state[3])} recent")
print(f"of {state[0].size} codes stored, written again: {rewritten} with groups, {rewritten_whole} without groups")
at_once = per_channel(arriving[: len(state[0])], 4, group_size)
print("the same codes as all at once:", bool((state[0] == at_once[0]).all()))

# %% [markdown] id="bytes_text"
# What does a token cost? A number has its code, and a thirty-second part of a scale and an offset (stored as float16,
# as the library does; your grids are float32 here). Compare with your first prediction.

# %% id="bytes_table"
numbers = 2 * layers * heads * channels  # keys and values of a token
coded_bytes = {bits: numbers * (bits + 2 * 16 / group_size) / 8 for bits in (8, 4, 2)}
for bits, count in coded_bytes.items():
    print(f"{bits} bits: {count:6.0f} bytes per token, {float16_bytes / count:.2f} times smaller than float16")
print(f"(you predicted for 2 bits: {times_smaller_at_2_bits})")

# %% [markdown] id="build_3"
# ### Exercise 3: two layers, one direction
#
# Quantization makes numbers smaller. **MiniCache** makes fewer of them: it stores *one* vector for a token in two
# neighbouring layers. Its finding was that in the middle and deep layers of large models these vectors point the same
# way in both layers, while their lengths differ. So:
#
# - share the **direction**: let u be the unit vector of a token in one layer (`lower`), v its unit vector in the next
#   (`upper`), and Ω the angle between them. From u, go the share t of the angle towards v, *along the arc*:
#
# $$\text{direction} = \frac{\sin((1-t)\,\Omega)}{\sin \Omega}\, u + \frac{\sin(t\,\Omega)}{\sin \Omega}\, v$$
#
# - keep the **length** of each token in each layer: two numbers per token;
# - do not use the merge for the `keep` tokens with the largest angle: their rows are stored as they are. You return
#   which tokens these are; `direction` has a row for every token all the same.
#
# Where u and v are equal, sin Ω is 0; there the weights are simply 1 − t and t. (And rounding may lift the cosine of
# such a pair above 1: clip it before the arccos.)


# %% id="merge_layers" role="solution"
def merge_layers(lower, upper, t, keep):
    """One direction for the same token in two layers.

    lower, upper: float32 (T, D), keys (or values) of one head in two layers. No row is zero, no two are opposite.
    t: float, 0 to 1: 0 gives lower's direction, 1 upper's.   keep: int, 0 to T.
    Returns direction: float (T, D), rows of length 1; lengths: float (2, T), of lower's and of upper's rows;
    kept: int (keep,), the tokens with the largest angle, in ascending order.
    """
    ### BEGIN SOLUTION
    lengths = np.stack([np.linalg.norm(lower, axis=1), np.linalg.norm(upper, axis=1)])
    u, v = lower / lengths[0][:, None], upper / lengths[1][:, None]
    omega = np.arccos(np.clip((u * v).sum(axis=1), -1, 1))[:, None]
    sine = np.sin(omega)
    parallel = sine < 1e-6
    sine[parallel] = 1
    a = np.where(parallel, 1 - t, np.sin((1 - t) * omega) / sine)
    b = np.where(parallel, t, np.sin(t * omega) / sine)
    kept = np.sort(np.argsort(-omega[:, 0])[:keep])
    return a * u + b * v, lengths, kept
    ### END SOLUTION


# %% id="check_merge_layers" role="check"
lab.check("merge_layers", merge_layers)

# %% [markdown] id="merge_text"
# First look: how large is the angle between neighbouring layers of **this** model? 0° would be the same direction, 90°
# is what two unrelated vectors have. What do you expect of merging?

# %% id="merge"
merge = lab.fallback("merge_layers", merge_layers, kv_steps.merge_directions)


def angles(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


for title, side in (("keys", notes[0]), ("values", notes[1])):
    between = [f"{angles(side[n], side[n + 1]).mean():.0f}" for n in range(layers - 1)]
    print(f"{title:6} mean angle between layers 0-1, 1-2, ... in degrees: {' '.join(between)}")


def restored(x, pairs, t, keep):
    """What two layers of each pair get back from one direction, their lengths and the kept rows."""
    out = x.copy()
    for first, second in pairs:
        for place in np.ndindex(x.shape[1:3]):
            rows_of = x[first][place], x[second][place]
            direction, lengths, kept = merge(*rows_of, t, keep)
            for layer, length, old in zip((first, second), lengths, rows_of, strict=True):
                back = (direction * length[:, None]).astype(np.float32)
                back[kept] = old[kept]
                out[layer][place] = back
    return out


merged = {}
print("\nbytes: share of a float16 cache")
print("pairs  tokens kept  bytes  recall  perplexity")
for pairs in ([(6, 7)], [(4, 5), (6, 7)]):
    for keep in (3 * context // 4, context // 2, 0):
        # of two layers: one direction (both rows where a token is kept), and two lengths per token
        part = (1 + keep / context) / 2 + 1 / channels
        cost = 1 - 2 * len(pairs) / layers * (1 - part)
        recall, perplexity = quality(lambda *sides, p=pairs, n=keep: [restored(side, p, 0.6, n) for side in sides])
        merged[len(pairs), cost] = recall
        print(f"{len(pairs):5}  {keep:11}  {cost:5.1%}  {recall:6.2f}  {perplexity:10.2f}")
recall, perplexity = table[2, "tokens", "channels"]
print(f"{'2-bit codes':18}  {coded_bytes[2] / float16_bytes:5.1%}  {recall:6.2f}  {perplexity:10.2f}")

# %% [markdown] id="merge_question"
# An honest result: the merge is right (the check says so). And yet, unless most tokens are kept as they are, it does
# more harm here than the 2-bit codes of the last line, which save far more. The paper's models have tens of layers, and
# neighbours do nearly the same work. With eight layers each has work of its own. Which line of the output could have
# told you **before** anything was merged?
#
# ### Exercise 4: a filter that reads the high bits first
#
# **Energon** leaves the cache whole and reads less of it. For each query, most scores are far too small to matter
# after the softmax. To find out which, a rough score is enough.
#
# Keys are stored as codes of four bits, −8 to 7. A code k splits without a remainder into k = 4·(k >> 2) + (k & 3).
#
# - **Round 1** reads the high two bits of every key: score = query · (k >> 2). A key stays if
#   score ≥ mean + α (max − mean).
# - **Round 2** reads the low two bits, of the survivors only, and has the whole score: query · k. The same rule, with
#   mean and maximum *of the survivors*.
# - Attention then reads the keys and values that are left.
#
# The threshold works on scores, not on probabilities: a softmax would need an exponential for each key, and saving work
# is the point. And note what a constant added to all scores changes: nothing, neither here nor in the softmax.


# %% id="filter_keys" role="solution"
def filter_keys(query, keys, alpha):
    """Which keys are alive after a round with two bits, and after one with four.

    query: int8 (D,), keys: int8 (T, D), codes from -8 to 7; the query keeps its four bits in both rounds.
    alpha: float, 0 to 1.
    Returns first: bool (T,), second: bool (T,). Products of codes do not fit into int8.
    """
    ### BEGIN SOLUTION
    wide = query.astype(np.int32)

    def high_enough(scores, alive):
        mean, largest = scores[alive].mean(), scores[alive].max()
        return alive & (scores >= mean + alpha * (largest - mean))

    first_scores = (keys >> 2) @ wide
    first = high_enough(first_scores, np.ones(len(keys), bool))
    second = high_enough(4 * first_scores + (keys & 3) @ wide, first)
    return first, second
    ### END SOLUTION


# %% id="check_filter_keys" role="check"
lab.check("filter_keys", filter_keys)

# %% [markdown] id="filter_text"
# Into the model, by its `attention` hook: every head of every layer filters for each new token. (A key channel is
# multiplied by its scale; the hook moves that scale into the query, so that the codes alone decide.) Bytes are what the
# query of one head reads: two bits of all keys, two more of the survivors, and 16 bits per number of what is left.

# %% id="filter"
alive_after = lab.fallback("filter_keys", filter_keys, kv_steps.filter_rounds)


def four_bits(x, axis):
    scale = np.maximum(np.abs(x).max(axis, keepdims=True) / 7, 1e-8)
    return np.clip(np.round(x / scale), -8, 7).astype(np.int8), scale


def filtering(alpha, counts):
    """An attention that looks only at keys that pass both rounds; appends (all, first, second) to `counts`."""

    def attention(query, keys, values, mask, layer):
        key_codes, scale = four_bits(keys.numpy(), 2)
        query_codes, _ = four_bits(query.numpy() * scale.repeat(queries_per_head, 1), 3)
        past = keys.shape[2] - query.shape[2]
        seen = np.zeros((*query.shape[:3], keys.shape[2]), bool)
        for row, head, token in np.ndindex(query.shape[:3]):
            visible = past + token + 1
            masks = alive_after(
                query_codes[row, head, token], key_codes[row, head // queries_per_head, :visible], alpha
            )
            seen[row, head, token, :visible] = masks[1]
            counts.append((visible, masks[0].sum(), masks[1].sum()))
        return models.attend(query, keys, values, torch.from_numpy(seen), layer)

    return attention


def question_only():
    """Recall with the attention that is set; perplexity of a few tokens."""
    logits = go_on(model, notes, prompts[:, context:])
    recall = float((logits[:, -1].argmax(-1) == answers).float().mean())
    few = 4
    logits = go_on(model, [side[:, :few] for side in stories], pages[:few, context:-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), pages[:few, context + 1 :].flatten())
    return recall, float(loss.exp())


filtered, left_out = {}, 0.0
print(f"no filter: recall {exact_recall:.2f}, perplexity of the first pages {question_only()[1]:.2f}")
print("alpha   alive after round 1, round 2   bytes read   recall   perplexity")
for alpha in (0.0, 0.1, 0.25, 0.5):
    counts = []
    model.attention = filtering(alpha, counts)
    recall, perplexity = question_only()
    model.restore()
    every, first, second = np.sum(counts, axis=0)
    cost = ((every + first) * 2 / 8 + second * 2 * 2) / (every * 2 * 2)
    filtered[cost] = recall, perplexity
    alive = f"{first / every:19.1%}, {second / every:7.1%}"
    print(f"{alpha:5.2f}   {alive}   {cost:10.1%}   {recall:6.2f}   {perplexity:10.2f}")
    if recall >= exact_recall:
        left_out = 1 - second / every
print(f"left out with no answer lost: {left_out:.0%}  (you predicted: {share_of_keys_left_out})")

# %% [markdown] id="play_text"
# ### Play with it
#
# The controls below call **your** function, each time anew.
# Raise α slowly. Which round drops more keys, and does the best one ever go?

# %% id="play"
some_query = rng.integers(-8, 8, 32).astype(np.int8)
some_keys = rng.integers(-8, 8, (64, 32)).astype(np.int8)


def two_rounds(alpha):
    first, second = alive_after(some_query, some_keys, alpha)
    scores = some_keys.astype(int) @ some_query.astype(int)
    places = np.arange(len(scores))
    parts = {"dropped by two bits": ~first, "dropped by four": first & ~second, "read in full": second}
    return figures.Frame(
        [
            figures.Chart(
                [
                    figures.Points(places[part], scores[part], name, style=i)
                    for i, (name, part) in enumerate(parts.items())
                    if part.any()
                ],
                figures.Axis("key"),
                figures.Axis("score, all four bits"),
            )
        ],
        f"α = {alpha:g}: of {len(scores)} keys {first.sum()} are left after two bits and {second.sum()} after four.",
    )


figures.LiveFigure(
    "Two rounds over random keys",
    [figures.Slider("alpha", "α", [i / 10 for i in range(11)], default=0.2)],
    two_rounds,
)

# %% [markdown] id="build_5"
# ### Exercise 5: once pruned, always pruned
#
# **SpAtten** drops tokens for good. Going up the layers, it adds up how much attention each token has received, from
# all heads and queries: its **importance**. After each layer only the most important tokens stay alive; those that are
# dropped cost no byte in any later layer. The name is *cascade* pruning.
#
# Write the step after one layer. Three traps: rank by what has been gathered in **all** layers so far; choose among the
# living only; column j of `probabilities` belongs to token `alive[j]`.
#
# ```text
# importance  [2.0, 9.0, 1.0, 0.5]   alive [0, 2, 3]
# layer adds  [0.1, 0.2, 1.7]        keep  2
#         ->  [2.1, 9.0, 1.2, 2.2]   alive [0, 3]
# (token 1 was pruned earlier; it stays out)
# ```


# %% id="cascade_prune" role="solution"
def cascade_prune(importance, alive, probabilities, keep):
    """Importance and living tokens after one more layer.

    importance: float64 (T,), gathered in earlier layers.   alive: int64 (A,), tokens not pruned so far, ascending.
    probabilities: float32 (H, Q, A), this layer's attention of H heads and Q queries to the tokens of `alive`.
    keep: int, 1 to A, how many tokens stay.
    Returns importance: float (T,), the probabilities added, summed over heads and queries; alive: int (keep,),
    ascending.
    """
    ### BEGIN SOLUTION
    total = importance.copy()
    total[alive] += probabilities.sum(axis=(0, 1))
    best = np.argsort(-total[alive])[:keep]
    return total, np.sort(alive[best])
    ### END SOLUTION


# %% id="check_cascade_prune" role="check"
lab.check("cascade_prune", cascade_prune)

# %% [markdown] id="cascade_text"
# Into the model again. Only the queries of the new tokens vote, and the new tokens themselves stay alive. Two schedules
# that read the same number of keys: prune a little after every layer, or leave the lower half of the layers alone and
# prune more in the upper half.

# %% id="cascade"
prune = lab.fallback("cascade_prune", cascade_prune, kv_steps.cascade)


def cascading(shares, read_shares):
    """An attention that keeps the share shares[n] of the context after layer n."""
    state = {}

    def attention(query, keys, values, mask, layer):
        batch, _, new, _ = query.shape
        total = keys.shape[2]
        if layer == 0:
            state.update(alive=[np.arange(total)] * batch, importance=[np.zeros(total)] * batch)
        out = torch.zeros_like(query)
        later = torch.ones(new, total, dtype=torch.bool).triu(total - new + 1)
        for row in range(batch):
            alive = state["alive"][row]
            read_shares.append(len(alive) / total)
            k, v = (side[row][:, alive].repeat_interleave(queries_per_head, 0) for side in (keys, values))
            scores = (query[row] @ k.transpose(1, 2) / channels**0.5).masked_fill(later[:, alive], -torch.inf)
            p = scores.softmax(-1)
            out[row] = p @ v
            keep = min(len(alive), round(shares[layer] * total))
            importance, alive = prune(state["importance"][row], alive, p.numpy(), keep)
            state["importance"][row], state["alive"][row] = importance, np.union1d(alive, np.arange(total - new, total))
        return out

    return attention


steps = np.arange(layers)
cascaded = {}
print("schedule            keys read   recall   perplexity")
for target in (0.9, 0.75, 0.6):
    slope = (1 - target) * 2 * layers / (layers - 1)  # so that layers read the share `target` on average
    gentle = 1 - slope * (steps + 1) / layers
    late = np.where(steps < layers // 2 - 1, 1.0, 1 - (1 - target) * 2)
    for name, shares in (("every layer", gentle), ("upper half only", late)):
        read_shares = []
        model.attention = cascading(shares, read_shares)
        recall, perplexity = question_only()
        model.restore()
        cascaded[name, float(np.mean(read_shares))] = recall, perplexity
        print(f"{name:16}   {np.mean(read_shares):10.1%}   {recall:6.2f}   {perplexity:10.2f}")

# %% [markdown] id="cascade_question"
# Recall and perplexity do not prefer the same schedule. Which tokens does a question need, and which does the next word
# of a text need? A method that is judged by perplexity alone can lose answers and still look good.

# %% [markdown] id="measure_text"
# ## Measure
#
# ### Quality against bytes
#
# All of your methods in one picture: recall against the bytes that a new token reads, as a share of an exact float16
# cache. Codes shrink the memory as well as the traffic; so does merging. A filter shrinks only the traffic.

# %% id="quality_plot" mystnb={"image": {"alt": "Recall against share of cache bytes read, for the four methods."}}
curves = {
    "codes, keys per channel": {coded_bytes[b] / float16_bytes: table[b, "tokens", "channels"][0] for b in (8, 4, 2)},
    "codes, keys per token": {coded_bytes[b] / float16_bytes: table[b, "channels", "channels"][0] for b in (8, 4, 2)},
    "MiniCache, one pair": {cost: recall for (number, cost), recall in merged.items() if number == 1},
    "MiniCache, two pairs": {cost: recall for (number, cost), recall in merged.items() if number == 2},
    "Energon": {cost: value[0] for cost, value in filtered.items()},
    "SpAtten, upper half": {cost: v[0] for (name, cost), v in cascaded.items() if name == "upper half only"},
}
marks = []
for style, (name, points) in enumerate(curves.items()):
    x = sorted(points)
    marks += [
        figures.Line([100 * v for v in x], [points[v] for v in x], name, style=style),
        figures.Points([100 * v for v in x], [points[v] for v in x], style=style),
    ]
_ = figures.plot(
    figures.Chart(
        marks,
        figures.Axis("bytes read, share of a float16 cache", "%", scale="log"),
        figures.Axis("recall", range=(-0.05, 1.05)),
        "What the cache can lose before the answers go",
    )
)

# %% [markdown] id="library_text"
# ### The library's cache
#
# The same idea with codes that are really packed: keys per channel, values per token, the newest tokens exact. It is
# plugged in by `cache_factory`, and its attention reads the codes without making floats of them. Here the model also
# *reads* the notes in parts of 32 tokens from the coded cache, so errors can add up.

# %% id="library_cache"
few_questions = questions[:8]
print(f"bits   bytes per token   recall   (float16, exact: {float16_bytes:.0f} bytes)")
for bits in (8, 4, 2):
    kv_cache.use_low_bit_cache(model, bits=bits, group_size=group_size, window=0)
    recall = kv_cache.recall_in_parts(model, few_questions)
    _, cache = model.prefill(prompts[:1, :context])
    model.restore()
    print(f"{bits:4}   {cache.nbytes / context:15.0f}   {recall:6.2f}")

# %% [markdown] id="speed_text"
# ### Speed
#
# One new token attends to a long context, one layer of a larger model. All contenders run interleaved in shuffled
# rounds; the library and torch take another copy of the cache every time, so that it comes from memory.
#
# - **Yours**: NumPy. Decodes codes, then two products.
# - **Library**: scores from codes and int8 queries; scales are folded into the query, 32 tokens at a time.
# - **torch**: `scaled_dot_product_attention`, float32 and bfloat16.
#
# Where the processor has no 512-bit vectors, the library runs plain loops, and you will see that fewer bytes alone win
# nothing: codes must also be unpacked as fast as they come.

# %% id="contenders"
import copy
import math

from torch.nn import functional

del notes, stories, loud  # not needed any more; small machines are thankful
length = {"default": 4096, "full": 16_384}.get(size, 4096)
big_heads, big_channels = 4, 128
long_keys = rng.normal(size=(big_heads, length, big_channels)).astype(np.float32)
long_values = rng.normal(size=(big_heads, length, big_channels)).astype(np.float32)
q = rng.normal(size=(big_heads, big_channels)).astype(np.float32)
last_level = measure.describe_machine().last_level_cache_bytes or 32 << 20
cold = min(1.5 * last_level, 32 << 20)  # bytes that a contender walks through


def rotate(function, cache, nbytes):
    return measure.rotating(function, [copy.deepcopy(cache) for _ in range(max(2, math.ceil(cold / nbytes)))])


flat = np.ascontiguousarray(long_keys.swapaxes(0, 1)).reshape(length, -1)
your_keys = per_channel(flat, 4, group_size)
your_values = per_channel(np.ascontiguousarray(long_values.reshape(-1, big_channels).T), 4, big_channels)


def yours():
    codes, scale, low = (part.reshape(-1, big_heads, big_channels) for part in your_keys)
    grouped = codes.reshape(-1, group_size, big_heads, big_channels)
    scores = (low[:, None] + scale[:, None] * grouped).reshape(length, big_heads, big_channels)
    scores = np.einsum("thd,hd->ht", scores, q) / big_channels**0.5
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    codes, scale, low = your_values
    values = (low + scale * codes).T.reshape(big_heads, length, big_channels)
    return np.einsum("ht,htd->hd", p, values)


contenders, moved = {}, {}
for name, dtype in (("torch float32", torch.float32), ("torch bfloat16", torch.bfloat16)):
    tensors = [torch.from_numpy(side)[None].to(dtype) for side in (long_keys, long_values)]
    query = torch.from_numpy(q)[None, :, None].to(dtype)
    moved[name] = float(sum(t.nbytes for t in tensors))
    contenders[name] = rotate(
        lambda pair, query=query: functional.scaled_dot_product_attention(query, *pair), tensors, moved[name]
    )
contenders["your NumPy, 4 bits"] = yours
moved["your NumPy, 4 bits"] = float(sum(part.nbytes for part in (*your_keys, *your_values)))
for bits in (8, 4, 2):
    name = f"library, {bits} bits"
    packed = kernels.pack_kv(long_keys, long_values, bits, group_size)
    moved[name] = float(packed.nbytes)
    contenders[name] = rotate(lambda cache: kernels.attend_low_bit(q, cache), packed, moved[name])
    decoded = kernels.exact_attention(q, *packed.dequantize())
    error = np.linalg.norm(contenders[name]() - decoded) / np.linalg.norm(decoded)
    print(f"{name}: {moved[name] / 2**20:5.1f} MiB; against attention over its decoded cache {error:.3f}")
del long_keys, long_values, flat, packed, tensors

# %% id="measure"
operations = 4 * length * big_heads * big_channels
work = {name: measure.Work(bytes=count, operations=operations) for name, count in moved.items()}
result = measure.compare(contenders, "torch bfloat16", rounds=7, work=work, max_seconds=8)
result

# %% id="speed_ratio"
rival = min(("torch float32", "torch bfloat16"), key=lambda name: result.row(name).seconds)  # the faster one here
for name in ("your NumPy, 4 bits", "library, 4 bits", "library, 2 bits"):
    faster, fewer = result.row(rival).seconds / result.row(name).seconds, moved[rival] / moved[name]
    print(f"{name}: {faster:.2f} times as fast as {rival}, from {fewer:.2f} times fewer bytes")

# %% id="roofline" mystnb={"image": {"alt": "Roofline: attention over caches of fewer bits lies further right."}}
limits = measure.measure_limits(seconds=2.0, threads=(1,))
points = [
    measure.Point.measured(
        name, operations, moved[name], result.row(name).seconds, "int8" if "library" in name else "float32"
    )
    for name in contenders
    if name != "torch bfloat16"
]
print(measure.describe(limits, points))
_ = measure.roofline(limits, points, title="Attention of one token: the same work from fewer bytes")

# %% [markdown] id="explain_task"
# ## Explain
#
# Answer in five to ten sentences, with your own numbers from above.
#
# 1. The loud channels changed nothing in the results of grids along tokens, and ruined those of grids along channels.
#    Why? And why may values nevertheless have a grid per token?
# 2. A cache is to be written one token at a time. What does the choice of the axis mean for that, and what does the
#    library do about it?
# 3. MiniCache did harm here. Which number said so beforehand, and in which models would you try it?
# 4. Filter and cascade both leave out keys. Why did one of them lose answers much earlier than the other?
#
# | points | for |
# | --- | --- |
# | 1 | (1) who shares a grid with whom, with two numbers of the table |
# | 1 | (2) what must be known before a grid can be chosen; codes that never change |
# | 1 | (3) the angle; what the lengths can and cannot repair |
# | 1 | (4) who decides, when, with which knowledge; that a dropped token cannot return |

# %% [markdown] id="explain" role="written" points=4
# ### BEGIN SOLUTION
# **Model answer.** (1) A grid along tokens holds one channel only. When the channel is multiplied by 16, its minimum,
# maximum and step are multiplied as well, so the codes do not change, and the queries undo the factor. A grid along the
# channels of a token is stretched by the loud channels, and at 2 bits all quiet channels fall on one or two levels: the
# recall goes to about zero. Values have no such channels, and there the table shows hardly a difference between the
# axes, so the axis may be chosen by convenience. (2) A grid per token is known as soon as the token is there. A grid
# per channel needs the other tokens: either they wait, not rounded, until a group is full, or old codes must be written
# again. The library keeps recent tokens exact until a block is full. (3) The mean angle is near 90 degrees: the layers'
# vectors are unrelated, and half way between two unrelated directions is far from both. The lengths are right, but they
# cannot repair a direction. In deep models, between middle and deep layers, where the angle is small. (4) The filter
# decides anew for each head, layer and token, with that very query, and drops nothing for good. The cascade decides for
# all heads and all later layers by what lower layers looked at, where the question has not yet been matched with its
# note; a note that is dropped there cannot be read above. That is why pruning in the upper half only keeps more answers
# from the same number of keys.
#
# **Rubric.** One point each as in the table above; the numbers must be the student's own.
# ### END SOLUTION

# %% [markdown] id="further"
# ## Go further
#
# - **Read on.** KIVI (arXiv:2402.02750): the layout of exercises 1 and 2. MiniCache (arXiv:2405.14366): exercise 3.
#   Energon (arXiv:2110.09310): exercise 4. SpAtten (arXiv:2012.09852): exercise 5. Which of their claims did this small
#   model bear out, and which not?
# - **Without any scale.** A byte as a float of 8 bits needs no grid at all, so a token can be appended at once. MNN-LLM
#   stores values that way: `edgeinfer.kernels.kv_fp8`. Put it in place of `rounded` for the values. What does it cost
#   against 8-bit grids?
# - **Scales into the query.** With a grid per channel, query · key = (query · scale) · code + query · low: one rescaled
#   query serves all 32 tokens of a group, and no key is decoded. Rewrite `yours` in this way.
# - **Fetch the low bits only when in doubt.** SpAtten computes the softmax from the high bits and fetches the rest
#   where it came out flat. Use the scores of your round 1 for that. How often is the rest needed?
# - **Heads.** SpAtten also prunes heads by the size of what they contribute. Add it to `cascading`.
# - **The library's own.** `kernels.minicache.MergedCache`, `kernels.energon.FilteredAttention` and
#   `kernels.spatten.CascadePruning` plug into the same two hooks. Compare their curves with yours.
# - **A better importance.** Here only the question votes. Let the whole page vote: gather importance while the page is
#   read, and prune before the question comes. Which tokens survive?
# - **Merging what is alike.** Which *pairs of tokens* in one layer have small angles? Merge those instead of layers.
