# %% [markdown] id="title"
# # Lab 5 · Structured sparsity and hybrid execution
#
# Half of the weights of a trained model can go, and it still works. But a processor gains nothing from zeros that lie
# anywhere. Order them, and it does. Where they refuse to be ordered, cut the matrix into pieces and give each piece to
# the unit that suits it. In this lab you do both.
#
# **You will be able to**
# - prune a weight so that of every four neighbours two stay (2:4), store it without its zeros, and multiply from there,
# - find an order of the columns in which pruning hurts less, and hide it in the layer before,
# - prune on two levels, so that a 2:4 unit runs a matrix of which only a quarter is left,
# - divide tiles of one matrix between two unlike workers that share a memory (the idea of HotTiles),
# - condense windows of sparse rows, and let a cost model choose the unit for each (the idea of HC-SpMM).
#
# **Time** two sittings of 75 minutes. **Needs** the foundations chapters. Lab 4 (sparse formats) helps. **Runs** in
# less than a minute on two cores.
#
# The chapter *Structured sparsity and hybrid execution* tells the story behind it.

# %% id="parameters" tags=["parameters"]
seed = 0
size = "default"

# %% id="imports"
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # many small matrices: a second thread would mostly wait

import itertools
import numpy as np
import torch
from edgeinfer import figures, kernels, measure, models
from edgeinfer.grading import checks
from edgeinfer.kernels import hc_spmm, hot_tiles, structured_steps

lab = checks.lab("lab05_structured_sparsity")
figures.use_style()
torch.set_num_threads(1)
rng = np.random.default_rng(seed)

# %% [markdown] id="predict"
# ## Predict
#
# Write down numbers before you run anything. A wrong guess teaches more than none.
#
# 1. Weights of 16 bits. Of every four, two stay, and for each one that stays its place among the four is stored. How
#    many times fewer bytes is that?
# 2. Half of the model's weights are set to zero, the smallest of each matrix, wherever they are. By what factor does
#    the perplexity grow? And by what factor if two of *every four* neighbours must go?
# 3. Two workers share a matrix. Either of them alone needs 8 ms for all of it. Both fetch through one memory, which
#    needs 6 ms for all the bytes. How many milliseconds do they need together, at best?

# %% id="my_predictions"
times_fewer_bytes = "nothing"
growth_anywhere = "nothing"
growth_2_4 = "nothing"
milliseconds_together = "nothing"

# %% [markdown] id="build_1"
# ## Build
#
# ### Exercise 1: two of every four
#
# A dense unit multiplies a run of weights by a run of activations, in step. If at most two of every four weights may be
# non-zero, it can stay in step: it fetches four activations, picks two of them, and multiplies twice. That is **2:4
# sparsity**; in general n:m.
#
# The runs lie along the **input** axis, for there a product walks: y = W x, with W of shape (N, K), N outputs and K
# inputs.
#
# ```text
# a row       0.1  -0.9   0.3   0.2 |  0.5   0.4  -0.6   0.7
# 2:4         0    -0.9   0.3   0   |  0     0    -0.6   0.7
# ```
#
# **1a.** Prune: keep the n largest magnitudes of every m. Write it for whole arrays, for the model has millions of
# weights: a loop over them would keep you waiting.


# %% id="prune_n_m" role="solution"
def prune_n_m(weight, n, m):
    """Of every m neighbouring columns of a row, the n largest magnitudes stay.

    weight: float32 (N, K).   n: int, how many stay.   m: int, divides K.
    Returns pruned: float32 (N, K); a weight that stays keeps its value, the others are 0. Of equal magnitudes any may
    stay, but never more than n.
    """
    ### BEGIN SOLUTION
    runs = weight.reshape(len(weight), -1, m)
    order = np.argsort(np.abs(runs), axis=2)  # ascending
    pruned = runs.copy()
    np.put_along_axis(pruned, order[:, :, : m - n], 0, axis=2)
    return pruned.reshape(weight.shape)
    ### END SOLUTION


# %% id="check_prune_n_m" role="check"
lab.check("prune_n_m", prune_n_m)

# %% [markdown] id="quality_text"
# On the trained model: every matrix of every layer is pruned, and the model reads held-out text. (From here on, a cell
# uses your function if its check passed, else the library's, and says so.) All rows of the table below the first one
# keep half of the weights. Only the freedom to choose them differs. The last column says how many times the perplexity
# of the full model it is.

# %% id="quality"
prune = lab.fallback("prune_n_m", prune_n_m, structured_steps.prune_n_m)
model = models.load("target")
original = {name: w.numpy().astype(np.float32) for name, w in model.linears().items()}
text = models.held_out_tokens("text")
tokens = {"default": 2048, "full": 16_384}.get(size, 2048)


def put(weights):
    for name, w in weights.items():
        model.set_weight(name, torch.from_numpy(np.ascontiguousarray(w, np.float32)))


def perplexity(weights):
    """Of the model with these weights; all calls use the same text."""
    put({**original, **weights})
    return models.perplexity(model, text, max_tokens=tokens)


def anywhere(w, keep):
    """The largest magnitudes of the whole matrix, wherever they are."""
    limit = np.quantile(np.abs(w), 1 - keep)
    return np.where(np.abs(w) > limit, w, 0)


def kept_share(pruned, full):
    """Share of the magnitude that is left."""
    return sum(float(np.abs(pruned[n]).sum()) for n in pruned) / sum(float(np.abs(full[n]).sum()) for n in pruned)


