import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from identitydp_jax.models import depthwise
from identitydp_jax.models.depthwise import depthwise_conv

CASES = {
    "same": ((3, 3), (1, 1), ((1, 1), (1, 1)), (5, 4)),
    "halving": ((3, 3), (2, 2), ((1, 1), (1, 1)), (8, 7)),
    "no padding": ((2, 1), (2, 1), ((0, 0), (0, 0)), (8, 5)),
    "uneven": ((4, 3), (3, 2), ((2, 0), (0, 1)), (11, 8)),
    "stride beyond the kernel": ((2, 1), (3, 2), ((1, 0), (0, 0)), (9, 5)),
}


def _random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_shifted_multiply_adds_equal_the_stock_convolution_and_its_gradients(case):
    size, strides, padding, (height, width) = case

    def ours(x, kernel):
        return depthwise_conv(x, kernel, strides=strides, padding=padding)

    def stock(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=layout, feature_group_count=3
        )

    @jax.jit
    def value_and_gradients(x, kernel):
        found, backward = jax.vjp(ours, x, kernel)
        wanted, wanted_backward = jax.vjp(stock, x, kernel)
        return (found, *backward(jnp.cos(wanted))), (wanted, *wanted_backward(jnp.cos(wanted)))

    found, wanted = value_and_gradients(_random(2, height, width, 3), _random(*size, 1, 3))
    for a, b in zip(found, wanted, strict=True):
        assert float(jnp.max(jnp.abs(b))) > 0.1
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_accelerators_get_the_stock_convolution(monkeypatch):
    monkeypatch.setattr(depthwise.jax, "default_backend", lambda: "gpu")
    x, kernel = np.ones((1, 6, 6, 2), np.float32), np.ones((3, 3, 1, 2), np.float32)
    jaxpr = str(jax.make_jaxpr(lambda x: depthwise_conv(x, kernel, strides=(2, 2)))(x))
    assert "conv_general_dilated" in jaxpr


def test_works_under_vmap():
    x, kernels = _random(2, 1, 8, 8, 2), _random(2, 3, 3, 1, 2)

    def loss(x, kernel):
        return jnp.sum(depthwise_conv(x, kernel, strides=(2, 2)) ** 2)

    @jax.jit
    def both_ways(x, kernels):
        apart = [jax.grad(loss)(x[i], kernels[i]) for i in range(len(x))]
        return jax.vmap(jax.grad(loss))(x, kernels), jnp.stack(apart)

    together, apart = both_ways(x, kernels)
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)
