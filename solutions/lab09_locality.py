# %% [markdown] id="title"
# # Lab 9 · Locality: read less, and read it in one piece
#
# A model that does not fit in memory lies in a file. Reading it whole for every token takes seconds. But a token needs
# few of its neurons, and about half of them the token before needed too. What remains are thousands of tiny reads, and
# a drive hates those. In this lab you cut the bytes and the reads, step by step, and count both on a real file.
#
# **You will be able to**
# - lay out the weights of a network so that one read fetches a neuron (LLM in a flash),
# - keep a sliding window of neurons, so that only new ones are read,
# - place neurons that fire together side by side, and merge reads over small gaps (Ripple),
# - divide irregular work evenly (merge path), and count what a tile saves (loop tiling).
#
# **Time** 75 minutes; exercises 5 and 6 stand alone. **Needs** the foundations chapters. **Runs** in less than half a
# minute.
#
# The chapters *Reading from flash* and *Locality* tell the story behind it.

# %% id="parameters" tags=["parameters"]
seed = 0
size = "default"

# %% id="imports"
import itertools
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread would mostly wait

import numpy as np
import torch
from edgeinfer import figures, models
from edgeinfer.grading import checks
from edgeinfer.memory import flash
from edgeinfer.memory.flash import steps
from edgeinfer.memory.flash.traces import network_weights
from edgeinfer.memory.storage import ColdFile

lab = checks.lab("lab09_locality")
figures.use_style()
torch.set_num_threads(1)
rng = np.random.default_rng(seed)

# %% [markdown] id="predict"
# ## Predict
#
# Write down numbers before you run anything.
#
# The model of this lab has 8 layers of 640 neurons. A neuron is a row of `gate`, a row of `up` and a column of `down`,
# each of 256 numbers of two bytes: 1.5 KiB. Its activation is a ReLU, so a neuron whose gate is not above zero adds
# nothing.
#
# 1. What share of the neurons does a token use, on average over the layers, 0 to 1?
# 2. You keep what the last four tokens used. What share of the neurons that a token uses must still be read,
#    0 to 1?
# 3. A drive reads blocks of 4 KiB. How many bytes cross from it at most when you read one neuron of 1.5 KiB?
# 4. Neurons that fire together are placed side by side. How many times fewer reads?

# %% id="my_predictions"
share_used = "nothing"
share_still_read = "nothing"
bytes_for_one_neuron = "nothing"
times_fewer_reads = "nothing"

# %% [markdown] id="trace_text"
# The model reads two texts. What fires in the **training** text may be used to decide on a layout. What fires in the
# **held-out** text is what you are measured on. Never mix them: an order that was fitted to the text it is tested on
# only shows that it can remember.

# %% id="trace"
model = models.load("relu")
training = flash.record_trace(model, flash.training_tokens({"default": 4096, "full": 16_384}.get(size, 4096)))
held_out = flash.record_trace(model, models.held_out_tokens("text")[:512])
weights = network_weights(model)  # (gate, up, down) of each layer

warm, counted = 32, 32  # tokens that fill the window, and tokens that are counted
activity = np.stack([fired[100 : 100 + warm + counted] for fired in held_out.active])  # (layers, tokens, neurons)
layers, tokens, neurons = activity.shape
used = activity[:, warm:].sum() / counted
print(
    f"a token uses {used:.0f} of {layers * neurons} neurons, {used / layers / neurons:.0%}; you predicted {share_used}"
)
print("layer by layer:", "  ".join(f"{fired.mean():.0%}" for fired in activity))

# %% [markdown] id="build_1"
# ## Build
#
# ### Exercise 1: one neuron, one read
#
# In the checkpoint `gate`, `up` and `down` are three matrices. The numbers of one neuron lie in three places, and in
# `down` even those of one column are scattered: 256 places.
#
# ```text
# gate  (M, H)      row i     what makes neuron i fire
# up    (M, H)      row i     how strongly
# down  (H, M)      column i  what it adds to each of the H outputs
# ```
#
# Make one array in which row i is all of neuron i.


# %% id="bundle_neurons" role="solution"
def bundle_neurons(gate, up, down):
    """The weights neuron by neuron.

    gate: float32 (M, H).   up: float32 (M, H).   down: float32 (H, M).
    Returns bundles: float32 (M, 3 H); row i holds row i of gate, row i of up, column i of down, one after the other.
    """
    ### BEGIN SOLUTION
    return np.concatenate([gate, up, down.T], axis=1)
    ### END SOLUTION