ways = {
    "anywhere": lambda w: anywhere(w, 0.5),
    "4 of 8": lambda w: prune(w, 4, 8),
    "2 of 4": lambda w: prune(w, 2, 4),
    "1 of 2": lambda w: prune(w, 1, 2),
}
baseline = perplexity({})
print("pattern       magnitude kept  perplexity  times")
print(f"{'not pruned':12}  {1:14.1%}  {baseline:10.2f}  {1:5.2f}")
for title, way in ways.items():
    weights = {n: way(w) for n, w in original.items()}
    share, value = kept_share(weights, original), perplexity(weights)
    print(f"{title:12}  {share:14.1%}  {value:10.2f}  {value / baseline:5.2f}")
print(f"you predicted: anywhere {growth_anywhere} times, 2:4 {growth_2_4} times")

# %% [markdown] id="play_text"
# ### Play with it
#
# The controls below call **your** function, each time anew.
# Keep half of the weights. How much does the pattern win when the runs get longer?

# %% id="play"
some_row = original["layers.3.mlp.gate_proj"][7:8, :64]


def pruned_row(m, keep):
    n = max(1, round(m * keep))
    pruned = prune(some_row, n, m)
    left = np.flatnonzero(pruned[0])
    share = np.abs(pruned).sum() / np.abs(some_row).sum()
    return figures.Frame(
        [
            figures.Chart(
                [
                    figures.Line(range(64), np.abs(some_row[0]), "magnitude"),
                    figures.Points(left, np.abs(pruned[0, left]), "stays", style=1),
                ],
                figures.Axis("column"),
                figures.Axis("magnitude"),
            )
        ],
        f"{n} of {m}: {n / m:.0%} of the weights stay, with {share:.1%} of the magnitude.",
    )


figures.LiveFigure(
    "A row of the model, pruned",
    [
        figures.Slider("m", "Length of a run", (2, 4, 8, 16, 32, 64), default=4),
        figures.Choice("keep", "Keep", (0.25, 0.5, 0.75), default=0.5, show=lambda k: f"{k:.0%}"),
    ],
    pruned_row,
)

# %% [markdown] id="build_1b"
# **1b.** Pack. Store the two that stay, and for each its place in the run: 0, 1, 2 or 3, so two bits. Four places fill
# a byte, the first one in the lowest two bits:
#
# ```text
# 2:4         0    -0.9   0.3   0   |  0     0    -0.6   0.7
# values      -0.9  0.3             |  -0.6  0.7
# places      1     2               |   2    3
# byte        1 + 2·4 + 2·16 + 3·64 = 233
# ```
#
# A run may hold fewer than two non-zeros. Then a zero is stored as well, with a free place. In every run the two places
# are different and ascend.


# %% id="pack_2_4" role="solution"
def pack_2_4(weight):
    """Values and places of a 2:4 weight.

    weight: float32 (N, K), at most two non-zeros in every four columns of a row. 8 divides K.
    Returns values: float32 (N, K // 2), value j belongs to run j // 2; positions: uint8 (N, K // 8), the place of
    value j in bits 2 * (j % 4) and 2 * (j % 4) + 1 of byte j // 4. The two places of a run ascend and differ, also
    where a value is 0.
    """
    ### BEGIN SOLUTION
    runs = weight.reshape(len(weight), -1, 4)
    places = np.argsort(runs == 0, axis=2, kind="stable")[:, :, :2]  # non-zeros come first
    places = np.sort(places, axis=2)
    values = np.take_along_axis(runs, places, axis=2).reshape(len(weight), -1)
    four = places.reshape(len(weight), -1, 4)
    positions = np.zeros(four.shape[:2], np.uint8)
    for i in range(4):
        positions |= (four[:, :, i] << 2 * i).astype(np.uint8)
    return values, positions
    ### END SOLUTION


# %% id="check_pack_2_4" role="check"
lab.check("pack_2_4", pack_2_4)

# %% id="bytes"
pack = lab.fallback("pack_2_4", pack_2_4, structured_steps.pack_2_4)

layer = original["layers.3.mlp.gate_proj"]
values, positions = pack(prune(layer, 2, 4))
for bits in (32, 16, 8, 4):
    dense_bytes = layer.size * bits / 8
    packed_bytes = values.size * bits / 8 + positions.nbytes
    print(f"{bits:2}-bit weights: {dense_bytes / packed_bytes:.2f} times fewer bytes")
print(f"you predicted for 16 bits: {times_fewer_bytes}")

# %% [markdown] id="build_1c"
# **1c.** Multiply. No zeros are written back: pick the activation that belongs to each value, multiply, add up. The
# place says which of the four activations of *its run* it is.


