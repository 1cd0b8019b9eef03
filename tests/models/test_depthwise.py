import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from identitydp_jax.models import depthwise
from identitydp_jax.models.depthwise import depthwise_conv

CASES = {
    "same": ((3, 3), (1, 1), ((1, 1), (1, 1)), (7, 6)),
    "halving": ((3, 3), (2, 2), ((1, 1), (1, 1)), (8, 8)),
    "halving odd": ((3, 3), (2, 2), ((1, 1), (1, 1)), (7, 9)),
    "no padding": ((2, 1), (2, 1), ((0, 0), (0, 0)), (8, 5)),
    "uneven": ((4, 3), (3, 2), ((2, 0), (0, 1)), (11, 8)),
    "stride beyond the kernel": ((2, 2), (3, 3), ((1, 0), (0, 0)), (9, 10)),
}


def _stock(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_shifted_multiply_adds_equal_the_stock_convolution_and_its_gradients(case):
    size, strides, padding, (height, width) = case
    keys = jax.random.split(jax.random.key(3), 3)
    x = jax.random.normal(keys[0], (2, height, width, 5))
    kernel = jax.random.normal(keys[1], (*size, 1, 5))

    def ours(x, kernel):
        return depthwise_conv(x, kernel, strides=strides, padding=padding)

    def stock(x, kernel):
        return _stock(x, kernel, strides, padding)

    found, wanted = jax.jit(ours)(x, kernel), jax.jit(stock)(x, kernel)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    cotangent = jax.random.normal(keys[2], wanted.shape)
    found, wanted = (
        jax.jit(lambda x, k, f=f: jax.vjp(f, x, k)[1](cotangent))(x, kernel) for f in (ours, stock)
    )
    for a, b in zip(found, wanted, strict=True):
        assert float(jnp.max(jnp.abs(b))) > 0.1
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_accelerators_get_the_stock_convolution(monkeypatch):
    monkeypatch.setattr(depthwise.jax, "default_backend", lambda: "gpu")
    x, kernel = jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 1, 2))
    jaxpr = str(jax.make_jaxpr(lambda x: depthwise_conv(x, kernel, strides=(2, 2)))(x))
    assert "conv_general_dilated" in jaxpr


def test_works_under_vmap():
    x = jax.random.normal(jax.random.key(0), (3, 1, 8, 8, 2))
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 3, 1, 2))

    def loss(x, kernel):
        return jnp.sum(depthwise_conv(x, kernel, strides=(2, 2)) ** 2)

    gradient = jax.jit(jax.grad(loss))
    together = jax.jit(jax.vmap(jax.grad(loss)))(x, kernels)
    apart = jnp.stack([gradient(a, k) for a, k in zip(x, kernels, strict=True)])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)
