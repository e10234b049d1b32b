# %% [markdown] id="title"
# # Lab 8 · Paged KV and continuous batching
#
# Ten people talk to one small machine. The weights are there once, but each conversation has its own **KV cache**, and
# nobody knows how long it will get. In this lab you give the memory out in blocks, find keys through a table, share
# what is alike, and decide before every step who is computed.
#
# **You will be able to**
# - give memory out on demand, all or nothing, and say what reserving in advance costs,
# - compute attention over keys that lie anywhere,
# - share blocks between conversations without one of them reading what another writes,
# - plan a step of a server so that nobody waits for a stranger's long prompt.
#
# **Time** 75 minutes. **Needs** the foundations chapters; no earlier lab.
# **Runs** in less than half a minute on one core.
#
# The chapters *Paged KV cache* and *Continuous batching* tell the story behind it.

# %% id="parameters" tags=["parameters"]
seed = 0
size = "default"

# %% id="imports"
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # many small products: a second thread would mostly wait

import numpy as np
import torch
from edgeinfer import figures, measure, models
from edgeinfer.grading import checks
from edgeinfer.memory.paging import blocks, steps, usage
from edgeinfer.memory.paging.attention import paged_attention
from edgeinfer.memory.serving.trace import make_trace

lab = checks.lab("lab08_paged_kv")
figures.use_style()
torch.set_num_threads(1)
rng = np.random.default_rng(seed)

# %% [markdown] id="predict"
# ## Predict
#
# Write down numbers before you run anything. A wrong guess teaches more than none.
#
# 1. A server reserves room for the longest text it allows, 2048 tokens, for every request. Prompts have 160 tokens on
#    average, answers 320. What share of the reserved memory holds no token, averaged over time, 0 to 1?
# 2. Now it gives out blocks of 16 tokens as they are needed. What share is wasted?
# 3. Four answers are drawn from one prompt of 100 tokens, 20 tokens each. How many blocks of 16 do they need
#    together, if they share whatever can be shared?

# %% id="my_predictions"
waste_when_reserving = "nothing"
waste_with_blocks = "nothing"
blocks_of_four_answers = "nothing"

# %% [markdown] id="trace_text"
# ## What is served
#
# A synthetic trace: lengths are drawn at random with a long tail, as those of a chat service are. Nobody recorded it.

# %% id="trace"
requests = make_trace(
    seed, {"default": 200, "full": 2000}.get(size, 200), prompt_mean=160, output_mean=320, longest=1024
)
longest = 2048
prompts, outputs = (np.array([getattr(r, name) for r in requests]) for name in ("prompt_tokens", "output_tokens"))
print(f"{len(requests)} requests; prompts {prompts.mean():.0f} tokens on average, the longest {prompts.max()}")
print(f"answers {outputs.mean():.0f} tokens on average, half of them below {np.median(outputs):.0f}")

# %% [markdown] id="build_1"
# ## Build
#
# ### Exercise 1: blocks on demand
#
# The pool is cut into blocks of `block_size` tokens. A sequence has a **block table**: token $t$ lies in block
# `table[t // block_size]`, at place `t % block_size`. Before new tokens are computed, the table must have room for
# all of
# them. If there are too few free blocks, nothing is taken at all.
#
# ```text
# block_size 4, length 6
#           table      free
# before    [7, 2]     [5, 0, 9]
# count 2   [7, 2]     [5, 0, 9]   block 2 is full
# count 3   [7, 2, 5]  [0, 9]
# count 99  [7, 2]     [5, 0, 9]   refused
# ```


