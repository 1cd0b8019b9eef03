"""What a mesh tells of eyes and of how a head is turned."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from identitydp_jax.evaluation import mesh_measures


def _mesh(count: int = 3):
    """Points of made-up faces, all different."""
    return np.random.default_rng(0).normal(size=(count, 468, 3))


@pytest.mark.parametrize("angle", [0.0, 0.05, 1.0, 3.0])
def test_turn_is_the_angle_whatever_size_and_place(angle):
    mesh = _mesh()
    axes = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0, 0.8]])
    rotations = Rotation.from_rotvec(angle * axes).as_matrix()
    turned = 0.7 * np.einsum("nij,nkj->nki", rotations, mesh) + 0.3
    np.testing.assert_allclose(mesh_measures.turn(mesh, turned), angle, atol=1e-6)


def test_an_expression_is_no_turn():
    mesh = _mesh()
    smiling = mesh.copy()
    smiling[:, [13, 14, 61, 291, 159, 386, 70, 300, 152]] += 0.5  # lips, lids, brows, chin
    np.testing.assert_allclose(mesh_measures.turn(mesh, smiling), 0, atol=1e-6)


def test_a_mirrored_head_is_turned_not_reflected():
    mesh = _mesh()
    assert (mesh_measures.turn(mesh, mesh * [-1, 1, 1]) > 0.5).all()


def test_openness_is_that_of_the_lids_whatever_size_and_turn():
    mesh = np.zeros((2, 468, 3))
    for (_, right), lids in mesh_measures.EYES:
        mesh[:, right, 0] = 3
        for upper, _ in lids:
            mesh[0, upper, 1], mesh[1, upper, 1] = -0.9, -0.1
    rotation = Rotation.from_rotvec([0.2, 0.7, 0]).as_matrix()
    for points in (mesh, 2 * mesh @ rotation.T + 1):
        np.testing.assert_allclose(mesh_measures.openness(points), [0.3, 0.1 / 3])


@pytest.mark.parametrize("angle", [(0.0, 0.0), (0.3, 0.0), (-0.2, 0.1)])
def test_gaze_is_the_angle_of_the_eyeball(angle):
    mesh = np.zeros((1, 468, 3))
    for ((left, right), _), x in zip(mesh_measures.EYES, (10, 16), strict=True):
        mesh[0, left, :2], mesh[0, right, :2] = (x, 5), (x + 3, 5)
    eyeball = 12 / 30 * 3
    irises = np.array([[[11.5, 5], [17.5, 5]]]) + eyeball * np.sin(angle)
    np.testing.assert_allclose(mesh_measures.gaze(mesh, irises), [angle], atol=1e-6)


def test_the_eye_that_is_turned_away_counts_for_less():
    mesh = np.zeros((1, 468, 3))
    for ((left, right), _), width in zip(mesh_measures.EYES, (3, 0.3), strict=True):
        mesh[0, left, 0], mesh[0, right, 0] = -width / 2, width / 2
    looking = [np.array([[a, b]]) for a, b in (([0.6, 0], [0, 0]), ([0, 0], [0.06, 0]))]
    near, far = (mesh_measures.gaze(mesh, irises)[0, 0] for irises in looking)
    assert near > 5 * far > 0
