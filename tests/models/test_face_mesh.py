import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import mediapipe

from identitydp_jax.models import face_mesh
from identitydp_jax.models.face_mesh import FaceMesh, find
from identitydp_jax.models.pixels import to_float


def test_parameter_count_and_shape():
    crops = jax.ShapeDtypeStruct((2, 192, 192, 3), jnp.float32)
    found, variables = jax.eval_shape(FaceMesh().init_with_output, jax.random.key(0), crops)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 580_908
    assert (found.shape, found.dtype) == ((2, 468, 3), jnp.float32)


def test_points_are_found_where_they_lie_in_the_frame(monkeypatch):
    class Brightest:
        """Finds the brightest pixel of a crop, 468 times, one crop's side behind the screen."""

        def apply(self, variables, crops):
            place = crops.sum(-1).reshape(len(crops), -1).argmax(1)
            points = jnp.stack([place % 192, place // 192], axis=1) / 192 + 0.5 / 192
            points = jnp.concatenate([points, jnp.ones((len(crops), 1))], axis=1)
            return jnp.repeat(points[:, None], 468, axis=1)

    monkeypatch.setattr(face_mesh, "FaceMesh", Brightest)
    faces = np.full((2, 128, 128, 3), -1.0, np.float32)
    faces[0, 60, 30] = faces[1, 110, 90] = 1.0
    found = np.asarray(find({}, jnp.asarray(faces)))
    expected = np.array([[30.5, 60.5, 0.94 * 128], [90.5, 110.5, 0.94 * 128]]) / 128
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 468, axis=1), atol=0.006)


@pytest.mark.network
def test_converted_network_equals_tensorflow_lite():
    params = face_mesh.load()
    crop = to_float(jnp.asarray(mediapipe.face()))[None]
    expected = jax.eval_shape(FaceMesh().init, jax.random.key(0), crop)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)

    def loss(crop):
        points = FaceMesh().apply({"params": params}, crop)
        return jnp.abs(points).sum(), points[0]

    (_, found), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(crop)
    np.testing.assert_allclose(found, np.load(mediapipe.FILE)["mesh"], atol=2e-6)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-4
    # A face is in it: forehead, outer corners of the eyes, tip of the nose, lips and chin.
    forehead, left, right, nose, lips, chin = found[jnp.array([10, 33, 263, 4, 13, 152])]
    assert forehead[1] < left[1] < nose[1] < lips[1] < chin[1]
    assert left[0] < nose[0] < right[0]
    assert nose[2] < lips[2] < left[2]  # the nose is nearest
