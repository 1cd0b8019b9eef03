import numpy as np
import pytest
import tiny

from identitydp_jax.data import augmentation
from identitydp_jax.data.augmentation import augment


def _rngs(count):
    return map(np.random.default_rng, range(count))


@pytest.mark.parametrize("side", [64, 128])
def test_keeps_shape_and_type(side):
    face = tiny.faces(1, side)[0]
    for rng in _rngs(20):
        found = augment(face, rng)
        assert found.shape == (side, side, 3)
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous


def test_is_a_function_of_the_face_and_the_generator():
    face = tiny.faces(1)[0]
    before = face.copy()
    first, again, other = (augment(face, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    np.testing.assert_array_equal(face, before)


def test_a_tenth_is_grey():
    face = tiny.faces(1)[0]
    drawn = [augmentation._jitter_colours(face, rng) for rng in _rngs(600)]
    assert 0.05 < np.mean([np.ptp(x, axis=2).max() <= 1 for x in drawn]) < 0.16


def test_colours_keep_their_mean_brightness_roughly():
    face = tiny.faces(1)[0]
    shifts = [augmentation._jitter_colours(face, r).mean() - face.mean() for r in _rngs(200)]
    assert abs(np.mean(shifts)) < 8
    assert 5 < np.std(shifts) < 40


def _points(rng):
    """Where three dots of an upright face go, or None when they cannot be told apart."""
    side = 256
    face = np.zeros((side, side, 3), np.uint8)
    for channel, (x, y) in enumerate(((96, 121), (160, 121), (128, 186))):
        face[y - 2 : y + 3, x - 2 : x + 3, channel] = 255
    moved = augmentation._jitter_alignment(face, rng).astype(float)
    rows, columns = np.indices((side, side))
    weights = moved.sum((0, 1))
    return np.stack(
        [
            (moved * columns[..., None]).sum((0, 1)) / weights,
            (moved * rows[..., None]).sum((0, 1)) / weights,
        ],
        axis=1,
    )


def test_alignment_moves_a_little_and_flips_half():
    flips, turns, zooms, shifts = [], [], [], []
    for rng in _rngs(150):
        left, right, mouth = _points(rng)
        flips.append(left[0] > right[0])
        if flips[-1]:
            left, right = right, left
        across = right - left
        turns.append(np.degrees(np.arctan2(across[1], across[0])))
        zooms.append(np.hypot(*across) / 64)
        middle = (left + right + mouth) / 3
        expected = np.array([128, (121 + 121 + 186) / 3])
        shifts.append(middle - expected)
    assert 0.35 < np.mean(flips) < 0.65
    assert 2 < np.std(turns) < 4
    assert np.abs(turns).max() < 6.5
    assert np.abs(np.log(zooms)).max() < 0.075
    assert 0.015 < np.std(np.log(zooms)) < 0.045
    assert np.abs(shifts).max() < 0.06 * 256
    assert np.abs(np.mean(shifts, axis=0)).max() < 1.5


def test_degrading_loses_detail_and_keeps_colours():
    face = tiny.faces(1, 128)[0]
    noise = np.random.default_rng(0).integers(-60, 60, face.shape)
    textured = np.clip(face.astype(int) + noise, 0, 255).astype(np.uint8)
    kept = []
    for rng in _rngs(60):
        found = augmentation._degrade(textured, rng).astype(float)
        assert np.abs(found.mean((0, 1)) - textured.mean((0, 1))).max() < 4
        kept.append(np.abs(np.diff(found, axis=1)).mean())
    assert np.median(kept) < 0.6 * np.abs(np.diff(textured.astype(float), axis=1)).mean()


def test_degrading_a_flat_face_does_not_darken_it():
    flat = np.full((64, 64, 3), 128, np.uint8)
    means = [augmentation._degrade(flat, rng).mean() for rng in _rngs(60)]
    np.testing.assert_allclose(np.mean(means), 128, atol=0.2)


def test_colour_channels_keep_their_order():
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    found = np.mean([augment(red, rng).mean((0, 1)) for rng in _rngs(100)], axis=0)
    assert found[0] > 3 * max(found[1], found[2])