# %% id="check_bundle_neurons" role="check"
lab.check("bundle_neurons", bundle_neurons)

# %% [markdown] id="bundle_text"
# Is it still the same network? And what does it cost to read 50 neurons of one layer, from a real file, past the page
# cache? (`ColdFile` counts the requests and the bytes that really cross, in blocks of 4 KiB.) The file of three
# matrices holds down transposed already, so a neuron takes 3 reads there; as in the checkpoint it would take 258.

# %% id="bundle_file"
bundle = lab.fallback("bundle_neurons", bundle_neurons, steps.bundle_neurons)

folder = tempfile.TemporaryDirectory()
gate, up, down = weights[3]
bundles = bundle(gate, up, down)
H = gate.shape[1]
x = held_out.inputs[3][150]
fires = np.flatnonzero(gate @ x > 0)
whole = down @ (np.maximum(gate @ x, 0) * (up @ x))
few = bundles[fires]
part = ((few[:, :H] @ x) * (few[:, H : 2 * H] @ x)) @ few[:, 2 * H :]
print(f"{len(fires)} of {len(gate)} neurons give the same output up to {np.abs(part - whole).max():.1e}")

split_path, bundle_path = Path(folder.name) / "split", Path(folder.name) / "bundled"
split_path.write_bytes(b"".join(m.astype(np.float16).tobytes() for m in (gate, up, np.ascontiguousarray(down.T))))
bundle_path.write_bytes(bundles.astype(np.float16).tobytes())
some = np.sort(rng.choice(len(gate), 50, replace=False))
with ColdFile(split_path) as split_file, ColdFile(bundle_path) as bundle_file:
    for i in some:
        for matrix in range(3):
            split_file.read((matrix * len(gate) + i) * 2 * H, 2 * H)
        bundle_file.read(i * 6 * H, 6 * H)
    print(f"{len(some)} neurons of {6 * H / 1024:.1f} KiB: {len(some) * 6 * H / 1024:.0f} KiB are wanted")
    for title, file in (("three matrices", split_file), ("bundles", bundle_file)):
        print(f"{title:14}  {file.requests:4} requests, {file.bytes_read / 1024:4.0f} KiB read")
    bundle_file.bytes_read = 0
    bundle_file.read(2 * 6 * H, 6 * H)
    print(f"one neuron that lies across a border: {bundle_file.bytes_read} bytes; you predicted {bytes_for_one_neuron}")

# %% [markdown] id="build_2"
# ### Exercise 2: what the last tokens left here
#
# Keep in memory what the last `window` tokens **used** (not only what they loaded). The next token reads only what it
# uses and does not find.
#
# ```text
# window = 2
# token           0    1    2    3    4    5
# neuron 7 used   x    .    x    .    .    x
# held before it  .    yes  yes  yes  yes  .
# load            x    .    .    .    .    x
# ```


# %% id="neurons_to_load" role="solution"
def neurons_to_load(active, window):
    """What each token must read.

    active: bool (T, M), which neurons each token uses.   window: int, 0 or more.
    Returns load: bool (T, M), True where a token uses a neuron and none of the `window` tokens before it did.
    """
    ### BEGIN SOLUTION
    load = np.zeros_like(active)
    for t in range(len(active)):
        held = active[max(0, t - window) : t].any(axis=0)
        load[t] = active[t] & ~held
    return load
    ### END SOLUTION


# %% id="check_neurons_to_load" role="check"
lab.check("neurons_to_load", neurons_to_load)

# %% id="window_sizes"
to_load = lab.fallback("neurons_to_load", neurons_to_load, steps.neurons_to_load)

print("window  read for a token  of those used  held")
for window in (0, 1, 2, 4, 8, 16):
    read = sum(to_load(fired, window)[warm:].sum() for fired in activity) / counted
    held = np.mean(
        [fired[t - window : t].any(0).mean() if window else 0 for fired in activity for t in range(warm, tokens)]
    )
    mine = f"   you predicted {share_still_read}" if window == 4 else ""
    print(f"{window:6}  {read:16.0f}  {read / used:13.0%}  {held:4.0%}{mine}")

