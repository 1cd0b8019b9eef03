import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax import sharding
from identitydp_jax.data import augmentation

AUGMENT = jax.jit(lambda faces, key: augmentation.augment(faces[:, None], key=key)[:, 0])


def _keys(count):
    return jax.random.split(jax.random.key(0), count)


def _drawn(change, face, count):
    """Results of one kind of change on `count` copies of a face, each with its own key."""
    return np.asarray(jax.jit(jax.vmap(change, (None, 0)))(face, _keys(count)))


def _unit(face):
    return jnp.asarray(face, jnp.float32) / 255.0


@pytest.mark.parametrize("side", [64, 128])
def test_shape_type_and_range(side):
    found = AUGMENT(tiny.faces(6, side), jax.random.key(0))
    assert found.shape == (6, side, side, 3)
    assert found.dtype == jnp.float32
    assert -1 <= found.min() < -0.5 and 0.5 < found.max() <= 1


def test_a_row_depends_on_itself_the_key_and_its_number_alone():
    faces = tiny.faces(6)
    whole = AUGMENT(faces, jax.random.key(3))
    np.testing.assert_array_equal(AUGMENT(faces, jax.random.key(3)), whole)
    np.testing.assert_allclose(AUGMENT(faces[:2], jax.random.key(3)), whole[:2], atol=1e-5)
    others = np.concatenate([faces[:1], faces[:0:-1]])
    np.testing.assert_allclose(AUGMENT(others, jax.random.key(3))[0], whole[0], atol=1e-5)
    assert np.abs(AUGMENT(faces, jax.random.key(4)) - whole).mean() > 0.01
    copies = AUGMENT(np.repeat(faces[:1], 6, 0), jax.random.key(3))
    assert all(np.abs(copies[0] - copy).mean() > 0.01 for copy in copies[1:])


def test_the_faces_of_a_row_are_changed_alike():
    left, right = tiny.faces(3), tiny.faces(3, seed=1)
    augment = jax.jit(lambda pairs: augmentation.augment(pairs, key=jax.random.key(3)))
    equal = np.asarray(augment(np.stack([left, left], axis=1)))
    assert equal.shape == (3, 2, 64, 64, 3)
    np.testing.assert_array_equal(equal[:, 0], equal[:, 1])
    alone = AUGMENT(left, jax.random.key(3))
    np.testing.assert_allclose(equal[:, 0], alone, atol=1e-5)
    pair = np.asarray(augment(np.stack([right, left], axis=1)))
    np.testing.assert_allclose(pair[:, 1], alone, atol=1e-5)
    assert np.abs(pair[:, 0] - pair[:, 1]).mean() > 0.1


def test_a_batch_over_eight_devices_is_the_same():
    faces = tiny.faces(8)
    mesh = sharding.make_mesh()
    split = AUGMENT(jax.device_put(faces, sharding.over_batch(mesh)), jax.random.key(3))
    np.testing.assert_allclose(split, AUGMENT(faces, jax.random.key(3)), atol=1e-5)


def test_colour_channels_keep_their_order():
    red = np.zeros((96, 64, 64, 3), np.uint8)
    red[..., 0] = 200
    found = np.asarray(AUGMENT(red, jax.random.key(0)) + 1).mean((0, 1, 2))
    assert found[0] > 3 * max(found[1], found[2])


def test_a_tenth_is_grey():
    drawn = _drawn(augmentation._jitter_colours, _unit(tiny.faces(1)[0]), 600)
    assert 0.05 < np.mean([np.ptp(x, axis=2).max() < 0.005 for x in drawn]) < 0.16


def test_colours_keep_their_mean_brightness_roughly():
    face = tiny.faces(1)[0]
    drawn = 255 * _drawn(augmentation._jitter_colours, _unit(face), 200)
    shifts = drawn.mean((1, 2, 3)) - face.mean()
    assert abs(np.mean(shifts)) < 8
    assert 5 < np.std(shifts) < 40


def _points(moved):
    """Where three dots, one in each colour, lie in an image."""
    rows, columns = np.indices(moved.shape[:2])
    weights = moved.sum((0, 1))
    return np.stack(
        [
            (moved * columns[..., None]).sum((0, 1)) / weights,
            (moved * rows[..., None]).sum((0, 1)) / weights,
        ],
        axis=1,
    )


