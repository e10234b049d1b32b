"""Both paths of every kernel, where both can run."""

import numpy as np
import pytest
from edgeinfer.kernels import simd, threads

PATHS = ["portable", "simd"] if simd.available() else ["portable"]


@pytest.fixture(params=PATHS)
def path(request) -> str:
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240701)


@pytest.fixture(autouse=True, scope="session")
def every_thread_works():
    """Divide even the smallest product among the threads asked for: tests are about results, not about speed."""
    share, threads.SHARE = threads.SHARE, 1
    yield
    threads.SHARE = share