# %% [markdown] id="window_think"
# The window trades memory for reads. Where would you stop if the whole model must run in half of its size?
#
# ### Exercise 3: who fires with whom
#
# Two neurons that fire in the same tokens should be neighbours in the file: then one read fetches both. Count in the
# **training** text how often each pair fires together, and find an order, a path through all neurons, whose neighbours
# fire together often.
#
# The best path is a travelling salesman's problem. A greedy one does well: go through the pairs by falling count, and
# make two neurons neighbours if
#
# - neither has two neighbours yet, and
# - they are not two ends of the same piece (that would close a ring).
#
# When every pair was offered, also those that never fire together, one path is left. (Any other order passes too if its
# neighbours fire together at least 95 % as often as in this path.)


# %% id="path_of_neurons" role="solution"
def path_of_neurons(active):
    """An order of the neurons in which neighbours fire together.

    active: bool (T, M), which neurons each token of the training text uses.
    Returns order: int (M,), the neuron at each place of the file, every neuron once.
    """
    ### BEGIN SOLUTION
    fired = active.astype(np.float32)
    counts = fired.T @ fired
    first, second = np.triu_indices(len(counts), 1)
    falling = np.argsort(-counts[first, second], kind="stable")
    beside = [[] for _ in counts]
    piece = list(range(len(counts)))  # a tree for each piece; its root names it

    def root(n):
        while piece[n] != n:
            piece[n] = piece[piece[n]]
            n = piece[n]
        return n

    for a, b in zip(first[falling].tolist(), second[falling].tolist(), strict=True):
        if len(beside[a]) < 2 and len(beside[b]) < 2 and root(a) != root(b):
            piece[root(a)] = root(b)
            beside[a].append(b)
            beside[b].append(a)
    order, before = [next(n for n in range(len(counts)) if len(beside[n]) < 2)], None
    while len(order) < len(counts):
        onward = next(n for n in beside[order[-1]] if n != before)
        before = order[-1]
        order.append(onward)
    return np.array(order)
    ### END SOLUTION


# %% id="check_path_of_neurons" role="check"
lab.check("path_of_neurons", path_of_neurons)

# %% [markdown] id="build_4"
# ### Exercise 4: fewer, longer reads
#
# Given the places that a token wants, make a list of reads. Neighbours share a read. And if only a few unwanted places
# lie between two wanted ones, it is cheaper to read them along than to start anew:
#
# ```text
# wanted   1 2 . . 5 . . . . 10          gap = 2
# reads    [1 ----- 5]       [10]        starts 1, 10    counts 5, 1
# ```


# %% id="merge_reads" role="solution"
def merge_reads(places, gap):
    """Join wanted places into reads.

    places: int (n,), distinct, in any order; n may be 0.   gap: int, 0 or more: so many unwanted places are read along.
    Returns starts: int (R,), ascending; counts: int (R,), places of each read, those in gaps included.
    """
    ### BEGIN SOLUTION
    places = np.sort(places)
    if len(places) == 0:
        return np.zeros(0, int), np.zeros(0, int)
    begins = np.flatnonzero(np.diff(places) > gap + 1) + 1
    pieces = np.split(places, begins)
    starts = np.array([piece[0] for piece in pieces])
    return starts, np.array([piece[-1] - piece[0] + 1 for piece in pieces])
    ### END SOLUTION


# %% id="check_merge_reads" role="check"
lab.check("merge_reads", merge_reads)

# %% [markdown] id="measure_text"
# ## Measure
#
# Now all of it, on real files. Three of them hold the eight layers in bundles: in the order of the checkpoint, sorted
# by how often a neuron fires, and in your order (the last two found in the training text). The held-out text is read
# token by token, cold.

# %% id="files"
path = lab.fallback("path_of_neurons", path_of_neurons, steps.path_of_neurons)
merge = lab.fallback("merge_reads", merge_reads, steps.merge_reads)

orders = {
    "as trained": [np.arange(neurons)] * layers,
    "by frequency": [np.argsort(-fired.sum(0), kind="stable") for fired in training.active],
    "your path": [np.asarray(path(fired)) for fired in training.active],
}
BUNDLE = 6 * H
for title, order in orders.items():
    rows = [bundle(*layer)[placed].astype(np.float16) for layer, placed in zip(weights, order, strict=True)]
    (Path(folder.name) / title).write_bytes(b"".join(r.tobytes() for r in rows))


