import jax
import jax.numpy as jnp
import numpy as np
import pytest

from identitydp_jax.models import face_geometry
from identitydp_jax.models.face_geometry import (
    BROWS,
    FEATURES,
    INNER_LIPS,
    LIDS,
    NOSE,
    OUTER_LIPS,
    drift,
    eye_distance,
    eye_opening,
    gaze,
    lids,
    mouth_opening,
    pose,
)

RIGID = face_geometry._RIGID
# Of MediaPipe's face oval: whatever lies on it belongs to the identity.
SILHOUETTE = {10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400}
SILHOUETTE |= {377, 152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67}
SILHOUETTE |= {109}


def _turned(yaw, pitch, roll, *, scale=0.2, place=(0.5, 0.5, 0.0)):
    """A mesh whose rigid points are the mean's, turned by angles in radians."""
    (sy, cy), (sp, cp), (sr, cr) = ((np.sin(a), np.cos(a)) for a in (yaw, pitch, roll))
    nods = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    turns = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    tilts = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    mesh = np.zeros((468, 3))
    face = np.array(list(RIGID.values())) @ (tilts @ turns @ nods).T
    mesh[list(RIGID)] = scale * face + place
    return jnp.asarray(mesh, jnp.float32)


@pytest.fixture(scope="module")
def random_meshes():
    return jax.random.uniform(jax.random.key(0), (2, 468, 3))


def test_parts_are_those_of_the_topology():
    parts = (BROWS, *LIDS, NOSE, OUTER_LIPS, INNER_LIPS)
    assert [len(part) for part in parts] == [20, 16, 16, 24, 20, 20]
    assert len(FEATURES) == len(set(FEATURES)) == 116
    assert not SILHOUETTE & set(FEATURES)


def test_drift_is_in_eye_distances_and_leaves_out_the_silhouette(random_meshes):
    moved = random_meshes + jnp.array([0.3, 0.4, 9.0])
    moved = moved.at[:, np.array(sorted(SILHOUETTE))].add(7.0)
    found = drift(random_meshes, moved) * eye_distance(random_meshes)
    np.testing.assert_allclose(found, 0.5, rtol=1e-5)
    np.testing.assert_allclose(drift(random_meshes, random_meshes), 0, atol=1e-5)
    one = drift(random_meshes, random_meshes.at[:, 61, 0].add(1.0), part=(61, 291))
    np.testing.assert_allclose(one * eye_distance(random_meshes), 0.5, rtol=1e-5)


def test_eyes_and_mouths_open():
    mesh = jnp.zeros((1, 468, 2))
    for (outer, inner), x in (((33, 133), 0.0), ((362, 263), 2.0)):
        mesh = mesh.at[0, outer, 0].set(x).at[0, inner, 0].set(x + 1.0)
    for upper, lower in ((160, 144), (159, 145), (158, 153)):
        mesh = mesh.at[0, upper, 1].set(-0.1).at[0, lower, 1].set(0.2)
    np.testing.assert_allclose(eye_opening(lids(mesh)), [[0.3, 0.0]], atol=1e-5)
    mesh = mesh.at[0, 308].set(jnp.array([0.0, 2.0]))  # a mouth on its side, two wide
    for number, (upper, lower) in enumerate(((82, 87), (13, 14), (312, 317))):
        mesh = mesh.at[0, lower, 0].set(0.2 * (number + 1)).at[0, upper, 1].set(0.0)
    np.testing.assert_allclose(mouth_opening(mesh), 0.2, atol=1e-5)


@pytest.mark.parametrize("roll", [0.0, 0.4])
def test_an_iris_that_moves_turns_the_gaze_of_its_eye(roll):
    corners = np.array([[[0.3, 0.5], [0.4, 0.5]], [[0.7, 0.5], [0.6, 0.5]]])
    contour = np.zeros((2, 16, 2))
    contour[:, [0, 8]] = corners
    centres = corners.mean(1) + np.array([[0.02, 0.0], [0.0, -0.01]])
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    found = gaze(
        jnp.asarray(centres[None, :, None] @ turn.T), jnp.asarray((contour @ turn.T)[None])
    )
    radius = 0.1 * face_geometry._ROTATION_RADIUS
    expected = np.arcsin([[0.02 / radius, 0.0], [0.0, 0.01 / radius]])
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (0.5, 0, 0), (0, -0.3, 0), (-0.9, 0.2, 0.3), (1, 1, 1)]
)
def test_pose_is_how_the_mean_face_was_turned(angles):
    found = pose(jnp.stack([_turned(*angles), _turned(*angles, scale=2.0, place=(9, -3, 5))]))
    np.testing.assert_allclose(found, [angles] * 2, atol=2e-3)


def test_pose_bears_other_proportions():
    mesh = _turned(0.4, 0.1, -0.2)
    noise = 0.01 * jax.random.normal(jax.random.key(1), mesh.shape)
    np.testing.assert_allclose(pose((mesh + noise)[None])[0], (0.4, 0.1, -0.2), atol=0.06)


def test_signs_agree_with_the_measures_in_degrees():
    """Nose to the right is a yaw to the right; up is up; the right eye lower is clockwise."""
    frontal = _turned(0, 0, 0)
    nose = [_turned(*turn)[4] - frontal[4] for turn in ((0.3, 0, 0), (0, 0.3, 0))]
    assert nose[0][0] > 0 and nose[1][1] < 0
    tilted = _turned(0, 0, 0.3)
    assert tilted[263, 1] > tilted[33, 1]


def test_gradients_are_finite_where_points_coincide(random_meshes):
    def loss(mesh):
        contour = lids(mesh)
        total = drift(random_meshes, mesh).sum() + mouth_opening(mesh).sum()
        total += eye_opening(contour).sum() + gaze(contour, contour).sum()
        return total + pose(_turned(0, 0, 0)[None] + 0.01 * (mesh - 0.5)).sum()

    closed = random_meshes.at[:, 13].set(random_meshes[:, 14])
    for mesh in (closed, random_meshes):
        assert np.isfinite(jax.jit(jax.grad(loss))(mesh)).all()
    assert not np.array_equal(jax.jit(jax.grad(loss))(closed), jnp.zeros_like(closed))
