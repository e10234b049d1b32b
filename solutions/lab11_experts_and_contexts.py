# %% [markdown] id="title"
# # Lab 11 · Offloading experts and contexts
#
# A mixture of experts uses two networks of eight for a token. A phone keeps ten conversations, and one of them speaks.
# Most of the bytes are idle, so they may lie on the disk, if they are back in time. In this lab you decide what stays,
# and work out when the rest arrives.
#
# **You will be able to**
# - count the hits of a cache of experts, and say what the best possible cache would find,
# - tell a figure that means something from one made on random gates,
# - lay transfers and computation on a timeline, and see what deciding a block early gains,
# - bring a context back by reading one part of it while the other is computed.
#
# **Time** 60 minutes. **Needs** the foundations chapters. **Runs** in less than half a minute on two cores.
#
# The chapter *Experts and contexts* tells the story behind it.

# %% id="parameters" tags=["parameters"]
seed = 0
size = "default"

# %% id="imports"
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread would mostly wait

import tempfile

import numpy as np
import torch
from edgeinfer import figures, models
from edgeinfer.grading import checks
from edgeinfer.memory import contexts, experts

lab = checks.lab("lab11_experts_and_contexts")
figures.use_style()
torch.set_num_threads(1)
rng = np.random.default_rng(seed)

# %% [markdown] id="predict"
# ## Predict
#
# Write down numbers before you run anything. A wrong guess teaches more than none.
#
# 1. A trained mixture has 8 experts per layer and uses 2 for a token. The 4 used last stay in memory. What share of the
#    uses is found there, on text that the model has never seen?
# 2. And if the gates were random matrices?
# 3. Six blocks compute 2 ms each, and the experts of a block travel for 1 ms. How many milliseconds does it all take if
#    each transfer starts when the block before *starts*?

# %% id="my_predictions"
share_found = "nothing"
share_found_random_gates = "nothing"
milliseconds = "nothing"

# %% [markdown] id="build_1"
# ## Build and measure
#
# ### Exercise 1: who was used last?
#
# One layer's experts are used one after the other. `capacity` of them fit. If the one wanted is there, that is a hit.
# If not, it is fetched and comes in; when there is no place, the expert whose last use lies farthest back goes.
# Mixtral offloading keeps experts like this.


# %% id="lru_hits" role="solution"
def lru_hits(uses, capacity):
    """How many uses find their expert in a cache that drops the least recently used one.

    uses: int64 (U,), expert numbers.   capacity: int, 0 or more.
    Returns hits: int. The cache is empty at the start.
    """
    ### BEGIN SOLUTION
    in_order, hits_so_far = [], 0
    for expert_number in uses.tolist():
        if expert_number in in_order:
            hits_so_far += 1
            in_order.remove(expert_number)
        in_order.append(expert_number)
        in_order = in_order[max(0, len(in_order) - capacity) :]
    return hits_so_far
    ### END SOLUTION


# %% id="check_lru_hits" role="check"
lab.check("lru_hits", lru_hits)

# %% [markdown] id="build_2"
# ### Exercise 2: what if one knew the future?
#
# No cache does. But a *recorded* sequence can be looked through to its end, and that gives a bound: drop the expert
# that is needed again last. No rule that lets every fetched expert in can find more (Belady, 1966).


# %% id="belady_hits" role="solution"
def belady_hits(uses, capacity):
    """How many uses find their expert in a cache that drops the one whose next use lies farthest ahead.

    uses: int64 (U,).   capacity: int, 0 or more.
    Returns hits: int. An expert never used again is farthest of all.
    """
    ### BEGIN SOLUTION
    sequence, present, hits_so_far = uses.tolist(), set(), 0
    for moment, expert_number in enumerate(sequence):
        if expert_number in present:
            hits_so_far += 1
            continue
        if capacity == 0:
            continue
        if len(present) == capacity:
            rest = sequence[moment + 1 :]
            present.remove(max(present, key=lambda e: rest.index(e) if e in rest else len(sequence)))
        present.add(expert_number)
    return hits_so_far
    ### END SOLUTION


# %% id="check_belady_hits" role="check"
lab.check("belady_hits", belady_hits)

