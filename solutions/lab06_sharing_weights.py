# %% [markdown] id="title"
# # Lab 6 · Sharing weights: who could use whose?
#
# A weight that two parts of a model use is stored once, loaded once and may be in the cache already. In this lab you
# look for weights that can be shared: heads that are alike, a factor that fits all layers, blocks that run twice, tiles
# that are multiples of each other. And you find out what the trained model says to it.
#
# **You will be able to**
# - measure how alike two attention heads are, and judge whether sharing them can work,
# - find the best low-rank factor for all layers together,
# - count what a cache saves when blocks run twice in a row,
# - derive tiles of a matrix from a few sources by least squares.
#
# **Time** 60 minutes. **Needs** the chapter *Sharing weights*; singular values. **Runs** in less than half a minute.

# %% id="parameters" tags=["parameters"]
seed = 0
size = "default"

# %% id="imports"
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread would mostly wait

import numpy as np
import torch
from edgeinfer import figures, models
from edgeinfer.grading import checks
from edgeinfer.memory.sharing import blocks, factors, heads, submatrix

lab = checks.lab("lab06_sharing_weights")
figures.use_style()
torch.set_num_threads(1)
rng = np.random.default_rng(seed)

# %% [markdown] id="predict"
# ## Predict
#
# Write down numbers before you run anything. The model has 8 layers and 4 key-value heads in each. A *unit* is one of
# these heads with the query heads that read it: 32 units. One *borrows* if it uses the query and key weights of another
# unit instead of its own.
#
# 1. How alike are the two most similar units (cosine)?
# 2. The perplexity is about 14 on this text. What is it when 8 of 32 units borrow from the most similar other one?
# 3. Eight blocks run twice each; two fit in the cache. How many loads for a token, if each runs twice in a row?
# 4. A matrix is cut into tiles of 1 x 4, and each is replaced by the nearest multiple of any of 64 sources. How
#    large is the relative error?

# %% id="my_predictions"
largest_cosine = "nothing"
perplexity_with_eight = "nothing"
loads_in_a_row = "nothing"
error_of_tiles = "nothing"

# %% id="model"
model = models.load("target", torch.float32)
tokens = models.held_out_tokens("text")
count = {"default": 1024, "full": 8192}.get(size, 1024)


def quality(some):
    return models.perplexity(some, tokens, context=256, max_tokens=count)


plain = quality(model)
units = heads.unit_weights(model)
queries, keys = units["q_proj"].numpy(), units["k_proj"].numpy()
print(f"perplexity {plain:.2f}; {len(queries)} units, queries {queries.shape[1:]}, keys {keys.shape[1:]}")

# %% [markdown] id="build_1"
# ## Build
#
# ### Exercise 1: how alike are two heads?
#
# Two heads that look for the same thing have query weights and key weights that point the same way. How *long* they are
# shall not matter, and the many numbers of the queries shall not drown the fewer ones of the keys: so one cosine for
# each (dot product divided by both lengths), and the mean of both.
#
# (The cell after a check uses your function if the check passed, else the library's, and says so.)


# %% id="head_similarity" role="solution"
def head_similarity(q, k):
    """How alike the units are, two by two.

    q: float32 (units, a, K), query weights.   k: float32 (units, b, K), key weights.   No unit is all zero.
    Returns similarity: float (units, units), the mean of the cosine of the flattened q and that of the flattened k.
    """
    ### BEGIN SOLUTION
    total = 0
    for part in (q, k):
        flat = part.reshape(len(part), -1)
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        total = total + flat @ flat.T
    return total / 2
    ### END SOLUTION


# %% id="check_head_similarity" role="check"
lab.check("head_similarity", head_similarity)

# %% id="share"
alike = lab.fallback("head_similarity", head_similarity, lambda q, k: heads.head_similarity([q, k]))

found = np.asarray(alike(queries, keys))
best = found[np.triu_indices(len(found), 1)].max()
print(f"most alike: cosine {best:.3f}; you predicted {largest_cosine}")
print("borrowers  bytes saved  most alike  by chance")
for borrowers in (1, 2, 4, 8):
    shared, drawn = model.clone(), model.clone()
    plan = heads.share_heads(shared, borrowers)
    heads.share_heads(drawn, borrowers, seed=seed)
    print(f"{borrowers:9}  {plan.bytes_saved:11,}  {quality(shared):10.2f}  {quality(drawn):9.2f}")
print(f"with 8 borrowers you predicted {perplexity_with_eight}")

# %% [markdown] id="share_think"
# Is *the most similar* the same as *similar enough*? The paper (Head-wise shareable attention, Cao et al. 2024) shares
# heads of large models. What would you look at in such a model before you share anything?
#
# ### Exercise 2: one factor for all layers
#
# LightFormer writes every layer's matrix as `left[l] @ right` and stores `right` once. Which `right` is best for all
# layers together, in the sense of least squares? Return the products: many pairs of factors have the same.


