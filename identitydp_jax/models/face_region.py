"""The part of the model frame that is drawn anew: the rest of a photo stays as it is."""

import jax.numpy as jnp
import numpy as np

# An ellipse in shares of the frame. The inner 85 % of the detector's box reach from 0.27 to 0.74
# across and from 0.26 to 0.86 down in the median photo.
_CENTRE = (0.5, 0.57)
_RADII = (0.36, 0.40)
# A rounded rectangle: centre and half width and height to where it ends.
_CORE, _CORE_FEATHER = (0.5, 0.58, 0.23, 0.235), 0.15
FEATHER = 0.15  # depth at which it is 1
_FULL_INSIDE, _NONE_INSIDE = 0.30, 0.15  # depths


def depth(across, down):
    """Return how deep points of the frame lie in the region: 1 at its centre, 0 outside.

    Coordinates are shares of the frame.
    """
    x, y = (across - _CENTRE[0]) / _RADII[0], (down - _CENTRE[1]) / _RADII[1]
    return np.clip(1.0 - np.hypot(x, y), 0.0, 1.0)


def smooth(t):
    """Return 0 up to t = 0, 1 from t = 1, and a smooth step between."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def face_region(resolution: int) -> np.ndarray:
    """Return the share of the drawn face in every pixel: float32 (R, R, 1)."""
    return smooth(depth(*_pixels(resolution)) / FEATHER)[..., None].astype(np.float32)


def features_region(resolution: int) -> np.ndarray:
    """Return a smaller region, whose edge ends where that of `face_region` begins."""
    inside = depth(*_pixels(resolution)) - _NONE_INSIDE
    return smooth(inside / (_FULL_INSIDE - _NONE_INSIDE))[..., None].astype(np.float32)


def core_region(resolution: int) -> np.ndarray:
    """Return a region that holds eyes, brows, nose and mouth and little else, as `face_region`.

    What a paste mask leaves of `face_region` is never less than this.
    """
    across, down = _pixels(resolution)
    x, y = (across - _CORE[0]) / _CORE[2], (down - _CORE[1]) / _CORE[3]
    return smooth((1.0 - (x**4 + y**4) ** 0.25) / _CORE_FEATHER)[..., None].astype(np.float32)


def blend(faces, drawn, region):
    """Return `drawn` inside `region` (R, R, 1) and `faces` outside, both (N, R, R, 3)."""
    return faces + jnp.asarray(region, faces.dtype) * (drawn - faces)


def _pixels(resolution: int):
    along = (np.arange(resolution) + 0.5) / resolution
    return along[None, :], along[:, None]
