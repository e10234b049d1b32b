# %% [markdown] id="title"
# # Lab 10 · Offloading: what belongs on which level?
#
# A model does not fit. Some of it must lie in slower memory, or on the disk, and come when it is needed. Where should
# which share lie, how many texts should run at once, and how fast will it be? You could try. There are thousands of
# ways, and each trial takes minutes. In this lab you write down what a choice costs instead, and let arithmetic
# search. Then you check it with a real file.
#
# **You will be able to**
# - say when each layer of a stream is done, from the times of loading and computing (ZeRO-Inference),
# - count the bytes that a policy holds on each tier, and predict the seconds of a step (FlexGen),
# - divide what passes over two roads so that both end together,
# - choose in how many bits each part of a model is read, so that it is in time and loses least (STI).
#
# **Time** 75 minutes. **Needs** the foundations chapters. **Runs** in less than half a minute.
#
# The chapter *Offloading* tells the story behind it.

# %% id="parameters" tags=["parameters"]
seed = 0
size = "default"

# %% id="imports"
import itertools
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread would mostly wait

import numpy as np
import torch
from edgeinfer import figures, kernels, models
from edgeinfer.grading import checks
from edgeinfer.memory import flash
from edgeinfer.memory.locality.layer_file import LayerFile, LayerStream, write_layers
from edgeinfer.memory.offload import steps

lab = checks.lab("lab10_offloading")
figures.use_style()
torch.set_num_threads(1)
rng = np.random.default_rng(seed)

# %% [markdown] id="predict"
# ## Predict
#
# Write down numbers, and a word for the last question, before you run anything.
#
# 1. Loading a layer takes 3 ms, computing it 1 ms. There are 100 layers and two buffers. How many milliseconds?
# 2. The same, but ten texts run at once, so computing takes 10 ms. Each pass over the layers writes one token for each
#    text. By what factor does the number of tokens a second grow?
# 3. Memory gives 4 GB/s, the disk 1 GB/s, both at once. A layer of 500 MB is wanted as early as possible. How many
#    MB of it should lie in memory?
# 4. Half of a model's bytes may be read in time. What loses less: every part in half of its bits ("equal"), or some of
#    the parts in all bits and the others in as few as possible ("extremes")? Or a mixture of all widths ("mixture")?

# %% id="my_predictions"
milliseconds = "nothing"
times_more_tokens = "nothing"
megabytes_in_memory = "nothing"
which_half = "nothing"

# %% [markdown] id="build_1"
# ## Build
#
# ### Exercise 1: a stream of layers
#
# One reader brings layer after layer from the disk. One processor computes them. There is room for `buffers` layers,
# the one that is being computed included.
#
# ```text
# buffers = 2     reader     [0][ 1 ]  [2]  [3]...
#                 processor     [  0  ][ 1 ][2]
# ```
#
# - A load begins when the load before it has ended **and** a buffer is free: layer i takes the one of layer
#   i − `buffers`, as soon as that layer is computed.
# - A computation begins when its layer is loaded **and** the layer before it is computed.


# %% id="streamed_finish" role="solution"
def streamed_finish(loads, computes, buffers):
    """When each layer is computed.

    loads: float (L,), seconds to load each layer.   computes: float (L,), seconds to compute it.   buffers: int >= 1.
    Returns done: float (L,), the second in which each layer is computed. L may be 0.
    """
    ### BEGIN SOLUTION
    done = np.zeros(len(loads))
    loaded = computed = 0.0
    for i in range(len(loads)):
        free = done[i - buffers] if i >= buffers else 0.0
        loaded = max(loaded, free) + loads[i]
        computed = max(computed, loaded) + computes[i]
        done[i] = computed
    return done
    ### END SOLUTION


# %% id="check_streamed_finish" role="check"
lab.check("streamed_finish", streamed_finish)

# %% id="buffers_table"
finish = lab.fallback("streamed_finish", streamed_finish, steps.streamed_finish)

