import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import landmarks

from identitydp_jax.models import landmark_net
from identitydp_jax.models.landmark_net import LandmarkNet, find
from identitydp_jax.models.pixels import to_float


def test_parameter_count_and_shape():
    crops = jax.ShapeDtypeStruct((2, 112, 112, 3), jnp.float32)
    found, variables = jax.eval_shape(LandmarkNet().init_with_output, jax.random.key(0), crops)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 356_840
    assert (found.shape, found.dtype) == ((2, 68, 2), jnp.float32)


def test_points_are_found_where_they_lie_in_the_frame(monkeypatch):
    class Brightest:
        """Finds the brightest pixel of a crop, 68 times."""

        def apply(self, variables, crops):
            place = crops.sum(-1).reshape(len(crops), -1).argmax(1)
            points = jnp.stack([place % 112, place // 112], axis=1) / 112 + 0.5 / 112
            return jnp.repeat(points[:, None], 68, axis=1)

    monkeypatch.setattr(landmark_net, "LandmarkNet", Brightest)
    faces = np.full((2, 128, 128, 3), -1.0, np.float32)
    faces[0, 60, 30] = faces[1, 110, 90] = 1.0
    found = np.asarray(find({}, jnp.asarray(faces)))
    expected = np.array([[30.5, 60.5], [90.5, 110.5]]) / 128
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 68, axis=1), atol=0.006)


@pytest.mark.network
def test_converted_network_equals_tensorflow_js():
    params = landmark_net.load()
    crop = to_float(landmarks.crop())
    expected = jax.eval_shape(LandmarkNet().init, jax.random.key(0), crop[None])["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)
    found = LandmarkNet().apply({"params": params}, crop[None])[0]
    np.testing.assert_allclose(found, np.load(landmarks.FILE), atol=1e-6)
    # A face is in it: brows above eyes, nose and mouth, from left to right.
    brows, eyes, nose, mouth = (
        found[a:b, 1].mean() for a, b in ((17, 27), (36, 48), (30, 36), (48, 68))
    )
    assert brows < eyes < nose < mouth
    assert found[36, 0] < found[39, 0] < found[42, 0] < found[45, 0]
