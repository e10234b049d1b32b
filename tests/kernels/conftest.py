"""Both paths of every kernel, where both can run."""

import numpy as np
import pytest
from edgeinfer.kernels import simd

PATHS = ["portable", "simd"] if simd.available() else ["portable"]


@pytest.fixture(params=PATHS)
def path(request) -> str:
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240701)
