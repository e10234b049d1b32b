# %% [markdown] id="title"
# # Lab 1 · Quantization from scratch
#
# A trained model stores each weight as a number of 16 or 32 bits. Writing one token reads all of them. What if a weight
# had four bits? In this lab you round a real model, see it break, find out why, and repair it.
#
# **You will be able to**
# - put weights on a grid of b bits, for a whole matrix or for small groups, with or without a zero point,
# - multiply codes with codes, and keep the zero point right, which is where most first attempts go wrong,
# - say what a bit costs: in error, in perplexity, in bytes,
# - recognise outliers, and treat them,
# - let the weights that are not yet rounded make up for those that are (the idea of GPTQ), and let the activations say
#   which weights matter (the idea of AWQ).
#
# **Time** 75 minutes. **Needs** the foundations chapters. **Runs** in less than a minute on two cores.
#
# The chapter *Quantization* tells the story behind it.

# %% id="parameters" tags=["parameters"]
seed = 0
size = "default"

# %% id="imports"
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # many small matrices: a second thread would mostly wait

import numpy as np
import torch
from edgeinfer import figures, kernels, measure, models
from edgeinfer.grading import checks
from edgeinfer.kernels import quantize_steps

lab = checks.lab("lab01_quantization")
figures.use_style()
torch.set_num_threads(1)
rng = np.random.default_rng(seed)

# %% [markdown] id="predict"
# ## Predict
#
# Write down numbers before you run anything. A wrong guess teaches more than none.
#
# 1. **Perplexity** says how many tokens the model hesitates between. Round every weight of the model to 4 bits, with
#    *one* scale for each matrix. By what factor does the perplexity grow?
# 2. The same 4 bits, but a scale for each group of 64 weights. By what factor now?
# 3. A matrix is read from memory and multiplied by one vector. With 4-bit codes, how many times as fast as bfloat16
#    can that be, at most?

# %% id="my_predictions"
growth_one_scale = "nothing"
growth_group_scales = "nothing"
speed_up_4_bits = "nothing"

# %% [markdown] id="build_1"
# ## Build
#
# ### Exercise 1: a grid for a matrix
#
# Round each weight to a multiple of a **scale**: weight ≈ scale · code. With $b$ bits, one of which is the sign, codes
# run from $-(2^{b-1} - 1)$ to $2^{b-1} - 1$; at 4 bits from −7 to 7. Choose the scale so that the weight of largest
# magnitude gets the largest code.
#
# ```text
# weights   -0.9  -0.31   0.0   0.42   1.4
# code        -4     -2     0      2     7
#
# 4 bits: scale = 1.4 / 7 = 0.2
# ```
#
# (−0.9 / 0.2 = −4.5 lies between two codes: either is right.)

# %% id="quantize_symmetric" role="solution"
def quantize_symmetric(weight, bits):
    """One symmetric grid for the whole matrix.

    weight: float32 (N, K).   bits: int, 2 to 8.
    Returns codes: int8 (N, K), from -(2**(bits-1) - 1) to 2**(bits-1) - 1; scale: float, the largest
    |weight| / the largest code, or 1.0 if all weights are zero.
    codes * scale is as near to weight as the grid allows.
    """
    ### BEGIN SOLUTION
    largest_code = 2 ** (bits - 1) - 1
    scale = float(np.abs(weight).max()) / largest_code
    if scale == 0:
        scale = 1.0
    codes = np.round(weight / scale).astype(np.int8)
    return codes, scale
    ### END SOLUTION

# %% id="check_quantize_symmetric" role="check"
lab.check("quantize_symmetric", quantize_symmetric)

# %% [markdown] id="one_layer_text"
# On a matrix of the trained model. (From here on, a cell uses your function if its check passed, else the library's,
# and says so.) Watch the error from line to line: what does one bit cost?

# %% id="one_layer"
symmetric = lab.fallback("quantize_symmetric", quantize_symmetric, quantize_steps.symmetric_codes)


