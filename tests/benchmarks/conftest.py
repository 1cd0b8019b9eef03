"""What the tests of the benchmarks share."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Compile without optimizing what runs a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
