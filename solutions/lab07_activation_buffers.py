# %% [markdown] id="title"
# # Lab 7 · Reusing activation buffers
#
# One pass of a model writes far more bytes than it ever needs at one time. In this lab you find out how few it needs,
# give every buffer a place in one arena, and run the real decoder out of it. Then you fix other things in advance, too:
# the instructions, and the maximum of a softmax.
#
# **You will be able to**
# - read from a list of operators when each buffer is alive, and what the floor of the memory is,
# - pack buffers into one arena by best fit, and check a plan,
# - turn recordings of three lengths into one list of instructions for any length, as Transformer-Lite and EdgeLLM do,
# - compute a softmax in pieces that do not wait for each other, as FlashDecoding++ does, and notice when that fails.
#
# **Time** 70 minutes. **Needs** the foundations chapters.
# **Runs** in less than a minute on two cores.
#
# The chapter *Buffers that are used again* tells the story behind it.

# %% id="parameters" tags=["parameters"]
seed = 0
size = "default"

# %% id="imports"
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small products: a second thread would mostly wait

import matplotlib.pyplot as plt
import numpy as np
import torch
from edgeinfer import figures, measure, models
from edgeinfer.grading import checks
from edgeinfer.memory.buffers import Plan, buffer_steps, check_plan, decoder_programs, flat_gemm, optimal, unified_max
from edgeinfer.memory.buffers.arena import ArenaProgram, operator_by_operator, peak_allocated
from edgeinfer.memory.kv_in_place import InPlaceCache

lab = checks.lab("lab07_activation_buffers")
figures.use_style()
torch.set_num_threads(1)
rng = np.random.default_rng(seed)

# %% [markdown] id="predict"
# ## Predict
#
# Write down numbers before you run anything. A wrong guess teaches more than none.
#
# 1. A model of 8 layers reads a prompt of 64 tokens. All buffers that it writes take 14.5 MB together. How many MB are
#    alive at one time, at most?
# 2. One step of decoding is recorded at three positions. Of its several hundred instructions, how many integers change
#    with the position?
# 3. A softmax over 4,096 tokens is divided into 16 pieces. How many of them can finish before the largest score of the
#    row is known? And if a fixed number stands for the maximum?

# %% id="my_predictions"
megabytes_alive = "nothing"
integers_that_change = "nothing"
pieces_that_need_not_wait = "nothing"

# %% [markdown] id="record_text"
# ## What the model does
#
# The library runs the shipped model and writes down every operator. Buffers are numbered; -1 fills up the rows of
# `reads`. An operator may write *in place*: then `writes` names a buffer that was there already.

# %% id="record"
model = models.load("target")
cache = InPlaceCache(model.config, 1, model.dtype)
length = {"default": 64, "full": 512}.get(size, 64)
program = decoder_programs.prompt_program(model, length, cache)
storages = {storage: number for number, storage in enumerate(program.storages())}
rows, steps_shown, writes_of_steps = [], [], []
for step in program.steps:
    if not step.writes:
        continue  # another view of what is there
    made = [storages[s] for s in {program.tensors[n].storage for n in step.outputs} if s in storages]
    read = [storages[s] for s in program.reads(step) if s in storages]
    for buffer in made or read[:1]:  # what goes to the cache counts as a use of its source
        rows.append([*read, *(other for other in made if other != buffer)])  # two results of one operator meet
        writes_of_steps.append(buffer)
        steps_shown.append(step.name)
reads = np.full((len(rows), max(len(read) for read in rows)), -1)
for number, read in enumerate(rows):
    reads[number, : len(read)] = read
