"""The part of the model frame that is drawn anew: the rest of a photo stays as it is."""

import jax.numpy as jnp
import numpy as np

# An ellipse in shares of the frame. The inner 85 % of the detector's box reach from 0.24 to 0.76
# across and from 0.26 to 0.86 down in the median photo.
_CENTRE = (0.5, 0.57)
_RADII = (0.38, 0.415)
_FULL, _NONE = 0.92, 1.1  # radii, of the ellipse's, up to which it is 1 and from which it is 0
FEATHER = 1.0 - _FULL / _NONE  # depth at which it is 1
_FULL_INSIDE, _NONE_INSIDE = 0.72, 0.92


def depth(across, down):
    """Return how deep points of the frame lie in the region: 1 at its centre, 0 outside.

    Coordinates are shares of the frame.
    """
    inside = 1.0 - _radius(across, down) / _NONE
    # The ellipse reaches below the frame, at whose border nothing is drawn.
    above = FEATHER * (1.0 - down) / (1.0 - _CENTRE[1] - _FULL * _RADII[1])
    return np.clip(np.minimum(inside, above), 0.0, 1.0)


def smooth(t):
    """Return 0 up to t = 0, 1 from t = 1, and a smooth step between."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def face_region(resolution: int) -> np.ndarray:
    """Return the share of the drawn face in every pixel: float32 (R, R, 1)."""
    return smooth(depth(*_pixels(resolution)) / FEATHER)[..., None].astype(np.float32)


def features_region(resolution: int) -> np.ndarray:
    """Return a smaller region, whose edge ends where that of `face_region` begins."""
    inside = (_NONE_INSIDE - _radius(*_pixels(resolution))) / (_NONE_INSIDE - _FULL_INSIDE)
    return smooth(inside)[..., None].astype(np.float32)


def blend(faces, drawn, region):
    """Return `drawn` inside `region` (R, R, 1) and `faces` outside, both (N, R, R, 3)."""
    return faces + jnp.asarray(region, faces.dtype) * (drawn - faces)


def _radius(across, down):
    """Return how far out points lie, 1 on the ellipse."""
    return np.hypot((across - _CENTRE[0]) / _RADII[0], (down - _CENTRE[1]) / _RADII[1])


def _pixels(resolution: int):
    along = (np.arange(resolution) + 0.5) / resolution
    return along[None, :], along[:, None]