# %% [markdown] id="measure_hits_text"
# ### Measure: hits on a trained mixture
#
# The shipped mixture reads held-out text, and its gates are recorded. Beside it: the same model with random gates, and
# experts drawn blindly. (A cell uses your function if its check passed, else the library's, and says so.)

# %% id="measure_hits"
count_lru = lab.fallback("lru_hits", lru_hits, experts.lru_hits)
count_best = lab.fallback("belady_hits", belady_hits, experts.belady_hits)

moe = models.load("moe")
text = models.held_out_tokens("text")
length = {"default": 512, "full": 4096}.get(size, 512)


def record(model):
    inputs = experts.gate_inputs(model, text[:length].view(-1, 256))
    return inputs, [layer.flatten().numpy() for layer in experts.choices(model, inputs)]


gate_inputs, trained = record(moe)
_, untrained = record(experts.with_random_gates(moe, seed))
blind = [np.concatenate([np.sort(rng.permutation(8)[:2]) for _ in range(length)])]
sizes = (1, 2, 3, 4, 6, 8)
share = {}
for name, layers in {"trained gates": trained, "random gates": untrained, "drawn blindly": blind}.items():
    for rule, count_hits in (("LRU", count_lru), ("best possible", count_best)):
        uses_in_all = sum(map(len, layers))
        share[name, rule] = [sum(count_hits(layer, n) for layer in layers) / uses_in_all for n in sizes]
print(f"{'experts kept':12}" + "".join(f"{n:>6}" for n in sizes))
for (name, rule), values in share.items():
    print(f"{name}, {rule}\n{'':12}" + "".join(f"{v:6.0%}" for v in values))
print(f"you predicted {share_found} and {share_found_random_gates} for 4 kept")

# %% [markdown] id="play_text"
# ### Play with it
#
# The controls below call **your** function, each time anew.
# How many experts must be kept until the simple rule is as good as knowing the future?

# %% id="play"
gates = {"trained gates": trained[0], "random gates": untrained[0], "drawn blindly": blind[0]}


def one_cache(capacity, name):
    uses = gates[name][:200]
    rules = {"least recently used": count_lru(uses, capacity), "best possible": count_best(uses, capacity)}
    return figures.Frame(
        [
            figures.Chart(
                [figures.Bars([hits / len(uses) for hits in rules.values()])],
                figures.Axis("", scale="category", categories=list(rules)),
                figures.Axis("share of uses found", range=(0, 1)),
            )
        ],
        f"{name}, {capacity} of 8 experts kept, {len(uses)} uses of layer 0: "
        + ", ".join(f"{rule} {hits / len(uses):.0%}" for rule, hits in rules.items())
        + ".",
    )


figures.LiveFigure(
    "Hits of a cache",
    [figures.Slider("capacity", "Experts kept", range(9), default=4), figures.Choice("name", "Experts", tuple(gates))],
    one_cache,
)

# %% [markdown] id="favourites_text"
# Do random gates really make better caches? Look at how evenly the experts of a layer are used.

# %% id="favourites"
for name, layers in {"trained gates": trained, "random gates": untrained}.items():
    counts = np.array([np.sort(np.bincount(layer, minlength=8))[::-1] / len(layer) for layer in layers]).mean(0)
    print(f"{name}: share of uses, from the favourite down\n   " + " ".join(f"{c:4.0%}" for c in counts))

# %% [markdown] id="guess_text"
# Guessing: the next layer's gate is shown the present hidden state. How many of the experts used there does it name?

# %% id="guess"
for guesses in (1, 2, 3, 4):
    named = np.mean(experts.speculation_recall(moe, gate_inputs, guesses))
    print(f"{guesses} guessed: {named:.0%} of the experts used (by chance {guesses / 8:.0%})")

# %% [markdown] id="build_3"
# ### Exercise 3: when does a transfer disappear?
#
# A guess may be wrong. A **pre-gate** in block n *decides* what block n + 1 uses, so the transfer can start when block
# n starts to compute. Without it, the transfer waits until block n is done. One transfer at a time; a block computes
# when its experts are there and the block before is done. The first transfer starts at 0. (The idea of Pre-gated MoE.)


