"""The compiled products and norms of a few rows against torch in double precision."""

import pytest
import torch
from edgeinfer.models import few_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 70))


def close(came: torch.Tensor, wanted: torch.Tensor, size: int) -> None:
    """Equal up to the type's rounding of a sum of `size` numbers."""
    assert came.shape == wanted.shape
    assert (came.double() - wanted).abs().max() <= TOLERANCE[came.dtype] * max(1.0, wanted.abs().max()) * size**0.5


@settings(deadline=None)  # the first call compiles
@given(
    shape=SHAPES,
    rows=st.integers(0, 6),
    dtype=st.sampled_from(list(TOLERANCE)),
    by_column=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_linear_equals_torch(shape, rows, dtype, by_column, bias, seed):
    torch.manual_seed(seed)
    N, K = shape
    weight = torch.randn(N, K).to(dtype)
    stored = weight.t().contiguous().t() if by_column else weight
    offset = torch.randn(N).to(dtype) if bias else None
    x = torch.randn(1, rows, K).to(dtype)
    wanted = functional.linear(x.double(), weight.double(), None if offset is None else offset.double())
    came = few_rows.Linear(stored, offset)(x)
    assert came.shape == wanted.shape and came.dtype == dtype
    if rows:
        close(came, wanted, K)


@settings(deadline=None)  # the first call compiles
@given(
    rows=st.integers(1, 6),
    size=st.integers(1, 70),
    dtype=st.sampled_from(list(TOLERANCE)),
    strided=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_norm_equals_torch(rows, size, dtype, strided, seed):
    torch.manual_seed(seed)
    x = torch.randn(rows, 2 * size).to(dtype)[:, ::2] if strided else torch.randn(rows, size).to(dtype)
    weight = torch.randn(size).to(dtype)
    close(few_rows.rms_norm(x, weight, 1e-5), functional.rms_norm(x.double(), (size,), weight.double(), 1e-5), 1)


def test_a_weight_changed_in_place_is_used_changed():
    weight, x = torch.randn(5, 7), torch.randn(1, 7)
    linear = few_rows.Linear(weight)
    weight.mul_(2)
    close(linear(x), x.double() @ weight.double().t(), 7)


def test_gradients_pass():
    x = torch.randn(1, 7, requires_grad=True)
    few_rows.Linear(torch.randn(5, 7))(few_rows.rms_norm(x, torch.ones(7), 1e-5)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0])
def test_values_that_are_no_numbers_stay_what_they_are(value):
    x = torch.tensor([[value]], dtype=torch.bfloat16)
    came = few_rows.Linear(torch.ones(1, 1, dtype=torch.bfloat16))(x)
    torch.testing.assert_close(came, x, equal_nan=True)


def test_a_wrong_width_is_told():
    with pytest.raises(ValueError, match="needs inputs of 7 values"):
        few_rows.Linear(torch.randn(5, 7))(torch.randn(1, 6))