# %% id="matvec_2_4" role="solution"
def matvec_2_4(values, positions, x):
    """y = W @ x from the packed form.

    values: float32 (N, K // 2), positions: uint8 (N, K // 8), as pack_2_4 returns them.   x: float32 (K,).
    Returns y: float (N,).
    """
    ### BEGIN SOLUTION
    places = np.stack([(positions >> 2 * i) & 3 for i in range(4)], axis=2).reshape(values.shape)
    columns = places.astype(np.int64) + 4 * (np.arange(values.shape[1]) // 2)
    return (values * x[columns]).sum(axis=1)
    ### END SOLUTION


# %% id="check_matvec_2_4" role="check"
lab.check("matvec_2_4", matvec_2_4)

# %% id="packed_product"
product = lab.fallback("matvec_2_4", matvec_2_4, structured_steps.matvec_2_4)

x = rng.normal(size=layer.shape[1]).astype(np.float32)
difference = np.abs(product(values, positions, x) - prune(layer, 2, 4) @ x).max()
print(f"layer of shape {layer.shape}: packed against dense, largest difference {difference:.1e}")

# %% [markdown] id="build_2"
# ### Exercise 2: who sits beside whom
#
# 2:4 loses most where three or four large weights sit in one run. But the order of the columns is arbitrary: permute
# them, permute the activations in the same way, and the product stays the same. So look for an order in which each run
# holds two strong and two weak columns.
#
# Only *which four sit together* counts. For 8 columns there are 35 ways, for 12 there are 5775, for 16 over two
# million, for the 640 of this model more than one can write down. So search: exchange two columns of different runs if
# 2:4 keeps more magnitude afterwards, and go on until no exchange helps. (Any method that is good enough passes.)
#
# **2a.** Search.


# %% id="search_permutation" role="solution"
def search_permutation(weight):
    """An order of the columns in which 2:4 keeps more magnitude.

    weight: float32 (N, K), 4 divides K, K is at most 16.
    Returns permutation: int (K,), each column once; the new order is weight[:, permutation]. On the matrices of the
    check, the magnitude that 2:4 keeps there must come at least 85 % of the way from the given order to the best one.
    """
    ### BEGIN SOLUTION
    magnitude = np.abs(weight)

    def kept(order):
        runs = magnitude[:, order].reshape(len(weight), -1, 4)
        return float(np.sort(runs, axis=2)[:, :, 2:].sum())

    permutation = np.arange(weight.shape[1])
    best, improved = kept(permutation), True
    while improved:
        improved = False
        for i in range(len(permutation)):
            for j in range(4 * (i // 4) + 4, len(permutation)):  # columns of the later runs
                permutation[[i, j]] = permutation[[j, i]]
                now = kept(permutation)
                if now > best * (1 + 1e-6):
                    best, improved = now, True
                else:
                    permutation[[i, j]] = permutation[[j, i]]  # back again
    return permutation
    ### END SOLUTION


# %% id="check_search_permutation" role="check"
lab.check("search_permutation", search_permutation)

# %% [markdown] id="all_orders_text"
# Against all 35 ways, for eight columns of a real matrix. The columns are arbitrary ones: nobody arranged them so that
# there is much to gain, as in the matrices of the check. A search by exchanges may even end where it began: no single
# exchange helps, and yet a better order exists. The last column says how far of the way to the best order it came.

# %% id="all_orders"
search = lab.fallback("search_permutation", search_permutation, structured_steps.search_permutation)
down = original["layers.3.mlp.down_proj"]


def kept_2_4(w):
    runs = np.sort(np.abs(w).reshape(len(w), -1, 4), axis=2)
    return float(runs[:, :, 2:].sum() / runs.sum())


print("columns      worst   given   found    best  way")
for start in (0, 200, 400):
    eight = down[:, start : start + 8]
    groupings = [
        [0, *three, *sorted(set(range(1, 8)) - set(three))] for three in itertools.combinations(range(1, 8), 3)
    ]
    shares = [kept_2_4(eight[:, order]) for order in groupings]
    given, found, most = kept_2_4(eight), kept_2_4(eight[:, search(eight)]), max(shares)
    way = (found - given) / max(most - given, 1e-9)
    print(f"{start:3} to {start + 7:3} {min(shares):7.4f} {given:7.4f} {found:7.4f} {most:7.4f} {way:4.0%}")

# %% [markdown] id="build_2b"
# **2b.** Hide the permutation. Permuting the activations at run time costs time. For `down_proj` it can be free. The
# MLP of this model is
#
# $$y = \text{down} \; \big( \text{silu}(\text{gate} \, x) \cdot \text{up} \, x \big)$$
#
# The activations that `down` gets are made by `gate` and `up`, one neuron after the other. Change what has to be
# changed so that `down` gets its columns in the new order and the MLP computes exactly what it did.


# %% id="permute_mlp" role="solution"
def permute_mlp(gate, up, down, permutation):
    """The same MLP with its inner neurons in another order.

    gate: float32 (M, H).   up: float32 (M, H).   down: float32 (H, M).   permutation: int (M,).
    Returns gate, up, down: float32, same shapes. Column j of the new down is column permutation[j] of the old one, and
    down @ (silu(gate @ x) * (up @ x)) is unchanged for every x.
    """
    ### BEGIN SOLUTION
    return gate[permutation], up[permutation], down[:, permutation]
    ### END SOLUTION


# %% id="check_permute_mlp" role="check"
lab.check("permute_mlp", permute_mlp)

# %% [markdown] id="permuted_model_text"
# Now the whole model. Your search runs in blocks of 8 neighbouring columns of each `down_proj`, the library's over all
# 640 columns at once. Before pruning, the permuted model must be the same model: compare its perplexity. A random order
# is there as a yardstick: a difference that chance makes as well proves nothing. *Kept* is the share of the magnitude
# that is left.

# %% id="permuted_model"
permute = lab.fallback("permute_mlp", permute_mlp, structured_steps.permute_mlp)
rounds = 8
numbers = range(model.config.num_hidden_layers)


def in_blocks(w):
    return np.concatenate([start + np.asarray(search(w[:, start : start + 8])) for start in range(0, w.shape[1], 8)])


def over_all(w):
    return kernels.search_permutation(np.abs(w), 2, 4, rounds=rounds, seed=seed).columns[0]


def with_order(order_of):
    """Weights of all MLPs with their neurons in the order that order_of(down) gives."""
    weights = {}
    for number in numbers:
        names = [f"layers.{number}.mlp.{part}_proj" for part in ("gate", "up", "down")]
        gate, up, down = (original[name] for name in names)
        weights.update(zip(names, permute(gate, up, down, order_of(down)), strict=True))
    return weights


orders = {
    "the given order": lambda w: np.arange(w.shape[1]),
    "a random order": lambda w: rng.permutation(w.shape[1]),
    "your search, blocks of 8": in_blocks,
    "library, all columns": over_all,
}
print(f"not pruned: perplexity {baseline:.3f}")
print("perplexity before and after 2:4 in down_proj:")
print(f"{'order':24}  before    kept   after")
for title, order_of in orders.items():
    weights = with_order(order_of)
    only_down = {n: prune(w, 2, 4) for n, w in weights.items() if n.endswith("down_proj")}
    before, after = perplexity(weights), perplexity({**weights, **only_down})
    print(f"{title:24}  {before:6.3f}  {kept_share(only_down, weights):6.2%}  {after:6.3f}")
free = {n: anywhere(original[n], 0.5) for n in only_down}
print(f"{'any half of the weights':24}  {'':6}  {kept_share(free, original):6.2%}  {perplexity(free):6.3f}")

# %% [markdown] id="all_permuted_text"
# And all matrices, each in an order of its own. Only `down_proj` gets it free; for the others the activations would
# have to be permuted at run time. Here that is left out: the weight is permuted, pruned and put back. Three random
# orders and three searches (the library's, each from its own seed): do the two ranges overlap?

# %% id="all_permuted"


def pruned_in(w, order):
    back = np.empty_like(w)
    back[:, order] = prune(w[:, order], 2, 4)
    return back


def searched(w, number):
    return kernels.search_permutation(np.abs(w), 2, 4, rounds=4, seed=seed + number).columns[0]


for title, order_of in (("random", lambda w, number: rng.permutation(w.shape[1])), ("searched", searched)):
    results = []
    for number in range(3):
        weights = {n: pruned_in(w, order_of(w, number)) for n, w in original.items()}
        results.append(f"{perplexity(weights):.2f} ({kept_share(weights, original):.2%})")
    print(f"{title:8} perplexity (magnitude kept): {', '.join(results)}")

# %% [markdown] id="build_3"
# ### Exercise 3: two levels
#
# A unit made for 2:4 does just that. It cannot skip three quarters. **Hierarchical N:M** gets there in two steps:
#
# 1. Cut the rows into bands of `height` rows. In a band a column is a short vector of `height` weights. Add up its
#    magnitudes; the `keep` largest vectors stay, the others go. Each band chooses for itself.
# 2. Push the vectors that stay together, side by side, in the order of their columns. *Now* apply n:m to each row.
#
# ```text
# a band of 2 rows, K = 6, keep = 4
#       0.9  0.1  0.3 -0.8  0.2  0.4
#       0.2  0.1  0.5  0.6  0.1 -0.7
# sums  1.1  0.2  0.8  1.4  0.3  1.1
# stay   0         2    3         5
#
# side by side            2:4
#   0.9  0.3 -0.8  0.4    0.9  0   -0.8  0
#   0.2  0.5  0.6 -0.7    0    0    0.6 -0.7
# ```
#
# The product of a band gathers its own activations once, `x[columns]`, and then runs like any 2:4 product.


# %% id="hierarchical_n_m" role="solution"
def hierarchical_n_m(weight, height, keep, n, m):
    """Vectors of `height` weights first, then n of every m in what is left.

    weight: float32 (N, K).   height: int, divides N.   keep: int, columns that stay in a band; m divides it.
    n, m: int.
    Returns columns: int (N // height, keep), for each band the columns whose vector has the largest sum of magnitudes,
    ascending; values: float32 (N, keep), these vectors side by side, in every m neighbours of a row all but the n
    largest magnitudes set to 0.
    """
    ### BEGIN SOLUTION
    columns, values = [], []
    for top in range(0, len(weight), height):
        band = weight[top : top + height]
        sums = np.abs(band).sum(axis=0)
        chosen = np.sort(np.argsort(sums)[-keep:])
        runs = band[:, chosen].reshape(height, -1, m)
        order = np.argsort(np.abs(runs), axis=2)
        np.put_along_axis(runs, order[:, :, : m - n], 0, axis=2)
        columns.append(chosen)
        values.append(runs.reshape(height, keep))
    return np.array(columns), np.concatenate(values)
    ### END SOLUTION


# %% id="check_hierarchical_n_m" role="check"
lab.check("hierarchical_n_m", hierarchical_n_m)

# %% [markdown] id="quarter_text"
# A quarter of the weights, in five ways. One of four (1:4) is a pattern that the 2:4 unit cannot run. The two-level
# ones are made of 2:4. The last line also searches an order of rows and columns, for both levels (the library's
# `search_permutation` with bands). None of these models was trained further, and it shows: compare the ways with each
# other, not with the full model.

# %% id="quarter"
two_level = lab.fallback("hierarchical_n_m", hierarchical_n_m, structured_steps.hierarchical_n_m)


def from_bands(shape, columns, values):
    """The dense matrix of a two-level weight."""
    dense = np.zeros(shape, np.float32)
    rows = np.repeat(np.arange(len(columns)), shape[0] // len(columns))
    np.put_along_axis(dense, columns[rows], values, axis=1)
    return dense


def in_bands(w, height):
    return from_bands(w.shape, *map(np.asarray, two_level(w, height, w.shape[1] // 2, 2, 4)))


def in_searched_bands(w, height):
    order = kernels.search_permutation(np.abs(w), 2, 4, vector_rows=height, keep=0.5, rounds=4, seed=seed)
    return kernels.hierarchical_n_m(w, 2, 4, height, 0.5, permutation=order).dequantize()


quarters = {
    "anywhere": lambda w: anywhere(w, 0.25),
    "1 of 4": lambda w: prune(w, 1, 4),
    "two levels, bands of 4": lambda w: in_bands(w, 4),
    "two levels, bands of 16": lambda w: in_bands(w, 16),
    "bands of 16, searched": lambda w: in_searched_bands(w, 16),
}
print("weights left, magnitude kept, perplexity:")
print(f"{'way':23}   left    kept  perplexity")
for title, way in quarters.items():
    weights = {n: way(w) for n, w in original.items()}
    left = sum(np.count_nonzero(w) for w in weights.values()) / sum(w.size for w in weights.values())
    print(f"{title:23}  {left:5.1%}  {kept_share(weights, original):6.2%}  {perplexity(weights):10.1f}")
put(original)

# %% [markdown] id="build_4"
# ### Exercise 4: hot and cold tiles
#
# Now the other road: let the zeros lie where they lie. Keep, say, the 15 % largest weights of the whole model. Some
# neurons keep many, others none. So cut a matrix into tiles: some are much fuller than others, some nearly empty. One
# unit for all is wrong for part of them.
#
# - A **hot** worker computes fast. It streams all that a tile may need, and multiplies zeros, too.
# - A **cold** worker is slower, but touches only what is there, and fetches for each non-zero what it asks for.
#
# Both run at the same time, and fetch through **one** memory. For tile t let `times_hot[t]` and `times_cold[t]` be the
# time it takes on either one, and `bytes_hot[t]`, `bytes_cold[t]` the bytes that are moved for it there. All is done
# after the **longest** of three times:
#
# | time of | is |
# | --- | --- |
# | the hot worker | `times_hot`, summed over the hot tiles |
# | the cold worker | `times_cold`, summed over the cold tiles |
# | the memory | `bytes_hot` of the hot tiles and `bytes_cold` of the cold ones, all summed, over `bandwidth` |
#
# T tiles can be divided in $2^T$ ways. HotTiles sorts instead: the more the hot worker gains on a tile (the larger
# `times_cold / times_hot`), the earlier it stands. Then only T + 1 **cuts** are left: the tiles before the cut are hot,
# the others cold. Try all cuts, take the best. (An answer that ends even earlier is right, too.)


# %% id="assign_tiles" role="solution"
def assign_tiles(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth):
    """Which tiles the hot worker takes, so that all is done early.

    times_hot, times_cold: float64 (T,), microseconds, all above 0.   bytes_hot, bytes_cold: float64 (T,), bytes.
    bandwidth: float, bytes per microsecond.
    Returns hot: bool (T,), True where the hot worker takes the tile; as early as the best cut of the sorted tiles.
    """
    ### BEGIN SOLUTION
    order = np.argsort(-times_cold / times_hot)
    best, best_finish = None, np.inf
    for cut in range(len(order) + 1):
        first, rest = order[:cut], order[cut:]
        memory = (bytes_hot[first].sum() + bytes_cold[rest].sum()) / bandwidth
        finish = max(times_hot[first].sum(), times_cold[rest].sum(), memory)
        if finish < best_finish:
            best, best_finish = first, finish
    hot = np.zeros(len(order), bool)
    hot[best] = True
    return hot
    ### END SOLUTION


# %% id="check_assign_tiles" role="check"
lab.check("assign_tiles", assign_tiles)

# %% [markdown] id="tiles_text"
# On `up_proj` of layer 3, times 64 tokens. The two workers are **simulated**, with round rates. The hot one multiplies
# all 32 × 32 places of a tile, the cold one only the non-zeros, at less than a third of the rate, and for each of them
# it fetches a row of 64 activations. Exercise 2b comes in handy: neurons may stand in any order, so put those that keep
# many weights first. Then tiles differ more.

# %% id="tiles"
assign = lab.fallback("assign_tiles", assign_tiles, structured_steps.assign_tiles)
batch, bandwidth = 64, 100e3  # tokens; bytes per microsecond, that is 100 GB/s
workers = (
    hot_tiles.Worker("hot", operations_per_second=200e9, bytes_per_second=100e9, computes="places", reads="tile"),
    hot_tiles.Worker("cold", operations_per_second=60e9, bytes_per_second=100e9, computes="entries", reads="entries"),
)
limit = np.quantile(np.abs(np.concatenate([w.ravel() for w in original.values()])), 0.85)


def sparse(name):
    return np.where(np.abs(original[name]) > limit, original[name], 0)


gate, up, down = (sparse(f"layers.3.mlp.{part}_proj") for part in ("gate", "up", "down"))
busy_first = np.argsort(-np.count_nonzero(up, axis=1), kind="stable")
versions = {"as trained": up, "busy neurons first": permute(gate, up, down, busy_first)[1]}


def moved_bytes(hot, costs):
    return costs[2][hot].sum() + costs[3][~hot].sum()


def finish(hot, costs):
    return max(costs[0][hot].sum(), costs[1][~hot].sum(), moved_bytes(hot, costs) / bandwidth)


def divided(costs, bandwidth):
    return np.asarray(assign(*costs, bandwidth), bool)


def said(hot, costs):
    return f"{finish(hot, costs):.1f} us with {hot.sum()} hot tiles, {moved_bytes(hot, costs) / 1e6:.2f} MB moved"


for title, matrix in versions.items():
    tiles = hot_tiles.cut(kernels.from_dense(matrix), 32, 32)
    costs = [1e6 * w.seconds(tiles, batch) for w in workers] + [w.bytes(tiles, batch) for w in workers]
    everything = np.ones(len(tiles), bool)
    mine = divided(costs, bandwidth)
    print(f"{title}: {len(tiles)} tiles, density {tiles.density.min():.2f} to {tiles.density.max():.2f}")
    print(f"  hot alone {finish(everything, costs):.1f} us, cold alone {finish(~everything, costs):.1f} us")
    print(f"  each tile to its faster worker {finish(costs[0] < costs[1], costs):.1f} us")
    print(f"  your division as if memory were no limit {said(divided(costs, 1e12), costs)}")
    print(f"  your division {said(mine, costs)}")
    ends = hot_tiles.simulate(tiles, *workers, mine, batch, 1e6 * bandwidth)
    print(f"  simulated moment by moment: hot ends after {1e6 * ends[0]:.1f} us, cold after {1e6 * ends[1]:.1f} us")

# %% [markdown] id="cuts_text"
# All cuts at once. Where the two workers' lines cross, they are balanced. Is that the best cut? Look at the third line,
# and at your third prediction.

# %% id="cuts" mystnb={"image": {"alt": "Three times against hot tiles; the best cut is where memory meets a worker."}}
def at_all_cuts(costs):
    """When the hot worker, the cold worker and the memory are done, for every cut of the sorted tiles."""
    order = np.argsort(-costs[1] / costs[0])
    before = [np.concatenate([[0.0], np.cumsum(cost[order])]) for cost in costs]
    after = [sums[-1] - sums for sums in before]
    return before[0], after[1], (before[2] + after[3]) / bandwidth


lines = at_all_cuts(costs)
hot_line, cold_line, memory_line = lines
number, last = np.arange(len(tiles) + 1), np.max(lines, axis=0)
_ = figures.plot(
    figures.Chart(
        [
            figures.Line(number, hot_line, "hot worker", style=0),
            figures.Line(number, cold_line, "cold worker", style=1),
            figures.Line(number, memory_line, "memory, shared", style=2),
            figures.Points([int(last.argmin())], [float(last.min())], "best cut", style=5),
        ],
        figures.Axis("tiles of the hot worker"),
        figures.Axis("done after", "us, simulated", range=(0, 1.05 * float(last.max()))),
        "The slowest of the three decides",
    )
)
print(
    f"workers alone are balanced at {int(np.maximum(hot_line, cold_line).argmin())} hot tiles, "
    f"with the memory {int(last.argmin())} are best"
)
print(f"8 ms alone, 6 ms of memory: max(4, 4, 6) = 6 ms together  (you predicted: {milliseconds_together})")

# %% [markdown] id="exhaustive_text"
# How far is the best cut from the best of *all* divisions? Twelve tiles have 4096, so try them. First twelve real
# tiles, where the hot worker takes the same time for each. Then the same with hot times that differ. In which case does
# a sorted order suffice, and why? (Twenty draws each; *later* is measured against the best of all. Your division may
# end earlier than the best cut. The library's does: it also lets single tiles change sides.)

# %% id="exhaustive"
print("ends later, on average and at most:")
print(f"{'hot times':10}  {'the best cut':>14}  {'your division':>14}")
for title, spread in (("equal", 0.0), ("unequal", 0.5)):
    later = []
    for _ in range(20):
        some = rng.choice(len(tiles), 12, replace=False)
        few = [cost[some] for cost in costs]
        few[0] = few[0] * rng.uniform(1 - spread, 1 + spread, 12)
        best = hot_tiles.exhaustive(*few, bandwidth=bandwidth)
        ends = np.max(at_all_cuts(few), axis=0).min(), finish(divided(few, bandwidth), few)
        later.append([end / best.finish - 1 for end in ends])
    mean, most = np.mean(later, axis=0), np.max(later, axis=0)
    print(f"{title:10}  {mean[0]:6.2%}  {most[0]:6.2%}  {mean[1]:6.2%}  {most[1]:6.2%}")

# %% [markdown] id="build_5"
# ### Exercise 5: condensed windows
#
# HC-SpMM divides by rows, not by tiles. A **window** of neighbouring rows uses some columns and leaves others empty.
# Drop the empty ones, push the rest together, and a dense unit can work on the window.
#
# Sparse rows come in three arrays. Row r owns the entries `row_starts[r]` to `row_starts[r + 1] - 1`; each entry has a
# column and a value:
#
# ```text
# window          row_starts      0 2 3        condensed, width 4
#  . 7 . . 5 .    column_indices  1 4 4        columns  1 4 0 0
#  . . . . 6 .    values          7 5 6        block    7 5 0 0
#                                                       0 6 0 0
# ```
#
# The unit works on blocks of `width` columns. So fill up with columns of zeros; `columns` may say 0 there, since zero
# times anything is zero. What must hold for every X: `block @ X[columns]` is the window times X.
#
# **5a.** Condense one window. The trap: after condensing, an entry's old column number is no longer its place.


# %% id="condense_window" role="solution"
def condense_window(row_starts, column_indices, values, width):
    """Push the used columns of a window together.

    row_starts: int64 (R + 1,).   column_indices: int64 (Z,).   values: float32 (Z,).   width: int.
    Returns columns: int (P,), the C columns that hold an entry, each once, in any order, then 0 up to P: C rounded up
    to a multiple of width; block: float32 (R, P), column j is column columns[j] of the window, zeros where filled up.
    """
    ### BEGIN SOLUTION
    used, places = np.unique(column_indices, return_inverse=True)
    padded = -(-len(used) // width) * width
    columns = np.zeros(padded, np.int64)
    columns[: len(used)] = used
    rows = np.repeat(np.arange(len(row_starts) - 1), np.diff(row_starts))
    block = np.zeros((len(row_starts) - 1, padded), np.float32)
    block[rows, places] = values
    return columns, block
    ### END SOLUTION


# %% id="check_condense_window" role="check"
lab.check("condense_window", condense_window)

# %% id="one_window"
condense = lab.fallback("condense_window", condense_window, structured_steps.condense_window)

rare = kernels.from_dense(versions["busy neurons first"][-64:])  # the 64 neurons that keep least
X = rng.normal(size=(rare.shape[1], 16)).astype(np.float32)
for top in range(0, 64, 16):
    starts = rare.indptr[top : top + 17].astype(np.int64)
    inside = slice(starts[0], starts[-1])
    columns, block = condense(starts - starts[0], rare.indices[inside].astype(np.int64), rare.data[inside], 8)
    error = np.abs(block @ X[columns] - kernels.csr_matmul(rare, X)[top : top + 16]).max()
    filled = np.count_nonzero(block) / max(block.size, 1)
    print(
        f"window of 16 rows: {rare.shape[1]} columns condensed to {block.shape[1]}, "
        f"filled {filled:.2f} instead of {np.count_nonzero(block) / (16 * rare.shape[1]):.2f}; difference {error:.1e}"
    )

# %% [markdown] id="build_5b"
# **5b.** Choose. The dense unit takes `us_per_block` for each block of `width` condensed columns, whatever is in it.
# The vector unit takes `us_per_non_zero` for each entry. Give each window of `height` rows to the cheaper one. On a tie
# the vector unit gets it, which is idle anyway for an empty window.


# %% id="choose_units" role="solution"
def choose_units(row_starts, column_indices, height, width, us_per_block, us_per_non_zero):
    """The cheaper unit for every window.

    row_starts: int64 (N + 1,).   column_indices: int64 (Z,).   height: int, divides N.   width: int.
    us_per_block: float, microseconds.   us_per_non_zero: float, microseconds.
    Returns dense: bool (N // height,), True where the dense unit is strictly cheaper; times: float (N // height,),
    microseconds on the chosen unit.
    """
    ### BEGIN SOLUTION
    edges = row_starts[::height]
    dense, times = [], []
    for start, end in itertools.pairwise(edges):
        used = len(np.unique(column_indices[start:end]))
        by_block = -(-used // width) * us_per_block
        by_non_zero = (end - start) * us_per_non_zero
        dense.append(by_block < by_non_zero)
        times.append(min(by_block, by_non_zero))
    return np.array(dense), np.array(times)
    ### END SOLUTION


# %% id="check_choose_units" role="check"
lab.check("choose_units", choose_units)

# %% [markdown] id="prices_text"
# The prices are **measured** on this machine: the dense unit is BLAS on a condensed window, the vector unit is compiled
# code that walks over the entries. The matrix is `up_proj` of all layers, one below the other, half of its weights
# pruned, busy neurons first. Then every window is timed on both units. That is the exhaustive search: the best choice
# for each window.
#
# Which unit wins more windows is a matter of the machine, for the two prices are. HC-SpMM's dense units are the tensor
# cores of a GPU. The last line says what your rule would do with a cheaper block.

# %% id="prices"
choose = lab.fallback("choose_units", choose_units, structured_steps.choose_units)
height, width = 32, 8
stacked = np.concatenate([original[f"layers.{number}.mlp.up_proj"] for number in numbers])
stacked = np.where(np.abs(stacked) > np.median(np.abs(stacked)), stacked, 0)
stacked = stacked[np.argsort(-np.count_nonzero(stacked, axis=1), kind="stable")]
matrix = kernels.from_dense(stacked)
X = rng.normal(size=(matrix.shape[1], 32)).astype(np.float32)

windows = hc_spmm.condense(matrix, height)
dense_us, vector_us = (1e6 * t for t in hc_spmm.time_units(matrix, windows, X, repeats=9))
blocks = -(-windows.widths // width)
us_per_block, us_per_non_zero = np.median(dense_us / blocks), np.median(vector_us / windows.entries)
print(f"measured: {us_per_block:.4f} us for a block of {height} x {width}, {1e3 * us_per_non_zero:.2f} ns for an entry")
even = us_per_block / us_per_non_zero / (height * width)
print(
    f"so a condensed window pays on the dense unit from a density of {even:.2f}; here {windows.density.min():.2f} to "
    f"{windows.density.max():.2f}"
)

rows_and_columns = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
flags, predicted = map(np.asarray, choose(*rows_and_columns, height, width, us_per_block, us_per_non_zero))
cheaper = np.asarray(choose(*rows_and_columns, height, width, us_per_block / 4, us_per_non_zero)[0])
chosen = np.where(flags, dense_us, vector_us)
print(f"all dense {dense_us.sum():.0f} us, all on the vector unit {vector_us.sum():.0f} us")
print(
    f"your choice {chosen.sum():.0f} us with {flags.mean():.0%} of the windows dense; predicted {predicted.sum():.0f}"
)
print(
    f"best choice of all {np.minimum(dense_us, vector_us).sum():.0f} us; same choice in "
    f"{(flags == (dense_us < vector_us)).mean():.0%} of the windows"
)
print(f"if a block cost a quarter (a unit made for it), you would give it {cheaper.mean():.0%} of the windows")

# %% [markdown] id="measure_text"
# ## Measure
#
# Zeros are a promise. Is it kept? One product per token, weights from memory, all contenders interleaved in shuffled
# rounds. (The matrix is larger than those of the small model, and random: the clock does not look at the values.)
#
# - **torch float32**, **torch bfloat16**: dense, what you would have without pruning.
# - **Yours, 2:4**: NumPy. The picked activations become an array as large as the values.
# - **Library, 2:4**: float32 values; four activations are loaded once and picked in the register.
# - **Library, two levels**: half of the vectors of 16 weights, then 2:4: a quarter is left.

# %% id="contenders"
import dataclasses
import math

side = {"default": 2048, "full": 4096}.get(size, 2048)
cache = measure.describe_machine().last_level_cache_bytes or 32 << 20
cold_bytes = min(1.5 * cache, 40 << 20)  # bytes that a contender walks through

W = rng.normal(size=(side, side)).astype(np.float32) / 50
v = rng.normal(size=side).astype(np.float32)
W24 = prune(W, 2, 4)
values, positions = pack(W24)
packed = kernels.pack_n_m(W24, 2, 4)
two_levels = kernels.hierarchical_n_m(W, 2, 4, 16, 0.5)
v_torch, v_bf16 = torch.from_numpy(v), torch.from_numpy(v).bfloat16()


def from_memory(function, weight):
    """A contender that takes another copy of the weight each time."""
    copies = max(2, math.ceil(cold_bytes / weight.nbytes))
    if isinstance(weight, torch.Tensor):
        return measure.rotating(function, [weight.clone() for _ in range(copies)])
    return measure.rotating(function, [dataclasses.replace(weight, values=weight.values.copy()) for _ in range(copies)])


contenders = {
    "torch float32": from_memory(lambda weight: torch.mv(weight, v_torch), torch.from_numpy(W)),
    "torch bfloat16": from_memory(lambda weight: torch.mv(weight, v_bf16), torch.from_numpy(W).bfloat16()),
    "yours, 2:4": lambda: product(values, positions, v),
    "library, 2:4": from_memory(lambda weight: kernels.n_m_matmul(weight, v), packed),
    "library, two levels": from_memory(lambda weight: kernels.hierarchical_matmul(weight, v), two_levels),
}
moved = {
    "torch float32": 4.0 * side * side,
    "torch bfloat16": 2.0 * side * side,
    "yours, 2:4": float(values.nbytes + positions.nbytes),
    "library, 2:4": float(packed.nbytes),
    "library, two levels": float(two_levels.nbytes),
}
difference = np.abs(product(values, positions, v) - kernels.n_m_matmul(packed, v)).max()
print(f"{side} x {side}; yours and the library's differ by {difference:.1e}")

# %% id="measure"
operations = 2 * side * side  # what the ordinary product would do
work = {name: measure.Work(bytes=count, operations=operations) for name, count in moved.items()}
result = measure.compare(contenders, "torch float32", rounds=7, work=work, sample_seconds=0.004, max_seconds=10)
result

# %% [markdown] id="roofline_text"
# On the roofline. A product can also be faster than its fewer bytes explain: look at how near the roof the dense
# product of the framework comes.

# %% id="roofline" mystnb={"image": {"alt": "Roofline with five products; sparser ones lie further right and higher."}}
limits = measure.measure_limits(seconds=2.0, threads=(1,))
points = [
    measure.Point.measured(
        name, operations, moved[name], result.row(name).seconds, "bfloat16" if "bfloat16" in name else "float32"
    )
    for name in contenders
]
print(measure.describe(limits, points))
_ = measure.roofline(limits, points, title="The same product with fewer weights")
for name in ("library, 2:4", "library, two levels"):
    print(
        f"{name}: {result.row(name).ratio:.2f} times as fast as torch float32, from "
        f"{moved['torch float32'] / moved[name]:.2f} times fewer bytes"
    )

# %% [markdown] id="explain_task"
# ## Explain
#
# Answer in five to ten sentences, with your own numbers from above.
#
# 1. 2:4 and "anywhere" keep the same number of weights. What does 2:4 pay, what does it get for it, and what does the
#    order of the columns give back?
# 2. Why is the permutation of `down_proj` free, while that of `gate_proj`'s inputs is not?
# 3. Your division of the tiles without the memory's limit ended later than the one with it. Why? Which of the two did
#    move more bytes?
# 4. What would have to change on this machine for more windows to go to the dense unit?
#
# | points | for |
# | --- | --- |
# | 1 | (1) perplexity or magnitude lost against places that need two bits and no index; with your three numbers |
# | 1 | (2) who makes the activations that a layer gets, and who else gets the same ones |
# | 1 | (3) balanced is not done: the sum of both workers' bytes decides; with your times |
# | 1 | (4) names a price of the cost model, and which way it must move |

# %% [markdown] id="explain" role="written" points=4
# ### BEGIN SOLUTION
# **Model answer.** (1) Free choice keeps about four fifths of the magnitude, 2:4 about three quarters, and the
# perplexity grows accordingly more. In return the places cost two bits, the work per row is always the same, and
# activations are picked from a register instead of gathered by index. A good order of columns spreads the strong ones
# over the runs and gives a part of the loss back, at no cost when it is hidden in the layer before; how large a part is
# only to be told from the spread of random orders. (2) The inputs of `down_proj` are made by rows of `gate` and `up` of
# the same MLP and by nobody else used, so these rows can be reordered once, before the model runs. The inputs of
# `gate_proj` are the residual stream: every layer reads and writes it, so all would have to share one order, or the
# activations must be permuted at run time. (3) Without the limit the two workers are balanced, but the cold one fetches
# a row of activations for each entry. It moved more bytes, and the shared memory was done last. (4) A lower price per
# block (a matrix unit, more columns of X per block) or a higher price per entry (no vector code, gathers that miss the
# cache): the border, price of a block over price of an entry, falls.
#
# **Rubric.** One point each as in the table above; the numbers must be the student's own.
# ### END SOLUTION

# %% [markdown] id="further"
# ## Go further
#
# - **What matters is not size alone.** `kernels.activation_importance` multiplies a weight by the size of its inputs.
#   Give it to `kernels.prune_n_m` as `importance`. How much of the loss of 2:4 is gone, and what happens to the
#   magnitude kept?
# - **Both levels, both axes.** Hierarchical N:M permutation (Yu et al. 2024) moves outputs, too, so that whole vectors
#   become weak: `kernels.search_permutation(..., vector_rows=16, keep=0.5)`. Let `rounds` grow. When does it stop
#   paying?
# - **Exchange after the cut.** `hot_tiles.assign` improves the best cut by moving single tiles. HotTiles (Gerogiannis
#   et al., HPCA 2024) reports 1.3 to 2.5 times the speed of the best single kind of worker, on simulated hardware.
#   Which workers and which bandwidth give your matrix that much?
# - **A rule instead of prices.** HC-SpMM (Li et al., ICDE 2025) learns its choice from density and width:
#   `hc_spmm.fit_rule`. Fit it to the times of your windows. Is it better than two prices?
# - **Which rows sit together.** Learned row permutation (Mehrabi et al., ISPASS 2021) predicts an order of the rows:
#   `kernels.row_permutation`. Put rows that use the same columns into one window, and condense again. How much narrower
#   do the windows get?
# - **No structure at all.** Lab 4 keeps the zeros where they are and pays with bitmaps.
