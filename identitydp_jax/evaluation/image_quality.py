"""How much two pictures differ pixel by pixel: PSNR, SSIM, fine detail, and a seam."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.models.layers import coarsen, reduce

_PEAK = 255.0
_RADIUS = 5  # a window of 11 pixels
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03
_BLOCK = 8  # pixels of a square whose detail is one amount, as in the losses
_LEAST_DETAIL = 0.1  # of 255: less is rounding
_RING = 8  # pixels on each side of a rim whose colours are compared
_SECTORS = 24  # of a rim


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the peak signal-to-noise ratio, 10 log10(255^2 / mean squared error).

    The mean is over pixels and channels. Pictures that are equal give infinity.

    Args:
      a: (N, H, W, C), uint8 or float, values in 0..255; not the networks' [-1, 1].
      b: the same shape.

    Returns:
      float32 (N,) in dB.

    Raises:
      UserError: the shapes differ.
    """
    a, b = _pair(a, b)
    error = jnp.mean((a - b) ** 2, axis=(1, 2, 3))
    return 10 * jnp.log10(_PEAK**2 / error)


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the structural similarity with a Gaussian window.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
    TIP 13(4), 2004, equation 13 with its constants: window of 11 pixels with sigma 1.5, K1 0.01,
    K2 0.03, range 255, population variances. The mean is over the channels and over the windows
    that lie wholly inside the picture; the paper's own is on luminance alone.

    Args:
      a: (N, H, W, C), uint8 or float, values in 0..255; not the networks' [-1, 1].
      b: the same shape.

    Returns:
      float32 (N,) in [-1, 1], 1 for equal pictures.

    Raises:
      UserError: the shapes differ, or a side is smaller than the window.
    """
    a, b = _pair(a, b)
    window = 2 * _RADIUS + 1
    if min(a.shape[1:3]) < window:
        raise UserError(f"SSIM of pictures of {a.shape[2]} x {a.shape[1]}: give at least {window}")
    c1, c2 = (_K1 * _PEAK) ** 2, (_K2 * _PEAK) ** 2
    # Variances stay the same under a shift, which keeps the squares within float32.
    p, q = a - _PEAK / 2, b - _PEAK / 2
    mean_p, mean_q = _blur(p), _blur(q)
    variances = _blur(p * p) - mean_p**2 + _blur(q * q) - mean_q**2
    covariance = _blur(p * q) - mean_p * mean_q
    mean_a, mean_b = mean_p + _PEAK / 2, mean_q + _PEAK / 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def detail_ratio(a: jax.Array, b: jax.Array, region: np.ndarray) -> jax.Array:
    """Return how much fine detail b has for each unit that a has: 1 where it is as sharp.

    Fine is what a quarter of the resolution doesn't show, its amount the root of the mean square
    over blocks of 8 x 8 pixels, as the network's losses have it; the mean is over the blocks of a
    region. Noise and specks count, too: more than 1 is no praise.

    Args:
      a: (N, R, R, C), uint8 or float, values in 0..255; R a power of two from 8.
      b: the same shape.
      region: float32 (R, R, 1), the weight of every pixel, not 0 everywhere.

    Returns:
      float32 (N,), 0 or more. Amounts under 0.1 of 255 count as that.

    Raises:
      UserError: the shapes differ.
    """
    a, b = _pair(a, b)
    blocks = a.shape[1] // _BLOCK
    weight = reduce(jnp.asarray(region, jnp.float32)[None], blocks)[..., 0]

    def amount(x):
        fine = x - coarsen(x, x.shape[1] // 4)
        root = jnp.sqrt(reduce(fine**2, blocks).mean(-1))
        return jnp.maximum((weight * root).sum((1, 2)) / weight.sum(), _LEAST_DETAIL)

    return amount(b) / amount(a)


def rim_jump(a: jax.Array, b: jax.Array, region: np.ndarray) -> jax.Array:
    """Return by how much the step of colour across a region's rim differs between a and b.

    In each of 24 sectors the step is the mean colour of the 8 pixels just inside, where the region
    is 1, less that of the 8 just outside, where it is 0. A seam or a halo has a step that the
    original doesn't have; what goes from light to dark there in both costs nothing.

    Args:
      a: (N, R, R, C), uint8 or float, values in 0..255.
      b: the same shape.
      region: float32 (R, R, 1), 1 inside, 0 outside, and both within 8 pixels of what is between
        all around.

    Returns:
      float32 (N,) in units of a 255th: the root mean square over channels, mean over sectors.

    Raises:
      UserError: the shapes differ.
    """
    a, b = _pair(a, b)
    weights = _steps(region[..., 0])
    steps = jnp.einsum("shw,nhwc->nsc", weights, b - a, precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt((steps**2).mean(-1)).mean(-1)


def _steps(region: np.ndarray) -> np.ndarray:
    """Return float32 (24, R, R): weights whose sum over a picture is a sector's step."""
    side = np.ones((2 * _RING + 1, 2 * _RING + 1), np.uint8)
    inner, outer = region >= 1, region > 0
    inside = inner & ~cv2.erode(inner.astype(np.uint8), side).astype(bool)
    outside = cv2.dilate(outer.astype(np.uint8), side).astype(bool) & ~outer
    y, x = np.indices(region.shape)
    angle = np.arctan2(y - y[inner].mean(), x - x[inner].mean()) / (2 * np.pi) + 0.5
    sectors = np.minimum((angle * _SECTORS).astype(int), _SECTORS - 1)
    each = sectors == np.arange(_SECTORS)[:, None, None]

    def mean(ring):
        chosen = (each & ring).astype(np.float32)
        return chosen / chosen.sum((1, 2), keepdims=True)

    return mean(inside) - mean(outside)


def _pair(a, b):
    if a.shape != b.shape:
        raise UserError(f"pictures of shape {a.shape} and {b.shape}: give pairs of one size")
    return a.astype(jnp.float32), b.astype(jnp.float32)


def _blur(x):
    """Average over the Gaussian window, wherever it lies inside."""
    down, across = _averages(x.shape[1]), _averages(x.shape[2])
    # As products with banded matrices, which is faster than a convolution of one channel; exact
    # ones, since an accelerator would else round to 16 bit or less.
    x = jnp.einsum("ph,nhwc->npwc", down, x, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("qw,npwc->npqc", across, x, precision=jax.lax.Precision.HIGHEST)


def _averages(size: int):
    """Return float32 (size - 10, size): each row averages the pixels under one window."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    places = np.arange(size)[None, :] - np.arange(size - 2 * _RADIUS)[:, None]
    inside = (places >= 0) & (places <= 2 * _RADIUS)
    rows = np.where(inside, weights[np.where(inside, places, 0)], 0) / weights.sum()
    return rows.astype(np.float32)
