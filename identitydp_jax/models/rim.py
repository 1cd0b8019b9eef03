"""Drawn faces brought to the light of the photo around them, as seamless cloning does.

Where a drawn face begins it may be a little lighter or redder than the photo beside it. What it
differs by along the rim is taken from it, and within the rim a smooth continuation of that: by
averaging rims over ever larger blocks until every pixel has one (pull and push, as in Farbman et
al., "Convolution Pyramids", 2011).
"""

import jax.numpy as jnp

from identitydp_jax.models.layers import double, reduce

_SPREAD = 0.3  # in [-1, 1]: skin beside hair differs by more, and is no question of light
_STRENGTH = 0.7  # all of it would make the skin of any face that of the original
_LITTLE = 1e-4


def match_rim(faces, drawn, share):
    """Return drawn faces (N, R, R, 3) in the light that faces (N, R, R, 3) have at their rim.

    Reads the faces only where `share` is neither 0 nor 1.

    Args:
      faces: in [-1, 1].
      drawn: in [-1, 1].
      share: (N, R, R, 1) in [0, 1], how much of the drawn face is to be seen.
    """
    difference = faces - drawn
    odd = jnp.mean(difference**2, axis=-1, keepdims=True) / _SPREAD**2
    weight = 4.0 * share * (1.0 - share) * jnp.exp(-odd)
    return drawn + _STRENGTH * _filled(difference, weight)


def _filled(values, weight):
    """Return values where weights are 1, and a smooth continuation of them where they are 0."""
    side = values.shape[1]
    if side == 1:
        return values
    total = reduce(weight, side // 2)
    mean = reduce(weight * values, side // 2) / (total + _LITTLE)
    coarse = double(_filled(mean, jnp.minimum(4.0 * total, 1.0)))
    return weight * values + (1.0 - weight) * coarse