def relative(approximation, exact):
    return float(np.linalg.norm(approximation - exact) / np.linalg.norm(exact))


model = models.load("target")
original = {name: w.numpy().copy() for name, w in model.linears().items()}
layer = original["layers.3.mlp.gate_proj"]
print(f"matrix of shape {layer.shape}")
print("bits   relative error   weights that became 0")
for bits in (8, 6, 5, 4, 3, 2):
    codes, scale = symmetric(layer, bits)
    zeros = float((codes == 0).mean())
    print(f"{bits:4}   {relative(codes * scale, layer):14.4f}   {zeros:21.1%}")

# %% [markdown] id="build_2"
# ### Exercise 2: a grid for each group, with a zero point
#
# One large weight stretches the grid of the whole matrix. So give each **group** of neighbouring weights in a row a
# grid of its own. And if the weights of a group lie between −0.1 and 0.7, do not waste codes on −0.7: let the grid
# start at the smallest weight and end at the largest. The code that means 0 is the **zero point**:
#
# $$\begin{gathered}
# w \approx \text{scale} \cdot (\text{code} - \mathrm{zero\_point}), \\[4pt]
# \text{scale} = \frac{\text{high} - \text{low}}{2^b - 1}, \\[4pt]
# \mathrm{zero\_point} = \text{round}\Big(\frac{-\text{low}}{\text{scale}}\Big)
# \end{gathered}$$
#
# with low = min(0, smallest weight) and high = max(0, largest weight), so that 0 itself is always on the grid.

# %% id="quantize_groups" role="solution"
def quantize_groups(weight, bits, group_size):
    """A grid with a zero point for every run of group_size columns of a row.

    weight: float32 (N, K).   bits: int, 2 to 8.   group_size: int, divides K.
    Returns codes: uint8 (N, K) from 0 to 2**bits - 1; scale: float (N, K // group_size), 1 for a group of zeros;
    zero_point: uint8 (N, K // group_size).
    """
    ### BEGIN SOLUTION
    rows = weight.shape[0]
    levels = 2**bits - 1
    grouped = weight.reshape(rows, -1, group_size)
    low = np.minimum(grouped.min(axis=2), 0)
    high = np.maximum(grouped.max(axis=2), 0)
    scale = (high - low) / levels
    scale[scale == 0] = 1
    zero_point = np.round(-low / scale)
    codes = np.round(grouped / scale[:, :, None]) + zero_point[:, :, None]
    codes = np.clip(codes, 0, levels).astype(np.uint8)
    return codes.reshape(weight.shape), scale, zero_point.astype(np.uint8)
    ### END SOLUTION

# %% id="check_quantize_groups" role="check"
lab.check("quantize_groups", quantize_groups)

# %% [markdown] id="ladder_text"
# ### The ladder
#
# Now the whole model: every matrix of every layer is replaced by its rounded version, and the model reads held-out
# text. Three granularities, six widths. A row ("per channel") is just a group as long as the row. The price of a small
# group is its scale and zero point: 5 bytes here (4 + 1) for 64 weights. The text is short: the last digits are chance.

# %% id="ladder"
groups = lab.fallback("quantize_groups", quantize_groups, quantize_steps.group_codes)
text = models.held_out_tokens("text")
tokens = {"default": 2048, "full": 16_384}.get(size, 2048)


def decode_groups(codes, scale, zero_point):
    rows = len(codes)
    centred = codes.reshape(rows, scale.shape[1], -1).astype(np.float32) - zero_point[:, :, None]
    return (centred * scale[:, :, None]).reshape(rows, -1)


def per_tensor(w, bits):
    codes, scale = symmetric(w, bits)
    return codes * np.float32(scale)


def per_channel(w, bits):
    return decode_groups(*groups(w, bits, w.shape[1]))


def per_group(w, bits):
    return decode_groups(*groups(w, bits, 64))


