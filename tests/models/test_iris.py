import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import mediapipe

from identitydp_jax.models import iris
from identitydp_jax.models.iris import IrisNet, find
from identitydp_jax.models.pixels import to_float


def test_parameter_count_and_shape():
    crops = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    found, variables = jax.eval_shape(IrisNet().init_with_output, jax.random.key(0), crops)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 651_300
    assert [(leaf.shape, leaf.dtype) for leaf in found] == [
        ((2, 71, 3), jnp.float32),
        ((2, 5, 3), jnp.float32),
    ]


class Brightest:
    """Finds the brightest pixel of a crop as every point, the iris one pixel lower."""

    def apply(self, variables, crops):
        place = crops.sum(-1).reshape(len(crops), -1).argmax(1)
        points = jnp.stack([place % 64, place // 64, 0 * place], axis=1) / 64 + 0.5 / 64
        points = jnp.repeat(points[:, None], 71, axis=1)
        return points, points[:, :5] + jnp.array([0, 1 / 64, 0])


def test_points_of_both_eyes_are_found_where_they_lie_in_the_frame(monkeypatch):
    monkeypatch.setattr(iris, "IrisNet", Brightest)
    faces = np.full((1, 128, 128, 3), -1.0, np.float32)
    faces[0, 60, 43] = faces[0, 62, 85] = 1.0
    mesh = np.zeros((1, 468, 3), np.float32)
    mesh[0, [33, 133, 362, 263], :2] = [(0.3, 0.47), (0.42, 0.48), (0.58, 0.48), (0.7, 0.47)]
    found = find({}, jnp.asarray(faces), jnp.asarray(mesh))
    assert found.iris.shape == (1, 2, 5, 2) and found.lids.shape == (1, 2, 16, 2)
    expected = np.array([[43.5, 60.5], [85.5, 62.5]]) / 128
    pixel = 2.3 * 0.12 / 64
    np.testing.assert_allclose(found.lids[0], np.repeat(expected[:, None], 16, 1), atol=pixel)
    np.testing.assert_allclose(
        found.iris[0] - found.lids[0, :, :5], [[[0, pixel]] * 5] * 2, atol=1e-6
    )


def test_a_mirrored_face_has_mirrored_eyes(monkeypatch):
    monkeypatch.setattr(iris, "IrisNet", Brightest)
    faces = jax.random.uniform(jax.random.key(1), (1, 96, 96, 3), minval=-1.0)
    corners, opposite = [33, 133, 362, 263], [263, 362, 133, 33]
    mesh = np.zeros((2, 468, 2), np.float32)
    mesh[0, corners] = [(0.3, 0.47), (0.42, 0.48), (0.6, 0.5), (0.71, 0.46)]
    mesh[1, corners] = mesh[0, opposite] * [-1, 1] + [1, 0]
    found = find({}, jnp.concatenate([faces, faces[:, :, ::-1]]), jnp.asarray(mesh))
    for there, back in found:
        np.testing.assert_allclose(there, back[::-1] * [-1, 1] + [1, 0], atol=1e-5)


@pytest.mark.network
def test_converted_network_equals_tensorflow_lite():
    params = iris.load()
    crop = to_float(jnp.asarray(mediapipe.eye()))[None]
    expected = jax.eval_shape(IrisNet().init, jax.random.key(0), crop)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)

    def loss(crop):
        contour, points = IrisNet().apply({"params": params}, crop)
        return jnp.abs(points).sum(), (contour[0], points[0])

    (_, (contour, points)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(crop)
    golden = np.load(mediapipe.FILE)
    np.testing.assert_allclose(contour, golden["contour"], atol=2e-6)
    np.testing.assert_allclose(points, golden["iris"], atol=2e-6)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-4
    # An eye is in it: corner, iris and corner from left to right, the iris between the lids.
    assert contour[0, 0] < points[0, 0] < contour[8, 0]
    assert contour[12, 1] < points[0, 1] < contour[4, 1]
