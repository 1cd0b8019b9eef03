import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.models import face_source
from identitydp_jax.models.face_region import features_region
from identitydp_jax.models.face_source import RESOLUTIONS, FaceSource

# Recorded with openvino 2026.4 in float32 from the packaged networks: two latents
# RandomState(1000).normal(size=(2, 512)), truncated by 1.0 and 0.8 towards the mean style of
# RandomState(0).normal(size=(4096, 512)); blocks of 64x64 averaged and single pixels at 1024 px.
GOLDEN = pathlib.Path(__file__).with_name("mobilestylegan_golden.npz")
PSI = np.array([1.0, 0.8], np.float32)


def shapes(resolution):
    return jax.eval_shape(
        FaceSource(resolution).init, jax.random.key(0), jnp.zeros((2, 512)), jnp.ones((2,))
    )["params"]


@functools.cache
def compiled(resolution):
    return jax.jit(FaceSource(resolution).apply)


def draw(resolution, params, latents, psi):
    with jax.default_matmul_precision("highest"):
        return np.asarray(compiled(resolution)({"params": params}, latents, psi))


@pytest.fixture(scope="module")
def random_params():
    generator = np.random.default_rng(0)

    def leaf(shape):
        scale = 1 / np.sqrt(max(1, np.prod(shape.shape[:-1])))
        return generator.normal(scale=scale, size=shape.shape).astype(np.float32)

    return jax.tree.map(leaf, shapes(256))


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_and_parameter_count(resolution):
    params = shapes(resolution)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 10_107_164
    faces = jax.eval_shape(
        FaceSource(resolution).apply,
        {"params": params},
        jax.ShapeDtypeStruct((3, 512), jnp.float32),
        jax.ShapeDtypeStruct((3,), jnp.float32),
    )
    assert faces.shape == (3, resolution, resolution, 3)
    assert faces.dtype == jnp.float32


def test_inverse_wavelet_is_orthonormal_haar():
    bands = np.random.default_rng(0).normal(size=(2, 4, 6, 12)).astype(np.float32)
    image = np.asarray(face_source.inverse_wavelet(jnp.asarray(bands)))
    blocks = image.reshape(2, 4, 2, 6, 2, 3)
    details = bands[..., 3:].reshape(2, 4, 6, 3, 3)
    signs = np.array([1.0, -1.0], np.float32)
    above_below, left_right = signs[:, None, None], signs[:, None]
    expected = {
        "low": (np.ones_like(blocks), bands[..., :3]),
        "vertical": (above_below[..., None], details[..., 0]),
        "horizontal": (left_right, details[..., 1]),
        "diagonal": (above_below[..., None] * left_right, details[..., 2]),
    }
    for name, (pattern, band) in expected.items():
        analysed = 0.5 * (blocks * pattern).sum((2, 4))
        np.testing.assert_allclose(analysed, band, atol=1e-5, err_msg=name)


def test_small_faces_are_the_large_one_reduced_by_area(random_params):
    latents = np.random.default_rng(1).normal(size=(2, 512)).astype(np.float32)
    small, full = (draw(resolution, random_params, latents, PSI) for resolution in (64, 1024))
    reduced = full.reshape(2, 64, 16, 64, 16, 3).mean((2, 4))
    assert reduced.std() > 1e-3
    np.testing.assert_allclose(small, reduced, atol=1e-3 * np.abs(reduced).max())


def test_faces_depend_on_key_and_index_alone(random_params):
    params = jax.device_put(random_params)
    many = face_source.faces(params, key=jax.random.key(3), count=3, resolution=64)
    few = face_source.faces(params, key=jax.random.key(3), count=2, resolution=64)
    other = face_source.faces(params, key=jax.random.key(4), count=1, resolution=64)
    assert many.shape == (3, 64, 64, 3) and many.dtype == np.uint8
    np.testing.assert_array_equal(many[:2], few)
    assert np.any(many[0] != many[1]) and np.any(many[0] != other[0])


def test_psi_zero_gives_the_mean_face(random_params):
    latents = np.random.default_rng(2).normal(size=(2, 512)).astype(np.float32)
    mean = draw(64, random_params, latents, np.zeros(2, np.float32))
    np.testing.assert_allclose(mean[0], mean[1], atol=1e-5 * np.abs(mean).max())
    drawn = draw(64, random_params, latents, np.ones(2, np.float32))
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3


def test_a_twin_stands_beside_the_face_of_its_key(random_params):
    params, root = jax.device_put(random_params), jax.random.key(3)
    alone = face_source.faces(params, key=root, count=2, resolution=64)
    pictures = [
        np.asarray(face_source.twins(params, key=jax.random.fold_in(root, i), resolution=64))
        for i in range(2)
    ]
    for picture, face in zip(pictures, alone, strict=True):
        assert picture.shape == (64, 128, 3) and picture.dtype == np.uint8
        np.testing.assert_array_equal(picture[:, :64], face)
        assert np.any(picture[:, 64:] != face)
    assert np.any(pictures[0][:, 64:] != pictures[1][:, 64:])
    again = face_source.twins(params, key=jax.random.fold_in(root, 1), resolution=64)
    np.testing.assert_array_equal(again, pictures[1])


def test_a_face_with_its_own_features_is_the_face(random_params):
    latents = np.random.default_rng(2).normal(size=(1, 512)).astype(np.float32)
    plain = draw(64, random_params, latents, PSI[:1])
    found = FaceSource(64).apply({"params": random_params}, latents, PSI[:1], latents)
    np.testing.assert_allclose(found, plain, atol=1e-4 * np.abs(plain).max())


@pytest.mark.network
def test_twins_are_other_people_in_the_same_place():
    params, region = jax.device_put(face_source.load()), features_region(64)[..., 0]
    pictures = [
        np.asarray(face_source.twins(params, key=jax.random.key(i), resolution=64), float)
        for i in range(6)
    ]
    pairs = [np.split(picture, 2, axis=1) for picture in pictures]
    strangers = [(a, b) for (a, _), (b, _) in itertools.pairwise(pairs)]
    for part in (region == 1, region == 0):
        change, unlike = (
            np.mean([np.abs(a - b)[part].mean() for a, b in those]) for those in (pairs, strangers)
        )
        assert 4 < change < 0.75 * unlike


def test_unknown_resolution_is_named():
    with pytest.raises(UserError, match="resolution is 100: choose one of 64"):
        face_source.faces({}, key=jax.random.key(0), count=1, resolution=100)


def test_foreign_constants_are_refused():
    with pytest.raises(UserError, match="no constant"):
        face_source.convert({"other": np.zeros(3, np.float32)}, {})


@pytest.mark.network
def test_packaged_weights_give_the_faces_of_the_original_runtime():
    params = face_source.load()
    expected = shapes(256)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), expected
    )
    latents = np.random.RandomState(1000).normal(size=(2, 512)).astype(np.float32)
    with np.load(GOLDEN) as golden:
        np.testing.assert_allclose(params["mean_style"], golden["mean_style"], atol=1e-4)
        full = draw(1024, params, latents, PSI)
        np.testing.assert_allclose(full[:, 17::64, 29::64], golden["points"], atol=1e-3)
        small = draw(64, params, latents, PSI)
        blocks = small.reshape(2, 16, 4, 16, 4, 3).mean((2, 4))
        np.testing.assert_allclose(blocks, golden["area_16"], atol=1e-3)
