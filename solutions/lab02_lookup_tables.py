# %% [markdown] id="title"
# # Lab 2 · Look-up tables instead of multiplications
#
# A weight of two bits can only have four values. Multiplying by it is a waste of a multiplier. In this lab you build
# the product that does without: you look results up.
#
# **You will be able to**
# - take low-bit weights apart into bit-planes, and say which table entry a run of bits points at,
# - build the table of signed sums once, and use it for every output row,
# - keep scales, zero points and accumulators right where they are easily lost,
# - store ternary weights in 1.6 bits and read them back without a division,
# - say when a look-up table beats a dot-product instruction, and when it does not.
#
# **Time** 60 minutes. **Needs** the foundations chapters and Lab 1 (scale, zero point, group).
# **Runs** in less than a minute on two cores.
#
# The chapter *Look-up tables* tells the story behind it.

# %% id="parameters" tags=["parameters"]
seed = 0
size = "default"

# %% id="imports"
import numpy as np
from edgeinfer import figures, kernels, measure, models
from edgeinfer.grading import checks
from edgeinfer.kernels import lookup_steps

lab = checks.lab("lab02_lookup_tables")
figures.use_style()

# %% [markdown] id="predict"
# ## Predict
#
# Write down a number before you run anything. A wrong guess teaches more than none.
#
# 1. A matrix has 4096 rows and 4096 columns. Four activations share a table of 16 entries. Building **all** tables
#    takes about 18,000 additions. A hasty program builds them again **for every row**. How many times more additions
#    is that than the ordinary product has multiplications and additions?
# 2. A look-up product takes 1 ms with 4-bit weights. How long will it take with 2-bit weights?
# 3. This processor may have an instruction that multiplies and adds 64 bytes at once. At 4 bits, who wins: the table or
#    the instruction? Write the speed of the table product divided by the speed of the instruction's product.

# %% id="my_predictions"
times_more_additions = "nothing"
milliseconds_at_2_bits = "nothing"
table_speed_over_instruction_speed = "nothing"

# %% [markdown] id="build_1"
# ## Build
#
# ### Exercise 1: bit-planes that are table indices
#
# A code of `bits` bits is a sum of single bits: code = b0 + 2·b1 + 4·b2 + … All the b0 of a matrix form plane 0, all
# the b1 plane 1, and so on.
#
# Now look at one plane and one row, and read $g$ neighbouring bits at once. They form a number from 0 to $2^g - 1$.
# That number will be an index into a table. The first weight of the run is the lowest bit.
#
# | weights 0 … 3 of a run | plane 0 | plane 1 |
# | --- | --- | --- |
# | 3, 0, 2, 1 (binary 11, 00, 10, 01) | bits 1, 0, 0, 1 → index 9 | bits 1, 0, 1, 0 → index 5 |
#
# With g = 1 you get the planes themselves.