def test_alignment_moves_a_little_and_flips_half():
    face = np.zeros((256, 256, 3), np.uint8)
    for channel, (x, y) in enumerate(((96, 121), (160, 121), (128, 186))):
        face[y - 2 : y + 3, x - 2 : x + 3, channel] = 255
    flips, turns, zooms, shifts = [], [], [], []
    for moved in _drawn(augmentation._jitter_alignment, _unit(face), 150):
        left, right, mouth = _points(moved.astype(float))
        flips.append(left[0] > right[0])
        if flips[-1]:
            left, right = right, left
        across = right - left
        turns.append(np.degrees(np.arctan2(across[1], across[0])))
        zooms.append(np.hypot(*across) / 64)
        shifts.append((left + right + mouth) / 3 - np.array([128, (121 + 121 + 186) / 3]))
    assert 0.35 < np.mean(flips) < 0.65
    assert 2 < np.std(turns) < 4
    assert np.abs(turns).max() < 6.5
    assert np.abs(np.log(zooms)).max() < 0.075
    assert 0.015 < np.std(np.log(zooms)) < 0.045
    assert 3 < np.abs(shifts).max() < 0.06 * 256
    assert np.abs(np.mean(shifts, axis=0)).max() < 1.5


def test_sampling_agrees_with_a_warp_that_mirrors_the_border():
    face = tiny.faces(1)[0]
    turn = cv2.getRotationMatrix2D((31.5, 31.5), 5, 0.9) + np.array([[0, 0, 3.25], [0, 0, -6.5]])
    expected = cv2.warpAffine(face, turn, (64, 64), borderMode=cv2.BORDER_REFLECT)
    x, y = np.meshgrid(np.arange(64.0), np.arange(64.0))
    back = cv2.invertAffineTransform(turn)
    x, y = (back[i, 0] * x + back[i, 1] * y + back[i, 2] - 31.5 for i in range(2))
    found = augmentation._sample(_unit(face), jnp.float32(y), jnp.float32(x))
    assert np.abs(np.asarray(found) * 255 - expected).max() < 6  # OpenCV counts in 32nds of pixels


@pytest.mark.parametrize("size", [26, 32, 41, 64])
def test_reduction_is_that_of_opencv(size):
    face = tiny.faces(1)[0].astype(np.float32)
    small = cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(small, (64, 64), interpolation=cv2.INTER_LINEAR)
    reduce = augmentation._reduction(64, jnp.float32(size))
    found = jnp.einsum("yv,xu,vuc->yxc", reduce, reduce, face)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_degrading_loses_detail_and_keeps_colours():
    face = tiny.faces(1, 128)[0]
    noise = np.random.default_rng(0).integers(-60, 60, face.shape)
    textured = np.clip(face.astype(int) + noise, 0, 255)
    drawn = 255.0 * _drawn(augmentation._degrade, _unit(textured), 60)
    assert np.abs(drawn.mean((1, 2)) - textured.mean((0, 1))).max() < 4
    kept = np.abs(np.diff(drawn, axis=2)).mean((1, 2, 3))
    assert np.median(kept) < 0.6 * np.abs(np.diff(textured, axis=1)).mean()


def test_degrading_a_flat_face_does_not_darken_it():
    drawn = 255 * _drawn(augmentation._degrade, jnp.full((64, 64, 3), 128 / 255), 60)
    np.testing.assert_allclose(drawn.mean(), 128, atol=0.2)


def test_three_tenths_are_degraded(monkeypatch):
    monkeypatch.setattr(augmentation, "_degrade", lambda face, key: jnp.full_like(face, 2.0))
    found = augmentation.augment(np.zeros((400, 1, 16, 16, 3), np.uint8), key=jax.random.key(0))
    assert 0.23 < np.mean(np.asarray(found)[:, 0, 0, 0, 0] > 1) < 0.37


def test_recolouring_is_augmentation_in_place(monkeypatch):
    recolour = jax.jit(lambda faces, key: augmentation.recolour(faces[:, None], key=key)[:, 0])
    # A white square on black: colours change, where it lies does not.
    faces = np.zeros((8, 64, 64, 3), np.uint8)
    faces[:, 20:44, 8:40] = 255
    found = np.asarray(recolour(faces, jax.random.key(0))).mean(-1)
    inside = faces[0, ..., 0] > 0
    for face in found:
        middle = (face[inside].mean() + face[~inside].mean()) / 2
        assert ((face > middle) == inside).mean() > 0.97
    assert (np.abs(AUGMENT(faces, jax.random.key(0)).mean(-1) - found).mean((1, 2)) > 0.02).all()
    # It does all that is not done to where a face lies.
    grey = recolour(np.repeat(tiny.faces(1), 200, 0), jax.random.key(1))
    assert 0.03 < np.mean([np.ptp(x, axis=2).max() < 0.3 for x in np.asarray(grey)]) < 0.2
    monkeypatch.setattr(augmentation, "_degrade", lambda face, key: jnp.full_like(face, 2.0))
    marked = augmentation.recolour(np.zeros((400, 1, 16, 16, 3), np.uint8), key=jax.random.key(0))
    assert 0.23 < np.mean(np.asarray(marked)[:, 0, 0, 0, 0] > 1) < 0.37
