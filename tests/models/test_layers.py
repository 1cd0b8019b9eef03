"""Each way of computing a layer on a CPU gives the sums of the stock operation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from identitydp_jax.models import layers

_NHWC = ("NHWC", "HWIO", "NHWC")


def _random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _assert_same_with_gradients(ours, stock, x, kernel):
    """Compare values and both gradients of a random projection of the output."""
    weight = _random(9, *jax.eval_shape(stock, x, kernel).shape)

    @jax.jit
    def values_and_gradients(x, kernel):
        results = []
        for function in (ours, stock):
            value, backward = jax.vjp(function, x, kernel)
            results.append((value, *backward(weight)))
        return results

    for a, b in zip(*values_and_gradients(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# Of each size one map above and one at or below 4x4, where the CPU gathers patches.
@pytest.mark.parametrize(
    ("size", "stride", "padding", "height", "width"),
    [
        (1, 1, 0, 5, 6),
        (3, 1, 1, 4, 4),
        (3, 1, 1, 5, 4),
        (3, 1, 1, 9, 7),
        (4, 2, 1, 8, 8),
        (4, 2, 1, 9, 12),
        (4, 2, 2, 12, 11),
        (4, 1, 2, 3, 3),
        (4, 1, 2, 9, 9),
        (2, 1, 0, 4, 5),
        (2, 1, 0, 9, 9),
    ],
)
def test_conv_is_the_stock_convolution(size, stride, padding, height, width):
    x, kernel = _random(0, 2, height, width, 5), _random(1, size, size, 5, 3)

    def stock(x, kernel):
        pads = [(padding, padding)] * 2
        return lax.conv_general_dilated(x, kernel, (stride,) * 2, pads, dimension_numbers=_NHWC)

    def ours(x, kernel):
        return layers.conv(x, kernel, stride=stride, padding=padding)

    _assert_same_with_gradients(ours, stock, x, kernel)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 5), (8, 8)])
def test_conv_transpose_is_the_stock_transposed_convolution(height, width):
    x, kernel = _random(0, 2, height, width, 5), _random(1, 4, 4, 5, 3)

    def stock(x, kernel):
        # lax pads what it dilates: k - 1 - padding = 2 on each side.
        flipped = kernel[::-1, ::-1]
        return lax.conv_transpose(x, flipped, (2, 2), [(2, 2)] * 2, dimension_numbers=_NHWC)

    _assert_same_with_gradients(layers.conv_transpose, stock, x, kernel)


def test_conv_transpose_is_the_adjoint_of_the_convolution():
    small, large = _random(0, 2, 6, 5, 4), _random(1, 2, 12, 10, 3)
    kernel = _random(2, 4, 4, 4, 3)

    def down(x):
        return layers.conv(x, jnp.swapaxes(kernel, 2, 3), stride=2, padding=1)

    up = layers.conv_transpose(small, kernel)
    assert up.shape == large.shape
    np.testing.assert_allclose((up * large).sum(), (small * down(large)).sum(), rtol=1e-4)


def test_conv_transpose_puts_taps_where_its_docstring_says():
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 2, 0].set(1.0)
    kernel = _random(0, 4, 4, 1, 1)
    expected = np.zeros((6, 6))
    for a in range(4):
        for b in range(4):
            row, column = 2 * 1 + a - 1, 2 * 2 + b - 1
            if column < 6:
                expected[row, column] = kernel[a, b, 0, 0]
    np.testing.assert_allclose(layers.conv_transpose(x, kernel)[0, :, :, 0], expected, atol=1e-6)


def test_accelerators_compute_the_same(monkeypatch):
    x, kernel, lift = _random(0, 2, 4, 4, 5), _random(1, 4, 4, 5, 3), _random(2, 4, 4, 5, 3)
    cpu = layers.conv(x, kernel, stride=2, padding=1), layers.conv_transpose(x, lift)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    gpu = layers.conv(x, kernel, stride=2, padding=1), layers.conv_transpose(x, lift)
    for a, b in zip(cpu, gpu, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [2, 5])
def test_double_is_half_pixel_bilinear(size):
    x = _random(0, 2, size, size + 1, 3)
    shape = (2, 2 * size, 2 * (size + 1), 3)
    expected = jax.jit(lambda x: jax.image.resize(x, shape, "bilinear"))(x)
    found = jax.jit(layers.double)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [(1, 2), -1], ids=["instance", "pixel"])
def test_normalise(axes):
    x = np.asarray(5 + 3 * _random(0, 2, 4, 6, 8))
    y = np.asarray(jax.jit(layers.normalise, static_argnums=1)(x, axes))
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axes), 1, rtol=1e-4)
    expected = (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("axes", [(1, 2), -1], ids=["instance", "pixel"])
def test_normalise_gives_zero_where_nothing_varies(axes):
    np.testing.assert_array_equal(layers.normalise(jnp.full((1, 4, 4, 2), 7.0), axes), 0)


def test_normalise_computes_half_precision_in_float32():
    x = (200 + _random(0, 1, 8, 8, 4)).astype(jnp.bfloat16)  # whose own mean would be off by 1
    y = layers.normalise(x, (1, 2))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32).mean((1, 2)), 0, atol=0.01)


@pytest.mark.parametrize("size", [4, 5])
def test_average_pool_counts_no_padding(size):
    x = np.asarray(_random(0, 1, size, size, 2))
    out = -(-size // 2)
    expected = np.empty((1, out, out, 2))
    for i in range(out):
        for j in range(out):
            window = x[0, max(0, 2 * i - 1) : 2 * i + 2, max(0, 2 * j - 1) : 2 * j + 2]
            expected[0, i, j] = window.mean((0, 1))
    np.testing.assert_allclose(layers.average_pool(x), expected, rtol=1e-5, atol=1e-6)


def test_conv_layer_has_named_parameters_and_casts_them():
    half = jax.ShapeDtypeStruct((1, 8, 8, 5), jnp.bfloat16)
    down = layers.Conv(3, 4, 2, 1)
    variables = jax.eval_shape(down.init, jax.random.key(0), half)
    assert jax.tree.map(lambda x: x.shape, variables) == {
        "params": {"kernel": (4, 4, 5, 3), "bias": (3,)}
    }
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
    assert jax.eval_shape(down.apply, variables, half).dtype == jnp.bfloat16
    up = layers.Conv(3, 4, use_bias=False, transpose=True)
    variables = jax.eval_shape(up.init, jax.random.key(0), half)
    assert list(variables["params"]) == ["kernel"]
    assert jax.eval_shape(up.apply, variables, half).shape == (1, 16, 16, 3)


def test_parameter_count():
    shapes = jax.eval_shape(nn.Dense(3).init, jax.random.key(0), jnp.zeros((1, 4)))
    assert layers.parameter_count(shapes) == 15


def test_coarsen_reduces_by_area_and_enlarges_bilinearly():
    x = _random(0, 2, 16, 16, 3)
    np.testing.assert_array_equal(layers.coarsen(x, 16), x)
    reduced = x.reshape(2, 4, 4, 4, 4, 3).mean((2, 4))
    np.testing.assert_allclose(
        layers.coarsen(x, 4), layers.double(layers.double(reduced)), atol=1e-6
    )


def test_crop_cuts_the_window_and_resizes_each_axis():
    x = _random(0, 2, 16, 16, 3)
    same = layers.crop(x, left=3, top=5, width=8, height=8, side=8)
    np.testing.assert_allclose(same, x[:, 5:13, 3:11], atol=1e-6)
    # Half the height, twice the width: means of pairs of rows of a slope along both axes.
    down, across = np.mgrid[:16, :16].astype(np.float32)
    slope = jnp.asarray(np.stack([down, across], axis=-1)[None])
    found = np.asarray(layers.crop(slope, left=4, top=0, width=4, height=16, side=8))
    np.testing.assert_allclose(found[0, 1:-1, 3, 0], 0.5 + 2 * np.arange(1, 7), atol=1e-4)
    np.testing.assert_allclose(found[0, 3, :, 1], 3.75 + 0.5 * np.arange(8), atol=1e-4)
