"""Who is split from whom, and what luck gives."""

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import people

NAMES = np.array(["a", "a", "b", "c", "c", "c", "d", "d"])


def test_people_with_too_few_photos_are_left_out():
    np.testing.assert_array_equal(people.with_photos(NAMES, 2), [0, 1, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(people.with_photos(NAMES[:6], 2), [0, 1, 3, 4, 5])
    with pytest.raises(
        UserError, match="1 of 4 people have 3 photos or more: this attack needs 2 of them"
    ):
        people.with_photos(NAMES, 3)


def test_every_person_is_in_both_halves_of_the_photos():
    first, second = people.split_photos(NAMES, people.with_photos(NAMES, 2))
    np.testing.assert_array_equal(first, [0, 3, 5, 6])
    np.testing.assert_array_equal(second, [1, 4, 7])


def test_no_person_is_in_both_halves_of_the_people():
    first, second = people.split_people(NAMES, np.arange(8))
    assert set(NAMES[first]) == {"a", "c"} and set(NAMES[second]) == {"b", "d"}


def test_recognition_of_oneself_is_perfect_and_of_noise_is_luck():
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(20), 10).astype(str)
    gallery = np.eye(20)
    right = people.recognition(np.repeat(gallery, 10, axis=0), gallery, names, np.unique(names))
    assert right["rank-1"].value < 1  # np.unique sorts as text: the gallery is in another order
    order = np.argsort(np.arange(20).astype(str))
    right = people.recognition(
        np.repeat(gallery, 10, axis=0), gallery[order], names, np.unique(names)
    )
    assert right["rank-1"].value == right["TAR at FAR 1e-3"].value == 1
    blind = people.recognition(rng.normal(size=(200, 20)), gallery, names, np.unique(names))
    luck = people.chance(names, np.unique(names))
    assert luck["rank-1"].value == pytest.approx(1 / 20)
    assert blind["rank-1"].low <= luck["rank-1"].value <= blind["rank-1"].high
