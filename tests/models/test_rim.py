"""Drawn faces take the light of the photo at their rim, and nothing else of it."""

import jax.numpy as jnp
import numpy as np

from identitydp_jax.models import rim
from identitydp_jax.models.face_region import face_region
from identitydp_jax.models.rim import match_rim

R = 64
SHARE = jnp.asarray(face_region(R))[None]


def _picture(seed):
    return jnp.asarray(np.random.default_rng(seed).uniform(-0.5, 0.5, (1, R, R, 3)), jnp.float32)


def test_a_cast_is_taken_away_everywhere():
    faces = _picture(0)
    cast = jnp.array([0.1, -0.05, 0.02])
    left = (1 - rim._STRENGTH) * cast
    np.testing.assert_allclose(match_rim(faces, faces + cast, SHARE), faces + left, atol=0.01)


def test_light_that_changes_across_the_face_is_followed():
    ramp = 0.2 * jnp.linspace(-1, 1, R)[None, None, :, None]
    faces = jnp.zeros((1, R, R, 3)) + ramp
    left = np.abs(match_rim(faces, jnp.zeros_like(faces), SHARE) - faces)
    assert left[0, :, R // 4 : -R // 4].mean() < 0.6 * np.abs(ramp)[0, 0, R // 4 : -R // 4].mean()


def test_what_is_inside_or_outside_the_rim_has_no_say():
    faces, drawn = _picture(0), _picture(1)
    settled = (SHARE == 0) | (SHARE == 1)
    other = jnp.where(settled, _picture(2), faces)
    assert 0.1 < settled.mean() < 0.95
    before, after = (match_rim(x, drawn, SHARE) for x in (faces, other))
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_hair_at_the_rim_is_no_light():
    faces = jnp.full((1, R, R, 3), 0.3).at[:, : R // 2].set(-0.9)
    drawn = jnp.full((1, R, R, 3), 0.2)
    found = match_rim(faces, drawn, SHARE)
    taken = 0.2 + rim._STRENGTH * 0.1
    np.testing.assert_allclose(found[0, R // 2, R // 2], taken, atol=0.03)