# %% id="end_of_blocks" role="solution"
def end_of_blocks(compute, load, ahead):
    """When the last block is done.

    compute, load: float64 (N,), seconds per block.   ahead: bool, transfers start when the block before starts.
    Returns end: float, seconds; 0.0 without blocks.
    """
    ### BEGIN SOLUTION
    allowed = finished = 0.0
    for work, travel in zip(compute, load, strict=True):
        begins = max(finished, allowed + travel)
        finished = begins + work
        allowed = begins if ahead else finished
    return finished
    ### END SOLUTION


# %% id="check_end_of_blocks" role="check"
lab.check("end_of_blocks", end_of_blocks)

# %% [markdown] id="measure_end_text"
# ### Measure: a block early, in the model and for real
#
# First your timeline (modelled). Then a real file, read past the page cache by a second thread; no expert is kept. Both
# ways run once before they are timed. *Early* counts the experts whose transfer was under way when they were needed. If
# the gain in all is smaller than the gain in waiting, the second thread takes the difference: it must be told what to
# read, and it shares the processor and the memory with the first.

# %% id="measure_end"


def library_end(compute, load, ahead):
    return experts.schedule(list(compute), list(load), ahead).end


last_end = lab.fallback("end_of_blocks", end_of_blocks, library_end)
print("modelled, 8 blocks")
print("transfer / block  on demand  early  gain")
for ratio in (0.25, 0.5, 1.0, 2.0, 4.0):
    compute, load = np.ones(8), np.full(8, ratio)
    late, early = last_end(compute, load, False), last_end(compute, load, True)
    print(f"{ratio:16g}  {late:9.2f}  {early:5.2f}  {late / early:4.2f}")
print(f"six blocks of 2 ms, transfers of 1 ms: {last_end(np.full(6, 2.0), np.full(6, 1.0), True):g} ms "
      f"(you predicted {milliseconds})")

with tempfile.TemporaryDirectory() as folder:
    experts.write_experts(f"{folder}/experts", moe)
    file = experts.ExpertFile(f"{folder}/experts")
    gates = experts.gate_weights(moe)
    print("in ms          waited  in all       early    held")
    for timed, name in ((False, "on demand"), (False, "a block early"), (True, "on demand"), (True, "a block early")):
        store = experts.ExpertStore(moe.weight_store, file, None)
        moe.weight_store = store
        experts.install_pregates(moe, gates, store=store if name == "a block early" else None)
        _, seconds = experts.decode_with(moe, text[:24])
        waiting = sum(e.end - e.start for e in store.events if e.kind == "wait")
        early = f"{store.foreseen} of {store.foreseen + store.misses}"
        if timed:  # the first run of each way only warms up
            held = f"{store.peak_bytes / 1e6:.1f} MB"
            print(f"{name:13}  {1e3 * waiting:6.1f}  {1e3 * seconds:6.1f}  {early:>10}  {held:>6}")
        store.close()
        moe.restore()
    file.close()

# %% [markdown] id="build_4"
# ### Exercise 4: read some, compute the others
#
# An app comes back. Some chunks of its context are missing. Each can be read from its file, or computed again from its
# tokens; both at once. A chunk can be computed only when all tokens before it are there, so the computed ones come
# **first**. LLMS (LLM as a system service) brings contexts back in this way.


# %% id="split_point" role="solution"
def split_point(read, compute):
    """How many of the missing chunks, from the first on, to compute while the others are read.

    read, compute: float64 (C,), seconds for each chunk.
    Returns n: int, 0 to C, so that all is there earliest; of several such n the smallest.
    """
    ### BEGIN SOLUTION
    total = len(read) + 1
    both_done = [max(np.sum(compute[:k]), np.sum(read[k:])) for k in range(total)]
    return int(np.argmin(both_done))
    ### END SOLUTION


# %% id="check_split_point" role="check"
lab.check("split_point", split_point)

# %% [markdown] id="measure_split_text"
# ### Measure: two contexts take turns
#
# Two apps of 384 tokens, memory for less than one. The costs of this disk and this model are measured; your function
# says what to do; a real service does it in three ways. Where the disk is quick, the best split is to read everything:
# then *split* is the same as *read*. So the last line splits with the costs of a disk 100 times slower.