def put(weights):
    for name, w in weights.items():
        model.set_weight(name, torch.from_numpy(np.ascontiguousarray(w, np.float32)))


def perplexity(weights):
    """Of the model with these weights; all calls use the same text."""
    put(weights)
    return models.perplexity(model, text, max_tokens=tokens)


baseline = perplexity(original)
widths = (8, 6, 5, 4, 3, 2)
ladder = {}
for title, rounded in (("per tensor", per_tensor), ("per channel", per_channel), ("per group of 64", per_group)):
    ladder[title] = [perplexity({n: rounded(w, bits) for n, w in original.items()}) for bits in widths]

print(f"not quantized: perplexity {baseline:.2f}")
print("bits" + "".join(f"{title:>{len(title) + 2}}" for title in ladder))
for bits, *values in zip(widths, *ladder.values(), strict=True):
    print(f"{bits:4}" + "".join(f"{value:{len(title) + 2}.2f}" for title, value in zip(ladder, values, strict=True)))

# %% id="ladder_plot" mystnb={"image": {"alt": "Perplexity against bits; smaller groups stay low for longer."}}
_ = figures.plot(
    figures.Chart(
        [
            *[figures.Line(list(widths), v, title, style=i) for i, (title, v) in enumerate(ladder.items())],
            figures.Rules([baseline], "not quantized", style=5, along="y", dashed=True),
        ],
        figures.Axis("bits of a code"),
        figures.Axis("perplexity on held-out text", scale="log"),
        "What a bit is worth depends on how many weights share a scale",
    )
)
at_4 = {title: values[widths.index(4)] / baseline for title, values in ladder.items()}
print(f"4 bits, one scale per matrix: {at_4['per tensor']:.2f} times  (you predicted: {growth_one_scale})")
print(f"4 bits, groups of 64: {at_4['per group of 64']:.2f} times  (you predicted: {growth_group_scales})")

# %% [markdown] id="play_text"
# ### Play with it
#
# The controls below call **your** function, each time anew.
# At 3 bits: up to which size of the group do the small weights of this row survive?

# %% id="play"
row = layer[7:8, :256]


def rounded_row(bits, group_size):
    back = decode_groups(*groups(row, bits, group_size))
    columns = range(64)
    return figures.Frame(
        [
            figures.Chart(
                [
                    figures.Line(columns, row[0, :64], "weight"),
                    figures.Points(columns, back[0, :64], "rounded", style=1),
                ],
                figures.Axis("column"),
                figures.Axis("value"),
            )
        ],
        f"{bits} bits in groups of {group_size}: relative error {relative(back, row):.3f}, and "
        f"{bits + 40 / group_size:.2f} bits a weight with scales and zero points.",
    )


figures.LiveFigure(
    "A row of the model",
    [
        figures.Slider("bits", "Bits", range(2, 9), default=3),
        figures.Choice("group_size", "Group", (16, 32, 64, 128, 256), default=64),
    ],
    rounded_row,
)

# %% [markdown] id="build_3"
# ### Exercise 3: multiply codes with codes
#
# Small weights are only half of the story. To be fast, the product itself has to be one of small integers. Let the
# activations be codes as well, $x = \mathrm{x\_scale} \cdot \mathrm{x\_code}$ (symmetric, no zero point).
# From here on $x_k$ are those codes. Inside one group
#
# $$\begin{gathered}
# \sum_k \text{scale}\,(c_k - z)\; \mathrm{x\_scale}\; x_k = \\[4pt]
# \text{scale} \cdot \mathrm{x\_scale} \cdot \Big( \underbrace{\textstyle\sum_k c_k x_k}_{\text{integers}}
# - z \underbrace{\textstyle\sum_k x_k}_{?} \Big)
# \end{gathered}$$
#
# The zero point meets a sum. Which one? (Leaving it out, or putting the number of columns there, is the classical
# mistake in integer kernels.) Mind the width of your integers: numpy multiplies int8 by int8 in int8.