even = finish(np.full(100, 3.0), np.full(100, 1.0), 2)[-1]
print(f"100 layers, 3 ms to load, 1 ms to compute, two buffers: {even:.0f} ms; you predicted {milliseconds}")
ten = finish(np.full(100, 3.0), np.full(100, 10.0), 2)[-1]
print(f"ten texts at once: {10 * even / ten:.1f} times the tokens; you predicted {times_more_tokens}")
uneven = rng.permutation(np.repeat([1.0, 5.0], 50))
print("buffers  all layers 3 ms  some 1 ms, some 5 ms")
for buffers in (1, 2, 3, 5, 10):
    same, mixed = (finish(np.full(100, 3.0), compute, buffers)[-1] for compute in (np.full(100, 3.0), uneven))
    print(f"{buffers:7}  {same:12.0f} ms  {mixed:17.0f} ms")

# %% [markdown] id="stream_text"
# Two buffers are enough where all layers are alike. Now from a real file: the layers of the book's model, read past
# the page cache while the layer before is computed. Prompts of growing size make computing take longer, and loading
# not. The table gives milliseconds: computing alone; the whole pass without and with prefetch; what your function
# predicts with prefetch. The last column is the MiB read for each text.

# %% id="stream"
folder = tempfile.TemporaryDirectory()
model = models.load("target")
path = Path(folder.name) / "layers.safetensors"
write_layers(model, path)
file = LayerFile(path)
tokens = models.held_out_tokens("text")[:8192]
layers, layer_bytes = len(file.ranges), file.ranges[0][1]


class Here:
    """The weights of the layer that is here now, for the decoder."""

    def fetch(self, name):
        return self.weights[name]


def stream_once(batch, ahead):
    """One pass over all layers for `batch` texts of 32 tokens: result, and seconds of each layer's computation."""
    store = Here()
    model.weight_store = store
    prompt = tokens[: batch * 32].view(batch, 32)
    cache = model.cache_factory(model.config, batch, model.dtype)
    computes = []
    with torch.inference_mode(), LayerStream(file, ahead=ahead) as stream:
        begun = time.perf_counter()
        hidden = model.embed(prompt)
        for layer, weights in stream.one_pass():
            store.weights, start = weights, time.perf_counter()
            hidden = model.forward_layers(hidden, cache, layer, layer + 1)
            computes.append(time.perf_counter() - start)
        seconds = time.perf_counter() - begun
    model.restore()
    return hidden, seconds, np.array(computes)


with LayerStream(file, ahead=False) as stream:
    start = time.perf_counter()
    for _ in stream.one_pass():
        pass
    load = (time.perf_counter() - start) / layers
print(f"{layers} layers of {layer_bytes / 2**20:.1f} MiB, read cold ({stream.how}): {1e3 * load:.1f} ms each")

want = model.forward_layers(model.embed(tokens[:32].view(1, 32)), model.cache_factory(model.config, 1, model.dtype))
got = stream_once(1, True)[0]
print("largest difference from the model in memory:", float((got - want).abs().max()))
print("texts  computing  without   with  predicted    MiB")
for batch in (1, 4, 16):
    slow = min(stream_once(batch, False)[1] for _ in range(2))
    quick, computes = min((stream_once(batch, True)[1:] for _ in range(2)), key=lambda run: run[0])
    said = finish(np.full(layers, load), computes, 2)[-1]
    print(
        f"{batch:5}  {1e3 * computes.sum():9.1f}  {1e3 * slow:7.1f}  {1e3 * quick:5.1f}"
        f"  {1e3 * said:9.1f}  {layers * layer_bytes / batch / 2**20:5.2f}"
    )

# %% [markdown] id="build_2"
# ### Exercise 2: what lies where
#
# FlexGen knows three tiers: **fast** memory, in which products run; **slow** memory, from which one must copy; and
# the **disk**. A policy says in shares where each layer's weights lie (`weights`: fast, slow, disk) and where the
# keys and values lie (`kv`: fast, slow). Work comes in a *block* of `sub_batches` times `batch` rows (texts).
#
# What is not in fast memory arrives there in buffers, and for that fast memory needs extra room:
#
# - two buffers, each for the passing share of **one** layer's weights,
# - if any cache lies in slow memory: two buffers, each for **all** keys and values of **one** sub-batch in one layer
#   (not only for their slow share).


