import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import perceptual

from identitydp_jax.models.lpips import LPIPS, distance, load_lpips


def test_parameter_count_and_shape():
    image = jax.ShapeDtypeStruct((2, 64, 48, 3), jnp.float32)
    found, variables = jax.eval_shape(LPIPS().init_with_output, jax.random.key(0), image, image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 14_716_160
    assert (found.shape, found.dtype) == ((2,), jnp.float32)


def _random_params():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(LPIPS().init, jax.random.key(0), image, image)["params"]
    rng = np.random.default_rng(1)

    def draw(leaf):
        spread = np.sqrt(2 / max(1, leaf.size // leaf.shape[-1]))
        return rng.normal(size=leaf.shape).astype(np.float32) * np.float32(spread)

    params = jax.tree.map(draw, shapes)
    return params | {name: abs(params[name]) for name in params if name.startswith("weights")}


def test_grows_with_the_difference_from_zero_and_has_no_direction():
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    noise = rng.normal(size=a.shape).astype(np.float32)
    params = _random_params()
    measure = jax.jit(distance)
    others = [a, a + np.float32(0.1) * noise, a + noise]
    none, little, much = (float(measure(params, a, b)[0]) for b in others)
    assert none == pytest.approx(0, abs=1e-6) and none < little < much
    assert float(measure(params, others[2], a)[0]) == pytest.approx(much, rel=1e-4)
    together = measure(params, np.concatenate([a, a]), np.concatenate(others[1:]))
    np.testing.assert_allclose(together, [little, much], rtol=1e-4)


@pytest.mark.network
def test_distances_equal_the_original_network():
    golden = np.load(perceptual.FOLDER / "lpips.npz")["distances"]
    apply, params = load_lpips()
    found = jax.jit(apply)(params, *perceptual.pairs())
    np.testing.assert_allclose(found, golden, rtol=1e-4)