# %% id="split_bit_planes" role="solution"
def split_bit_planes(codes, bits, g):
    """Turn codes into table indices, plane by plane.

    codes: uint8 (N, K), each below 2**bits.   bits: int.   g: int, divides K, at most 8.
    Returns indices: uint8 (bits, N, K // g). Bit i of indices[b, n, j] is bit b of codes[n, j * g + i].
    """
    ### BEGIN SOLUTION
    indices = np.zeros((bits, codes.shape[0], codes.shape[1] // g), np.uint8)
    for b in range(bits):
        plane = (codes >> b) & 1
        for i in range(g):
            indices[b] |= plane[:, i::g] << i
    return indices
    ### END SOLUTION

# %% id="check_split_bit_planes" role="check"
lab.check("split_bit_planes", split_bit_planes)

# %% [markdown] id="back_text"
# And back. Nothing may be lost, so putting the planes together again must give the codes. (From here on, a cell uses
# your function if its check passed, else the library's, and says so.)

# %% id="back"
split = lab.fallback("split_bit_planes", split_bit_planes, lookup_steps.plane_indices)

rng = np.random.default_rng(seed)
some_codes = rng.integers(0, 16, (3, 8)).astype(np.uint8)
single_bits = split(some_codes, 4, 1)  # g = 1: shape (4, 3, 8)
print("codes of row 0:      ", some_codes[0])
for b in range(4):
    print(f"plane {b} (worth {2**b}):   ", single_bits[b, 0])
together = sum(2**b * single_bits[b].astype(int) for b in range(4))
print("put together again:  ", together[0], "- equal everywhere:", bool((together == some_codes).all()))

# %% [markdown] id="build_2"
# ### Exercise 2: the table
#
# Give each bit a sign: 1 means +1, 0 means −1. For a run of four activations a, b, c, d there are 16 ways to set the
# signs, so 16 sums: −a−b−c−d, +a−b−c−d, −a+b−c−d, … Write them all down once. Then **any** row of the matrix finds its
# four products and three additions ready, in one look-up per plane.
#
# Two things to notice:
# - The table depends on the activations only. It is built **once** and serves all rows. That is the whole profit.
# - Entry ~t (all bits of t turned over) is minus entry t. So half of the table is enough; the other half is a mirror.

# %% id="build_tables" role="solution"
def build_tables(x, g):
    """All signed sums of each run of g activations.

    x: float32 (K,).   g: int, divides K.
    Returns tables: float32 (K // g, 2**g). Entry t of table j is the sum over i of +x[j * g + i] where bit i of t is 1,
    and of -x[j * g + i] where it is 0.
    """
    ### BEGIN SOLUTION
    groups = x.reshape(-1, g)
    half = 2 ** (g - 1)
    tables = np.zeros((len(groups), 2**g), np.float32)
    for t in range(half):
        signs = np.array([1 if (t >> i) & 1 else -1 for i in range(g)], np.float32)
        tables[:, t] = groups @ signs
    tables[:, half:] = -tables[:, :half][:, ::-1]  # the mirror: entry ~t is minus entry t
    return tables
    ### END SOLUTION

# %% id="check_build_tables" role="check"
lab.check("build_tables", build_tables)

# %% [markdown] id="build_3"
# ### Exercise 3: the product
#
# A weight is `scale * (code - zero_point)`. Replace each bit by (sign + 1) / 2:
#
# $$\text{code} = \sum_b 2^b \, \frac{s_b + 1}{2} = \sum_b \frac{2^b}{2} s_b + \frac{2^{\text{bits}} - 1}{2}$$
#
# Multiply by x and add up over the columns of one group. The signs give look-ups. The rest is the same number for
# every weight of the group, so it meets only the **sum** of the activations:
#
# $$\begin{aligned}
# y_n = \sum_{\text{groups}} \text{scale} \cdot \Big( & \sum_b \frac{2^b}{2}
# \underbrace{\textstyle\sum s_b x}_{\text{look-ups}} \\
# & + \big(\tfrac{2^{\text{bits}} - 1}{2} - \mathrm{zero\_point}\big)
# \underbrace{\textstyle\sum x}_{\text{in the table}} \Big)
# \end{aligned}$$
#
# Where in a table does the sum of its activations stand?
#
# Fast kernels store the tables as int8. Your function gets such tables, too. Mind what a sum of many int8 numbers
# needs. The scale of such tables is one more factor of y; leave it to the caller.

# %% id="lut_matvec" role="solution"
def lut_matvec(indices, tables, scales, zero_points):
    """y = W @ x, without a single multiplication of a weight by an activation.

    indices: uint8 (bits, N, K // g).   tables: float32 or int8 (K // g, 2**g).
    scales: float32 (N, G).   zero_points: uint8 (N, G). Each of the G groups of K // G columns has its own.
    Returns y: float (N,), for W = scale * (code - zero_point).
    """
    ### BEGIN SOLUTION
    bits, rows, blocks = indices.shape
    groups = scales.shape[1]
    wide = tables.astype(np.float32)
    sums = np.zeros((rows, blocks), np.float32)
    for b in range(bits):
        sums += 2.0**b / 2 * wide[np.arange(blocks), indices[b]]
    sums = sums.reshape(rows, groups, -1).sum(axis=2)
    x_sums = wide[:, -1].reshape(groups, -1).sum(axis=1)  # all bits 1: the sum itself
    offset = (2**bits - 1) / 2 - zero_points.astype(np.float32)
    return (scales * (sums + offset * x_sums)).sum(axis=1)
    ### END SOLUTION

# %% id="check_lut_matvec" role="check"
lab.check("lut_matvec", lut_matvec)

# %% [markdown] id="real_text"
# ### On a real layer
#
# A weight matrix of the trained model, quantized in groups, multiplied by look-up, and compared with the ordinary
# product of the dequantized matrix. The difference must be rounding only, at every width.

# %% id="real_layer"
tables_of = lab.fallback("build_tables", build_tables, lookup_steps.signed_sums)
product = lab.fallback("lut_matvec", lut_matvec, lookup_steps.lookup_matvec)


def relative(value, reference):
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)


model = models.load("target")
layer = model.linears()["layers.3.mlp.gate_proj"].numpy().astype(np.float32)
x = rng.normal(size=layer.shape[1]).astype(np.float32)
print(f"layer of shape {layer.shape}")
for bits in (2, 3, 4):
    q = kernels.quantize_groupwise(layer, bits, 64, symmetric=False)
    y = product(split(q.codes, bits, 4), tables_of(x, 4), q.scale, q.zero_point)
    dense = q.dequantize() @ x
    print(
        f"{bits} bits: look-up against dequantized, largest difference {np.abs(y - dense).max():.1e};  "
        f"quantized against original, relative error {relative(dense, layer @ x):.3f}"
    )

# %% [markdown] id="play_text"
# ### Play with it
#
# The controls below call **your** function, each time anew.
# Longer runs replace more products by one look-up. What grows meanwhile, and how fast?

# %% id="play"
few = np.array([0.9, -0.4, 0.25, 0.6, -0.1, 0.05, -0.7, 0.3], np.float32)


def one_table(g):
    sums = tables_of(few[:g], g)[0]
    return figures.Frame(
        [
            figures.Chart(
                [figures.Points(range(2**g), sums, "signed sum")],
                figures.Axis("entry of the table"),
                figures.Axis("value"),
            )
        ],
        f"Runs of {g}: one look-up stands for {g} products, so a row of 256 columns takes {-(-256 // g)} for each "
        f"plane. Its tables have {-(-256 // g) * 2**g:,} entries. Turn the picture by half a turn: it looks the same.",
    )


figures.LiveFigure("One table", [figures.Slider("g", "Activations in a run", range(1, 9), default=4)], one_table)

# %% [markdown] id="work_text"
# How much work was that? The library counts it for you. Compare with your first prediction.

# %% id="count_work"
rows = columns = 4096
dense_work = lookup_steps.dense_operations(rows, columns)
print(f"{rows} x {columns}, ordinary product: {dense_work:,} multiplications and additions")
for bits in (1, 2, 3, 4):
    work = lookup_steps.lookup_work(rows, columns, bits, g=4)
    print(
        f"{bits} bit{'s' * (bits > 1)}, g = 4: {work.lookups:,} look-ups, {work.operations:,} other operations, "
        f"{work.weight_bytes / 2**20:.1f} MiB of weights"
    )
once = lookup_steps.lookup_work(rows, columns, 2, mirror=False).table_additions
print(
    f"all tables once: {once:,} additions;  again for every row: {once * rows:,}, "
    f"{once * rows / dense_work:.1f} times the ordinary product  (you predicted: {times_more_additions})"
)

# %% [markdown] id="build_4"
# ### Exercise 4: ternary weights, five in a byte
#
# Weights of −1, 0, 1 (BitNet's, for example) carry log₂ 3 = 1.58 bits. Two bits each waste a fifth. But 3⁵ = 243 is at
# most 256, so **five** fit into a byte: 1.6 bits each.
#
# Make each weight a digit 0, 1, 2, and the five digits a number c in base 3, first weight first (worth 81). Getting the
# digits back from c takes divisions. There is a better way to store it: stretch c to a fraction of 256,
#
# $$\text{byte} = \lceil 256 \, c / 243 \rceil .$$
#
# Read the byte as the fraction byte/256, which is 0.d₀d₁d₂d₃d₄ in base 3. Multiply by 3: the digit d₀ steps out in
# front of the point. In integers: `3 * byte` has d₀ above its low eight bits, and the low eight bits are the rest.
#
# **4a.** Pack. A row whose length is no multiple of five is filled up with weights 0.

# %% id="pack_ternary" role="solution"
def pack_ternary(weights):
    """Five ternary weights a byte.

    weights: int8 (N, K) of -1, 0, 1.
    Returns packed: uint8 (N, ceil(K / 5)); byte = ceil(256 * c / 243) with
    c = 81*(w0+1) + 27*(w1+1) + 9*(w2+1) + 3*(w3+1) + (w4+1). Weights missing at the end of a row count as 0.
    """
    ### BEGIN SOLUTION
    rows, columns = weights.shape
    full = np.zeros((rows, -(-columns // 5) * 5), np.int32)
    full[:, :columns] = weights
    digits = full.reshape(rows, -1, 5) + 1
    c = (digits * np.array([81, 27, 9, 3, 1])).sum(axis=2)
    return ((256 * c + 242) // 243).astype(np.uint8)
    ### END SOLUTION

# %% id="check_pack_ternary" role="check"
lab.check("pack_ternary", pack_ternary)

# %% [markdown] id="build_4b"
# **4b.** Unpack: multiplications, shifts and masks (or a table), no division. No check can see a division; you can.

# %% id="unpack_ternary" role="solution"
def unpack_ternary(packed, columns):
    """The inverse of pack_ternary, without a division.

    packed: uint8 (N, ceil(K / 5)).   columns: int K.
    Returns weights: int8 (N, K) of -1, 0, 1.
    """
    ### BEGIN SOLUTION
    rest = packed.astype(np.uint16)  # 3 * 255 does not fit into a byte
    digits = []
    for _ in range(5):
        rest = rest * 3
        digits.append((rest >> 8).astype(np.int8) - 1)
        rest = rest & 255
    return np.stack(digits, axis=2).reshape(len(packed), -1)[:, :columns]
    ### END SOLUTION

# %% id="check_unpack_ternary" role="check"
lab.check("unpack_ternary", unpack_ternary)

# %% id="ternary_bytes"
pack5 = lab.fallback("pack_ternary", pack_ternary, lookup_steps.ternary_bytes)
unpack5 = lab.fallback("unpack_ternary", unpack_ternary, lookup_steps.ternary_weights)

trits = rng.integers(-1, 2, (256, 640)).astype(np.int8)
packed = pack5(trits)
print(f"bits per weight: {8 * packed.nbytes / trits.size:.3f}  (log2 3 = {np.log2(3):.3f}, two-bit codes 2.000)")
print("back again:", bool((unpack5(packed, 640) == trits).all()))

# %% [markdown] id="build_5"
# ### Exercise 5: binary coding
#
# In Exercise 3 the planes had weights ½, 1, 2, … times a scale. Nothing forces that. A table does not care what a
# plane is worth. **Binary coding** gives each plane a scale of its own:
#
# $$w \approx \alpha_0 s_0 + \alpha_1 s_1 + \dots, \quad s_b \in \{-1, +1\}$$
#
# so the levels need not be equally spaced. (Uniform codes are the special case
# $\alpha_b = \text{scale} \cdot 2^b / 2$, plus an offset.)
#
# How to find the scales of one row of weights:
# - **Greedy start.** r = w. Then for each plane: s = sign of r (take + for 0), α = mean of |r|, and r loses α s.
# - **Alternate**, `rounds` times: keep the signs and refit **all** scales together (least squares); then keep the
#   scales and give each weight the nearest of the $2^{\text{bits}}$ sums.
#
# Two planes can be equal (a row of equal weights): then a plain `solve` fails; `np.linalg.lstsq` and `np.linalg.pinv`
# do not.

# %% id="binary_coding" role="solution"
def binary_coding(w, bits, rounds):
    """Each row of w as a sum of `bits` planes of -1 and +1 with a scale each.

    w: float32 (G, L), G rows (groups) of L weights.   bits: int.   rounds: int, may be 0 (no alternation).
    Returns alphas: float (G, bits), planes: int8 (G, bits, L).
    """
    ### BEGIN SOLUTION
    alphas = np.zeros((len(w), bits))
    planes = np.zeros((len(w), bits, w.shape[1]), np.int8)
    rest = w.astype(np.float64)
    for b in range(bits):
        planes[:, b] = np.where(rest >= 0, 1, -1)
        alphas[:, b] = np.abs(rest).mean(axis=1)
        rest = rest - alphas[:, b : b + 1] * planes[:, b]
    patterns = np.array([[1 if (t >> b) & 1 else -1 for b in range(bits)] for t in range(2**bits)], np.int8)
    for _ in range(rounds):
        for row in range(len(w)):
            alphas[row] = np.linalg.lstsq(planes[row].T.astype(np.float64), w[row], rcond=None)[0]
            levels = patterns @ alphas[row]
            nearest = np.abs(w[row][:, None] - levels).argmin(axis=1)
            planes[row] = patterns[nearest].T
    return alphas, planes
    ### END SOLUTION

# %% id="check_binary_coding" role="check"
lab.check("binary_coding", binary_coding)

# %% [markdown] id="coding_text"
# Does it pay? The same layer, the same bits: uniform codes with a scale and a zero point per group, the greedy start
# alone, and the alternating fit.

# %% id="coding_errors" mystnb={"image": {"alt": "Relative error against bits for the three codes."}}


def library_coding(w, bits, rounds):
    coded = kernels.binary_coding(w, bits, w.shape[1], rounds, bias=False)
    signs = np.unpackbits(coded.planes, axis=2, bitorder="little").astype(np.int8) * 2 - 1
    return coded.alpha[:, 0], signs


coding = lab.fallback("binary_coding", binary_coding, library_coding)

w = layer[:64].reshape(-1, 64)  # groups of 64 weights
errors = {"uniform": [], "greedy": [], "alternating": []}
for bits in (2, 3, 4):
    uniform = kernels.quantize_groupwise(w, bits, 64, symmetric=False).dequantize()
    errors["uniform"].append(relative(uniform, w))
    for name, rounds in (("greedy", 0), ("alternating", 10)):
        alphas, planes = coding(w, bits, rounds)
        approximation = np.einsum("gb,gbl->gl", alphas, planes)
        errors[name].append(relative(approximation, w))
for name, values in errors.items():
    print(f"{name:12s}", "  ".join(f"{bits} bits {e:.3f}" for bits, e in zip((2, 3, 4), values, strict=True)))

_ = figures.plot(
    figures.Chart(
        [figures.Line([2, 3, 4], values, name, style=i) for i, (name, values) in enumerate(errors.items())],
        figures.Axis("bits per weight", "scales not counted", whole=True),
        figures.Axis("relative error of the weights", scale="log"),
        "The same bits, three codes",
    )
)

# %% [markdown] id="coding_question"
# Compare the alternating fit with the uniform codes at two bits, and again at four. What do the uniform codes have that
# your binary code lacks? (LUT-GEMM adds it: one constant per group, the **bias** term. `kernels.binary_coding` fits it,
# too.) Is that enough at four bits?

# %% id="with_bias"
for bits in (2, 3, 4):
    coded = kernels.binary_coding(w, bits, 64)
    print(f"{bits} bits: with bias {relative(coded.dequantize(), w):.3f}, uniform {errors['uniform'][bits - 2]:.3f}")

# %% [markdown] id="measure_text"
# ## Measure
#
# Now the clock. All contenders run interleaved in shuffled rounds, so a disturbance hits all alike; only ratios
# count. The weights are taken from many copies in turn, so that they come from memory, as in decoding a large model.
#
# - **Yours**: NumPy. Every step is an array of its own.
# - **Plain Numba**: the same loops compiled, below. No vector look-up, so each entry is fetched alone.
# - **Library, look-up**: four tables in one vector register, 64 look-ups in one instruction (byte shuffle).
# - **Library, dot product**: no table. The codes are multiplied by int8 activations, 64 at once.
# - **torch bfloat16**: what you would have without quantization.

# %% id="plain_numba"
import numba

@numba.njit
def plain_lookup(indices, tables, scales, offset, x_sums):
    planes, height, tables_in_row = indices.shape
    groups_in_row = scales.shape[1]
    per_group = tables_in_row // groups_in_row
    y = np.zeros(height, np.float32)
    for n in range(height):
        for k in range(groups_in_row):
            total = np.float32(0)
            for b in range(planes):
                plane = np.float32(0)
                for j in range(k * per_group, (k + 1) * per_group):
                    plane += tables[j, indices[b, n, j]]
                total += plane * np.float32(2.0**b / 2)
            y[n] += scales[n, k] * (total + offset[n, k] * x_sums[k])
    return y

# %% id="contenders"
import dataclasses
import math
import torch

torch.set_num_threads(1)
side = {"default": 2048, "full": 4096}.get(size, 2048)
group_size = 128
cache = measure.describe_machine().last_level_cache_bytes or 32 << 20
cold = min(1.5 * cache, 40 << 20)  # bytes that a contender walks through

W = rng.normal(size=(side, side)).astype(np.float32) / 50
x = rng.normal(size=side).astype(np.float32)
quantized = {bits: kernels.quantize_groupwise(W, bits, group_size, symmetric=False) for bits in (2, 3, 4)}


def from_memory(function, weight):
    """A contender that takes another copy of the weight each time."""
    copies = max(2, math.ceil(cold / weight.nbytes))
    if isinstance(weight, torch.Tensor):
        return measure.rotating(function, [weight.clone() for _ in range(copies)])
    return measure.rotating(function, [dataclasses.replace(weight, data=weight.data.copy()) for _ in range(copies)])


indices2 = split(quantized[2].codes, 2, 4)
x_bf16 = torch.tensor(x).bfloat16()
offset2 = ((2**2 - 1) / 2 - quantized[2].zero_point).astype(np.float32)


def yours():
    return product(indices2, tables_of(x, 4), quantized[2].scale, quantized[2].zero_point)


def plain():
    tables = lookup_steps.signed_sums(x, 4)
    x_sums = tables[:, -1].reshape(side // group_size, -1).sum(axis=1)
    return plain_lookup(indices2, tables, quantized[2].scale, offset2, x_sums)


contenders = {
    "torch bfloat16": from_memory(lambda weight: torch.mv(weight, x_bf16), torch.tensor(W).bfloat16()),
    "your NumPy look-up, 2 bits": yours,
    "plain Numba look-up, 2 bits": plain,
}
weights = {"library look-up, 1 bit": kernels.quantize_sign(W, group_size)}
weights |= {f"library look-up, {bits} bits": kernels.pack_lookup(q) for bits, q in quantized.items()}
for name, weight in weights.items():
    contenders[name] = from_memory(lambda weight: kernels.lookup_matmul(weight, x), weight)
for bits in (2, 4):
    name = f"library dot product, {bits} bits"
    weights[name] = kernels.pack(quantized[bits])
    contenders[name] = from_memory(lambda weight: kernels.matmul(weight, x), weights[name])

difference = np.abs(plain() - yours()).max() / np.abs(yours()).max()
print(f"{side} x {side}; yours and plain Numba differ by {difference:.1e} of the largest output")

# %% id="measure"
operations = 2 * side * side  # what the ordinary product would do
moved = {"torch bfloat16": 2.0 * side * side, **{name: float(w.nbytes) for name, w in weights.items()}}
work = {name: measure.Work(bytes=count, operations=operations) for name, count in moved.items()}
result = measure.compare(contenders, "torch bfloat16", rounds=9, work=work, sample_seconds=0.004, max_seconds=10)
result

# %% [markdown] id="bits_text"
# Time and bytes against bits. Is the time a straight line? Does it pass through zero? Compare with your second and
# third prediction.

# %% id="time_against_bits" mystnb={"image": {"alt": "Time against bits: a rising line; two points for dot products."}}
# the best round of each: on a busy machine a disturbance only ever slows down
best_ms = {name: 1e3 * min(times) for name, times in result.times.items()}
lookup_ms = [best_ms[f"library look-up, {b} bit{'s' * (b > 1)}"] for b in (1, 2, 3, 4)]
dot_ms = [best_ms[f"library dot product, {b} bits"] for b in (2, 4)]
slope, start = np.polyfit((1, 2, 3, 4), lookup_ms, 1)
print(f"look-up: about {start:.3f} ms + {slope:.3f} ms for each bit")
two_of_four = lookup_ms[1] / lookup_ms[3]
print(f"1 ms at 4 bits would be {two_of_four:.2f} ms at 2 bits  (you predicted: {milliseconds_at_2_bits})")
print(
    f"4 bits: speed of the look-up over speed of the dot product {dot_ms[1] / lookup_ms[3]:.2f}  "
    f"(you predicted: {table_speed_over_instruction_speed});  2 bits: {dot_ms[0] / lookup_ms[1]:.2f}"
)
_ = figures.plot(
    figures.Chart(
        [
            figures.Line([1, 2, 3, 4], lookup_ms, "look-up", style=0),
            figures.Points([1, 2, 3, 4], lookup_ms, style=0),
            figures.Points([2, 4], dot_ms, "dot-product instruction", style=1),
        ],
        figures.Axis("bits per weight", whole=True),
        figures.Axis("time per product", "ms", range=(0, 1.15 * max(lookup_ms + dot_ms))),
        "Cost against bits, one thread, weights from memory",
    )
)

# %% id="roofline" mystnb={"image": {"alt": "Roofline with five products; fewer bits lie further right."}}
limits = measure.measure_limits(seconds=2.0, threads=(1,))
points = [
    measure.Point.measured(name.removeprefix("library "), operations, moved[name], result.row(name).seconds, dtype)
    for name, dtype in (
        ("torch bfloat16", "bfloat16"),
        ("library look-up, 1 bit", "int8"),
        ("library look-up, 2 bits", "int8"),
        ("library look-up, 4 bits", "int8"),
        ("library dot product, 4 bits", "int8"),
    )
]
print(measure.describe(limits, points))
_ = measure.roofline(limits, points, title="One product per token: how near is each to the memory bandwidth?")

# %% [markdown] id="explain_task"
# ## Explain
#
# Answer in five to ten sentences, with your own numbers from above.
#
# 1. The time of the look-up product is nearly a straight line over the bits. Why a line, and why does it not pass
#    through zero? And why does a dot-product kernel's time not simply follow the bits?
# 2. Where does the table lose on this machine, if anywhere, and what would have to be different for it to win? Think
#    of a processor without a dot-product instruction, and of one bit.
# 3. The tables were rounded to int8. What does this buy, and what can go wrong with the sums?
#
# | points | for |
# | --- | --- |
# | 1 | each plane is one pass over N·K/g look-ups, and its bytes; tables and scales cost the same at every width |
# | 1 | the dot product unpacks any code to a byte first: the same arithmetic at all widths, only the bytes shrink |
# | 1 | names the winner at 2 and 4 bits from the measured numbers, with a reason, and says what to expect at 1 bit |
# | 1 | int8 entries let one instruction look up 64; sums need more bits; all rows share the rounding error |

# %% [markdown] id="explain" role="written" points=4
# ### BEGIN SOLUTION
# **Model answer.** (1) A plane costs one look-up for every g weights, and planes are added up, so both the look-ups and
# the bytes of the planes grow in proportion to the bits: each bit adds the same time, which is the slope. Building the
# tables, applying the scales and the call itself take the same time at any width: that is the start, so half the bits
# take more than half of the time. A dot-product kernel first expands a code to a byte and then multiplies bytes: its
# arithmetic does not shrink with the bits, only its traffic does. When it is bound by memory it follows the bytes; when
# it is bound by unpacking it does not. (2) The table needs one pass per bit where a dot-product instruction of 64 bytes
# needs one for all, so by the count of passes few bits favour the table. But the dot product, too, gets faster when
# fewer bytes come, and the table keeps its start; which of the two effects is larger, the measured numbers at 2 and 4
# bits say. No dot product of one bit was timed: a reasoned expectation is enough, such as to follow the trend. Without
# such an instruction a dot product takes several steps for each vector, and the table has an easier rival. (3) 16
# entries of one byte fit into a vector register, so that one shuffle looks up many at once, and half the table is the
# mirror of the other. One int8 look-up is at most 127, so a sum of a few already leaves the byte: it must be widened
# (16 or 32 bits). The rounding error of an entry goes into every row that looks it up.
#
# **Rubric.** One point each as in the table above; the numbers must be the student's own.
# ### END SOLUTION

# %% [markdown] id="further"
# ## Go further
#
# - **g.** Let g grow from 1 to 8 in `lookup_steps.lookup_work`. Which g takes the fewest operations for one token,
#   which for a table that must fit into a 16-byte register?
# - **A batch.** Tables belong to one token. What happens to the table additions per product with 16 tokens, and what
#   to the dot-product kernel? This is why T-MAC (the
#   look-up kernel this lab follows) shines in decoding, less in prefill.
# - **Ternary tables.** TeLLMe looks up $3^g$ sums instead of $2^g$. Write that product:
#   `lookup_steps.ternary_lookup_matvec` has one to compare with.
# - **Non-uniform codes.** Give `lut_matvec` a scale for each plane and feed it your binary coding: LUT-GEMM.
# - **A better start.** Uniform codes are binary codes, too. Start the alternation from their planes instead of the
#   greedy ones: with a bias the result can only improve on them. How much does it gain at four bits?
# - **In the memory itself.** LUT-based PIM (Lama) reads the products from a table in an open DRAM row:
#   `edgeinfer.devices.open_row_multiply`. When does that pay?
