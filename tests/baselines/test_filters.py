import jax
import numpy as np
import pytest

from identitydp_jax.baselines import filters


def _faces(count=3, side=64, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


@pytest.mark.parametrize("block", [8, 16])
def test_pixelate_gives_squares_their_mean(block):
    faces = _faces()
    squares = faces.reshape(3, 64 // block, block, 64 // block, block, 3)
    means = np.broadcast_to(squares.mean((2, 4), keepdims=True), squares.shape)
    result = filters.pixelate(faces, block=block)
    np.testing.assert_allclose(result, means.reshape(faces.shape), atol=1e-6)


def test_pixelate_takes_blocks_that_do_not_divide_the_side():
    faces = _faces(1)
    result = np.asarray(filters.pixelate(faces, block=9))
    np.testing.assert_allclose(result[0, :9, :9], result[:1, 0, 0].repeat(81, 0).reshape(9, 9, 3))
    np.testing.assert_allclose(result[0, 63, 63], faces[0, 63:, 63:].mean((0, 1)), atol=1e-6)


@pytest.mark.parametrize("sigma", [9, 49])
def test_noise_has_the_stated_deviation_in_steps_of_255(sigma):
    keys = jax.random.split(jax.random.key(0), 4)
    faces = np.zeros((4, 64, 64, 3), np.float32)
    noise = np.asarray(filters.add_noise(faces, key=keys, sigma=sigma)) * 127.5
    assert abs(noise.std() / sigma - 1) < 0.02 and abs(noise.mean()) < 0.02 * sigma
    assert abs(np.corrcoef(noise.reshape(4, -1))[0, 1]) < 0.05


def test_noise_of_a_face_is_that_of_its_key():
    faces = _faces(4)
    whole = filters.add_noise(faces, key=jax.random.split(jax.random.key(0), 4), sigma=9)
    keys = jax.random.split(jax.random.key(0), 4)
    np.testing.assert_array_equal(filters.add_noise(faces[2:3], key=keys[2:3], sigma=9), whole[2:3])


@pytest.mark.parametrize("factor", [7, 19])
def test_blur_keeps_slow_waves_and_removes_fast_ones(factor):
    x = np.arange(256) / 256
    slow, fast = (np.sin(2 * np.pi * waves * x) for waves in (1, 256 / factor))
    stripes = np.stack([slow, fast]).astype(np.float32)
    faces = np.broadcast_to(stripes[:, None, :, None], (2, 256, 256, 3))
    inner = np.asarray(filters.blur(faces, factor=factor))[:, 40:-40, 40:-40]
    before = faces[:, 40:-40, 40:-40]
    assert inner[0].std() > 0.9 * before[0].std()
    assert inner[1].std() < 0.2 * before[1].std()


def test_blur_leaves_as_many_values_as_the_reduced_picture_has():
    blurred = np.asarray(filters.blur(_faces(1), factor=8))[0, :, :, 0]
    assert np.linalg.matrix_rank(blurred, tol=1e-3) == 8


def test_the_mask_is_the_same_for_every_face():
    assert not np.asarray(filters.mask(_faces())).any()