# %% id="common_factor" role="solution"
def common_factor(weights, rank):
    """The layers' matrices with one input factor for all.

    weights: float32 (layers, N, K), K inputs.   rank: int, from 1 to min(layers * N, K).
    Returns close: float (layers, N, K), left[l] @ right with one right (rank, K), smallest sum of squared errors.
    """
    ### BEGIN SOLUTION
    stacked = np.concatenate(list(weights))
    right = np.linalg.svd(stacked, full_matrices=False)[2][:rank]
    return np.stack([w @ right.T @ right for w in weights])
    ### END SOLUTION


# %% id="check_common_factor" role="check"
lab.check("common_factor", common_factor)


# %% id="factor_measure"
def library_factor(weights, rank):
    return factors.share_factors(list(torch.from_numpy(weights)), rank).dense().numpy()


common = lab.fallback("common_factor", common_factor, library_factor)

linears = model.linears()
names = [f"layers.{layer}.attention.q_proj" for layer in range(8)]
stack = np.stack([linears[name].numpy() for name in names])
print("rank  of the bytes  rel. error  perplexity")
for rank in (32, 64, 128):
    close = np.asarray(common(stack, rank), np.float32)
    changed = model.clone()
    for name, w in zip(names, close, strict=True):
        changed.set_weight(name, torch.from_numpy(np.ascontiguousarray(w)))
    share = (8 * 256 * rank + rank * 256) / stack.size
    error = np.linalg.norm(close - stack) / np.linalg.norm(stack)
    print(f"{rank:4}  {share:12.0%}  {error:10.2f}  {quality(changed):10.2f}")

# %% [markdown] id="build_3"
# ### Exercise 3: run it again while it is here
#
# MobileLLM runs each block twice in a row. The second run finds the weights in the cache. Count the loads of any order
# of blocks with a cache that holds `room` of them and drops the block whose last use is longest ago.
#
# ```text
# room = 2    run    0   1   0   2   1
#             load   x   x   .   x   x      the use of 0 made it younger than 1
# ```


# %% id="count_loads" role="solution"
def count_loads(order, room):
    """How often a block must be fetched.

    order: int (T,), blocks in the order they run; T may be 0.   room: int >= 1, blocks that fit in the cache.
    Returns loads: int. The cache is empty at first, so the first use of a block is a load.
    """
    ### BEGIN SOLUTION
    by_age, loads = [], 0
    for block in order.tolist():
        if block in by_age:
            by_age.remove(block)
        else:
            loads += 1
        by_age = [*by_age, block][-room:]
    return loads
    ### END SOLUTION


# %% id="check_count_loads" role="check"
lab.check("count_loads", count_loads)


# %% id="loads_measure"
def library_loads(order, room):
    from edgeinfer.memory.locality.lru import replay

    return replay(np.asarray(order, np.int64), room).fetched


loads = lab.fallback("count_loads", count_loads, library_loads)

print("order        " + "   ".join(f"room {room}" for room in (1, 2, 4, 8)))
for name in blocks.ORDERS:
    order = np.array(blocks.block_order(8, name))
    print(f"{name:13}" + "   ".join(f"{int(loads(order, room)):6}" for room in (1, 2, 4, 8)))
print(f"two fit, twice in a row: {int(loads(np.array(blocks.block_order(8)), 2))}; you predicted {loads_in_a_row}")
text = models.held_out_tokens("train")
for name, order in (("once", [0, 1]), ("each twice in a row", [0, 0, 1, 1])):
    steps = {"default": 12, "full": 400}.get(size, 12)
    net, curve, end = blocks.train_small(blocks.small_config(64, 160, 2), order, text, tokens, steps, seed)
    print(f"{name:19} {blocks.parameters_in_blocks(net):,} weights")
    print(f"{steps:4} steps: loss {curve[0]:.2f} -> {end:.2f}")

# %% [markdown] id="play_text"
# ### Play with it
#
# The controls below call **your** function, each time anew.
# Which order still gains when three blocks fit instead of two? And seven?

# %% id="play"
def all_orders(room, count):
    found = [int(loads(np.array(blocks.block_order(count, name)), room)) for name in blocks.ORDERS]
    return figures.Frame(
        [
            figures.Chart(
                [figures.Bars(found)],
                figures.Axis("", scale="category", categories=list(blocks.ORDERS)),
                figures.Axis("loads"),
            )
        ],
        f"{count} blocks, room for {room}: "
        + ", ".join(f"{name} {number}" for name, number in zip(blocks.ORDERS, found, strict=True))
        + " loads.",
    )


figures.LiveFigure(
    "Loads of an order",
    [figures.Slider("room", "Room", range(1, 9), default=2), figures.Choice("count", "Blocks", (4, 8), default=8)],
    all_orders,
)