def read_text(title, window, gap, count=16):
    """Requests and MiB per token, from the file, for the first tokens after the window is full."""
    with ColdFile(Path(folder.name) / title) as file:
        for layer in range(layers):
            place = np.argsort(orders[title][layer])
            load = to_load(activity[layer], window)
            for t in range(warm, warm + count):
                for start, length in zip(*merge(place[np.flatnonzero(load[t])], gap), strict=True):
                    file.read((layer * neurons + int(start)) * BUNDLE, int(length) * BUNDLE)
        return file.requests / count, file.bytes_read / count / 2**20


print("order          window  gap  requests  MiB")
results = {}
for window in (0, 4):
    for title in orders:
        for gap in (0, 2):
            results[title, window, gap] = requests, moved = read_text(title, window, gap)
            print(f"{title:14} {window:6} {gap:4}  {requests:8.0f}  {moved:4.2f}")
whole = layers * neurons * BUNDLE / 2**20
print(f"everything              -   {layers:8}  {whole:4.2f}")
gain = results["as trained", 0, 0][0] / results["your path", 0, 0][0]
print(f"your path alone: {gain:.2f} times fewer requests; you predicted {times_fewer_reads}")

# %% [markdown] id="larger_text"
# A neuron of this model is smaller than a block of the drive. That hides half of the story: a read of 1.5 KiB moves 4
# or 8 KiB anyway, so a small gap may even save bytes. Put the same activity on a wider model. Its neurons have 12 KiB
# (H = 2048), and the bytes can be counted without a file: a read from byte a to byte b moves whole blocks.

# %% id="larger" mystnb={"image": {"alt": "Bytes against requests per token, gaps from 0 to 8, two bundle sizes."}}
import matplotlib.pyplot as plt


