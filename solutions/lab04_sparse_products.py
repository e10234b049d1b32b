# %% [markdown] id="title"
# # Lab 4 · Sparse matrix products that pay
#
# Half of a model's weights can be set to zero, and it still speaks. A product that skips them should take half the
# time. Usually it takes longer. In this lab you find out why, and which format and which density change that.
#
# **You will be able to**
# - store a sparse matrix by rows, as a bitmap, in blocks and in tiles, and multiply with it,
# - say what each format costs in bytes, and up to which density it is smaller than the dense matrix,
# - find the density at which a format becomes faster, on paper and on this machine, for one token and for many,
# - load a matrix as sparse and multiply it as dense,
# - order rows so that fewer blocks are touched, and bring the outputs back into their old order.
#
# **Time** 90 minutes. **Needs** the foundations chapters. **Runs** in less than a minute on two cores.
#
# The chapter *Sparse products* tells the story behind it.
#
# **Density** is the share of weights that are *not* zero, **sparsity** the share that is. A matrix with 70 % zeros has
# density 0.3.

# %% id="parameters" tags=["parameters"]
seed = 0
size = "default"

# %% id="imports"
import numpy as np
import torch
from edgeinfer import figures, kernels, measure, models
from edgeinfer.grading import checks
from edgeinfer.kernels import pruning, sparse_patterns, sparse_steps

lab = checks.lab("lab04_sparse_products")
figures.use_style()
torch.set_num_threads(1)
rng = np.random.default_rng(seed)

# %% [markdown] id="predict"
# ## Predict
#
# Write down numbers before you run anything. A wrong guess teaches more than none.
#
# 1. The smallest weights of the trained model are set to zero, without any training afterwards. What share of the
#    weights can go before its perplexity has grown by a tenth?
# 2. Half of the weights are zero. The usual sparse format stores the others with 2 bytes each and a column number of 4
#    bytes each. How many times as large as the dense matrix (2 bytes for each weight) is that?
# 3. Instead, one **bit** for each weight says whether it is zero. Up to which density is that smaller than the dense
#    matrix?
# 4. One token, this machine: up to which density will the fastest sparse product beat the dense one? And with 16
#    tokens at a time?

# %% id="my_predictions"
sparsity_for_a_tenth_more = "nothing"
size_at_half_density = "nothing"
bitmap_smaller_up_to = "nothing"
faster_up_to_one_token = "nothing"
faster_up_to_16_tokens = "nothing"

# %% [markdown] id="prune_text"
# ## Where the zeros come from
#
# Three ways to choose the weights that go. The **smallest** ones of the matrix; the smallest ones **of each row**, so
# that every output keeps its share; or, **activation-aware** (Wanda), of each row those with the smallest |weight|
# times the norm of the input that they meet: a small weight on a loud input matters.
#
# Which will do best on this small model? (In Lab 1 you saw that its inputs are about equally loud.)

# %% id="prune"
text = models.held_out_tokens("text")
tokens = {"default": 1024, "full": 16_384}.get(size, 1024)
model = models.load("target")
original = {name: w.numpy().copy() for name, w in model.linears().items() if name.startswith("layers.")}
norms = pruning.calibrate(model, text[-1024:].reshape(4, 256))  # far from the part that perplexity reads


def perplexity(weights):
    for name, w in weights.items():
        model.set_weight(name, torch.from_numpy(w))
    return models.perplexity(model, text, max_tokens=tokens)


baseline = perplexity(original)
shares = (0.3, 0.4, 0.5, 0.6, 0.7)
ways = {
    "smallest": lambda w, share, norm: kernels.prune_magnitude(w, share),
    "smallest of each row": lambda w, share, norm: kernels.prune_magnitude(w, share, per="row"),
    "activation-aware": lambda w, share, norm: kernels.prune_activation_aware(w, norm, share),
}
pruned_perplexity = {
    name: [perplexity({n: prune(w, share, norms[n]) for n, w in original.items()}) for share in shares]
    for name, prune in ways.items()
}
perplexity(original)  # put the weights back
print(f"not pruned: perplexity {baseline:.2f}")
print(f"{'zeros':20}" + "".join(f"{s:>6.0%}" for s in shares))
for name, values in pruned_perplexity.items():
    print(f"{name:20}" + "".join(f"{v:6.2f}" for v in values))
print(f"a tenth more would be {1.1 * baseline:.2f}  (you predicted zeros: {sparsity_for_a_tenth_more})")

# %% [markdown] id="build_1"
# ## Build
#
# ### Exercise 1: by rows
#
# **Compressed sparse rows** (CSR) is what every library offers. Three arrays:
#
# | weight | values | columns | row_starts |
# | --- | --- | --- | --- |
# | 0 5 0 <br> 0 0 0 <br> 7 0 2 | 5, 7, 2 | 1, 0, 2 | 0, 1, 1, 3 |
#
# The non-zeros row by row and from left to right; for each its column; and where each row starts. Row n is
# `values[row_starts[n] : row_starts[n + 1]]`, so there are N + 1 starts, and an empty row starts where it ends.
#
# A format stores what it is given: everything that is *not equal to zero*, however small, and a NaN, too.