# %% id="measure_split"
choose = lab.fallback("split_point", split_point, contexts.split_point)
target = models.load("target")
with tempfile.TemporaryDirectory() as folder:
    costs = contexts.measure_costs(target, folder)
    chunk = 42_000  # bytes of a chunk of 32 tokens in 4 bits, about
    print(f"a chunk is read in {1e3 * costs.read(chunk):.2f} ms, computed in {1e3 * costs.recompute(32):.2f} ms")
    for name, factor in (("this disk", 1), ("a disk 100 times slower", 100), ("400 times slower", 400)):
        times = np.full(12, factor * costs.read(chunk)), np.full(12, costs.recompute(32))
        print(f"{name:24} compute the first {choose(*times):2} of 12")
    slow = contexts.Costs(100 * costs.seconds_per_read, costs.bytes_per_second / 100, costs.seconds_per_token)
    print("chunks      in memory  read      kB  computed")
    for way, planned in (("recompute", costs), ("read", costs), ("split", costs), ("split, slow", slow)):
        service = contexts.ContextService(target, f"{folder}/{way}", 150_000, planned)
        service.loading = way.split(",")[0]
        for app, first in (("a", 0), ("b", 4000)):
            service.run(app, text[first : first + 384])
        service.run("a", torch.tensor([100]))
        last = service.last
        print(f"{way:11} {last.in_memory:9}  {last.read:4}  {last.bytes_read / 1e3:6.0f}  {last.recomputed:8}")

# %% [markdown] id="explain_task"
# ## Explain
#
# Answer in five to ten sentences, with your own numbers from above.
#
# 1. A colleague tests an expert cache on a model with random weights and reports a fine hit rate. Your answer?
# 2. How far is LRU from the best possible, and what would a cleverer rule have to know?
# 3. With transfers four times as long as blocks, deciding early gains little. Why, and what would help?
# 4. When is it right to compute a part of a context again although reading a chunk is quicker than computing it?
#
# | points | for |
# | --- | --- |
# | 1 | (1) the use of the favourites, trained and random, and what follows for the hit rate |
# | 1 | (2) both rates at one size, and that the bound knows the future |
# | 1 | (3) what the end is made of when the link is the slower part |
# | 1 | (4) that both ways work at once, with a split from the output |

# %% [markdown] id="explain" role="written" points=4
# ### BEGIN SOLUTION
# **Model answer.** (1) Random gates send most tokens to a few favourites of each layer: the two first ones get about
# half of the uses, where even use would give a quarter. A small cache then looks fine. Trained gates were taught to
# use all experts about equally, so the same cache finds less, though still more than blind draws. The rate of the
# random model says nothing about any trained one. (2) With four kept, LRU finds a bit more than half and the best
# possible about three quarters. The gap belongs to the future; a rule that comes nearer needs a forecast, such as the
# next layer's gate. (3) Then the end is the sum of the transfers and one block: the link never rests, and hiding the
# computation behind it saves only that. Fewer bytes help: fewer bits for experts, or some experts kept. (4) Because
# both happen at once. While the disk reads the later chunks, the processor is idle; even a slow computation of the
# first one shortens the reading. With the slowed disk of the output several of the 12 are computed.
#
# **Rubric.** One point each as in the table above; the numbers must be the student's own.
# ### END SOLUTION

# %% [markdown] id="further"
# ## Go further
#
# - **Fewer bits.** `experts.write_experts(path, model, bits=4)`: how many more experts fit in the same memory, and what
#   is the hit rate then? (Eliseev and Mazur, 2023, round experts more strongly than the rest.)
# - **Train the early gates.** `experts.fit_pregates` does it in a few seconds. How much of the perplexity that the move
#   costs comes back? (Hwang et al., ISCA 2024.)
# - **Bits by attention.** `contexts.allot_bits` gives chunks bits by the attention that they receive. What happens to
#   the perplexity if you turn the order round? (Yin et al., 2024.)
# - **A longer memory for one app.** `contexts.FlashKVCache` keeps old keys and values on the disk. From which length on
#   does the reading no longer hide behind a layer?