# %% id="tier_bytes" role="solution"
def tier_bytes(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv):
    """The bytes that a policy holds on each tier.

    layers: int.   layer_bytes: float, weights of one layer.   kv_bytes: float, keys and values of one row in one layer.
    batch, sub_batches: int.   weights: float (3,), shares fast, slow, disk.   kv: float (2,), shares fast, slow.
    Returns fast, slow, disk: floats, bytes.
    """
    ### BEGIN SOLUTION
    cached = batch * sub_batches * kv_bytes
    fast = layers * (weights[0] * layer_bytes + kv[0] * cached)
    slow = layers * (weights[1] * layer_bytes + kv[1] * cached)
    disk = layers * weights[2] * layer_bytes
    fast += 2 * (1 - weights[0]) * layer_bytes
    if kv[1] > 0:
        fast += 2 * batch * kv_bytes
    return fast, slow, disk
    ### END SOLUTION


# %% id="check_tier_bytes" role="check"
lab.check("tier_bytes", tier_bytes)

# %% [markdown] id="build_3"
# ### Exercise 3: how long a step takes
#
# A step writes one token for every row of the block. Layer by layer, the processor computes all sub-batches one after
# the other, with the *same* weights. Meanwhile what the next layer needs is copied from slow memory and read from the
# disk, on two roads at once. So a layer takes the **longest** of three times:
#
# | time | of |
# | --- | --- |
# | computing | every sub-batch: a fixed time (its weights are read from fast memory), and some for each row |
# | copying | the slow share of the weights, once, and the slow share of all rows' keys and values |
# | reading | the disk share of the weights, once |


# %% id="step_seconds" role="solution"
def step_seconds(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv, rates):
    """The seconds of a step, and the tokens a second.

    layers ... kv: as in exercise 2.   rates: float (4,): bytes/s copied, bytes/s read from the disk, seconds of one
    layer for each sub-batch, seconds of one layer for each row.
    Returns seconds, tokens_per_second: floats.
    """
    ### BEGIN SOLUTION
    copy_rate, disk_rate, per_sub_batch, per_row = rates
    rows = batch * sub_batches
    computing = sub_batches * (per_sub_batch + batch * per_row)
    copying = (weights[1] * layer_bytes + kv[1] * rows * kv_bytes) / copy_rate
    reading = weights[2] * layer_bytes / disk_rate
    seconds = layers * max(computing, copying, reading)
    return seconds, rows / seconds
    ### END SOLUTION


# %% id="check_step_seconds" role="check"
lab.check("step_seconds", step_seconds)

# %% [markdown] id="curve_text"
# With both functions a search is a few lines. A made-up machine: fast memory of some GB, 24 GB of slow memory, a
# model of 32 layers with 400 MB each. For every size of fast memory, try all policies on a grid and keep the quickest
# that fits. The table gives shares in percent: of the weights fast/slow/disk, of the caches fast/slow.

# %% id="curve" mystnb={"image": {"alt": "Tokens a second against GB of fast memory, two kinds of block."}}
import matplotlib.pyplot as plt

held = lab.fallback("tier_bytes", tier_bytes, steps.tier_bytes)
seconds_of = lab.fallback("step_seconds", step_seconds, steps.step_seconds)

GB = 1e9
shape = (32, 0.4 * GB, 2e6)  # layers, bytes of one, bytes of a row's keys and values in one
rates = np.array([8 * GB, 1.5 * GB, 0.002, 0.0002])
grid = [np.array([f, s, 4 - f - s]) / 4 for f, s in itertools.product(range(5), repeat=2) if f + s <= 4]
caches = [np.array([k, 4 - k]) / 4 for k in range(5)]


def best(fast_memory, counts, slow_memory=24 * GB):
    """The quickest policy that fits: (tokens a second, batch, sub-batches, weights, kv), or None."""
    found = None
    for batch, count, weights, kv in itertools.product((1, 4, 16), counts, grid, caches):
        fast, slow, _ = held(*shape, batch, count, weights, kv)
        if fast <= fast_memory and slow <= slow_memory:
            speed = seconds_of(*shape, batch, count, weights, kv, rates)[1]
            if found is None or speed > found[0]:
                found = speed, batch, count, weights, kv
    return found


