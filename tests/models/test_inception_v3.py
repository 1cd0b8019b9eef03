import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import perceptual

from identitydp_jax.evaluation.frechet import frechet_distance
from identitydp_jax.models.inception_v3 import (
    InceptionV3,
    convert,
    features,
    load_inception,
    resize,
)


def test_parameter_count_and_shape():
    image = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    found, variables = jax.eval_shape(InceptionV3().init_with_output, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 21_768_352
    assert (found.shape, found.dtype) == ((2, 2048), jnp.float32)


def test_any_size_in_bytes_or_floats():
    params = jax.eval_shape(
        InceptionV3().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    )["params"]
    for dtype in (jnp.uint8, jnp.float32):
        images = jax.ShapeDtypeStruct((2, 200, 410, 3), dtype)
        assert jax.eval_shape(features, params, images).shape == (2, 2048)


@pytest.mark.parametrize("size", [150, 299, 400])
def test_resize_interpolates_from_the_corner_and_repeats_the_last_pixel(size):
    down = np.linspace(0, 255, size, dtype=np.float32)
    image = np.broadcast_to(down[:, None, None], (size, 64, 1))
    images = jnp.asarray(np.stack([image, image[::-1]]))
    found = np.asarray(resize(images))
    wanted = np.interp(np.arange(299) * size / 299, np.arange(size), down)
    assert found.shape == (2, 299, 299, 1)
    np.testing.assert_allclose(
        found[0], np.broadcast_to(wanted[:, None, None], (299, 299, 1)), 1e-3
    )
    turned = resize(images.transpose(0, 2, 1, 3))
    np.testing.assert_allclose(turned.transpose(0, 2, 1, 3), found, atol=1e-3)


def test_batch_norms_are_folded_in():
    rng = np.random.default_rng(0)
    layer = "net.layers.mixed.tower_1.conv_2"
    shapes = {"weight": (5, 4, 1, 3), "beta": 5, "mean": 5, "var": 5}
    tensors = {
        f"{layer}.{kind}": rng.uniform(0.1, 1, shape).astype(np.float32)
        for kind, shape in shapes.items()
    }
    params = convert(tensors)["mixed_tower_1_conv_2"]
    assert params["kernel"].shape == (1, 3, 4, 5)
    patch = rng.normal(size=(4, 1, 3))
    convolved = np.einsum("oihw,ihw->o", tensors[f"{layer}.weight"], patch)
    deviation = np.sqrt(tensors[f"{layer}.var"] + 0.001)
    wanted = (convolved - tensors[f"{layer}.mean"]) / deviation + tensors[f"{layer}.beta"]
    found = np.einsum("hwio,ihw->o", params["kernel"], patch) + params["bias"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.network
def test_features_and_distance_equal_the_original_network():
    golden = np.load(perceptual.FOLDER / "inception_v3.npz")
    apply, params = load_inception()
    found, coarse = (
        np.asarray(jax.jit(apply)(params, photos))
        for photos in (perceptual.pictures(), perceptual.pixelated())
    )
    np.testing.assert_allclose(found[:, ::8], golden["features"], atol=1e-3)
    assert frechet_distance(found, coarse) == pytest.approx(golden["distance"].item(), rel=1e-4)
