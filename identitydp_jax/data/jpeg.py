"""What JPEG compression takes from a picture, computed on the device."""

import jax
import jax.numpy as jnp
import numpy as np

_PRECISE = jax.lax.Precision.HIGHEST

# ITU-T T.81, annex K.1: quantisation of luminance and chrominance at quality 50.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
_CHROMINANCE = np.full((8, 8), 99, np.float32)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def compress(image, quality):
    """Compress and decompress an image as baseline JPEG does, with colour at half the resolution.

    Args:
      image: float32 (H, W, 3) sRGB in [0, 1]; H and W multiples of 16.
      quality: float32 scalar, whole, 1 to 100, on the scale of the Independent JPEG Group.

    Returns:
      float32 (H, W, 3) in whole steps of 1/255.
    """
    # JFIF, section 7; written out, because products with 3 x 3 matrices are slow on a CPU.
    red, green, blue = jnp.moveaxis(jnp.round(image * 255.0), -1, 0)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    colour = jnp.stack([(blue - luminance) / 1.772, (red - luminance) / 1.402])
    luminance = _quantise(luminance - 128.0, _scaled(_LUMINANCE, quality)) + 128.0
    height, width = luminance.shape
    colour = colour.reshape(2, height // 2, 2, width // 2, 2).mean((2, 4))
    colour = jax.vmap(_quantise, (0, None))(colour, _scaled(_CHROMINANCE, quality))
    to_blue, to_red = _double(_double(colour, 1), 2)
    red, blue = luminance + 1.402 * to_red, luminance + 1.772 * to_blue
    green = (luminance - 0.299 * red - 0.114 * blue) / 0.587
    return jnp.clip(jnp.round(jnp.stack([red, green, blue], -1)), 0.0, 255.0) / 255.0


def _double(planes, axis: int):
    """Double planes along one axis, each new value 3/4 of its own and 1/4 of the next old one."""
    length = planes.shape[axis]
    before, after = (
        jnp.take(planes, np.clip(np.arange(length) + step, 0, length - 1), axis) for step in (-1, 1)
    )
    both = jnp.stack([0.75 * planes + 0.25 * before, 0.75 * planes + 0.25 * after], axis + 1)
    return both.reshape(*planes.shape[:axis], 2 * length, *planes.shape[axis + 1 :])


def _scaled(table, quality):
    """Return a quantisation table at another quality than 50, as libjpeg scales it."""
    percent = jnp.where(quality < 50.0, jnp.floor(5000.0 / quality), 200.0 - 2.0 * quality)
    return jnp.clip(jnp.floor((table * percent + 50.0) / 100.0), 1.0, 255.0)


def _quantise(plane, table):
    """Round the cosine transform of every 8 x 8 block of whole (H, W) to multiples of `table`."""
    height, width = plane.shape
    transform = _cosines()
    blocks = jnp.round(plane).reshape(height // 8, 8, width // 8, 8)
    waves = jnp.einsum("uy,vx,iyjx->iujv", transform, transform, blocks, precision=_PRECISE)
    waves = jnp.round(waves / table[:, None]) * table[:, None]
    blocks = jnp.einsum("uy,vx,iujv->iyjx", transform, transform, waves, precision=_PRECISE)
    return jnp.round(blocks).reshape(height, width)


def _cosines():
    """Return the orthonormal cosine transform of 8 values as a matrix (8, 8)."""
    u, x = np.indices((8, 8))
    waves = np.cos((2 * x + 1) * u * np.pi / 16) * np.where(u == 0, np.sqrt(1 / 8), 1 / 2)
    return waves.astype(np.float32)