def percent(shares):
    return "/".join(f"{100 * share:z.0f}" for share in shares)


memories = [1.0, 1.5, 2, 3, 4, 6, 8, 12, 16]
figure, axis = plt.subplots(figsize=(6, 3.2))
print("  GB  tokens/s     rows   weights  caches")
for marker, (title, counts) in zip("os", {"one sub-batch": (1,), "up to 16 of them": (1, 4, 16)}.items(), strict=True):
    policies = [best(m * GB, counts) for m in memories]
    axis.plot(memories, [p[0] for p in policies], marker + "-", label=title)
    print(f"a block has {title}:")
    for memory, p in list(zip(memories, policies, strict=True))[::4]:
        print(f"{memory:4g}  {p[0]:8.1f}  {p[2]:2} x {p[1]:2}  {percent(p[3]):>8}  {percent(p[4]):>6}")
axis.set(xscale="log", yscale="log", xlabel="fast memory, GB", ylabel="tokens/s (modelled)")
axis.legend(title="a block has")
plt.show()

# %% [markdown] id="play_text"
# ### Play with it
#
# The controls below call **your** function, each time anew.
# With 4 GB of fast memory: which division of the weights is the quickest that fits?

# %% id="play"
def one_policy(fast, slow, batch):
    weights = np.array([fast, min(slow, 100 - fast), max(0, 100 - fast - slow)]) / 100
    counts = (1, 2, 4, 8, 16)
    speeds = [seconds_of(*shape, batch, n, weights, caches[4], rates)[1] for n in counts]
    room = held(*shape, batch, counts[-1], weights, caches[4])[0] / GB
    return figures.Frame(
        [
            figures.Chart(
                [figures.Line(counts, speeds), figures.Points(counts, speeds, style=0)],
                figures.Axis("sub-batches", scale="log"),
                figures.Axis("tokens/s (modelled)"),
            )
        ],
        f"Weights {weights[0]:.0%} fast, {weights[1]:.0%} slow, {weights[2]:.0%} on the disk, caches fast: up to "
        f"{max(speeds):.1f} tokens/s, and {room:.1f} GB of fast memory with {counts[-1]} sub-batches.",
    )


figures.LiveFigure(
    "Your machine",
    [
        figures.Slider("fast", "Weights fast", range(0, 101, 10), "%", default=20),
        figures.Slider("slow", "Weights slow", range(0, 101, 10), "%", default=80),
        figures.Choice("batch", "Rows of a sub-batch", (1, 4, 16), default=4),
    ],
    one_policy,
)

# %% [markdown] id="build_4"
# ### Exercise 4: two roads
#
# The grid above is coarse. What is the *best* division, for one block? Suppose `passing` bytes of every layer must
# come, from slow memory or from the disk. Both roads run at once, so the later end counts. Slow memory has room for
# `slow_room` bytes of each layer.


# %% id="balance_roads" role="solution"
def balance_roads(passing, copy_rate, disk_rate, slow_room):
    """Divide a layer's passing bytes over two roads so that all are there as early as possible.

    passing: float, bytes.   copy_rate, disk_rate: float, bytes/s.   slow_room: float, bytes that slow memory can hold.
    Returns from_slow, from_disk: floats, bytes; their sum is passing.
    """
    ### BEGIN SOLUTION
    from_slow = min(slow_room, passing * copy_rate / (copy_rate + disk_rate))
    return from_slow, passing - from_slow
    ### END SOLUTION


# %% id="check_balance_roads" role="check"
lab.check("balance_roads", balance_roads)

# %% id="roads"
balance = lab.fallback("balance_roads", balance_roads, steps.balance_roads)

from_memory, from_disk = balance(500.0, 4000.0, 1000.0, 1e9)
print(f"500 MB over 4 and 1 GB/s: {from_memory:.0f} MB and {from_disk:.0f} MB; you predicted {megabytes_in_memory}")
for room in (0, 100, 200, 400, 500):
    slow, disk = balance(500.0, 4000.0, 1000.0, room)
    print(f"room for {room:3} MB: {1e3 * max(slow / 4000, disk / 1000):5.0f} ms a layer")