# %% id="integer_matvec" role="solution"
def integer_matvec(codes, scale, zero_point, x_codes, x_scale):
    """y = W @ x from codes; integers inside a group, floats only between groups.

    codes: uint8 (N, K).   scale: float32 (N, G).   zero_point: uint8 (N, G).   Each of the G groups has K // G columns.
    x_codes: int8 (K,).   x_scale: float.
    Returns y: float (N,), for W = scale * (codes - zero_point) and x = x_scale * x_codes.
    """
    ### BEGIN SOLUTION
    rows, number = scale.shape
    c = codes.reshape(rows, number, -1).astype(np.int32)
    x = x_codes.reshape(number, -1).astype(np.int32)
    dot = (c * x).sum(axis=2)  # (N, G)
    x_sums = x.sum(axis=1)  # (G,), the same for all rows
    inner = dot - zero_point.astype(np.int32) * x_sums
    return (scale * inner).sum(axis=1) * x_scale
    ### END SOLUTION

# %% id="check_integer_matvec" role="check"
lab.check("integer_matvec", integer_matvec)

# %% id="real_product"
matvec = lab.fallback("integer_matvec", integer_matvec, quantize_steps.code_matvec)

names = list(original)
context = text[-1024:].reshape(4, 256)  # far from the part that perplexity reads
put(original)
calibration = {name: x.numpy() for name, x in model.capture_inputs(context).items()}
x = calibration["layers.3.mlp.gate_proj"][200]
x_codes, x_scale = symmetric(x[None], 8)
print("error of y:  against decoded  against the original")
for bits in (8, 4, 2):
    codes, scale, zero_point = groups(layer, bits, 64)
    y = matvec(codes, scale, zero_point, x_codes[0], x_scale)
    decoded = decode_groups(codes, scale, zero_point)
    same = relative(y, decoded @ (x_codes[0] * np.float32(x_scale)))
    print(f"{bits:4} bits    {same:15.1e}  {relative(y, layer @ x):20.3f}")

# %% [markdown] id="outliers_text"
# ### Outliers
#
# Large language models have a few channels whose activations are tens of times larger than the rest. This model is too
# small to grow them. So we **put them in**, without changing what the model computes: multiply four channels of every
# norm by 30, and divide the matching columns of the matrices that follow by 30. The two cancel.
#
# Before you run it: what will the same rounding do to the new model? Look at the columns that became 30 times smaller.

# %% id="outliers"
channels, strength = rng.choice(256, 4, replace=False), 30.0
loud = model.clone()
state = loud.state_dict()
for number in range(loud.config.num_hidden_layers):
    for norm, followers in (
        ("input_layernorm", ("attention.q_proj", "attention.k_proj", "attention.v_proj")),
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ):
        state[f"model.layers.{number}.{norm}.weight"][channels] *= strength
        for follower in followers:
            name = f"layers.{number}.{follower}"
            w = loud.linears()[name].clone()
            w[:, channels] /= strength
            loud.set_weight(name, w)
loud_original = {name: w.numpy().copy() for name, w in loud.linears().items()}
loud_inputs = {name: x.numpy() for name, x in loud.capture_inputs(context).items()}


def loud_perplexity(weights):
    for name, w in weights.items():
        loud.set_weight(name, torch.from_numpy(np.ascontiguousarray(w, np.float32)))
    return models.perplexity(loud, text, max_tokens=tokens)


quiet_4 = ladder["per group of 64"][widths.index(4)]
loud_4 = loud_perplexity({n: per_group(w, 4) for n, w in loud_original.items()})
peak = np.abs(loud_inputs["layers.3.mlp.gate_proj"]).max(0)
print(f"largest input of layer 3's gate: {peak.max():.1f}, of a typical channel {np.median(peak):.1f}")
print(f"not quantized: {baseline:.4f} before, {loud_perplexity(loud_original):.4f} with outliers: the same function")
print(f"4 bits, groups of 64: {quiet_4:.2f} before, {loud_4:.2f} with outliers")