# %% id="grow_table" role="solution"
def grow_table(table, length, count, free, block_size):
    """Room for `count` more tokens.

    table: int (n,), blocks of the sequence.   length: int, its tokens so far; n is length / block_size, rounded up.
    count: int, tokens to come, 0 or more.   free: int (F,), free blocks; the first are taken first.
    Returns table: int, old blocks, then new ones; free: int, what is left. Too few free: both unchanged.
    """
    ### BEGIN SOLUTION
    needed = -(-(length + count) // block_size) - len(table)
    if needed > len(free):
        return table, free
    return np.concatenate([table, free[:needed]]), free[needed:]
    ### END SOLUTION


# %% id="check_grow_table" role="check"
lab.check("grow_table", grow_table)

# %% [markdown] id="waste_text"
# Let the trace grow token by token, with your function, and compare what is held with what is used. The last block
# of a sequence is the only one with empty places: on average half a block.
#
# Two ways to reserve in advance are printed below it: room for the longest text that is allowed, and an **oracle**, a
# server that knows how long each request will get and reserves just that, from its first token on.

# %% id="waste"
grow = lab.fallback("grow_table", grow_table, steps.grow_table)


def waste_of_blocks(block_size, some=40):
    """Share of empty places in the blocks that were given out, over all steps of some requests."""
    used = held = 0
    for request in requests[:some]:
        table, free = np.zeros(0, int), rng.permutation(4096 // block_size)
        length = 0
        for count in (request.prompt_tokens, *[1] * request.output_tokens):
            table, free = grow(table, length, count, free, block_size)
            length += count
            used, held = used + length, held + len(table) * block_size
    return 1 - used / held


sizes = (1, 4, 16, 64, 256)
found = {block_size: waste_of_blocks(block_size) for block_size in sizes}
for block_size, share in found.items():
    print(f"blocks of {block_size:3}: {share:6.1%} wasted")
reserving = {way: usage.waste(requests, way, longest=longest) for way in ("oracle", "longest text")}
for way, share in reserving.items():
    print(f"reserving, {way:12}: {share:6.1%} wasted")
print(f"longest text reserved: {reserving['longest text']:.2f}; you predicted {waste_when_reserving}")
print(f"blocks of 16: {found[16]:.2f}; you predicted {waste_with_blocks}")

# %% id="waste_plot" mystnb={"image": {"alt": "Wasted share of the memory against the size of blocks, rising."}}
_ = figures.plot(
    figures.Chart(
        [
            figures.Line(sizes, [100 * found[b] for b in sizes], "blocks on demand"),
            figures.Points(sizes, [100 * found[b] for b in sizes]),
        ],
        figures.Axis("tokens of a block", scale="log"),
        figures.Axis("memory without a token", "%"),
        "Small blocks waste little",
    )
)

# %% [markdown] id="play_text"
# ### Play with it
#
# The controls below call **your** function, each time anew.
# Which request wastes most, and when in its life?

# %% id="play"
def one_life(request, block_size):
    some = requests[request]
    table, free, length, tokens, room = np.zeros(0, int), np.arange(4096 // block_size), 0, [], []
    for count in (some.prompt_tokens, *[1] * some.output_tokens):
        table, free = grow(table, length, count, free, block_size)
        length += count
        tokens.append(length)
        room.append(len(table) * block_size)
    return figures.Frame(
        [
            figures.Chart(
                [
                    figures.Line(range(len(room)), room, "places held"),
                    figures.Line(range(len(tokens)), tokens, "tokens", style=1),
                ],
                figures.Axis("step"),
                figures.Axis("tokens"),
            )
        ],
        f"Request {request} with blocks of {block_size}: over its life {1 - sum(tokens) / sum(room):.1%} of its "
        "places are empty.",
    )


figures.LiveFigure(
    "The life of a request",
    [
        figures.Slider("request", "Request", range(12)),
        figures.Slider("block_size", "Tokens of a block", (1, 4, 16, 64, 256), default=64),
    ],
    one_life,
)

# %% [markdown] id="waste_question"
# Why not blocks of one token? Think of the table, and of how memory is read.
#
# ### Exercise 2: attention through a table
#
# Keys and values of a sequence no longer lie in a row. One query, one head: find the keys of the first `length` tokens
# through the table, and weigh the values by the softmax of $q \cdot k / \sqrt{D}$. Behind `length` stands what others
# have left. Scores may be large: in float32, $e^{100}$ is infinite already.


# %% id="attend_blocks" role="solution"
def attend_blocks(query, key_pool, value_pool, table, length):
    """Attention of one query over a sequence in blocks.

    query: float32 (D,).   key_pool, value_pool: float32 (N, B, D), N blocks of B tokens.
    table: int (n,), blocks of the sequence in order, enough for `length` tokens.   length: int, 1 or more.
    Returns out: float (D,).
    """
    ### BEGIN SOLUTION
    keys = key_pool[table].reshape(-1, len(query))[:length]
    values = value_pool[table].reshape(-1, len(query))[:length]
    scores = keys @ query / np.sqrt(len(query))
    weights = np.exp(scores - scores.max())
    return weights @ values / weights.sum()
    ### END SOLUTION


# %% id="check_attend_blocks" role="check"
lab.check("attend_blocks", attend_blocks)

# %% [markdown] id="model_text"
# Now with a real model: it reads a text as always. Then its cache is dealt out to random blocks, and every attention
# of
# the next token goes through your function.

# %% id="model"
attend = lab.fallback("attend_blocks", attend_blocks, steps.attend_blocks)
model = models.load("target")
config = model.config
heads, kv_heads, channels = config.num_attention_heads, config.num_key_value_heads, config.head_dim
text = models.held_out_tokens("text")[None, :61]
block_size = 16
table = rng.permutation(9)[:4]  # four of nine blocks, in any order


def through_blocks(query, keys, values, mask, layer):
    """The decoder's attention for one new token, by your function."""
    out = torch.empty_like(query)
    length = keys.shape[2]
    for head in range(heads):
        pools = []
        for side in (keys, values):
            pool = np.full((9, block_size, channels), 7.0, np.float32)  # what others have left
            rows = side[0, head // (heads // kv_heads)].numpy()
            for t in range(length):
                pool[table[t // block_size], t % block_size] = rows[t]
            pools.append(pool)
        out[0, head, 0] = torch.from_numpy(np.asarray(attend(query[0, head, 0].numpy(), *pools, table, length)))
    return out


_, cache = model.prefill(text[:, :60])
exact = model.decode(text[:, 60:], cache)
_, cache = model.prefill(text[:, :60])
model.attention = through_blocks
paged = model.decode(text[:, 60:], cache)
model.restore()
difference, largest = float((paged - exact).abs().max()), float(exact.abs().max())
print(f"largest difference of a logit: {difference:.1e} (logits up to {largest:.0f})")
print("same next token:", bool(paged.argmax() == exact.argmax()))

# %% [markdown] id="build_3"
# ### Exercise 3: copy on write
#
# Four answers to one prompt begin alike. So their tables begin with the same blocks, and a counter says how many
# tables
# **hold** each block. Reading together is harmless. Before a token is *written*, one of three things happens:
#
# - the last block is full, or there is none: take a new block;
# - the last block has room and nobody else holds it: write;
# - the last block has room and others hold it: take a new block **in its place**, and let the old one be copied into
#   it.
#
# ```text
# block_size 4   table [3, 8]   length 6   free [5, 1]   holders of 3: 2, of 8: 2
# -> table [3, 5]   holders of 3: 2, of 8: 1, of 5: 1   copy (8, 5)
# ```


# %% id="prepare_write" role="solution"
def prepare_write(table, length, holders, free, block_size):
    """What must happen before one token is written at place `length`.

    table: int (n,), blocks of the sequence that writes.   length: int, its tokens so far.
    holders: int (N,), how many tables hold each block.   free: int (F,), at least one; take the first.
    Returns table: int; holders: int (N,); copy: (source, target), or (-1, -1) if nothing is copied.
    """
    ### BEGIN SOLUTION
    table, holders = table.copy(), holders.copy()
    if length % block_size == 0:
        holders[free[0]] += 1
        return np.append(table, free[0]), holders, (-1, -1)
    last = table[-1]
    if holders[last] == 1:
        return table, holders, (-1, -1)
    holders[last] -= 1
    holders[free[0]] += 1
    table[-1] = free[0]
    return table, holders, (last, free[0])
    ### END SOLUTION


# %% id="check_prepare_write" role="check"
lab.check("prepare_write", prepare_write)

# %% [markdown] id="samples_text"
# Four answers to a prompt of 100 tokens, token by token. How many blocks are in use, and how many would be without
# sharing?

# %% id="samples"
prepare = lab.fallback("prepare_write", prepare_write, steps.prepare_write)
prompt_length, answers, block_size = 100, 4, 16
start = np.arange(-(-prompt_length // block_size))
holders = np.zeros(64, int)
holders[start] = answers
tables, copies, in_use = [start] * answers, 0, []
for step in range(20):
    for answer in range(answers):
        free = np.flatnonzero(holders == 0)
        tables[answer], holders, copy = prepare(tables[answer], prompt_length + step, holders, free, block_size)
        copies += copy[0] >= 0
    in_use.append(int((holders > 0).sum()))
alone = answers * -(-(prompt_length + 20) // block_size)
print(f"blocks in use, step by step: {in_use}")
print(f"without sharing: {alone}; copies made: {copies}; saved: {1 - in_use[-1] / alone:.0%}")
print(f"four answers: {in_use[-1]} blocks; you predicted {blocks_of_four_answers}")

# %% [markdown] id="samples_question"
# Four answers, three copies. Why not four?
#
# ### Exercise 4: prompts that begin alike
#
# Many prompts begin with the same instructions. Their keys are in the pool already, if the blocks of an earlier
# request were kept. Each kept block is full; `contents` holds its tokens and `parent` the block that came before it in
# its text. A key depends on **all** tokens before it. So the same words after another beginning are *not* the same
# block, and the same words after the same beginning are kept only once.
#
# ```text
# block      0      1      2      3
# contents  [a b]  [c d]  [x y]  [c d]
# parent     -1     0      -1     2
#
# prompt  a b c d e  -> blocks [0, 1]
# prompt  x y c d e  -> blocks [2, 3]
# prompt  a b c d    -> blocks [0]
#         (d is computed: its logits are wanted)
# ```


# %% id="find_prefix" role="solution"
def find_prefix(prompt, contents, parent):
    """Kept blocks that hold the longest beginning of a prompt.

    prompt: int (T,), T 1 or more.   contents: int (C, B), tokens of each kept block.
    parent: int (C,), the block before it, -1 at the beginning of a text.
    Returns blocks: int (k,), in order; at least the last token of the prompt is not in them.
    """
    ### BEGIN SOLUTION
    block_size, before, found = contents.shape[1], -1, []
    for start in range(0, len(prompt) - block_size, block_size):
        same = (contents == prompt[start : start + block_size]).all(axis=1) & (parent == before)
        if not same.any():
            break
        before = int(same.argmax())
        found.append(before)
    return np.array(found, dtype=int)
    ### END SOLUTION


# %% id="check_find_prefix" role="check"
lab.check("find_prefix", find_prefix)

# %% [markdown] id="prefix_text"
# Twelve requests begin with the same 90 tokens of instructions and go on with a question of their own. The first one
# leaves its blocks. How much of the reading do the others save? And how does it depend on the size of a block?

# %% id="prefix"
find = lab.fallback("find_prefix", find_prefix, steps.find_prefix)
words = models.held_out_tokens("text").numpy()
instructions = words[:90]
for block_size in (4, 16, 64):
    first = np.concatenate([instructions, words[1000:1030]])
    full = len(first) // block_size
    contents, parent = first[: full * block_size].reshape(full, block_size), np.arange(full) - 1
    saved = total = 0
    for n in range(1, 12):
        prompt = np.concatenate([instructions, words[1000 + 40 * n : 1030 + 40 * n]])
        saved += len(find(prompt, contents, parent)) * block_size
        total += len(prompt)
    print(f"blocks of {block_size:2}: {saved / total:.0%} of the prompts' tokens are not computed again")

# %% [markdown] id="build_5"
# ### Exercise 5: who is computed next
#
# A **static** batch starts together and ends together: whoever is done waits for the longest answer, and whoever comes
# waits outside. **Continuous batching** decides before *every* step. A step computes at most `budget` tokens:
#
# - requests that are *decoding* come first, one token each, in order of arrival;
# - what is left goes to prompts, in order of arrival; the last one that gets any may get a part only (**chunked
#   prefill**).
#
# ```text
# missing   40   1    7    1       budget 16
# decoding  no   yes  no   yes
# tokens    14   1    0    1
# ```


# %% id="plan_step" role="solution"
def plan_step(missing, decoding, budget):
    """Tokens of each request in the next step.

    missing: int (R,), tokens not computed yet, in order of arrival; 1 for a decoding request.
    decoding: bool (R,), past the prompt.   budget: int, most tokens of the step.
    Returns tokens: int (R,).
    """
    ### BEGIN SOLUTION
    tokens = np.zeros(len(missing), dtype=int)
    for phase in (True, False):
        for i in np.flatnonzero(decoding == phase):
            tokens[i] = min(missing[i], budget)
            budget -= tokens[i]
    return tokens
    ### END SOLUTION


# %% id="check_plan_step" role="check"
lab.check("plan_step", plan_step)

# %% [markdown] id="batching_text"
# The same requests, two servers that run at most eight at once. Time is counted in steps of the model (**simulated**: a
# step costs one unit, however many tokens it has; at small batches, where weights are the bulk of what is read, that is
# nearly true).

# %% id="batching"
plan = lab.fallback("plan_step", plan_step, steps.plan_step)
some, places, budget = requests[:60], 8, 64
arrival = np.array([int(40 * r.at) for r in some])


def continuous():
    """Steps from arrival to the last token, for each request."""
    missing = np.array([r.prompt_tokens for r in some])
    left = np.array([r.output_tokens for r in some])
    decoding, done = np.zeros(len(some), bool), np.zeros(len(some), int)
    now = 0
    while (left > 0).any():
        here = np.flatnonzero((arrival <= now) & (left > 0))[:places]
        now += 1
        tokens = np.asarray(plan(missing[here], decoding[here], budget), dtype=int)
        missing[here] -= tokens
        for i in here[(missing[here] == 0) & (tokens > 0)]:  # its logits give one more token
            left[i] -= 1
            decoding[i], missing[i] = True, 1
            done[i] = now
    return done - arrival


def static():
    """The same with batches that start and end together."""
    done, now = np.zeros(len(some), int), 0
    for first in range(0, len(some), places):
        batch = range(first, min(first + places, len(some)))
        now = max(now, arrival[batch].max())
        now += -(-sum(some[i].prompt_tokens for i in batch) // budget) + max(some[i].output_tokens for i in batch) - 1
        done[list(batch)] = now
    return done - arrival


for name, waited in (("static", static()), ("continuous", continuous())):
    print(f"{name:10}: half of the requests are done within {np.median(waited):5.0f} steps, all within {waited.max()}")

# %% [markdown] id="measure_text"
# ## Measure
#
# ### What fits into a pool
#
# The library's block manager does all of this at once, and its invariants can be checked. One pool with room for
# 16,384 tokens, everybody waits from the start. How many requests run at once? If no block is free, the latest request
# steps back: it gives all of its blocks back and waits **in front of** those that have not begun, to be read again.
# At the end of the queue it could be overtaken for ever.

# %% id="fits"
results = {way: usage.serve(requests, way, 16_384, longest=longest) for way in ("longest text", "oracle", "blocks")}
for way, result in results.items():
    print(
        f"{way:12}: {result.running:5.1f} at once, {result.steps} steps, {result.preempted} times one had to step back"
    )

# %% id="manager"
manager = blocks.BlockManager(num_blocks=16, block_size=4)
manager.add("a")
manager.append("a", 10)
manager.fork("a", "b")
print("b writes:", manager.append("b", 1), "tables:", manager.block_table("a"), manager.block_table("b"))
try:
    manager.append("a", 99)
except blocks.OutOfBlocks as error:
    print("refused:", error)
manager.free("a")
manager.check()
print("free blocks:", manager.free_blocks)

# %% [markdown] id="speed_text"
# ### Speed
#
# Eight requests of very different lengths, one new token each. `torch` needs rectangles: either all caches are
# padded to
# the longest, or it is called once for each request. The library's kernel goes through the tables. All contenders run
# interleaved in shuffled rounds.

# %% id="contenders"
from torch.nn import functional

lengths = np.array([3000, 1100, 700, 400, 250, 120, 60, 17])
rows, heads, kv_heads, channels, block_size = len(lengths), 8, 4, 64, 16
counts = -(-lengths // block_size)
pool_blocks = int(counts.sum())
order = rng.permutation(pool_blocks)
tables = [part.tolist() for part in np.split(order, np.cumsum(counts)[:-1])]
key_blocks = rng.normal(size=(pool_blocks, kv_heads, channels, block_size)).astype(np.float32)
value_blocks = rng.normal(size=(pool_blocks, kv_heads, block_size, channels)).astype(np.float32)
queries = rng.normal(size=(rows, heads, channels)).astype(np.float32)
plain = []
for table, length in zip(tables, lengths, strict=True):
    k = key_blocks[table].transpose(1, 0, 3, 2).reshape(kv_heads, -1, channels)[:, :length]
    v = value_blocks[table].transpose(1, 0, 2, 3).reshape(kv_heads, -1, channels)[:, :length]
    plain.append((torch.from_numpy(k.copy())[None], torch.from_numpy(v.copy())[None]))
padded = [torch.zeros(rows, kv_heads, int(lengths.max()), channels) for _ in range(2)]
for row, pair in enumerate(plain):
    for side, part in zip(padded, pair, strict=True):
        side[row, :, : part.shape[2]] = part
mask = torch.arange(int(lengths.max()))[None, None, None] < torch.from_numpy(lengths)[:, None, None, None]
q = torch.from_numpy(queries)[:, :, None]


def looping():
    parts = [
        functional.scaled_dot_product_attention(q[r : r + 1], *pair, enable_gqa=True) for r, pair in enumerate(plain)
    ]
    return torch.cat(parts)[:, :, 0]


contenders = {
    "torch, padded": lambda: functional.scaled_dot_product_attention(q, *padded, mask, enable_gqa=True)[:, :, 0],
    "torch, one by one": looping,
    "library, blocks": lambda: paged_attention(queries, key_blocks, value_blocks, tables, lengths),
}
reference = looping().numpy()
for name, run in contenders.items():
    print(f"{name:18} differs by {np.abs(np.asarray(run()) - reference).max():.1e}")

# %% id="measure"
read = {name: 2.0 * lengths.sum() * kv_heads * channels * 4 for name in contenders}
read["torch, padded"] = float(sum(side.nbytes for side in padded))
result = measure.compare(
    contenders, "torch, padded", rounds=9, work={n: measure.Work(bytes=b) for n, b in read.items()}, max_seconds=4
)
result

# %% [markdown] id="explain_task"
# ## Explain
#
# Answer in five to ten sentences, with your own numbers from above.
#
# 1. Where does the memory go when room is reserved in advance, and where with blocks? Why does an oracle that knows
#    every length still waste so much?
# 2. What speaks against blocks of one token, what against blocks of 256? Name one reason each that is not waste.
# 3. Two prompts have the same second block of words. When may they share it, and why only then?
# 4. Who gains from continuous batching, and what would happen to decoding requests if prompts came first?
#
# | points | for |
# | --- | --- |
# | 1 | (1) what is reserved but not yet, or never, used; the last block; time matters |
# | 1 | (2) tables and reads against sharing and waste |
# | 1 | (3) keys depend on everything before them |
# | 1 | (4) short requests; a stall of everybody by one long prompt |

# %% [markdown] id="explain" role="written" points=4
# ### BEGIN SOLUTION
# **Model answer.** (1) Reserving for the longest text wastes about four fifths: most texts never get that long, and
# those that do hold their places long before they need them. The oracle reserves the right number, but from the first
# token on; half of the answer's room is empty on average over time. With blocks of 16 only the last one has empty
# places,
# less than two percent here. (2) With blocks of one token the table is as long as the text, and keys are read in
# pieces
# of a few bytes from anywhere; vectors over tokens are no longer possible. With 256 a shared beginning must be 256
# tokens
# long before anything is shared, and a copy on write moves up to 255 tokens. (3) Only if the first blocks are equal as
# well. A key of a deeper layer is computed from a state that has attended to all earlier tokens, and its rotation
# depends
# on the place. (4) Short requests leave at once and new ones need not wait for a batch to end; my median fell to a
# fraction. With prompts first, every long prompt would take whole steps, and all answers would stop in the meantime.
#
# **Rubric.** One point each as in the table above; the numbers must be the student's own.
# ### END SOLUTION

# %% [markdown] id="further"
# ## Go further
#
# - **Read on.** PagedAttention (arXiv:2309.06180): exercises 1 to 4. Orca (OSDI 2022): exercise 5, without chunks.
#   Sarathi-Serve (arXiv:2403.02310): why chunks.
# - **Evict.** Kept blocks that nobody holds are free memory with a use. Which should be given out first? Write a rule
#   that never leaves a block without its parent.
# - **Move out or read again.** A request that must give its blocks back can be swapped or computed anew. At which
#   length
#   does reading again cost more, on your machine?
# - **Beams.** Beam search forks and frees in every step. Count the copies that it causes, against copying whole
#   caches.
# - **Serve.** `make api` starts the book's own server on these parts. Talk to it from two terminals.
