import jax
import jax.numpy as jnp
import numpy as np
import pytest

from identitydp_jax.data.alignment import FRAME, TEMPLATE
from identitydp_jax.models.identity_crop import identity_crop

# Where ArcFace (InsightFace) aligns eyes, nose and mouth corners to, in its crop of 112 px.
ARCFACE = [
    (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655),
    (70.7299, 92.2041),
]  # fmt: skip


def _ramp(side):
    """A picture whose two channels are the position of the pixel's centre, in [0, 1]."""
    along = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(along, along)
    return jnp.asarray(np.stack([x, y, np.zeros_like(x)], -1)[None])


@pytest.mark.parametrize("side", [64, 128, 256, 512])
def test_window_is_the_fixed_box_at_every_resolution(side):
    crop = jax.jit(identity_crop)(_ramp(side))
    assert crop.shape == (1, 112, 112, 3)
    centres = (np.arange(112) + 0.5) / 112
    np.testing.assert_allclose(crop[0, 50, :, 0], (33.1 + 192.6 * centres) / 256, atol=2e-3)
    np.testing.assert_allclose(crop[0, :, 50, 1], (29.7 + 192.6 * centres) / 256, atol=2e-3)


def test_encoder_sees_the_points_where_it_was_trained_to():
    # Points count from pixel centres, the window from edges.
    seen = (TEMPLATE + 0.5 - [33.1, 29.7]) * 112 / (192.6 * FRAME / 256) - 0.5
    away = np.linalg.norm(seen - ARCFACE, axis=1)
    # The best window leaves a mean of 2.2: the two templates differ in shape.
    assert away.mean() < 2.5
    assert away.max() < 3.6


def test_shrinking_does_not_alias():
    checkers = np.indices((512, 512)).sum(0) % 2 * 2.0 - 1.0
    faces = jnp.asarray(np.repeat(checkers[None, :, :, None], 3, axis=3), jnp.float32)
    assert np.abs(jax.jit(identity_crop)(faces)).max() < 0.1


def test_gradient_reaches_the_window_alone():
    gradient = jax.jit(jax.grad(lambda x: identity_crop(x).sum()))(jnp.zeros((1, 64, 64, 3)))
    touched = np.abs(gradient[0, :, :, 0]) > 0
    rows, columns = np.flatnonzero(touched.any(1)), np.flatnonzero(touched.any(0))
    assert abs(rows[0] - 29.7 / 4) < 2
    assert abs(rows[-1] - 222.3 / 4) < 2
    assert abs(columns[0] - 33.1 / 4) < 2
    assert abs(columns[-1] - 225.7 / 4) < 2
    assert touched[rows[0] : rows[-1], columns[0] : columns[-1]].all()