# %% [markdown] id="build_4"
# ### Exercise 4: let the activations say what matters
#
# The error of a weight is multiplied by its activation. A column with loud activations deserves a finer grid. Give it
# one without a new format: **multiply** the column by a factor before rounding, and divide the activation by the same
# factor afterwards. Nothing changes but the rounding.
#
# $$\begin{gathered}
# m_k = \text{mean}_t |x_{tk}| \ (\text{at least } 10^{-5}), \\[4pt]
# f_k = \frac{m_k^\alpha}{\sqrt{\max_j m_j^\alpha \cdot \min_j m_j^\alpha}}, \\[4pt]
# W' = W \,\text{diag}(f)
# \end{gathered}$$
#
# α = 0 does nothing, α = 1 levels the activations completely. The root keeps the factors on both sides of 1.

# %% id="activation_scale" role="solution"
def activation_scale(weight, inputs, alpha):
    """Make the columns with loud inputs larger, so that rounding hurts them less.

    weight: float32 (N, K).   inputs: float32 (T, K), what the layer saw for T tokens.   alpha: float, 0 to 1.
    Returns scaled: float (N, K), column k times factor[k]; factor: float (K,) as in the formula above.
    """
    ### BEGIN SOLUTION
    magnitude = np.maximum(np.abs(inputs).mean(axis=0), 1e-5)
    raw = magnitude**alpha
    factor = raw / np.sqrt(raw.max() * raw.min())
    return weight * factor, factor
    ### END SOLUTION

# %% id="check_activation_scale" role="check"
lab.check("activation_scale", activation_scale)

# %% [markdown] id="rescue_text"
# Search α for each layer: the one whose rounded layer gives the smallest error of the layer's *output* on the
# calibration text (the one whose activations were recorded). Then the whole model with outliers again. How much of the
# damage is gone?

# %% id="rescue"
scale_by_activation = lab.fallback("activation_scale", activation_scale, quantize_steps.scale_columns)


def activation_aware(w, inputs, bits, alphas=(0.0, 0.25, 0.5, 0.75)):
    some = inputs[::8]
    best, best_error = w, np.inf
    for alpha in alphas:
        scaled, factor = scale_by_activation(w, inputs, alpha)
        rounded = per_group(np.asarray(scaled, np.float32), bits) / np.asarray(factor, np.float32)
        error = float(np.linalg.norm(some @ (rounded - w).T))
        if error < best_error:
            best, best_error = rounded, error
    return best


rescued = loud_perplexity({n: activation_aware(w, loud_inputs[n], 4) for n, w in loud_original.items()})
print(f"4 bits with outliers: {loud_4:.2f} rounded to nearest, {rescued:.2f} activation-aware")
print(f"4 bits without outliers: {quiet_4:.2f}")

# %% [markdown] id="build_5"
# ### Exercise 5: let the other weights make up for it
#
# Rounding a weight moves the layer's output. The weights of the same row that are not yet rounded can move a little and
# push the output back. Which way, and how far? The error of the output is a quadratic form with the matrix
# $H = X^\top X$ of the inputs, so the answer is exact ("optimal brain surgeon"). For column c, with
# $e = w_c - \text{rounded}$ for each row:
#
# $$\begin{gathered}
# w \leftarrow w - e \, \frac{[H^{-1}]_{c,:}}{[H^{-1}]_{cc}}, \\[4pt]
# H^{-1} \leftarrow H^{-1} - \frac{[H^{-1}]_{:,c}\,[H^{-1}]_{c,:}}{[H^{-1}]_{cc}}
# \end{gathered}$$
#
# The first moves column c exactly onto its rounded value, and all later columns along. The second takes column c out of
# the inverse, so that finished columns stay finished. Write **one** such step; a loop over the columns is then the
# whole method.