writes = np.array(writes_of_steps)
result = storages[program.tensors[program.result].storage]
nbytes = np.array([-(-program.nbytes[s] // 64) * 64 for s in storages])
print(f"{len(writes)} steps, {len(nbytes)} buffers, {nbytes.sum() / 1e6:.1f} MB if each has bytes of its own")
print("step  reads    writes  operator")
for number in range(10, 16):
    print(f"{number:4}  {reads[number].tolist()!s:9} {writes[number]:4}  {steps_shown[number]}")

# %% [markdown] id="build_1"
# ## Build
#
# ### Exercise 1: who lives when?
#
# A buffer is alive from the first step that uses it to the last one, both included. Using is reading or writing. The
# result is needed by the caller, so it lives to the end.
#
# ```text
# step  reads  writes      buffer  0  1  2
#  0    -      0           first   0  1  3
#  1    0      1           last    3  2  4
#  2    1 0    1
#  3    0      2           2 is the result
#  4    -      2
# ```
#
# (The cell after a check uses your function if the check passed, else the library's, and says so.)


# %% id="lifetimes" role="solution"
def lifetimes(reads, writes, result):
    """The first and the last step of each buffer.

    reads: int (S, R), the buffers that step s reads; -1 fills up.   writes: int (S,), the buffer that step s writes: a
    new one, or one that is alive.   result: int, the buffer that is returned: it lives to step S - 1.
    Returns first: int (B,), last: int (B,), both included, with B = max(writes) + 1. A buffer that nobody reads ends
    with the last step that writes it.
    """
    ### BEGIN SOLUTION
    count, steps = int(writes.max()) + 1, len(writes)
    first, last = np.full(count, steps), np.full(count, -1)
    for step in range(steps):
        for buffer in [*reads[step], writes[step]]:
            if buffer >= 0:
                first[buffer] = min(first[buffer], step)
                last[buffer] = step
    last[result] = steps - 1
    return first, last
    ### END SOLUTION


# %% id="check_lifetimes" role="check"
lab.check("lifetimes", lifetimes)

# %% id="lives"
lives = lab.fallback("lifetimes", lifetimes, buffer_steps.lifetimes)
first, last = lives(reads, writes, result)
span = last - first + 1
print(f"a buffer lives for {np.median(span):.0f} steps (median); the longest for {span.max()}")

# %% [markdown] id="build_2"
# ### Exercise 2: the floor
#
# Add up what is alive in each step. The largest sum is a floor: no arena can be smaller.


# %% id="live_bytes" role="solution"
def live_bytes(size, first, last):
    """The bytes alive in each step.

    size: int (B,), bytes.   first, last: int (B,), the steps between which a buffer is alive, both included.
    Returns alive: int64 (max(last) + 1,).
    """
    ### BEGIN SOLUTION
    alive = np.zeros(int(last.max()) + 1, np.int64)
    for nbytes, begin, end in zip(size, first, last, strict=True):
        alive[begin : end + 1] += nbytes
    return alive
    ### END SOLUTION


# %% id="check_live_bytes" role="check"
lab.check("live_bytes", live_bytes)

# %% id="floor" mystnb={"image": {"alt": "Bytes alive by step: one pattern, eight times"}}
alive = lab.fallback("live_bytes", live_bytes, buffer_steps.live_bytes)
counted = alive(nbytes, first, last)
figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
axes.plot(counted / 1024, marker="")
axes.set(xlabel="step", ylabel="alive (KiB)", ylim=(0, None))
plt.show()
floor = int(counted.max())
print(f"floor {floor / 1e6:.2f} MB at {steps_shown[int(counted.argmax())]!r}  (you predicted {megabytes_alive})")

# %% [markdown] id="build_3"
# ### Exercise 3: a place for everybody
#
# Now the offsets. Two buffers that are alive in one step must not share a byte; those that never meet may lie in the
# same place. **Best fit, largest first**: take the largest buffer that has no place. Look at those with a place that
# meet it in time, from the lowest up. Gaps are before the first of them, from byte 0 on, and between them: from the
# highest end so far to the beginning of the next. It goes into the smallest gap that holds it; if none does, behind the
# highest end. (If it meets none, at 0.)
#
# ```text
# already there, and alive at the same time:
#            0..64   128..192   320..384
# gaps:      64 bytes at 64, 128 bytes at 192
# a buffer of   48 bytes  -> 64
#              100 bytes  -> 192
#              200 bytes  -> 384
# ```
#
# Any plan is right that is safe and has no larger arena than this one.


# %% id="place" role="solution"
def place(size, first, last):
    """Where each buffer begins in one arena.

    size: int (B,), bytes.   first, last: int (B,), the steps between which a buffer is alive, both included.
    Returns offsets: int (B,), 0 or more. Buffers with a step in common share no byte, and max(offsets + size) is not
    larger than by best fit, largest first.
    """
    ### BEGIN SOLUTION
    offsets, placed = np.zeros(len(size), np.int64), []
    for i in sorted(range(len(size)), key=lambda i: (-size[i], first[i])):
        meeting = [j for j in placed if first[i] <= last[j] and first[j] <= last[i]]
        gaps, end = [], 0
        for j in sorted(meeting, key=lambda j: offsets[j]):
            room = offsets[j] - end
            if room >= size[i]:
                gaps.append((room, end))
            end = max(end, offsets[j] + size[j])
        offsets[i] = min(gaps)[1] if gaps else end
        placed.append(i)
    return offsets
    ### END SOLUTION


# %% id="check_place" role="check"
lab.check("place", place)

# %% [markdown] id="run_text"
# Does it work in earnest? The recorded program runs out of one arena, each operator writing where your plan says, and
# the arena is filled with rubbish before. The result must be the model's, to the last bit.

# %% id="run_arena"
places = lab.fallback("place", place, buffer_steps.place)
offsets = places(nbytes, first, last)
arena_bytes = int((offsets + nbytes).max())
plan = Plan(tuple(offsets.tolist()), arena_bytes, "mine")
check_plan(program.buffers(), plan)
prompt = models.held_out_tokens("text")[None, :length].clone()
bound = ArenaProgram(program, plan)
bound.arena.fill_(255)
logits = bound(prompt)
model.attention = decoder_programs.fused_attention
expected = operator_by_operator(lambda t: model.prefill(t, last_only=True)[0], prompt)
print(f"arena {arena_bytes / 1e6:.2f} MB, {arena_bytes / floor:.2f} times the floor")
print(f"all buffers together are {nbytes.sum() / arena_bytes:.1f} times as large")
print("equal to the last bit:", torch.equal(logits, expected))
in_arena, calls = peak_allocated(bound, prompt)
print(f"beside the arena torch allocated {in_arena / 1024:.0f} KiB at most: its attention cannot write in place")

# %% [markdown] id="play_text"
# ### Play with it
#
# The controls below call **your** function, each time anew.
# Find a list that your plan cannot pack down to the floor.

# %% id="play"
def packed(number, count):
    draw = np.random.default_rng(number)
    sizes, begins = draw.integers(1, 9, count) * 64, draw.integers(0, 6, count)
    ends = begins + draw.integers(0, 3, count)
    at = places(sizes, begins, ends)
    least = max(int(sizes[(begins <= t) & (t <= ends)].sum()) for t in range(ends.max() + 1))
    boxes = [
        figures.Line([f, e + 1, e + 1, f, f], [o, o, o + s, o + s, o], f"buffer {i}", style=i % 5, dashed=i > 4)
        for i, (f, e, o, s) in enumerate(zip(begins, ends, at, sizes, strict=True))
    ]
    arena = int((at + sizes).max())
    return figures.Frame(
        [
            figures.Chart(
                [*boxes, figures.Rules([least], "floor", style=5, along="y", dashed=True)],
                figures.Axis("step"),
                figures.Axis("offset", "bytes"),
            )
        ],
        f"List {number}: {sizes.sum()} bytes in {count} buffers lie in an arena of {arena}; the floor is {least}.",
    )


figures.LiveFigure(
    "Your plan",
    [figures.Slider("number", "List", range(20)), figures.Choice("count", "Buffers", (4, 6, 8), default=6)],
    packed,
)

# %% [markdown] id="optimal_text"
# Is best fit the best? On short lists an exact solver can say so. Before you run it: in how many of forty random lists
# of seven buffers does best fit miss the optimum?

# %% id="optimum"
from edgeinfer.memory.buffers import Buffer

missed = 0
for _ in range(40):
    sizes, begins = rng.integers(1, 9, 7) * 64, rng.integers(0, 6, 7)
    ends = begins + rng.integers(0, 3, 7)
    small = [Buffer(str(i), int(sizes[i]), int(begins[i]), int(ends[i])) for i in range(7)]
    best = optimal.plan_optimal(small, always_solve=True)
    missed += int((places(sizes, begins, ends) + sizes).max()) > best.total
print(f"best fit missed the optimum in {missed} of 40 lists")

# %% [markdown] id="build_4"
# ### Exercise 4: one list for any length
#
# A list that was recorded for one length is of no use for another. But most of its integers do not depend on the
# length n, and the others are lines a + b n: a size of 1024 n, a slice that ends at n + 1. (A stride of 512 is a line,
# too, with b = 0.) So: record three times, find a and b from two recordings, and use the third to check. EdgeLLM calls
# this a stream of instructions with a field for the tokens; Transformer-Lite plans its buffers with such expressions.
#
# ```text
# n =      8    12    20
#        256   256   256     a = 256, b = 0    a line: a field that is fixed
#         80   116   188     a =   8, b = 9    a line
#         64   144   400     n * n             no line: a = b = 0
# ```


# %% id="fields" role="solution"
def fields(n, values):
    """The fields of the instructions as lines in the number of tokens.

    n: int (3,), the numbers of tokens of the recordings: different, in any order.
    values: int (3, F), each field in the three recordings.
    Returns a: int (F,), b: int (F,), line: bool (F,). Where whole numbers a and b give a + b * n in all three
    recordings, line is True; elsewhere it is False and a and b are 0.
    """
    ### BEGIN SOLUTION
    b = (values[1] - values[0]) // (n[1] - n[0])
    a = values[0] - b * n[0]
    line = (a + b * n[:, None] == values).all(axis=0)
    return np.where(line, a, 0), np.where(line, b, 0), line
    ### END SOLUTION


# %% id="check_fields" role="check"
lab.check("fields", fields)

# %% [markdown] id="stream_text"
# Three recordings of a decode step, at the positions 8, 12 and 20. All integers of all instructions, side by side:

# %% id="stream"
to_lines = lab.fallback("fields", fields, buffer_steps.fields)


def integers_of(value):
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in integers_of(item)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []


lengths = np.array([8, 12, 20])
recorded = [decoder_programs.decode_program(model, int(n), cache) for n in lengths]
table = np.array([[k for step in p.steps for k in integers_of((step.args, step.kwargs))] for p in recorded])
a, b, line = to_lines(lengths, table)
changing = int((b != 0).sum())
print(f"{len(recorded[0].steps)} instructions, {table.shape[1]} integers, of which {changing} change")
print("all of them lines:", bool(line.all()))
print(f"(you predicted {integers_that_change})")
later = decoder_programs.decode_program(model, 100, cache)
at_100 = [k for step in later.steps for k in integers_of((step.args, step.kwargs))]
print("filled in for position 100, they are those of a recording there:", np.array_equal(a + b * 100, at_100))

# %% [markdown] id="decode_text"
# The library does the same with the sizes of the buffers, so it has one plan for all positions, too. One arena, one
# stream, made before the first token:

# %% id="decode"
decoder = decoder_programs.ArenaDecoder(model, positions=256)
question = models.held_out_tokens("text")[None, :40].clone()
logits, answer = decoder.prefill(question), []
for _ in range(24):
    token = logits[:, -1].argmax(-1, keepdim=True)
    answer.append(int(token))
    logits = decoder.decode(token)
plain = models.load("target")
print("the same tokens as the model's:", answer == models.generate(plain, question[0], 24)[-24:].tolist())
step = decoder.bind()
step(token)
print(f"arena {decoder.arena.numel():,} bytes for any position")
print(f"beside it torch allocates {peak_allocated(step, token)[0]} bytes")

# %% [markdown] id="build_5"
# ### Exercise 5: a number for the maximum
#
# The scores of a long context are divided among workers. A softmax subtracts its maximum, and nobody knows the maximum
# before everybody is done. FlashDecoding++ subtracts a fixed number phi instead: the result is the same, whatever phi,
# as long as the exponentials can be stored. So, for one row:
#
# - if every score − phi lies in [low, high], the shift is phi, and each piece is done when it is done;
# - else the **whole row** is computed again with its true maximum as the shift.
#
# Each piece of `split` tokens gives its sum of exponentials (and its part of the mixture); they are added, and divided
# once, at the end.


# %% id="unified_softmax" role="solution"
def unified_softmax(scores, values, phi, low, high, split):
    """One row of attention in pieces.

    scores: float32 (S,).   values: float32 (S, D).   phi, low, high: float.   split: int, tokens of a piece.
    Returns out: float (D,), softmax(scores) @ values; sums: float (ceil(S / split),), the sum of exp(score - shift)
    over each piece, the last of which may be shorter; again: bool, whether a score - phi is below low or above high
    (on the border is inside). The shift is phi, or, if again, the largest score. Calculate in float64.
    """
    ### BEGIN SOLUTION
    x = scores.astype(np.float64)
    again = bool(np.any((x - phi < low) | (x - phi > high)))
    shift = x.max() if again else phi
    sums, mixture = [], np.zeros(values.shape[1])
    for start in range(0, len(x), split):
        weights = np.exp(x[start : start + split] - shift)
        sums.append(weights.sum())
        mixture += weights @ values[start : start + split]
    return mixture / np.sum(sums), np.array(sums), again
    ### END SOLUTION


# %% id="check_unified_softmax" role="check"
lab.check("unified_softmax", unified_softmax)

# %% [markdown] id="range_text"
# Real scores of the model, while it decodes: all heads of all layers. How often does each range fail, and for which phi
# the least?

# %% id="ranges"
softmax = lab.fallback("unified_softmax", unified_softmax, buffer_steps.unified_softmax)
watched = unified_max.UnifiedAttention(watch=True)
model.attention = watched
models.generate(model, models.held_out_tokens("text")[:128], 16)
seen = np.array(watched.seen)
print(f"{len(seen)} rows; scores from {seen[:, 0].min():.1f} to {seen[:, 1].max():.1f}")
for name, low, high in (("float32", -80.0, 60.0), ("float16", -9.7, 11.0)):
    phi = unified_max.choose_phi(seen[:, 0], seen[:, 1], low, high)
    again = [softmax(np.array(row, np.float32), np.ones((2, 1), np.float32), phi, low, high, 1)[2] for row in seen]
    print(f"range of {name}: best phi {phi:z.1f}, rows computed again: {np.mean(again):.0%}")

# %% [markdown] id="measure_text"
# ## Measure
#
# The library's compiled kernels, one thread: the true maximum against the fixed number, and torch. What waits, and what
# it costs here. A piece that waited is scaled anew; *scalings* counts the multiplications for that.

# %% id="measure"
count = {"default": 4096, "full": 32_768}.get(size, 4096)
query = rng.standard_normal((4, 2, 32)).astype(np.float32)
keys, values = rng.standard_normal((2, 4, count, 32)).astype(np.float32)
tensors = [torch.from_numpy(x[None]) for x in (query.reshape(4, 2, 32), keys, values)]
pairs = {
    "true maximum": lambda: unified_max.attend_with_maximum(query, keys, values),
    "fixed phi": lambda: unified_max.attend_unified(query, keys, values),
    "torch": lambda: torch.nn.functional.scaled_dot_product_attention(*tensors),
}
counts = {name: pairs[name]()[1] for name in ("true maximum", "fixed phi")}
times = measure.compare(pairs, baseline="true maximum", rounds=9, max_seconds=2)
print("in a row      pieces  waiting  scalings")
for name, c in counts.items():
    print(f"{name:12}  {c.splits // c.rows:6}  {c.waits // c.rows:7}  {c.scalings // c.rows:8}")
print(f"need not wait: you predicted {pieces_that_need_not_wait}")
for name in ("fixed phi", "torch"):
    print(f"{name:9}  {times.row(name).ratio:5.2f} times as fast as with the true maximum")

# %% [markdown] id="rows_text"
# And the products? A tile of 64 rows holds 63 rows of zeros when one token is decoded. Both kernels below are the same
# code, only the tile differs. The last column compares the tile of 8 with that of 64.

# %% id="rows"
weight = rng.standard_normal((640, 256)).astype(np.float32)
print("rows  useful work, tile 8   tile 64  times as fast")
for M in (1, 8, 64):
    x = rng.standard_normal((M, 256)).astype(np.float32)
    flat = {f"tile {t}": lambda t=t, x=x: flat_gemm.flat_gemm(x, weight, t) for t in (8, 64)}
    ratio = measure.compare(flat, baseline="tile 64", rounds=7, max_seconds=1).row("tile 8").ratio
    useful = [f"{flat_gemm.work(M, 640, 256, t).utilisation:.0%}" for t in (8, 64)]
    print(f"{M:4}  {useful[0]:>19}  {useful[1]:>8}  {ratio:13.1f}")

# %% [markdown] id="explain_task"
# ## Explain
#
# Answer in five to ten sentences, with your own numbers from above.
#
# 1. The floor is the largest sum of live bytes. Why can no plan be below it, and why can the best plan be above it?
# 2. Why may two buffers not share bytes if one is last read in the step that writes the other? When could they, after
#    all?
# 3. The plan for one length cannot be used for another, the plan with lines can. What must be true of the sizes, and
#    which well-known operator breaks it?
# 4. What did the fixed maximum gain or lose here, with one thread? Who gains more, and what decides whether the rows
#    stay in range?
#
# | points | for |
# | --- | --- |
# | 1 | (1) each step's buffers must lie side by side; a buffer must keep its place for its whole life |
# | 1 | (2) the step still reads while it writes; element by element in place is the exception |
# | 1 | (3) lines in n; the scores of attention grow with its square |
# | 1 | (4) many workers that would wait; the spread of the scores against the range of the number format |

# %% [markdown] id="explain" role="written" points=4
# ### BEGIN SOLUTION
# **Model answer.** (1) All buffers that are alive in one step need bytes of their own at that moment, so their sum fits
# into no smaller arena. The best plan may need more, because a buffer cannot move: the bytes that are free in a step
# may lie in two pieces, neither of which holds the next buffer. (2) The operator reads its input while it writes its
# output; with shared bytes it would read what it has just written. An operator that reads element i only to write
# element i (an addition, an activation) may write over its input, if nobody reads that later. (3) Sizes must be lines
# in n with known coefficients; then the order of two places can be decided for all n at the ends of the range. The
# scores of plain attention have n times n elements; an attention that never keeps them all is linear. (4) One thread
# has nobody to wait for, so both take about as long, and the number may lie on either side of 1. Machines with
# thousands of lanes gain, where all wait for the largest score. In the range of float32 no row of this model was
# computed again, in that of float16 nearly half: its heads have very different scores, and one phi cannot suit all.
#
# **Rubric.** One point each as in the table above; the numbers must be the student's own.
# ### END SOLUTION

# %% [markdown] id="further"
# ## Go further
#
# - **In place.** Let an addition write over its input when that dies there. How far does the floor fall?
# - **Ping-pong.** Two places suffice for a chain. Which two lines of a transformer's layer break the chain?
#   (`memory.buffers.plan_ping_pong` says it.)
# - **One phi per head.** FlashDecoding++ (Hong et al., 2023) fixes one phi for a model. Choose one per layer and head
#   from `watched.seen`. How many rows are in the range of float16 then?
# - **One layout.** EdgeLLM (Huang et al., 2025) gives every operator's input and output one layout, so that nothing
#   is laid out anew: `memory.buffers.unified_format`. Count the copies that the usual layouts need
#   (`arena.relayout_bytes`).
# - **Powers of two.** EdgeLLM keeps 8, 4, 2 or 1 of every eight weights: `memory.buffers.log_scale`. Which layers of
#   the model can bear 2 of 8?
# - **Symbolic shapes.** Transformer-Lite (Li et al., 2024) plans with expressions. `memory.buffers.symbolic` does it
#   with lines. What would a plan with squares have to prove?
