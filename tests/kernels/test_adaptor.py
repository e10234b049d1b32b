"""The adaptor: any format as a layer, and a whole model quantized by each method (on a stand-in with the hooks)."""

import numpy as np
import pytest
import torch
from edgeinfer.kernels import (
    KernelLinear,
    binary_coding,
    low_rank_compensation,
    pack_lookup,
    pack_ternary,
    pack_w4a8,
    quantize_groupwise,
    quantize_model,
    quantize_per_channel,
    ternarize,
)


class TwoLayers:
    """y = W1 relu(W0 x), with the hooks of a decoder."""

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.inputs = rng.standard_normal((300, 64)) @ (rng.standard_normal((64, 64)) * 0.7 ** np.arange(64))
        shapes = {"layers.0.mlp.up_proj": (96, 64), "layers.1.mlp.down_proj": (32, 96)}
        self.weights = {n: torch.tensor(rng.standard_normal(s), dtype=torch.float32) for n, s in shapes.items()}
        self.replaced = {}
        self.captured = []

    def linears(self):
        return self.weights

    def replace_linear(self, name, product):
        self.replaced[name] = product

    def set_weight(self, name, weight):
        assert weight.dtype == torch.float32
        self.weights[name].copy_(weight)

    def _layer(self, name, x):
        return self.replaced[name](x) if name in self.replaced else x @ self.weights[name].T

    def run(self, x):
        first, second = self.weights
        hidden = torch.relu(self._layer(first, x))
        return self._layer(second, hidden), {first: x, second: hidden}

    def capture_inputs(self, tokens, names):
        self.captured.append(list(names))
        inputs = self.run(torch.tensor(self.inputs[tokens.flatten()], dtype=torch.float32))[1]
        return {name: inputs[name] for name in names}


def error_of(**options):
    model = TwoLayers()
    x = torch.tensor(model.inputs[:100], dtype=torch.float32)
    exact = model.run(x)[0].clone()
    report = quantize_model(model, calibration_tokens=torch.arange(300)[None], **options)
    return float((model.run(x)[0] - exact).norm() / exact.norm()), report, model


@pytest.mark.parametrize("attach", ["kernels", "weights"])
def test_calibrated_methods_beat_rounding_at_three_bits(attach):
    error = {
        m: error_of(bits=3, group_size=32, method=m, symmetric=False, attach=attach)[0] for m in ("rtn", "gptq", "awq")
    }
    assert error["gptq"] < 0.8 * error["rtn"]
    assert error["awq"] < error["rtn"]


def test_more_bits_are_better_and_bytes_are_counted():
    results = {bits: error_of(bits=bits, group_size=32) for bits in (2, 4, 8)}
    assert results[8][0] < results[4][0] < results[2][0]
    assert results[8][0] < 0.02
    assert [results[b][1].bits_per_weight for b in (4, 8)] == [5.0, 9.0]  # 32 bits of scale for 32 weights


def test_blocks_are_calibrated_on_the_quantized_blocks_before_them():
    model = error_of(bits=3, group_size=32, method="gptq")[2]
    assert model.captured == [["layers.0.mlp.up_proj"], ["layers.1.mlp.down_proj"]]


def test_nothing_is_attached_when_asked_not_to():
    error, report, model = error_of(bits=2, group_size=32, attach="none")
    assert error == 0 and not model.replaced
    assert set(report.weights) == set(model.weights)


def test_only_the_named_layers_are_quantized():
    _, report, model = error_of(bits=4, group_size=32, names=["layers.1.mlp.down_proj"], scheme="lookup")
    assert list(report.weights) == list(model.replaced) == ["layers.1.mlp.down_proj"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_format_is_a_layer_with_torch_in_and_out(dtype, rng):
    weight = rng.standard_normal((40, 64)).astype(np.float32)
    quantized = quantize_groupwise(weight, 4, 32)
    channel = quantize_per_channel(weight, 4)
    ternary = pack_ternary(*ternarize(weight))
    coded = binary_coding(weight, 2, 32)
    cases = [
        (KernelLinear(quantized), quantized),
        (KernelLinear(quantized, scheme="lookup"), quantized),
        (KernelLinear(pack_lookup(quantized)), quantized),
        (KernelLinear(pack_w4a8(channel)), channel),
        (KernelLinear(ternary, threads=2), ternary),
        (KernelLinear(coded), coded),
    ]
    x = torch.tensor(rng.standard_normal((2, 3, 64)), dtype=dtype)
    for layer, source in cases:
        y = layer(x)
        exact = x.double() @ torch.tensor(source.dequantize()).double().T
        assert y.dtype == dtype and y.shape == (2, 3, 40)
        assert float((y.double() - exact).norm() / exact.norm()) < 0.02
        assert layer.nbytes > 0 and "64 -> 40" in repr(layer)


def test_bias_input_scale_and_low_rank_are_added(rng):
    weight, bias = rng.standard_normal((40, 64)).astype(np.float32), rng.standard_normal(40).astype(np.float32)
    scale = (rng.random(64) + 0.5).astype(np.float32)
    quantized = quantize_groupwise(weight * scale, 8, 32)
    compensation = low_rank_compensation(weight * scale, quantized.dequantize(), 4)
    x = torch.tensor(rng.standard_normal((5, 64)), dtype=torch.float32)
    exact = x.numpy() @ weight.T + bias
    y = KernelLinear(quantized, bias=bias, input_scale=scale, low_rank=compensation)(x)
    assert np.linalg.norm(y.numpy() - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: error_of(bits=4, group_size=32, method="magic"),
            ValueError,
            "method 'magic' is unknown; choose one of",
        ),
        (lambda: error_of(bits=4, group_size=32, attach="glue"), ValueError, "attach 'glue' is unknown"),
        (lambda: error_of(bits=4, group_size=48), ValueError, "group_size 48 does not divide in_features 64"),
        (lambda: quantize_model(TwoLayers(), 4, 32, "gptq"), ValueError, "method 'gptq' needs calibration_tokens"),
        (lambda: error_of(bits=4, group_size=32, names=["head"]), ValueError, "the model has no linear layer 'head'"),
        (
            lambda: KernelLinear(np.ones((2, 2))),
            TypeError,
            "takes a quantized or packed weight of this room, got ndarray",
        ),
        (lambda: error_of(bits=4, group_size=32, scheme="fpga"), ValueError, "scheme 'fpga' is unknown"),
    ],
)
def test_a_wrong_call_gets_one_clear_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