# %% id="csr_from_dense" role="solution"
def csr_from_dense(weight):
    """Compressed sparse rows.

    weight: float32 (N, K).
    Returns values: float32 (nnz,), columns: int (nnz,), row_starts: int (N + 1,), as in the table above.
    """
    ### BEGIN SOLUTION
    rows, columns = np.nonzero(weight)
    row_starts = np.zeros(len(weight) + 1, np.int32)
    row_starts[1:] = np.cumsum(np.bincount(rows, minlength=len(weight)))
    return weight[rows, columns], columns.astype(np.int32), row_starts
    ### END SOLUTION


# %% id="check_csr_from_dense" role="check"
lab.check("csr_from_dense", csr_from_dense)

# %% [markdown] id="build_1b"
# **1b.** The product. Each stored number meets the activation *of its column*; each row has a sum of its own.


# %% id="csr_matvec" role="solution"
def csr_matvec(values, columns, row_starts, x):
    """y = W @ x from compressed rows; reads nothing of the zeros.

    values: float32 (nnz,).   columns: int32 (nnz,).   row_starts: int32 (N + 1,).   x: float32 (K,).
    Returns y: float (N,). An empty row gives 0.
    """
    ### BEGIN SOLUTION
    products = values * x[columns]
    total = np.concatenate([[0.0], np.cumsum(products, dtype=np.float64)])
    return total[row_starts[1:]] - total[row_starts[:-1]]
    ### END SOLUTION


# %% id="check_csr_matvec" role="check"
lab.check("csr_matvec", csr_matvec)

# %% [markdown] id="layer_text"
# On a matrix of the model, pruned to half. (From here on, a cell uses your function if its check passed, else the
# library's, and says so.) Look at the last line before you go on.

# %% id="layer"
compress = lab.fallback("csr_from_dense", csr_from_dense, sparse_steps.csr_from_dense)
sparse_matvec = lab.fallback("csr_matvec", csr_matvec, sparse_steps.csr_matvec)

layer = original["layers.3.mlp.gate_proj"]
half = kernels.prune_magnitude(layer, 0.5)
values, columns, row_starts = compress(half)
x = rng.normal(size=layer.shape[1]).astype(np.float32)
difference = np.abs(sparse_matvec(values, columns, row_starts, x) - half @ x).max()
lengths = np.diff(row_starts)
print(f"matrix of shape {layer.shape}, {len(values):,} of {layer.size:,} weights left")
print(f"largest difference from the dense product: {difference:.1e}")
print(f"non-zeros of a row: {lengths.min()} to {lengths.max()}, on average {lengths.mean():.0f}")
by_rows = 6 * len(values) + 4 * len(row_starts)
print(f"bytes with values of 2 bytes and columns of 4: {by_rows:,}, dense {2 * layer.size:,}")

# %% [markdown] id="build_2"
# ### Exercise 2: one bit for each weight
#
# At half density a position of 4 bytes, even one of 2, is a waste: "is it there?" is a question of one **bit**. A mask
# of 64 bits answers it for 64 columns, and the non-zeros follow one another without any index. Endor sends weights to
# the accelerator like this, SpInfer computes from it.
#
# Column 64·w + i of a row is bit i of its word w, and bit i is worth $2^i$: column 0 is the *lowest* bit. Each row
# begins with a word of its own; a width of 100 takes two words, and the bits that stand for no column are 0.
#
# ```text
# row     0  5  0  0  7
# mask    2**1 + 2**4 = 18
# values  5  7
# ```
#
# **2a.** Pack. Mind the width of your numbers: a mask has 64 bits, a float has room for 53, and in NumPy a `uint64` can
# only be shifted by a `uint64` (`np.arange(64, dtype=np.uint64)`). `np.packbits` is another way; it makes bytes, and by
# default it puts the first bit on top.


