"""What the tests of training share."""

import jax
import optax
import pytest

from identitydp_jax.training import state, step


@pytest.fixture(scope="session", autouse=True)
def _optax_promotes():
    """Let optax mix integers and floats, as its bias correction does; our own code may not."""
    stock = state.optimizer

    def optimizer(config):
        transform = stock(config)

        def update(*args):
            with jax.numpy_dtype_promotion("standard"):
                return transform.update(*args)

        return optax.GradientTransformation(transform.init, update)

    with pytest.MonkeyPatch.context() as patch:
        for module in (state, step):
            patch.setattr(module, "optimizer", optimizer)
        yield


@pytest.fixture(scope="session")
def _compiled(tmp_path_factory):
    return str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation(_compiled):
    """Compile steps once for all tests, and without optimizing what runs a few times."""
    jax.config.update("jax_compilation_cache_dir", _compiled)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
