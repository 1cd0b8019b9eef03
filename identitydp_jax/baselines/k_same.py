"""k-Same averaging over a public gallery of faces of nobody.

k-Same (Newton, Sweeney and Malin, IEEE TKDE 17(2), 2005) shows every face of a closed set as the
mean of the k faces of that set nearest to it. k-Same-Net (Meden, Emersic, Struc and Peer, Entropy
20(1), 2018) takes the k from a proxy set of other people. Here the proxies are generated faces, so
a single photo needs no set of its own, and no pixel of the input is in the output. Unlike k-Same,
it makes nobody k-anonymous: which k proxies are the nearest still depends on the input.
"""

import functools
import hashlib
import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

# `identitydp data synthetic --seed 2000 --count 64 --resolution 128`, row by row in 8 x 8 tiles,
# JPEG of quality 90 without chroma subsampling. MobileStyleGAN, weights under Apache-2.0.
_MOSAIC = pathlib.Path(__file__).with_name("gallery.jpg")
_TILES, _SIDE = 8, 128
GALLERY_SIZE = _TILES * _TILES

# Faces are compared on a grid of 32 x 32 cells, and of that in what is neither hair nor background.
_CELLS = 32
_FACE = slice(8, 28), slice(8, 24)


@functools.cache
def load_gallery() -> tuple[np.ndarray, str]:
    """Return the gallery that ships, uint8 (64, 128, 128, 3) in the model frame, and its SHA-256.

    The digest is that of the file, in hexadecimal.
    """
    content = _MOSAIC.read_bytes()
    with Image.open(io.BytesIO(content)) as mosaic:
        tiles = np.asarray(mosaic).reshape(_TILES, _SIDE, _TILES, _SIDE, 3)
    gallery = tiles.swapaxes(1, 2).reshape(GALLERY_SIZE, _SIDE, _SIDE, 3)
    gallery.flags.writeable = False
    return gallery, hashlib.sha256(content).hexdigest()


def k_same(faces, gallery, *, k: int):
    """Return the mean of the k gallery faces nearest to each face.

    Nearest in the Euclidean distance between pixels of the reduced face region, as k-Same-Pixel.

    Args:
      faces: float32 (N, H, W, 3) in [-1, 1] in the model frame, sides multiples of 32.
      gallery: float32 (G, h, w, 3) likewise.
      k: from 1 to G.

    Returns:
      float32 (N, H, W, 3).
    """
    difference = _face_cells(faces)[:, None] - _face_cells(gallery)[None]
    distance = jnp.sum(difference**2, axis=(2, 3, 4))
    nearest = jax.lax.top_k(-distance, k)[1]
    mean = jnp.mean(gallery[nearest], axis=1)
    return jax.image.resize(mean, (*faces.shape[:3], mean.shape[3]), "cubic")


def _face_cells(faces):
    """Return the mean colours of the cells in the face region, (N, 20, 16, 3)."""
    count, height, width, channels = faces.shape
    split = count, _CELLS, height // _CELLS, _CELLS, width // _CELLS, channels
    return jnp.mean(faces.reshape(split), axis=(2, 4))[:, *_FACE]