# %% id="second_order_step" role="solution"
def second_order_step(weight, column, scale, bits, inverse_hessian):
    """Round one column to its symmetric grid; the later columns make up for the error.

    weight: float64 (N, K).   column: int.   scale: float64 (N,), one grid per row; codes are clipped to
    -(2**(bits-1) - 1) ... 2**(bits-1) - 1.   inverse_hessian: float64 (K, K), zero in rows and columns before `column`.
    Returns weight: float (N, K) after the step; inverse_hessian: float (K, K) with `column` taken out.
    """
    ### BEGIN SOLUTION
    largest_code = 2 ** (bits - 1) - 1
    codes = np.clip(np.round(weight[:, column] / scale), -largest_code, largest_code)
    error = weight[:, column] - codes * scale
    row, pivot = inverse_hessian[column], inverse_hessian[column, column]
    moved = weight - np.outer(error, row) / pivot
    moved[:, column] = codes * scale  # exactly, without rounding errors
    return moved, inverse_hessian - np.outer(row, row) / pivot
    ### END SOLUTION

# %% id="check_second_order_step" role="check"
lab.check("second_order_step", second_order_step)

# %% [markdown] id="second_order_text"
# First on one matrix: your step in a loop, 3 bits, one scale per row. Two errors are printed. Which of them does the
# method make **larger**, and why is it right to do so?

# %% id="second_order_layer"
one_step = lab.fallback("second_order_step", second_order_step, quantize_steps.compensated_column)


def second_order(w, inputs, bits, damping=0.01):
    w = w.astype(np.float64)
    hessian = inputs.T.astype(np.float64) @ inputs / len(inputs)
    hessian += damping * np.diag(hessian).mean() * np.eye(len(hessian))
    inverse = np.linalg.inv(hessian)
    scale = np.abs(w).max(axis=1) / (2 ** (bits - 1) - 1)
    for column in range(w.shape[1]):
        w, inverse = one_step(w, column, scale, bits, inverse)
    return w


seen = calibration["layers.3.mlp.gate_proj"]
nearest = kernels.quantize_per_channel(layer, 3).dequantize()
compensated = second_order(layer, seen, 3)
print("error of       the weights   the output")
for title, w in (("nearest", nearest), ("second order", compensated)):
    output = relative(seen @ w.T, seen @ layer.T)
    print(f"{title:12}   {relative(w, layer):11.3f}   {output:10.3f}")

# %% [markdown] id="second_order_model_text"
# Then the whole model, in groups of 64: rounded to nearest, with your activation-aware scaling, and with the library's
# GPTQ (your step, worked off in blocks of columns). Does each improve on the one before, at both widths?

# %% id="second_order_model"
moments = {name: kernels.second_moment(x) for name, x in calibration.items()}
table = []
for bits in (3, 2):
    aware = perplexity({n: activation_aware(w, calibration[n], bits) for n, w in original.items()})
    exact = perplexity(
        {n: kernels.gptq_quantize(w, moments[n], bits, 64, symmetric=False).dequantize() for n, w in original.items()}
    )
    table.append((bits, ladder["per group of 64"][widths.index(bits)], aware, exact))
put(original)
print(f"not quantized {baseline:.2f};  groups of 64, asymmetric")
print("bits   nearest   activation-aware   second order")
for bits, *values in table:
    print(f"{bits:4}   {values[0]:7.2f}   {values[1]:16.2f}   {values[2]:12.2f}")

# %% [markdown] id="measure_text"
# ## Measure
#
# Fewer bytes are a promise. Is it kept? All contenders run interleaved in shuffled rounds, with weights taken from
# memory, not from the cache, as in decoding a large model.
#
# - **Yours**: NumPy, a dozen passes over arrays that are larger than the codes.
# - **Library, 4 bits and 8 bits**: codes are unpacked in registers and multiplied by int8 activations.
# - **torch, bfloat16** and **torch, int4**: what a framework gives you.
#
# A ratio above the ratio of the bytes means that bfloat16 was slow, not that bytes weigh more. The roofline below shows
# it.