# %% id="bitmap_pack" role="solution"
def bitmap_pack(weight):
    """Masks of 64 columns, and the non-zeros.

    weight: float32 (N, K).
    Returns masks: uint64 (N, ceil(K / 64)), values: float32 (nnz,), row by row and from left to right.
    """
    ### BEGIN SOLUTION
    rows, columns = weight.shape
    bits = np.zeros((rows, -(-columns // 64) * 64), np.uint64)
    bits[:, :columns] = weight != 0
    shifted = bits.reshape(rows, -1, 64) << np.arange(64, dtype=np.uint64)
    return np.bitwise_or.reduce(shifted, axis=2), weight[weight != 0]
    ### END SOLUTION


# %% id="check_bitmap_pack" role="check"
lab.check("bitmap_pack", bitmap_pack)

# %% [markdown] id="build_2b"
# **2b.** Unpack. Where in `values` stands the weight of a column? Its place is the number of ones **before** it, in its
# word, in earlier words and in earlier rows. Counting ones is one instruction (popcount), so every worker finds its
# numbers alone: SpInfer's threads do just that in fast memory.


# %% id="bitmap_unpack" role="solution"
def bitmap_unpack(masks, values, columns):
    """The inverse of bitmap_pack.

    masks: uint64 (N, ceil(K / 64)).   values: float32 (nnz,).   columns: int K.
    Returns weight: float32 (N, K).
    """
    ### BEGIN SOLUTION
    bits = (masks[:, :, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    bits = bits.reshape(len(masks), -1)[:, :columns].astype(np.int64)
    before = np.cumsum(bits).reshape(bits.shape) - bits
    weight = np.zeros(bits.shape, np.float32)
    weight[bits == 1] = values[before[bits == 1]]
    return weight
    ### END SOLUTION


# %% id="check_bitmap_unpack" role="check"
lab.check("bitmap_unpack", bitmap_unpack)

# %% id="bitmap_layer"
pack_bits = lab.fallback("bitmap_pack", bitmap_pack, sparse_steps.bitmap_pack)
unpack_bits = lab.fallback("bitmap_unpack", bitmap_unpack, sparse_steps.bitmap_unpack)

masks, numbers = pack_bits(half)
print("back again:", bool((unpack_bits(masks, numbers, half.shape[1]) == half).all()))
print(f"bytes: masks {masks.nbytes:,} + values {2 * len(numbers):,} = {masks.nbytes + 2 * len(numbers):,}")
print(f"       dense {2 * half.size:,},  by rows {by_rows:,}")

# %% [markdown] id="build_3"
# ### Exercise 3: what a format costs
#
# **3a.** Write down the bytes of each format. Values are bfloat16 everywhere. The non-zeros lie at random; expected are
# density · rows · columns of them.
#
# | layout | for each of these | bytes | and 4 bytes for each of |
# | --- | --- | --- | --- |
# | `dense` | weight | 2 | |
# | `csr32` | non-zero | 2 (value) + 4 (column) | rows, and 1 more |
# | `csr16` | non-zero | 2 (value) + 2 (column) | rows, and 1 more |
# | `blocked` | block of 4 × 4 with **any** non-zero | 16 · 2 (values) + 4 (place) | rows / 4 block rows, and 1 more |
# | `tiled` | non-zero | 2 (value) + 2 (place in its tile) | tiles of 64 × 64 that cover the matrix, and 1 more |
# | `bitmap` | word of 64 columns of a row | 8 | rows, and 1 more |
# |  | and non-zero | 2 (value) | |
#
# The 4 bytes say where each row, block row or tile starts among the numbers; one more says where the last one ends.
# `csr16` holds up to 65,536 columns; `tiled` is the format of Flash-LLM.
#
# At the edge a word or a tile may be partly used: round up. Rows and columns are multiples of 4. With what probability
# does a block of 16 weights hold *no* non-zero, if each is one with probability `density`?


# %% id="format_bytes" role="solution"
def format_bytes(rows, columns, density, layout):
    """Expected bytes of a matrix whose non-zeros lie at random.

    rows, columns: int, multiples of 4.   density: float, 0 to 1.
    layout: "dense", "csr32", "csr16", "blocked", "tiled" or "bitmap".
    Returns bytes: float, as in the table above, not rounded.
    """
    ### BEGIN SOLUTION
    nonzeros = density * rows * columns
    if layout == "dense":
        return 2.0 * rows * columns
    if layout == "csr32":
        return (2 + 4) * nonzeros + 4 * (rows + 1)
    if layout == "csr16":
        return (2 + 2) * nonzeros + 4 * (rows + 1)
    if layout == "blocked":
        kept = 1 - (1 - density) ** 16
        blocks = kept * (rows // 4) * (columns // 4)
        return (16 * 2 + 4) * blocks + 4 * (rows // 4 + 1)
    if layout == "tiled":
        tiles = -(-rows // 64) * -(-columns // 64)
        return (2 + 2) * nonzeros + 4 * (tiles + 1)
    words = rows * -(-columns // 64)
    return 8 * words + 2 * nonzeros + 4 * (rows + 1)
    ### END SOLUTION


# %% id="check_format_bytes" role="check"
lab.check("format_bytes", format_bytes)

# %% [markdown] id="build_3b"
# **3b.** The **crossover**: from which density on is a format no longer cheaper than the dense matrix? You are given
# the cost of the format at some densities, and the cost of the dense matrix. The same function will serve for bytes,
# for times on the roofline and for times on the clock.
#
# Between two neighbouring points the cost is taken to be a straight line. Measured costs go up and down, so it may be
# crossed more than once: the *first* crossing counts. Up to there every point is cheaper.


# %% id="crossover_density" role="solution"
def crossover_density(densities, cost, dense_cost):
    """Up to which density a format is cheaper.

    densities: float64 (D,), rising.   cost: float64 (D,), at these densities.   dense_cost: float, same unit as cost.
    Returns density: float. Where the line through neighbouring points first reaches dense_cost, from below;
    0.0 if cost[0] >= dense_cost already; densities[-1] if no cost reaches it.
    """
    ### BEGIN SOLUTION
    if cost[0] >= dense_cost:
        return 0.0
    for i in range(1, len(cost)):
        if cost[i] >= dense_cost:
            share = (dense_cost - cost[i - 1]) / (cost[i] - cost[i - 1])
            return float(densities[i - 1] + share * (densities[i] - densities[i - 1]))
    return float(densities[-1])
    ### END SOLUTION


# %% id="check_crossover_density" role="check"
lab.check("crossover_density", crossover_density)

# %% [markdown] id="bytes_text"
# ### Which format is small, and where?
#
# A matrix of a feed-forward layer of a 7-billion model, all formats, all densities.

# %% id="bytes_plot" mystnb={"image": {"alt": "Bytes against density: bitmap stays lowest from 7 to 94 %."}}
bytes_of = lab.fallback("format_bytes", format_bytes, sparse_steps.format_bytes)
crossover = lab.fallback("crossover_density", crossover_density, sparse_steps.crossover_density)

layouts = ("csr32", "csr16", "tiled", "blocked", "bitmap")
grid = np.linspace(0.01, 1, 100)
big = (4096, 11008)
dense_bytes = bytes_of(*big, 1.0, "dense")
curves = {name: np.array([bytes_of(*big, d, name) for d in grid]) for name in layouts}
smaller_up_to = {name: crossover(grid, curve, dense_bytes) for name, curve in curves.items()}
for name in layouts:
    at_half = bytes_of(*big, 0.5, name) / dense_bytes
    print(f"{name:8} smaller than dense up to density {smaller_up_to[name]:.3f};  at 0.5 {at_half:.2f} times dense")
print(f"(you predicted: {size_at_half_density} times for csr32, and {bitmap_smaller_up_to} for the bitmap)")
labels = {"csr32": "csr32", "csr16": "csr16 and tiled", "blocked": "blocked", "bitmap": "bitmap"}
_ = figures.plot(
    figures.Chart(
        [
            *[
                figures.Line(list(grid), list(curves[name] / dense_bytes), label, style=i)
                for i, (name, label) in enumerate(labels.items())
            ],
            figures.Rules([1.0], "dense", style=5, along="y", dashed=True),
        ],
        figures.Axis("density", "share of weights that are not zero"),
        figures.Axis("bytes, dense = 1", range=(0, 2)),
        "A position costs 16 or 32 bits, a block's zeros or one bit",
    )
)

# %% [markdown] id="play_text"
# ### Play with it
#
# The controls below call **your** function, each time anew.
# Where does the smallest format change? Does the shape of the matrix matter?

# %% id="play"
def at_density(density, shape):
    share = [bytes_of(*shape, density, name) / bytes_of(*shape, 1.0, "dense") for name in layouts]
    best = layouts[int(np.argmin(share))]
    return figures.Frame(
        [
            figures.Chart(
                [figures.Bars(share)],
                figures.Axis("", scale="category", categories=list(layouts)),
                figures.Axis("bytes, dense = 1"),
            )
        ],
        f"{density:.0%} of {shape[0]} x {shape[1]} weights are not zero: smallest is {best} with {min(share):.2f} "
        f"times the dense bytes{', so dense is smaller still' if min(share) > 1 else ''}.",
    )


figures.LiveFigure(
    "Bytes of five formats",
    [
        figures.Slider("density", "Density", [0.01, 0.02, 0.05, *(i / 10 for i in range(1, 11))], default=0.5),
        figures.Choice("shape", "Matrix", ((4096, 11008), (256, 640), (64, 64)), show=lambda s: f"{s[0]} x {s[1]}"),
    ],
    at_density,
)

# %% [markdown] id="bytes_question"
# Look back at the perplexities: which of these formats is of any use at a density that the model survives? And why do
# blocks of 4 × 4 help so little here, although they store only one place for 16 weights? Keep your answer in mind until
# Exercise 5.
#
# Now time. A product takes at least as long as the slower of two things: reading its bytes, or doing its arithmetic
# (the roofline). Reading is the same for one token and for many. The arithmetic grows with the tokens, and this
# processor may multiply dense bfloat16 much faster than single float32 numbers picked from a sparse format. What does
# that do to the crossover?

# %% id="roofline_crossover"
limits = measure.measure_limits(seconds=2.0, threads=(1,))
bandwidth, peaks = limits.bandwidths()["DRAM"], limits.peaks()
dense_peak, sparse_peak = peaks.get("bfloat16", peaks["float32"]), peaks["float32"]
weights = big[0] * big[1]


def least_seconds(batch, density, layout):
    """On the roofline: a dense product does all operations, a sparse one those of the non-zeros, in float32."""
    done, peak = (1.0, dense_peak) if layout == "dense" else (density, sparse_peak)
    return measure.time_bound(2 * weights * done * batch, bytes_of(*big, density, layout), peak, bandwidth)


print(f"this machine: {bandwidth:.1f} GB/s; dense {dense_peak:,.0f} GOP/s, float32 {sparse_peak:,.0f} GOP/s")
print("faster than dense up to density, by the roofline:")
print("tokens   " + "".join(f"{name:>9}" for name in ("csr16", "bitmap")))
bound = {}
for batch in (1, 4, 16, 64, 256):
    dense_seconds = least_seconds(batch, 1.0, "dense")
    for name in ("csr16", "bitmap"):
        seconds = np.array([least_seconds(batch, d, name) for d in grid])
        bound[name, batch] = crossover(grid, seconds, dense_seconds)
    print(f"{batch:6}   " + "".join(f"{bound[name, batch]:9.2f}" for name in ("csr16", "bitmap")))

# %% [markdown] id="build_4"
# ### Exercise 4: load as sparse, compute as dense
#
# Single numbers from a sparse format are slow to multiply; a processor (and even more a GPU's tensor core) wants dense
# rectangles. So do both: **load** a tile as sparse, so that few bytes move, **expand** it into a small dense buffer
# that stays in fast memory, and **multiply** the buffer with the whole batch. The multiplications with zeros cost
# little; the bytes were the bottleneck. This is Flash-LLM.
#
# The matrix is cut into tiles of `tile` × `tile`. Tiles come row by row: first the upper row of tiles from left to
# right, then the next. Tile t holds the numbers `values[tile_starts[t] : tile_starts[t + 1]]`, and each number has its
# `place` in the tile, row · tile + column, a uint16. The sizes need not be multiples of the tile: tiles at the right
# and lower edge reach beyond the matrix, and what is there is never stored.
#
# The result is y = x · Wᵀ, one row for each token, as in every framework.


# %% id="tile_and_expand_matmul" role="solution"
def tile_and_expand_matmul(values, places, tile_starts, rows, tile, x):
    """y = x @ W.T: each tile is expanded to a dense buffer and multiplied with all tokens.

    values: float32 (nnz,).   places: uint16 (nnz,).   tile_starts: int32 (T + 1,).   rows: int N.   tile: int.
    x: float32 (B, K). The T tiles: ceil(N / tile) rows of ceil(K / tile) tiles.
    Returns y: float (B, N).
    """
    ### BEGIN SOLUTION
    batch, columns = x.shape
    down, across = -(-rows // tile), -(-columns // tile)
    wide = np.zeros((batch, across * tile), np.float32)
    wide[:, :columns] = x
    y = np.zeros((batch, down * tile), np.float32)
    for t in range(down * across):
        top, left = t // across * tile, t % across * tile
        mine = slice(tile_starts[t], tile_starts[t + 1])
        buffer = np.zeros((tile, tile), np.float32)
        buffer[places[mine] // tile, places[mine] % tile] = values[mine]
        y[:, top : top + tile] += wide[:, left : left + tile] @ buffer.T
    return y[:, :rows]
    ### END SOLUTION


# %% id="check_tile_and_expand_matmul" role="check"
lab.check("tile_and_expand_matmul", tile_and_expand_matmul)

# %% id="tiles_layer"
expand_matmul = lab.fallback("tile_and_expand_matmul", tile_and_expand_matmul, sparse_steps.tile_and_expand_matmul)

batch = rng.normal(size=(16, half.shape[1])).astype(np.float32)
tiles = sparse_steps.tiles_from_dense(half, 64)  # values, places, tile_starts
y = expand_matmul(*tiles, half.shape[0], 64, batch)
print(f"{len(tiles[2]) - 1} tiles of 64 x 64, {np.diff(tiles[2]).min()} to {np.diff(tiles[2]).max()} numbers in a tile")
print(f"largest difference from the dense product: {np.abs(y - batch @ half.T).max():.1e}")
print(f"operations: {2 * len(batch) * half.size:,} instead of {2 * len(batch) * len(tiles[0]):,}")

# %% [markdown] id="build_5"
# ### Exercise 5: rows that belong together
#
# A block of b rows and c columns pays if many rows use the same columns. The matrix does not come in that order, but
# the order of the rows is free: row n only makes output n. So **permute** the rows, multiply, and put the outputs back.
#
# Compare two rows by the *sets of column blocks* that they touch (c columns wide). Their similarity is
#
# $$\begin{gathered}
# J(A, B) = \frac{|A \cap B|}{|A \cup B|} \\[4pt]
# \text{(Jaccard; 0 if both are empty)}
# \end{gathered}$$
#
# A simple chain does well: begin with row 0; then again and again append, of the rows that are left, the one most
# similar to the row placed **last**. Any order is right that saves at least two thirds of the blocks that this chain
# saves.
#
# Give back two permutations: `order`, so that `W[order]` is the new matrix, and `undo`, so that
# `(W[order] @ x)[undo]` equals `W @ x`. What is `undo[order[i]]`?


# %% id="permute_rows" role="solution"
def permute_rows(pattern, block_rows, block_columns):
    """An order of the rows in which few blocks are touched, and the way back.

    pattern: bool (N, K), where the non-zeros are.   block_rows, block_columns: int, size of a block.
    Returns order: int (N,), undo: int (N,).
    """
    ### BEGIN SOLUTION
    sets = [set(np.flatnonzero(row) // block_columns) for row in pattern]
    order, left = [0], set(range(1, len(sets)))
    while left:
        last = sets[order[-1]]
        similarity = {r: len(last & sets[r]) / max(1, len(last | sets[r])) for r in left}
        order.append(max(sorted(left), key=similarity.get))
        left.remove(order[-1])
    return np.array(order), np.argsort(order)
    ### END SOLUTION


# %% id="check_permute_rows" role="check"
lab.check("permute_rows", permute_rows)

# %% [markdown] id="permute_text"
# Three matrices with the same blocks of 4 × 4. Before you run it: on which of them will the order of rows help?
#
# - a weight of the model, pruned to a tenth,
# - the same number of non-zeros thrown at random,
# - a network of groups: neighbours mostly of one's own group, nodes in random order.

# %% id="permute_three"
permute = lab.fallback("permute_rows", permute_rows, sparse_steps.permute_rows)

square = kernels.prune_magnitude(original["layers.3.attention.o_proj"], 0.9)
scattered = np.where(rng.random(square.shape) < 0.1, 1, 0).astype(np.float32)
group_network = sparse_patterns.communities(len(square), 16, 20, 0.95, seed=seed)
network = np.zeros(square.shape, np.float32)
network[group_network.row_numbers, group_network.indices] = group_network.data

v = rng.normal(size=square.shape[1]).astype(np.float32)
blocks_all, largest = square.size // 16, 0.0
print("blocks touched, in the given order and in yours:")
print("matrix         density   given   yours  saved")
for name, matrix in (("pruned weight", square), ("at random", scattered), ("groups", network)):
    order, undo = permute(matrix != 0, 4, 4)
    before = sparse_steps.touched_blocks(matrix != 0, 4, 4)
    after = sparse_steps.touched_blocks(matrix[order] != 0, 4, 4)
    error = np.abs(sparse_matvec(*compress(matrix[order]), v)[undo] - matrix @ v).max()
    largest = max(largest, error)
    touched = f"{before / blocks_all:6.1%}  {after / blocks_all:6.1%}"
    print(f"{name:13}  {(matrix != 0).mean():7.3f}  {touched}  {1 - after / before:5.1%}")
expected = 1 - (1 - (square != 0).mean()) ** 16
print(f"if the pruned weight's non-zeros lay at random: {expected:.1%}")
print(f"put back, the products differ by {largest:.0e} at most")

# %% [markdown] id="measure_text"
# ## Measure
#
# Now the clock. All contenders run interleaved in shuffled rounds, the weights are taken from many copies in turn, so
# that they come from memory, as in decoding a large model. First one density, 30 %, one token:
#
# - **Yours**: NumPy by rows; every step is an array of its own.
# - **Library, by rows**: the same format, compiled; one number after the other.
# - **Library, bitmap**: masks expand 16 or 32 numbers at once in a vector register where the processor has such an
#   instruction.
# - **Library, tiles**: load as sparse, compute as dense, zeros and all.
# - **scipy.sparse** (or torch's CSR, where scipy is missing): what a framework gives you.
# - **torch bfloat16, dense**: what you would have without any zeros.

# %% id="contenders"
import dataclasses
import math
import warnings

shape = {"default": (2048, 2048), "full": (4096, 11008)}.get(size, (2048, 2048))
cache = measure.describe_machine().last_level_cache_bytes or 32 << 20
cold = min(1.5 * cache, 24 << 20)  # bytes that a contender walks through

values_anywhere = rng.normal(size=shape).astype(np.float32)
chance = rng.random(shape, dtype=np.float32)


def random_sparse(density):
    return np.where(chance < density, values_anywhere, np.float32(0))


def from_memory(function, copy, nbytes):
    """A contender that takes another copy of the weight each time."""
    return measure.rotating(function, [copy() for _ in range(max(2, math.ceil(cold / nbytes)))])


def copy_of(packed):
    arrays = {name: a.copy() for name, a in vars(packed).items() if isinstance(a, np.ndarray)}
    return dataclasses.replace(packed, **arrays)


def framework(weight, activations):
    """(name, bytes, make a copy, product) of what a framework offers."""
    try:
        from scipy import sparse
    except ImportError:
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        matrix, turned = torch.tensor(weight).to_sparse_csr(), torch.from_numpy(activations.T.copy())
        nbytes = 12 * int(matrix.values().numel()) + 8 * (len(weight) + 1)
        return "torch CSR", nbytes, matrix.clone, lambda m: m @ turned
    matrix = sparse.csr_array(weight)
    nbytes = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    turned = activations[0] if len(activations) == 1 else np.ascontiguousarray(activations.T)
    return "scipy.sparse", nbytes, matrix.copy, lambda m: m @ turned


dense_weight = torch.tensor(values_anywhere).bfloat16()


def dense_contender(activations):
    given = torch.tensor(activations, dtype=torch.bfloat16)
    return from_memory(lambda w: torch.nn.functional.linear(given, w), dense_weight.clone, dense_weight.nbytes)


packers = {"bitmap": kernels.pack_bitmap, "by rows": kernels.pack_csr, "tiles": kernels.pack_tiled}


def contenders_at(weight, activations):
    """Contenders and the bytes that each moves."""
    out, moved = {}, {}
    for name in packers:
        packed = packers[name](weight)
        out[f"library, {name}"] = from_memory(
            lambda w: kernels.sparse_matmul(w, activations), lambda packed=packed: copy_of(packed), packed.nbytes
        )
        moved[f"library, {name}"] = float(packed.nbytes)
    name, nbytes, copy, product = framework(weight, activations)
    out[name] = from_memory(product, copy, nbytes)
    out["torch bfloat16, dense"] = dense_contender(activations)
    return out, moved | {name: float(nbytes), "torch bfloat16, dense": float(dense_weight.nbytes)}


density = 0.3
weight = random_sparse(density)
token = rng.normal(size=(1, shape[1])).astype(np.float32)
mine = compress(weight)
contenders, moved = contenders_at(weight, token)
contenders["your NumPy, by rows"] = lambda: sparse_matvec(*mine, token[0])
moved["your NumPy, by rows"] = float(sum(a.nbytes for a in mine))
want = weight @ token[0]
got = kernels.sparse_matmul(kernels.pack_bitmap(weight), token[0])
difference = np.linalg.norm(got - want) / np.linalg.norm(want)
print(f"{shape[0]} x {shape[1]}, density {density}: the library's bfloat16 against your float32 {difference:.1e}")
for name, layout in (("by rows", "csr16"), ("bitmap", "bitmap"), ("tiles", "tiled")):
    formula = bytes_of(*shape, density, layout)
    print(f"bytes, {name:8} {moved[f'library, {name}']:12,.0f}   your formula {formula:12,.0f}")

# %% id="measure"
useful = 2 * int(np.count_nonzero(weight))  # operations that the result needs; the dense product does more
work = {name: measure.Work(bytes=count, operations=useful) for name, count in moved.items()}
result = measure.compare(contenders, "torch bfloat16, dense", rounds=7, work=work, sample_seconds=0.004, max_seconds=8)
result

# %% id="roofline" mystnb={"image": {"alt": "Roofline: sparse products lie right of the dense one."}}
points = [
    measure.Point.measured(
        name.removeprefix("library, "),
        useful,
        moved[name],
        result.row(name).seconds,
        "bfloat16" if "bfloat16" in name else "float32",
    )
    for name in contenders
]
print(measure.describe(limits, points))
_ = measure.roofline(limits, points, title="Useful operations of one product at 70 % zeros")

# %% [markdown] id="sweep_text"
# ### The crossover on this machine
#
# The same for several densities, for one token and for 16. Your `crossover_density` reads the result off. (If another
# program was busy and a point jumps out of its line, run the cell again: the first crossing counts, also a false one.)

# %% id="sweep"
sweep = {"default": (0.05, 0.15, 0.3, 0.5, 0.7, 0.95), "full": (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)}
densities = np.array(sweep.get(size, sweep["default"]))
contenders.clear()  # their copies are not needed any more; small machines are thankful


def best_times(density, activations):
    """Seconds of each contender in its best round: a disturbance only ever slows down."""
    some, _ = contenders_at(random_sparse(density), activations)
    timed = measure.compare(some, "torch bfloat16, dense", rounds=9, sample_seconds=0.002, max_seconds=1.5)
    return {name: min(times) for name, times in timed.times.items()}


relative_time = {}
for tokens_at_once in (1, 16):
    activations = rng.normal(size=(tokens_at_once, shape[1])).astype(np.float32)
    for d in densities:
        best = best_times(d, activations)
        dense_seconds = best.pop("torch bfloat16, dense")
        for name, seconds in best.items():
            relative_time.setdefault((tokens_at_once, name), []).append(seconds / dense_seconds)
measured = {}
for (tokens_at_once, name), times in relative_time.items():
    measured[tokens_at_once, name] = crossover(densities, np.array(times), 1.0)
    row = "".join(f"{t:7.2f}" for t in times)
    print(f"{tokens_at_once:2} at once  {name:16} {row}   faster up to {measured[tokens_at_once, name]:.2f}")
print(f"{'density':28}" + "".join(f"{d:7.2f}" for d in densities) + "   (time, dense = 1)")
print(f"bitmap, by the roofline: up to {bound['bitmap', 1]:.2f} for one token, {bound['bitmap', 16]:.2f} for 16")
print(f"(you predicted: {faster_up_to_one_token} and {faster_up_to_16_tokens})")

# %% id="sweep_plot" mystnb={"image": {"alt": "Time against density, dense is 1, for one token and for 16."}}
for n in (1, 16):
    curves = {name: times for (count, name), times in relative_time.items() if count == n}
    lines = [figures.Line(list(densities), times, name, style=i) for i, (name, times) in enumerate(curves.items())]
    _ = figures.plot(
        figures.Chart(
            [*lines, figures.Rules([1.0], "dense bfloat16", style=5, along="y", dashed=True)],
            figures.Axis("density"),
            figures.Axis("time, dense = 1", scale="log"),
            f"{n} token{'s' * (n > 1)} at once: below 1 the zeros pay",
        )
    )

# %% [markdown] id="explain_task"
# ## Explain
#
# Answer in five to ten sentences, with your own numbers from above.
#
# 1. At half density a format by rows with 4-byte columns is larger than the dense matrix, the bitmap is not. Where does
#    each byte go?
# 2. The crossover in bytes and the crossover on the clock differ. Which contender comes nearest to its bound, and what
#    holds the others back?
# 3. With 16 tokens the crossover is lower than with one. Why, although the weights have become no larger?
# 4. A new order of the rows saved many blocks of one of the three matrices, and few of the pruned weight. Why?
#
# | points | for |
# | --- | --- |
# | 1 | (1) what each byte of both formats is for, with your own numbers |
# | 1 | (2) a contender with its bytes and its time, and for another one a cause that fits how it reads its numbers |
# | 1 | (3) what grows with the tokens and what does not, for the dense and for the sparse product |
# | 1 | (4) the shares of touched blocks, held against those of the random pattern, and what they say about the rows |

# %% [markdown] id="explain" role="written" points=4
# ### BEGIN SOLUTION
# **Model answer.** (1) By rows, a non-zero costs 2 bytes of value and 4 of column: 6 bytes for each weight kept, so at
# half density 3 bytes for each weight of the matrix, one and a half times dense. The bitmap costs 2 bytes for each
# weight kept and one bit for every weight, kept or not: at half density 1 + 1/8 bytes, 0.56 times dense. (2) The bitmap
# kernel comes nearest: it reads whole registers of values and spreads them by mask. The compiled loop by rows takes one
# number after the other, and each needs an activation from another place, so it is bound by those loads and not by its
# bytes; scipy carries wider values and columns besides. NumPy makes an array of products and walks over it again. The
# tiles multiply all the zeros, too: a bargain where a matrix unit does it almost for nothing, a loss on ordinary vector
# registers. (Where the processor cannot spread values by mask, the bits are taken one by one, and the loop by rows is
# faster than the bitmap, from more bytes.)
# (3) Reading the weights takes as long for 16 tokens as for one, but there is 16 times as much arithmetic. The dense
# product has spare arithmetic, since it was waiting for memory, and dense bfloat16 multiplications are the fastest that
# the processor has. The sparse product reaches its arithmetic limit earlier, so only a lower density wins. (4) Blocks
# pay if rows use the same columns. In the network the rows of a group do, and the order brings them together. In the
# pruned weight the touched blocks are nearly as many as for a random pattern of the same density: the rows have little
# in common, and no order can find what is not there.
#
# **Rubric.** One point each as in the table above; the numbers must be the student's own.
# ### END SOLUTION

# %% [markdown] id="further"
# ## Go further
#
# - **Bits in tiles.** SpInfer (Fan et al., EuroSys 2025) cuts its bitmap to match the tiles of a tensor core, so that a
#   thread counts ones in few words only. What would a start of 4 bytes for each *word* cost in `format_bytes`, and what
#   does one of 8 bytes for each tile of 64 × 256 cost (`kernels.pack_bitmap`)?
# - **Over a slow link.** Endor (Joo et al., 2024) expands the bitmap only after the transfer from storage. Put the
#   bandwidth of a disk into `least_seconds`: how far does the crossover move for 256 tokens?
# - **Two at once.** Flash-LLM (Xia et al., 2023) loads the next tile while the last one is multiplied. What is the
#   bound then, and which of your two steps takes longer?
# - **Which order?** *Learning Sparse Matrix Row Permutations for Efficient SpMM on GPU Architectures* (Mehrabi et al.,
#   ISPASS 2021) picks one of some cheap orders by features of the pattern instead of trying all. `row_permutation` of
#   `edgeinfer.kernels` does so: which order does it choose for your three matrices, and what would yours have saved?
# - **Better zeros.** Prune in blocks of 4 × 4 by their sum of magnitudes. How does the perplexity at half density
#   compare with single weights, and what does the blocked format cost now? Lab 5 goes on from here, with patterns that
#   hardware likes.
# - **Zeros that come and go.** SpAtten (Wang, Zhang and Han, HPCA 2021) drops tokens and heads of the attention while
#   the model runs: no format is prepared in advance. Which of the costs of this lab remain?
