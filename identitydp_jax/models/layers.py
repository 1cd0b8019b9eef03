"""Convolutions and resampling, each written for the backend that runs it.

XLA's CPU backend runs some shapes in a naive loop (3x3 on tiny maps, transposed and padded 4x4
convolutions in the backward pass). The helpers here rewrite those shapes as plain dot products or
small VALID convolutions on CPU and keep the stock operation on accelerators. Both forms compute
the same sums; the tests hold them equal, gradients included.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Below this many positions the CPU's convolution is slower than gathering patches and one dot.
_SMALL_MAP = 16


def conv(x, kernel, *, stride: int = 1, padding: int = 0):
    """Convolve x (N, H, W, C) with kernel (k, k, C, D), zero padding on all four sides.

    Returns (N, (H + 2 padding - k) // stride + 1, ..., D) in the dtype of `x`.
    """
    if jax.default_backend() != "cpu":
        pads = [(padding, padding)] * 2
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, dimension_numbers=_DIMENSIONS
        )
    size = kernel.shape[0]
    if size == 1 and stride == 1 and padding == 0:
        return x @ kernel[0, 0]
    if padding:
        x = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    height, width = ((s - size) // stride + 1 for s in x.shape[1:3])
    if height * width > _SMALL_MAP:
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=_DIMENSIONS
        )
    patches = [
        x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def conv_transpose(x, kernel):
    """Double x (N, H, W, C) with a transposed convolution of size 4, stride 2, padding 1.

    `kernel` is (4, 4, C, D), tap (a, b) adding input (i, j) to output (2i + a - 1, 2j + b - 1).
    Returns (N, 2H, 2W, D).
    """
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            x, kernel[::-1, ::-1], (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2),
            dimension_numbers=_DIMENSIONS,
        )  # fmt: skip
    n, height, width, _ = x.shape
    padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    # Output row 2i + p reads input rows i + p - 1 and i + p through kernel rows 3 - p and 1 - p.
    rows = [
        [
            conv(
                padded[:, p : p + height + 1, q : q + width + 1],
                kernel[jnp.array([3 - p, 1 - p])][:, jnp.array([3 - q, 1 - q])],
            )
            for q in (0, 1)
        ]
        for p in (0, 1)
    ]
    phases = jnp.stack([jnp.stack(row, axis=3) for row in rows], axis=2)
    return phases.reshape(n, 2 * height, 2 * width, kernel.shape[-1])


class Conv(nn.Module):
    """Convolution layer over NHWC; parameters `kernel` (k, k, C, D) and `bias` (D,)."""

    features: int
    size: int = 1
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    kernel_init: nn.initializers.Initializer = nn.initializers.variance_scaling(
        1.0, "fan_in", "truncated_normal"
    )
    transpose: bool = False

    @nn.compact
    def __call__(self, x):
        """Map (N, H, W, C) to (N, H', W', features)."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(x.dtype)
        if self.transpose:
            x = conv_transpose(x, kernel)
        else:
            x = conv(x, kernel, stride=self.stride, padding=self.padding)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            x = x + bias.astype(x.dtype)
        return x


def wide(dtype) -> np.dtype:
    """Return float32, or `dtype` where that is of higher precision."""
    return np.promote_types(dtype, np.float32)  # jax refuses to mix them under strict promotion


def at_least_float32(x):
    """Return x in float32 if it is of lower precision, else as it is."""
    return x.astype(wide(x.dtype))


def normalise(x, axes, *, epsilon: float = 1e-5):
    """Normalise x (N, H, W, C) to zero mean and unit variance over axes.

    (1, 2) is instance normalisation; -1 normalises the features of every pixel.

    Computed in float32 at least, returned in the dtype of `x`.
    """
    values = at_least_float32(x)
    centred = values - values.mean(axes, keepdims=True)
    variance = (centred * centred).mean(axes, keepdims=True)
    return (centred * lax.rsqrt(variance + epsilon)).astype(x.dtype)


def double(x):
    """Double x (N, H, W, C) bilinearly to (N, 2H, 2W, C), half-pixel centres, edges repeated."""
    return _double_axis(_double_axis(x, 1), 2)


def _double_axis(x, axis: int):
    """Double one axis bilinearly: outputs are 3/4 and 1/4 blends of neighbouring samples."""
    size = x.shape[axis]
    before = jnp.concatenate(
        [lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis
    )
    after = jnp.concatenate(
        [lax.slice_in_dim(x, 1, size, axis=axis), lax.slice_in_dim(x, size - 1, size, axis=axis)],
        axis,
    )
    even, odd = 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after
    shape = list(x.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis=axis + 1).reshape(shape)


def enlarge(x, side: int):
    """Enlarge x (N, H, H, C) bilinearly to (N, side, side, C), `side` H times a power of two."""
    while x.shape[1] < side:
        x = double(x)
    return x


def coarsen(x, side: int):
    """Reduce x (N, H, H, C) by area to `side`, H by a power of two, and enlarge it to its size."""
    return enlarge(reduce(x, side), x.shape[1])


def reduce(x, side: int):
    """Average the blocks of x (N, H, H, C) to (N, side, side, C), `side` a divisor of H."""
    n, full, _, channels = x.shape
    return x.reshape(n, side, full // side, side, full // side, channels).mean((2, 4))


def crop(x, *, left, top, width, height, side: int):
    """Cut a window, in pixels, out of x (N, H, W, C) and resize it to (N, side, side, C)."""
    across, down = side / width, side / height
    return jax.image.scale_and_translate(
        x,
        (x.shape[0], side, side, x.shape[3]),
        (1, 2),
        jnp.array([down, across], x.dtype),
        jnp.array([-top * down, -left * across], x.dtype),
        method="linear",
        antialias=True,
    )


def average_pool(x):
    """Halve x (N, H, W, C) by 3x3 means with stride 2 and padding 1, padding not counted."""
    pads = [(1, 1), (1, 1)]
    mean = nn.avg_pool(at_least_float32(x), (3, 3), (2, 2), pads, count_include_pad=False)
    return mean.astype(x.dtype)


def parameter_count(tree) -> int:
    """Total number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