# %% id="contenders"
import dataclasses
import math

del loud, state, loud_original, loud_inputs, calibration, moments  # not needed any more; small machines are thankful
side = {"default": 2048, "full": 4096}.get(size, 2048)
group_size = 128
cache = measure.describe_machine().last_level_cache_bytes or 32 << 20
cold = min(1.5 * cache, 48 << 20)  # bytes that a contender walks through

W = rng.normal(size=(side, side)).astype(np.float32) / 50
v = rng.normal(size=side).astype(np.float32)
v_codes, v_scale = symmetric(v[None], 8)
codes4, scale4, zero4 = groups(W, 4, group_size)
packed = {bits: kernels.pack(kernels.quantize_groupwise(W, bits, group_size, symmetric=False)) for bits in (8, 4)}
v_bf16 = torch.tensor(v).bfloat16()


def from_memory(function, weight):
    """A contender that takes another copy of the weight each time."""
    copies = max(2, math.ceil(cold / weight.nbytes))
    if isinstance(weight, torch.Tensor):
        return measure.rotating(function, [weight.clone() for _ in range(copies)])
    return measure.rotating(function, [dataclasses.replace(weight, data=weight.data.copy()) for _ in range(copies)])


contenders = {
    "torch bfloat16": from_memory(lambda weight: torch.mv(weight, v_bf16), torch.tensor(W).bfloat16()),
    "your NumPy, 4 bits": lambda: matvec(codes4, scale4, zero4, v_codes[0], v_scale),
}
moved = {"torch bfloat16": 2.0 * side * side, "your NumPy, 4 bits": float(codes4.nbytes)}
for bits, weight in packed.items():
    contenders[f"library, {bits} bits"] = from_memory(lambda weight: kernels.matmul(weight, v), weight)
    moved[f"library, {bits} bits"] = float(weight.nbytes)
try:  # a private function of torch: not on every platform
    centred = kernels.quantize_groupwise(W, 4, group_size)
    int4 = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.from_numpy(centred.codes.astype(np.int32)), 1)
    columns = torch.from_numpy(np.ascontiguousarray(centred.scale.T))
    scales = torch.stack([columns, torch.zeros_like(columns)], -1).bfloat16().contiguous()
    contenders["torch int4"] = from_memory(
        lambda weight: torch.ops.aten._weight_int4pack_mm_for_cpu(v_bf16[None], weight, group_size, scales), int4
    )
    contenders["torch int4"]()
    moved["torch int4"] = float(int4.nbytes + scales.nbytes)
except (AttributeError, RuntimeError) as error:
    contenders.pop("torch int4", None)
    print("torch int4 is not available here:", str(error).splitlines()[0])
difference = relative(contenders["your NumPy, 4 bits"](), kernels.matmul(packed[4], v))
print(f"{side} x {side}; yours and the library's differ by {difference:.3f}: yours has one scale for all activations")

# %% id="measure"
operations = 2 * side * side
work = {name: measure.Work(bytes=count, operations=operations) for name, count in moved.items()}
result = measure.compare(contenders, "torch bfloat16", rounds=7, work=work, max_seconds=10)
result

# %% id="roofline" mystnb={"image": {"alt": "Roofline: products of fewer bits lie further right and higher."}}
limits = measure.measure_limits(seconds=2.0, threads=(1,))
points = [
    measure.Point.measured(
        name, operations, moved[name], result.row(name).seconds, "bfloat16" if "torch" in name else "int8"
    )
    for name in contenders
]
print(measure.describe(limits, points))
_ = measure.roofline(limits, points, title="The same product from fewer bytes")
print(
    f"4 bits, library: {result.row('library, 4 bits').ratio:.2f} times as fast as bfloat16, from "
    f"{moved['torch bfloat16'] / moved['library, 4 bits']:.2f} times fewer bytes  (you predicted: {speed_up_4_bits})"
)