# %% [markdown] id="loads_think"
# The nets above are trained for a moment only. With `size = "full"` they get 400 steps: does the second run pay then?
#
# ### Exercise 4: tiles from other tiles
#
# MECLA stores a few source tiles. Every other tile is a source times one number. Find for each tile the best source and
# the best number, in the sense of least squares.


# %% id="derive_tiles" role="solution"
def derive_tiles(tiles, sources):
    """The source and the scale of each tile.

    tiles: float32 (n, d), one flattened tile a row.   sources: float32 (S, d), none all zero.
    Returns index: int (n,), scale: float (n,), for which |tile - scale * sources[index]| is smallest; at a tie any.
    """
    ### BEGIN SOLUTION
    products = tiles @ sources.T
    power = (sources**2).sum(axis=1)
    index = (products**2 / power).argmax(axis=1)
    return index, products[np.arange(len(tiles)), index] / power[index]
    ### END SOLUTION


# %% id="check_derive_tiles" role="check"
lab.check("derive_tiles", derive_tiles)


# %% [markdown] id="measure_text"
# ## Measure
#
# Sources drawn from the matrix, against sources that were improved by k-means. Bytes include the sources, the scales
# and the indices. Multiplications are in percent of the plain product with one vector: in each column of tiles every
# source meets its piece of the vector once, and then each tile only scales what its source gave.


# %% id="derive_measure"
def library_derive(tiles, sources):
    index = (np.abs(tiles @ sources.T) / np.linalg.norm(sources, axis=1)).argmax(1)
    return index, submatrix.fit_scale(tiles, sources[index])


derive = lab.fallback("derive_tiles", derive_tiles, library_derive)

weight = linears["layers.3.mlp.up_proj"].numpy()
print("tile    bytes  multipl.  error, drawn  k-means")
for tile in ((1, 4), (1, 8), (2, 4), (4, 4)):
    rows = submatrix.tiles_of(weight, tile).reshape(-1, tile[0] * tile[1])
    drawn = rows[rng.choice(len(rows), 64, replace=False)]
    index, scale = (np.asarray(a) for a in derive(rows, drawn))
    rough = np.linalg.norm(scale[:, None] * drawn[index] - rows) / np.linalg.norm(rows)
    made = submatrix.partition(weight, tile, 64, seed=seed)
    fine = np.linalg.norm(made.dense() - weight) / np.linalg.norm(weight)
    share, work = made.nbytes / (2 * weight.size), made.multiplications / weight.size
    print(f"{tile!s:6}  {share:5.0%}  {work:8.0%}  {rough:12.2f}  {fine:7.2f}")
print(f"for 1 x 4 you predicted {error_of_tiles}")

# %% [markdown] id="explain_task"
# ## Explain
#
# Answer in five to ten sentences, with your own numbers from above.
#
# 1. Matching by similarity was meant to beat chance. Did it, and why (not)?
# 2. Which repetition order needs how large a cache to be free? Why does the reverse order lie in between?
# 3. Larger tiles save more bytes. Which price do wider and higher tiles both have? Which one do only the higher ones
#    have (more rows), and what happens to it in wider ones? Which of the two prices could training lower?
#
# | points | for |
# | --- | --- |
# | 1 | (1) the cosines named; most similar told apart from similar |
# | 1 | (2) one block against all blocks; the turning point of the reverse order |
# | 2 | (3) the two prices of wider and of higher tiles, with numbers; what training can change and what not |

# %% [markdown] id="explain" role="written" points=4
# ### BEGIN SOLUTION
# **Model answer.** (1) No. The largest cosine is about 0.04, as for random directions: no head resembles another, so
# the choice says nothing about the damage. (2) Twice in a row needs room for one block; all-over needs room for all
# eight, and with seven it saves nothing. In the reverse order the blocks around the turning point are still there, as
# many as fit. (3) The error grows with every larger tile, since one number cannot turn a tile of 16 numbers into
# another. Multiplications grow with the height: each source meets each column of tiles with all of its rows. With the
# width they fall: there are fewer tiles to scale. So 1 x 8 needs fewer of them than 1 x 4, and 2 x 4 and 4 x 4 need
# more. Training with the tiles in place can lower the error; the multiplications stay.
#
# **Rubric.** Points as in the table above; the numbers must be the student's own.
# ### END SOLUTION

# %% [markdown] id="further"
# ## Go further
#
# - **Heal it.** `factors.compress` and `factors.tune` train shared factors on real text (LightFormer, Lv et al. 2023).
#   Start from singular vectors and from noise: after how many steps is noise where the other began?
# - **A common centre.** `edgeinfer.memory.sharing.mpo.share_central` fits chains of three tensors with one centre for
#   all layers (MPOBERT, Liu et al. 2023, in the Atlas as MPOBERT (scalable parameter sharing)). Compare it with your
#   common factor at equal bytes.