# %% [markdown] id="linear_text"
# That was one question with two variables. With limits on memory, and caches and weights that compete for it, there
# are five. Every byte count and every time is *linear* in the shares, and "the longest of three" is a variable that
# is at least each of them. So the whole question, for a given block, is a **linear programme**. `search` solves one
# for each size of block. It finds what no grid of quarters can:

# %% id="linear"
from edgeinfer.memory.offload.policy import Machine, Workload, cost
from edgeinfer.memory.offload.search import search

slowest = 0.0
print("  GB  tokens/s  by grid   weights  caches")
for memory in (1.5, 4, 12):
    machine, work = Machine(memory * GB, 24 * GB, *rates), Workload(*shape)
    start = time.perf_counter()
    policy = search(machine, work, (1, 4, 16), (1, 4, 16))
    slowest = max(slowest, time.perf_counter() - start)
    print(
        f"{memory:4g}  {cost(machine, work, policy).tokens_per_second:8.1f}  {best(memory * GB, (1, 4, 16))[0]:7.1f}"
        f"  {percent(policy.weights):>8}  {percent(policy.kv):>6}"
    )
print(f"each found in {slowest:.2f} s or less")

# %% [markdown] id="build_5"
# ### Exercise 5: fewer bits where it hurts least
#
# One text, one answer, now. No batch pays for the load. STI changes the *bytes* instead: each part of the model, a
# *shard*, is stored in several fidelities (2, 3, 4, 8 bits), and a plan picks one for each shard. Reading goes on
# all the time, so what is read up to and with shard i must not exceed `limits[i]`.
#
# Choose the fidelities with the least sum of losses. (Keep, for every number of bytes read so far, the best plan.
# Any best plan is accepted.)


# %% id="plan_shards" role="solution"
def plan_shards(sizes, losses, limits):
    """A fidelity for every shard.

    sizes: int (S, F), bytes of each shard in each fidelity.   losses: float (S, F).   limits: int (S,), bytes that may
    be read up to and with each shard. Some plan is always in time; S may be 0.
    Returns choice: int (S,), the column of each shard.
    """
    ### BEGIN SOLUTION
    best = {0: (0.0, [])}  # bytes read -> least loss, and its plan
    for shard_sizes, shard_losses, limit in zip(sizes, losses, limits, strict=True):
        following = {}
        for used, (loss, plan) in best.items():
            for k, (bytes_more, loss_more) in enumerate(zip(shard_sizes, shard_losses, strict=True)):
                now = used + int(bytes_more)
                if now <= limit and (now not in following or loss + loss_more < following[now][0]):
                    following[now] = (loss + loss_more, [*plan, k])
        best = following
    return np.array(min(best.values(), key=lambda found: found[0])[1], int)
    ### END SOLUTION


# %% id="check_plan_shards" role="check"
lab.check("plan_shards", plan_shards)

# %% [markdown] id="profile_text"
# ## Measure
#
# How much does a shard lose in few bits? Ask the model. A shard is the attention or the feed-forward part of a
# layer: 16 of them. Each is put into 2, 3 and 4 bits alone, and the loss on **training** text is noted. The plan is
# then judged on **held-out** text, against the same bits for all.

# %% id="profile"
bits = (2, 3, 4, 8)
linears = model.linears()
prefixes = [f"layers.{i}.{part}" for i in range(layers) for part in ("attention", "mlp")]
shards = [[name for name in linears if name.startswith(prefix)] for prefix in prefixes]
stored = {b: {n: kernels.quantize_groupwise(w.float().numpy(), b, 64) for n, w in linears.items()} for b in bits}
as_floats = {b: {n: torch.from_numpy(q.dequantize()) for n, q in stored[b].items()} for b in bits}
sizes = np.array([[sum(stored[b][n].nbytes for n in shard) for b in bits] for shard in shards])
practice = torch.as_tensor(flash.training_tokens(768)).view(3, 256)
test = models.held_out_tokens("text")[4096 : 4096 + 1024].view(4, 256)


def loss_with(choice, text):
    """Mean loss with shard i in bits[choice[i]] (None: as trained)."""
    for shard, k in zip(shards, choice, strict=True):
        for name in shard:
            model.set_weight(name, linears[name] if k is None else as_floats[bits[k]][name])
    logits = model.prefill(text)[0][:, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()))


