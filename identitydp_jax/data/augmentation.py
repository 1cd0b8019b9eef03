"""Random changes, made on the device, that carry a model over to other photos."""

import jax
import jax.numpy as jnp

from identitydp_jax.data.jpeg import compress

_PRECISE = jax.lax.Precision.HIGHEST  # half precision would cost a level of 255


def augment(faces, *, key):
    """Flip, jitter the alignment and the colours, blur, add noise and recompress faces.

    Row i depends on that row, `key` and i alone; its K faces are changed alike.

    Args:
      faces: uint8 (N, K, R, R, 3) sRGB, model-framed; R a multiple of 16.
      key: typed key of this batch.

    Returns:
      float32 (N, K, R, R, 3) in [-1, 1].
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(faces.shape[0]))
    each = jax.vmap(jax.vmap(_augment, (0, None)), (0, 0))
    return each(faces.astype(jnp.float32) / 255.0, keys) * 2.0 - 1.0


def recolour(faces, *, key):
    """Do what `augment` does, but leave faces where they are."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(faces.shape[0]))
    each = jax.vmap(jax.vmap(_recolour, (0, None)), (0, 0))
    return each(faces.astype(jnp.float32) / 255.0, keys) * 2.0 - 1.0


def _augment(face, key):
    """Change one face, float32 (R, R, 3) in [0, 1]."""
    alignment_key, colour_key = jax.random.split(key)
    return _recolour(_jitter_alignment(face, alignment_key), colour_key)


def _recolour(face, key):
    colour_key, choice_key, detail_key = jax.random.split(key, 3)
    face = _jitter_colours(face, colour_key)
    return jnp.where(jax.random.bernoulli(choice_key, 0.3), _degrade(face, detail_key), face)


def _jitter_alignment(face, key):
    """Flip half of the faces; turn by up to 6 degrees, zoom by 6 %, shift by 3 %."""
    flip_key, angle_key, zoom_key, shift_key = jax.random.split(key, 4)
    face = jnp.where(jax.random.bernoulli(flip_key), face[:, ::-1], face)
    side = face.shape[0]
    angle = jnp.radians(jnp.clip(3.0 * jax.random.normal(angle_key), -6.0, 6.0))
    zoom = jnp.exp(jnp.clip(0.03 * jax.random.normal(zoom_key), -0.06, 0.06))
    shift = side * jnp.clip(0.015 * jax.random.normal(shift_key, (2,)), -0.03, 0.03)
    along = jnp.arange(side, dtype=jnp.float32) - (side - 1) / 2
    y, x = along[:, None] - shift[1], along[None, :] - shift[0]
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    return _sample(face, sin * x + cos * y, cos * x - sin * y)


def _sample(face, y, x):
    """Read a face (R, R, 3) between its pixels, bilinearly; y, x (R, R) count from its centre."""
    side = face.shape[0]

    def corners(position):
        position = position + (side - 1) / 2
        low = jnp.floor(position)
        return low.astype(jnp.int32), (position - low)[..., None]

    def pixel(row, column):
        return face[_mirrored(row, side), _mirrored(column, side)]

    (top, down), (left, right) = corners(y), corners(x)
    above = pixel(top, left) * (1.0 - right) + pixel(top, left + 1) * right
    below = pixel(top + 1, left) * (1.0 - right) + pixel(top + 1, left + 1) * right
    return above * (1.0 - down) + below * down


def _mirrored(index, side):
    """Reflect indices that lie less than `side` outside 0 to side - 1 at the border's edge."""
    index = jnp.where(index < 0, -1 - index, index)
    return jnp.where(index >= side, 2 * side - 1 - index, index)


def _jitter_colours(face, key):
    """Change gamma, contrast, saturation, white balance; a tenth becomes grey."""
    gamma_key, balance_key, saturation_key, contrast_key, grey_key = jax.random.split(key, 5)
    gamma = jnp.exp(0.25 * jax.random.normal(gamma_key))
    balance = jnp.exp(0.08 * jax.random.normal(balance_key, (3,)))
    saturation = jnp.exp(0.2 * jax.random.normal(saturation_key))
    contrast = jnp.exp(0.15 * jax.random.normal(contrast_key))
    face = jnp.maximum(face, 1e-6) ** gamma * balance
    grey = face.mean(2, keepdims=True)
    saturation = jnp.where(jax.random.bernoulli(grey_key, 0.1), 0.0, saturation)
    face = grey + saturation * (face - grey)
    middle = face.mean()
    return jnp.clip(middle + contrast * (face - middle), 0.0, 1.0)


def _degrade(face, key):
    """Lose detail as photos do: resolution, sensor noise, compression."""
    size_key, level_key, noise_key, quality_key = jax.random.split(key, 4)
    side = face.shape[0]
    size = jnp.floor(side * jax.random.uniform(size_key, minval=0.4, maxval=1.0))
    reduce = _reduction(side, jnp.maximum(size, 24.0))
    face = jnp.einsum("yv,xu,vuc->yxc", reduce, reduce, face, precision=_PRECISE)
    level = jax.random.uniform(level_key, maxval=6.0 / 255)
    face = jnp.clip(face + level * jax.random.normal(noise_key, face.shape), 0.0, 1.0)
    quality = jnp.floor(jax.random.uniform(quality_key, minval=40.0, maxval=95.0))
    return compress(face, quality)


def _reduction(side: int, size):
    """Return the (side, side) map that reduces a line to `size` pixels by area and back linearly.

    `size` may be traced: rows and columns of the reduced line beyond it are zero.
    """
    i = jnp.arange(side, dtype=jnp.float32)
    step = side / size
    # Pixel j of the reduced line covers j step to (j + 1) step of the line.
    low = jnp.maximum(i[:, None] * step, i[None, :])
    high = jnp.minimum((i[:, None] + 1.0) * step, i[None, :] + 1.0)
    area = jnp.maximum(high - low, 0.0) / step
    centre = jnp.clip((i + 0.5) / step - 0.5, 0.0, size - 1.0)
    linear = jnp.maximum(1.0 - jnp.abs(centre[:, None] - i[None, :]), 0.0)
    return jnp.matmul(linear, area, precision=_PRECISE)
