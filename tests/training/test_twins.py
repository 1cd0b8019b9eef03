"""A face and its twin become what a step learns from: alike but for the features."""

import jax
import numpy as np
import pytest
import tiny

from identitydp_jax.models.face_region import features_region
from identitydp_jax.models.pixels import to_float
from identitydp_jax.training import step as steps
from identitydp_jax.training.step import learned_faces, split_twins


def _learned(pictures, *overrides, seed=0):
    config = tiny.training_config(*overrides)
    program = jax.jit(lambda x, key: learned_faces(x, key=key, config=config))
    return [np.asarray(x) for x in program(pictures, jax.random.key(seed))]


def test_pictures_are_split_into_faces_and_twins():
    pictures = tiny.pictures(3)
    pairs = split_twins(pictures)
    assert pairs.shape == (3, 2, 64, 64, 3)
    np.testing.assert_array_equal(pairs[:, 0], pictures[:, :, :64])
    np.testing.assert_array_equal(pairs[:, 1], pictures[:, :, 64:])
    alone = split_twins(tiny.faces(3))
    assert alone.shape == (3, 1, 64, 64, 3)
    np.testing.assert_array_equal(alone[:, 0], tiny.faces(3))


def test_a_face_without_a_twin_is_its_own():
    faces, twins = _learned(tiny.faces(4), "augmentation=False")
    np.testing.assert_allclose(faces, to_float(tiny.faces(4)), atol=1e-6)
    np.testing.assert_array_equal(twins, faces)


def test_either_of_a_pair_is_the_face_and_the_other_gives_the_features():
    pictures = tiny.pictures(40)
    faces, twins = _learned(pictures, "augmentation=False")
    left, right = (np.asarray(to_float(pictures[:, :, side])) for side in np.s_[:64, 64:])
    lefts, rights = (np.abs(faces - x).max((1, 2, 3)) < 1e-6 for x in (left, right))
    assert (lefts ^ rights).all() and 8 < lefts.sum() < 32
    features = features_region(64)[..., 0]
    others = np.where(lefts[:, None, None, None], right, left)
    np.testing.assert_allclose(twins[:, features == 1], others[:, features == 1], atol=1e-6)
    np.testing.assert_array_equal(twins[:, features == 0], faces[:, features == 0])
    # Other keys choose otherwise.
    again, _ = _learned(pictures, "augmentation=False", seed=1)
    assert 8 < (again == faces).all((1, 2, 3)).sum() < 32


@pytest.mark.parametrize("kind", ["equal", "different"])
def test_both_are_augmented_alike(kind):
    left = tiny.faces(3)
    pictures = tiny.pictures(3) if kind == "different" else np.concatenate([left, left], axis=2)
    faces, twins = _learned(pictures, "augmentation=True")
    assert np.abs(faces - np.asarray(to_float(left))).mean() > 0.01
    features = features_region(64)[..., 0]
    np.testing.assert_array_equal(faces[:, features == 0], twins[:, features == 0])
    if kind == "equal":
        np.testing.assert_array_equal(faces, twins)
    else:
        assert np.abs(faces - twins)[:, features == 1].mean() > 0.1


def test_without_augmentation_none_is_made(monkeypatch):
    monkeypatch.setattr(steps, "augment", None)
    _learned(tiny.pictures(2), "augmentation=False")
