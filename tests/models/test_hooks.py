"""Every hook changes what it says and nothing else, and can be undone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edgeinfer import models
from torch import Tensor

from tests.models.conftest import reference, save

TOKENS = torch.arange(3, 33).view(2, 15)


@pytest.fixture(params=["llama-biases", "mixtral"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> models.Decoder:
    return models.load(save(reference(request.param), tmp_path))


def logits(model: models.Decoder) -> Tensor:
    first, kv_cache = model.prefill(TOKENS[:, :10])
    return torch.cat([first, *(model.decode(TOKENS[:, i : i + 1], kv_cache) for i in range(10, 15))], 1)


def test_replacing_every_product_by_an_equal_one_changes_nothing(model: models.Decoder) -> None:
    before, biases = logits(model), model._weights.biases
    for name, weight in model.linears().items():
        bias = biases.get(name, torch.zeros(weight.shape[0]))
        model.replace_linear(name, lambda x, weight=weight, bias=bias: x @ weight.T + bias)
    torch.testing.assert_close(logits(model), before, atol=2e-4, rtol=1e-4)


def test_each_product_is_used_and_can_be_put_back(model: models.Decoder) -> None:
    before = logits(model)
    for name, weight in model.linears().items():
        model.replace_linear(name, lambda x, n=weight.shape[0]: x.new_ones(*x.shape[:-1], n))
        changed = logits(model)
        model.replace_linear(name, None)
        if name != "layers.0.moe.router":  # equal scores may still choose the same experts
            assert not torch.equal(changed, before), name
    torch.testing.assert_close(logits(model), before)


def test_the_head_can_be_replaced(model: models.Decoder) -> None:
    model.replace_linear("lm_head", lambda x: x.new_zeros(*x.shape[:-1], 96))
    assert not logits(model).any()


def test_set_weight_reaches_the_fused_product(model: models.Decoder) -> None:
    name = "layers.1.attention.k_proj"
    before, weight = logits(model), model.linears()[name].clone()
    model.set_weight(name, torch.zeros_like(weight))
    assert not torch.equal(logits(model), before)
    model.set_weight(name, weight)
    assert torch.equal(logits(model), before)
    with pytest.raises(ValueError, match=r"must be \(16, 32\); came \(2, 2\)"):
        model.set_weight(name, torch.zeros(2, 2))


def test_an_unknown_layer_is_refused_in_one_sentence(model: models.Decoder) -> None:
    with pytest.raises(KeyError, match=r"names look like 'layers\.0\.attention\.q_proj'"):
        model.replace_linear("model.layers.0.self_attn.q_proj", None)
    with pytest.raises(ValueError, match="there is no layer 3; this model has layers 0 to 2"):
        model.replace_mlp(3, torch.zeros_like)


def test_captured_inputs_give_back_the_products(model: models.Decoder) -> None:
    captured = model.capture_inputs(TOKENS)
    assert set(captured) == set(model.linears())
    for name, rows in captured.items():
        assert rows.shape[1] == model.linears()[name].shape[1]
        if "experts" not in name:
            assert len(rows) == TOKENS.numel()
    chosen = sum(len(rows) for name, rows in captured.items() if name.endswith("gate_proj"))
    assert chosen == TOKENS.numel() * 3 * max(1, model.config.num_experts_per_tok)


def test_capturing_leaves_replacements_in_place(model: models.Decoder) -> None:
    model.replace_mlp(1, torch.zeros_like)
    model.replace_linear("layers.0.attention.o_proj", lambda x: torch.zeros_like(x))
    before = logits(model)
    model.capture_inputs(TOKENS, ["layers.2.attention.q_proj"])
    assert torch.equal(logits(model), before)


def test_a_weight_store_is_asked_for_every_product(model: models.Decoder) -> None:
    class Counting:
        def __init__(self, inner: models.WeightStore) -> None:
            self.inner, self.names = inner, []  # type: ignore[var-annotated]

        def fetch(self, name: str) -> Tensor:
            self.names.append(name)
            return self.inner.fetch(name)

    before = logits(model)
    store = Counting(model.weight_store)
    model.weight_store = store
    torch.testing.assert_close(logits(model), before, atol=2e-4, rtol=1e-4)
    asked = set(store.names)
    assert {n for n in model.linears() if "experts" not in n} <= asked <= set(model.linears())
    model.restore()
    count = len(store.names)
    torch.testing.assert_close(logits(model), before)
    assert len(store.names) == count


def test_attention_is_called_once_a_layer_and_step(model: models.Decoder) -> None:
    calls: list[int] = []

    def counting(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, layer: int) -> Tensor:
        calls.append(layer)
        return models.attend(query, keys, values, mask, layer)

    before = logits(model)
    model.attention = counting
    assert torch.equal(logits(model), before)
    assert calls == [0, 1, 2] * 6


def test_a_cache_of_ones_own_may_forget(model: models.Decoder) -> None:
    class Window(models.PlainCache):
        def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            keys, values = super().update(layer, keys, values)
            return keys[:, :, -12:], values[:, :, -12:]

    before = logits(model)
    model.cache_factory = Window
    after = logits(model)
    torch.testing.assert_close(after[:, :12], before[:, :12])
    assert not torch.allclose(after[:, 12:], before[:, 12:])


def test_the_router_decides_which_experts_run(tmp_path: Path) -> None:
    model = models.load(save(reference("mixtral"), tmp_path))
    model.router = lambda scores, layer: (torch.full((len(scores), 1), 3), torch.ones(len(scores), 1))
    used = {
        name.split(".")[4] for name, rows in model.capture_inputs(TOKENS).items() if "experts" in name and len(rows)
    }
    assert used == {"3"}


def test_a_clone_is_independent(model: models.Decoder) -> None:
    before, other = logits(model), model.clone()
    torch.testing.assert_close(logits(other), before, atol=2e-4, rtol=1e-4)
    other.set_weight("layers.0.attention.q_proj", torch.zeros(32, 32))
    assert torch.equal(logits(model), before)
    assert model.clone(torch.bfloat16).dtype == torch.bfloat16
