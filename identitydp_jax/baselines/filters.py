"""Classic obfuscation of aligned faces: pixelization, noise, blur and a mask.

Every function maps float32 (N, H, W, 3) in [-1, 1] to the same shape, each face on its own. None
hides an identity with any guarantee: networks trained for it recognise people behind pixels and
blur (McPherson, Shokri and Shmatikov, arXiv 1609.00408).
"""

import jax
import jax.numpy as jnp
import numpy as np

_EXACT = jax.lax.Precision.HIGHEST  # the same pixels on accelerators that would round the factors


def pixelate(faces, *, block: int):
    """Give every square of `block` px its mean colour (pixelization of section V-E).

    The squares begin in the upper left corner; the last ones may be cut off by the border.
    """
    rows = _averages(faces.shape[1], block)
    columns = _averages(faces.shape[2], block)
    means = jnp.einsum("ij,njwc->niwc", rows, faces, precision=_EXACT)
    return jnp.einsum("ij,nhjc->nhic", columns, means, precision=_EXACT)


def add_noise(faces, *, key, sigma: float):
    """Add Gaussian noise of standard deviation `sigma`, in steps of 255 (section V-E), unclipped.

    Args:
      faces: as above.
      key: typed keys (N,), one per face.
      sigma: of 255, so that a step is 2 / 255 of the range of `faces`.
    """
    noise = jax.vmap(lambda one: jax.random.normal(one, faces.shape[1:], jnp.float32))(key)
    return faces + noise * np.float32(sigma / 127.5)


def blur(faces, *, factor: float):
    """Reduce the sides by `factor` and enlarge them again, bilinear (blurring of section V-E)."""
    count, height, width, channels = faces.shape
    small = count, max(1, round(height / factor)), max(1, round(width / factor)), channels
    return jax.image.resize(jax.image.resize(faces, small, "linear"), faces.shape, "linear")


def mask(faces):
    """Replace every pixel by the middle grey of the range, 0, whatever the face.

    It tells nothing of the face itself: what still points to somebody lies outside it.
    """
    return jnp.zeros_like(faces)


def _averages(size: int, block: int) -> np.ndarray:
    """Return the matrix (size, size) that averages within blocks."""
    index = np.arange(size) // block
    same = index[:, None] == index[None, :]
    return (same / same.sum(axis=1)).astype(np.float32)