# %% [markdown] id="explain_task"
# ## Explain
#
# Answer in five to ten sentences, with your own numbers from above.
#
# 1. Why does one bit less about double the error, and why does the perplexity not simply double with it?
# 2. The outliers changed nothing in the model, but they harmed the rounded one. Why did small groups not help, and why
#    did the scaling?
# 3. The second-order method made the error of the weights larger. Defend it.
# 4. Which point of the roofline is farthest below its ceiling, and what would you change in that product?
#
# | points | for |
# | --- | --- |
# | 1 | (1) what one bit does to the size of a step, and how the loss depends on a small error |
# | 1 | (2) which columns share a grid with which, and what their error is multiplied by |
# | 1 | (3) which of the two errors counts, and why; with both of your numbers |
# | 1 | (4) a point of your own figure, and a cause that fits what it does with its bytes |

# %% [markdown] id="explain" role="written" points=4
# ### BEGIN SOLUTION
# **Model answer.** (1) With one bit less the same range has half as many steps, so a step and with it the rounding
# error are twice as large. The loss of the model grows with the square of a small error, so from 8 to 5 bits nothing is
# seen; when the error is no longer small against the signal the perplexity rises steeply. (2) The injected columns are
# 30 times smaller than their neighbours in the same row. Each group holds such columns beside normal ones and takes its
# step from the normal ones, so the small columns are rounded to almost nothing; their activations are 30 times larger,
# and the error comes out 30 times larger than usual. Scaling makes those columns as large as the others before
# rounding. (3) It minimises the error of the output on the inputs that occur, not of the weights. Where inputs vary
# together, an error in one weight can be undone by another one moving away from its own best value. (4) The NumPy
# version: it makes arrays of int32 four times as large as the codes and walks over them several times; the library
# unpacks in registers and uses one instruction for 64 products.
#
# **Rubric.** One point each as in the table above; the numbers must be the student's own.
# ### END SOLUTION

# %% [markdown] id="further"
# ## Go further
#
# - **Low rank.** The rounding error is a matrix like any other. ZeroQuant-V2 stores its strongest directions beside
#   the codes: `kernels.low_rank_compensation`. How many bytes does a rank cost, and is a smaller group a better use of
#   them?
# - **One file, every width.** Any-Precision LLM stores codes whose first k bits are the k-bit model:
#   `kernels.any_precision_quantize`. Cut *your* 6-bit codes to 3 bits: why is that worse, and what would help?
# - **Made for the kernel.** Speed Odyssey gives up groups, so that nothing interrupts the integer sum, and repairs the
#   quality by clipping: `kernels.clip_search`. Try clipping on your per-channel codes at 3 bits.
# - **Outliers apart.** `kernels.split_outliers` computes the loud columns in float. What is its price in bytes?
# - **On real chips.** Seven systems start from here; their page is *Quantization on real chips*. MNN-LLM keeps
#   your zero point and leaves the embedding in its file: `kernels.mnn_weights.FileEmbedding`. mllm-NPU rescues
#   one scale per tensor with a float path for outliers: `kernels.shadow.shadow_linear`. PowerInfer-2 gives
#   neurons that fire often more bits: `kernels.mixed_temperature`. Transformer-Lite stores your 4-bit codes so
#   that two bit operations decode them: `kernels.float4`. CENT multiplies in the memory: `devices.cent`. Jupiter
#   runs your model as a pipeline of processes: `collab.sequence_pipeline`. RTP-LLM keeps what conversations
#   share: `memory.prefix_reuse`. Take your 4-bit model and predict, before you run any of them, which changes its
#   perplexity.
# - **Tables.** Lab 2 multiplies without multiplying.