def count(title, gap, bundle_bytes, window=0, block=4096):
    requests = moved = 0
    for layer in range(layers):
        place, load = np.argsort(orders[title][layer]), to_load(activity[layer], window)
        for t in range(warm, tokens):
            starts, counts = (np.asarray(part) for part in merge(place[np.flatnonzero(load[t])], gap))
            first, last = starts * bundle_bytes, (starts + counts) * bundle_bytes
            requests += len(starts)
            moved += int((-(-last // block) * block - first // block * block).sum())
    return requests / counted, moved / counted / 2**20


gaps = (0, 1, 2, 4, 8)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
for axis, bundle_bytes in zip(axes, (BUNDLE, 8 * BUNDLE), strict=True):
    for marker, title in zip("os", ("as trained", "your path"), strict=True):
        line = np.array([count(title, gap, bundle_bytes) for gap in gaps])
        axis.plot(line[:, 0], line[:, 1], marker=marker, label=title)
    axis.set(title=f"bundles of {bundle_bytes / 1024:.1f} KiB", xlabel="requests per token", ylabel="MiB per token")
    axis.set_ylim(bottom=0)
axes[0].legend()
plt.show()

# %% [markdown] id="build_5"
# ## Two exercises that stand alone
#
# ### Exercise 5: even parts of uneven work
#
# Locality has a rival: balance. A sparse matrix goes to several workers. Equal numbers of **rows** are no equal work:
# one row may hold half of all entries. Equal numbers of **entries** are none either: a thousand empty rows have no
# entry, and yet each must write a zero.
#
# The matrix is stored in **CSR** form (compressed sparse rows): all entries row after row, and row i has the entries
# from `row_offsets[i]` up to, not including, `row_offsets[i + 1]`.
#
# GPU Merge Path counts both, rows and entries. A step is *one entry*, or *the end of a row*. The walk begins at (row 0,
# entry 0). It takes entries while the row has any left; as soon as it has none, it ends the row. Cut the walk into
# parts of equal length, wherever a cut falls, even in the middle of a row. A cut is written (row, entry): how many rows
# are ended, and how many entries of the whole matrix are taken.
#
# ```text
# row_offsets  0 2 2 5       rows of 2, 0 and 3 entries: 3 + 5 = 8 steps
# step         e e R R e e e R       e: entry, R: end of a row
# after 4 steps: (row 2, entry 2)
# ```
#
# Ask for each end of a row in which step it falls; no walk is needed.


# %% id="merge_path_split" role="solution"
def merge_path_split(row_offsets, parts):
    """Cut the walk over a CSR matrix into parts of equal length.

    row_offsets: int (rows + 1,), starts at 0, never falls; rows may be empty, and there may be none.   parts: int >= 1.
    Returns points: int (parts + 1, 2), (row, entry) after p * (rows + entries) // parts steps.
    """
    ### BEGIN SOLUTION
    offsets = np.asarray(row_offsets)
    step_of_end = offsets[1:] + np.arange(len(offsets) - 1)  # entries before it, and ends before it
    total = len(step_of_end) + int(offsets[-1])
    cuts = np.arange(parts + 1) * total // parts
    rows = np.searchsorted(step_of_end, cuts)  # ends among the first steps
    return np.stack([rows, cuts - rows], axis=1)
    ### END SOLUTION


# %% id="check_merge_path_split" role="check"
lab.check("merge_path_split", merge_path_split)

# %% id="balance"
cut = lab.fallback("merge_path_split", merge_path_split, steps.merge_path_split)

lengths = np.minimum(rng.zipf(1.6, 2000), 5000)
lengths[rng.random(2000) < 0.5] = 0
lengths = np.sort(lengths)[::-1]  # as in many graphs: the busy rows come first
offsets = np.concatenate(([0], np.cumsum(lengths)))
print(f"{len(lengths)} rows, {offsets[-1]} entries, half of the rows empty, the longest {lengths.max()}")
ways = {
    "equal rows": [(i, offsets[i]) for i in (p * len(lengths) // 4 for p in range(5))],
    "merge path": np.asarray(cut(offsets, 4)).tolist(),
}
for title, points in ways.items():
    work = [int(b[0] - a[0] + b[1] - a[1]) for a, b in itertools.pairwise(points)]
    print(
        f"{title:11} steps of the four workers {work}: the slowest has {max(work) / np.mean(work):.2f} times the mean"
    )

# %% [markdown] id="build_6"
# ### Exercise 6: what a tile saves
#
# The last kind of locality needs no luck with the data (see *Loop tiling overview*). C = A B, tile by tile:
#
# ```text
# for each tile of C (tile_m x tile_n):
#     for each step of tile_k along K:
#         load a tile of A (tile_m x tile_k) and one of B (tile_k x tile_n)
#         add their product to the tile of C, which stays in fast memory
#     write the tile of C
# ```
#
# How many elements are moved, and how many lie in fast memory at once? Tiles at the edge are as small as the matrix
# leaves them. (The table below also divides: how many products of two numbers come *per element* that is moved?)


# %% id="tiled_matmul_traffic" role="solution"
def tiled_matmul_traffic(M, N, K, tile_m, tile_n, tile_k):
    """Traffic and room of a tiled product.

    M, N, K: int, sizes of C (M, N) = A (M, K) B (K, N).   tile_m, tile_n, tile_k: int, sizes of the tiles.
    Returns moved: int, elements read of A and B and written of C; held: int, most elements of the three tiles at once.
    """
    ### BEGIN SOLUTION
    across, down = -(-N // tile_n), -(-M // tile_m)  # tiles of C, rounded up
    moved = M * K * across + K * N * down + M * N
    m, n, k = min(tile_m, M), min(tile_n, N), min(tile_k, K)
    return moved, m * k + k * n + m * n
    ### END SOLUTION


# %% id="check_tiled_matmul_traffic" role="check"
lab.check("tiled_matmul_traffic", tiled_matmul_traffic)


# %% id="tiles"
traffic = lab.fallback("tiled_matmul_traffic", tiled_matmul_traffic, steps.tiled_matmul_traffic)

for title, shape, tiles in (
    ("about the same room", (512, 512, 512), ((64, 64, 64), (16, 256, 32), (104, 104, 8))),
    ("one column", (512, 1, 512), ((64, 1, 64), (512, 1, 8))),
):
    print(f"{title}, {' x '.join(map(str, shape))}:")
    print("tile               moved    held  per element")
    for tile in tiles:
        moved, held = traffic(*shape, *tile)
        print(f"{' x '.join(map(str, tile)):13}  {moved:9,}  {held:6,}  {np.prod(shape) / moved:11.1f}")

# %% [markdown] id="play_text"
# ### Play with it
#
# The controls below call **your** function, each time anew.
# With room for 12,288 elements: how little can be moved?

# %% id="play"
def one_tile(tile_m, tile_n, tile_k):
    points = {}
    for side in (8, 16, 32, 64, 128, 256, 512):
        points[side] = traffic(512, 512, 512, side, side, side)
    moved, held = traffic(512, 512, 512, tile_m, tile_n, tile_k)
    return figures.Frame(
        [
            figures.Chart(
                [
                    figures.Line([h for _, h in points.values()], [m for m, _ in points.values()], "cubes of 8 to 512"),
                    figures.Points([held], [moved], "this tile", style=1, large=True),
                ],
                figures.Axis("elements held", scale="log"),
                figures.Axis("elements moved", scale="log"),
            )
        ],
        f"512 x 512 x 512 in tiles of {tile_m} x {tile_n} x {tile_k}: {moved:,} elements moved, {held:,} held.",
    )


figures.LiveFigure(
    "Room against traffic",
    [figures.Slider(f"tile_{axis}", f"Tile {axis}", (8, 16, 32, 64, 128, 256, 512), default=64) for axis in "mnk"],
    one_tile,
)

# %% [markdown] id="explain_task"
# ## Explain
#
# Answer in five to ten sentences, with your own numbers from above.
#
# 1. Which of window, bundles, path and gap saved most requests? Which saved most bytes? Why are these not the same?
# 2. With a window the path gains much less than without. Why?
# 3. A gap of 2 even saves bytes with neurons of 1.5 KiB and costs many with 12 KiB. Why?
# 4. In a product with one column, why does no tile help? What does that say about decoding? SpeedLoader reads a layer
#    less than once for each token all the same: how? And why can HeteroLLM divide such a product by outputs only?
#    (Both are told in the chapter *Locality*.)
#
# | points | for |
# | --- | --- |
# | 1 | (1) requests and bytes told apart, with numbers; blocks or gaps named as the reason |
# | 1 | (2) what the window leaves to read is what neighbours do not share |
# | 1 | (3) blocks of 4 KiB against the size of a bundle |
# | 1 | (4) every weight is used once, so there is nothing to use again; other requests' tokens are the second use |

# %% [markdown] id="explain" role="written" points=4
# ### BEGIN SOLUTION
# **Model answer.** (1) The window saves most of both: what the last tokens used need not be read. Bundling makes one
# request of three. The gap trades bytes for requests: with small neurons it saves both, since several neurons share a
# block. The path alone saves a fifth or so of the requests. Requests and bytes differ because every request moves whole
# blocks, and because merged reads move neurons that nobody wanted. (2) Neurons that fire together often are mostly
# frequent ones, and those are still in the window. What must be read are rare firings, and these are nearly random: the
# order has little to say about them. (3) A read of 1.5 KiB moves 4 or 8 KiB anyway; the neurons in a gap mostly lie in
# blocks that move in any case, and a block that two reads share moves once instead of twice. With 12 KiB each neuron of
# a gap is three blocks more. (4) A has M K elements, each is used once for each column; with one column there is no
# second use that a tile could serve. Decoding one token is such a product: its traffic is the weights, whatever the
# order of the loops. SpeedLoader finds the second use in other requests: a loaded layer serves several sub-batches.
# HeteroLLM has one row and can only divide the outputs; each device then reads its own share of the weights.
#
# **Rubric.** One point each as in the table above; the numbers must be the student's own.
# ### END SOLUTION

# %% [markdown] id="further"
# ## Go further
#
# - **Guess before you read.** You used what really fired. `flash.fit_predictor` guesses it from the layer before
#   (Deja Vu, Liu et al., ICML 2023). How many more neurons do you read at a recall of 95 %?
# - **A table without holes.** `flash.NeuronMemory` keeps the window's neurons in one array and fills a hole with the
#   last row (LLM in a flash, Alizadeh et al. 2023). How many rows does it move per token?
# - **A cache that minds runs.** `flash.LinkAwareCache` (Ripple, Wang et al. 2024) does not keep neurons out of the
#   middle of a long read. Does it help here?
# - **Fit the order to what is read.** Count co-activations of `to_load(training.active[layer], 4)` instead of all
#   firings. Is the path then better with a window?

# %% id="clean_up"
folder.cleanup()