nothing = [None] * len(shards)
trained = loss_with(nothing, practice)
losses = np.zeros(sizes.shape)
for i in range(len(shards)):
    for k in range(len(bits)):
        losses[i, k] = loss_with([*nothing[:i], k, *nothing[i + 1 :]], practice) - trained
print("loss in 2 bits, attention by layer:   ", np.round(losses[::2, 0], 3))
print("loss in 2 bits, feed-forward by layer:", np.round(losses[1::2, 0], 3))

# %% [markdown] id="budget_text"
# The budget: a disk of so many bytes/s, and a time for each layer. The later a shard is needed, the more may have
# been read. First your fourth prediction: the bytes of four bits for all, spent in three ways.

# %% id="budget" mystnb={"image": {"alt": "Perplexity against MiB read, planned and uniform bits."}}
plan = lab.fallback("plan_shards", plan_shards, steps.plan_shards)

unit = 4096  # bytes are counted in blocks, so that there are few different sums
blocks = -(-sizes // unit)
half = np.full(len(shards), blocks[:, 2].sum())  # only the sum counts here, so every limit is the last one
ways = {
    "equal": np.full(len(shards), 2),
    "extremes": 3 * np.asarray(plan(blocks[:, ::3], losses[:, ::3], half)),  # 2 and 8 bits only
    "mixture": np.asarray(plan(blocks, losses, half)),
}
lost = {name: loss_with(choice, test) for name, choice in ways.items()}
for name, choice in ways.items():
    added = losses[np.arange(len(shards)), choice].sum()
    print(f"{name:9} {np.array(bits)[choice]}: losses add up to {added:.2f}, perplexity {np.exp(lost[name]):.2f}")
print(f"least is lost by {min(lost, key=lost.get)!r}; you predicted {which_half!r}\n")

uniform = [(sizes[:, k].sum(), np.exp(loss_with([k] * len(shards), test))) for k in range(len(bits))]
planned = []
for share in (0.33, 0.38, 0.42, 0.46, 0.5, 0.6):
    total = share * blocks[:, -1].sum()
    limits = np.maximum(np.cumsum(blocks[:, 0]), (total * np.linspace(0.15, 1, len(shards))).astype(int))
    choice = np.asarray(plan(blocks, losses, limits))
    planned.append((sizes[np.arange(len(shards)), choice].sum(), np.exp(loss_with(choice, test))))
    print(f"{share:.0%} of the bytes of 8 bits: {np.array(bits)[choice]}, perplexity {planned[-1][1]:.2f}")
print("one fidelity for all:", ", ".join(f"{b} bits {p:.2f}" for b, (_, p) in zip(bits, uniform, strict=True)))
loss_with(nothing, test)

figure, axis = plt.subplots(figsize=(6, 3.2))
axis.plot(*np.transpose([(b / 2**20, p) for b, p in planned]), "o-", label="planned")
axis.plot(*np.transpose([(b / 2**20, p) for b, p in uniform]), "s--", label="one fidelity for all")
axis.set(xlabel="MiB read", ylabel="perplexity, held-out text", yscale="log")
axis.legend()
plt.show()

# %% [markdown] id="run_text"
# ### Does the plan keep its promise?
#
# Now for real: the shards lie in a file, a thread reads them in the fidelities that *your* planner chose, and the
# processor computes each layer as soon as its shards are there. The flash is simulated: reading all shards in 4 bits
# takes three times as long as computing, whatever disk you have. The planner leaves a fifth of the speed in reserve.

# %% id="run_plan"
from edgeinfer.memory.offload.elastic import Budget
from edgeinfer.memory.offload.elastic_file import ShardFile, write_shards
from edgeinfer.memory.offload.elastic_pipeline import ElasticPipeline, layer_seconds
from edgeinfer.memory.offload.elastic_plan import predict
from edgeinfer.memory.offload.elastic_run import lanes
from edgeinfer.memory.offload.shards import ShardedModel, Shards

loss_with(nothing, test)
sharded, shard_path = ShardedModel(model, bits, 64), Path(folder.name) / "shards.bin"
write_shards(shard_path, sharded, Shards(sharded.names, bits, sizes, losses))
shard_file, prompt = ShardFile(shard_path), test[:1, :32]
layer_time, head_time = layer_seconds(model, shard_file, prompt)
file_sizes = shard_file.sizes.sizes
flash_rate = file_sizes[:, 2].sum() / (3 * layers * layer_time)

for four_bits in (0.9, 1.2):  # latency, in times that 4 bits for all would take
    machine = Budget(0, flash_rate, layer_time, 1.0, head_time)
    latency = four_bits * predict(shard_file.sizes, [2] * len(shards), 0, machine.slower(0.2)).finish
    budget = Budget(0, flash_rate, layer_time, latency, head_time)
    limits = np.array([budget.slower(0.2).until(i // 2, layers) // unit for i in range(len(shards))], int)
    choice = np.asarray(plan(file_sizes // unit, losses, limits))
    said = predict(shard_file.sizes, choice, 0, budget)
    logits, request = ElasticPipeline(model, shard_file, said, flash_rate).run(prompt)
    same = torch.equal(logits, shard_file.load(model, choice).prefill(prompt)[0])
    print(f"latency {1e3 * latency:.0f} ms: {np.array(bits)[choice]} bits, logits as if loaded at once: {same}")
    print(f"predicted {1e3 * said.finish:.0f} ms, took {1e3 * request.seconds:.0f}, waited {1e3 * request.stalled:.0f}")
    print("\n".join(lanes(request)))
shard_file.close()

# %% [markdown] id="explain_task"
# ## Explain
#
# Answer in five to ten sentences, with your own numbers from above.
#
# 1. From which batch on does the stream of exercise 1 wait for the processor and no longer for the disk?
# 2. Why do blocks of many sub-batches gain so much where fast memory is small, and little where it is large?
# 3. A cost model takes the longest of three times. Name two things that it leaves out, and say in which direction it
#    errs.
# 4. The planner adds losses of shards that were measured one by one. When is that wrong?
#
# | points | for |
# | --- | --- |
# | 1 | (1) the batch at which computing overtakes loading, with numbers |
# | 1 | (2) a load is shared by all rows of the block; without loads there is nothing to share |
# | 1 | (3) two of: first load, uneven layers, shared bandwidth, small reads, head; it is too optimistic |
# | 1 | (4) errors of several shards meet; at few bits they no longer add up |

# %% [markdown] id="explain" role="written" points=4
# ### BEGIN SOLUTION
# **Model answer.** (1) Loading takes the same for every batch, computing grows with it; where the column "computing"
# passes layers times load, prefetch hides the loads wholly and the time is that of computing. (2) With little memory
# most of the weights pass through in every step. That time is the same for one row and for 64, so a block that is k
# times larger costs hardly more and gives k times the tokens. When all weights stay in fast memory there is nothing
# to share, and only the fixed time per sub-batch remains. (3) It leaves out the first load of a stream, which hides
# behind nothing; layers that differ; the fact that copies and products share one memory; the head. All make the
# truth slower. (4) Each loss was measured with all other shards as trained. At two bits in many shards the errors
# meet, and the sum is no longer the whole; for four bits and more it nearly is.
#
# **Rubric.** One point each as in the table above; the numbers must be the student's own.
# ### END SOLUTION

# %% [markdown] id="further"
# ## Go further
#
# - **Really too small.** `edgeinfer.memory.offload.limited` runs a policy in a process whose memory the system
#   limits, and measures the rates of your machine. Does the predicted time hold within a quarter?
# - **Compressed weights.** FlexGen stores weights and caches in groups of 4 bits. Bytes fall to a third of float16
#   and less; unpacking costs time. Change `layer_bytes` and the time per sub-batch in the model: when does it pay?
# - **A buffer of shards that are always there.** STI holds the first shards ready. Add a number to all `limits`.
#   Which shards gain? Then run this, and the same with other numbers. Where does the processor wait, and what does the
#   buffer change?
#
#   ```sh
#   python -m edgeinfer.memory.offload.elastic_run \
#       --latency 200 --buffer 700
#   ```

# %% id="clean_up"
folder.cleanup()
