import math
import time

import numpy as np
import pytest

from identitydp_jax.privacy import distances


def _unit(count, dimensions=512, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _exact(rows):
    """Every distance, correctly rounded."""
    rows = rows.astype(np.float64)
    return [math.fsum(abs(a - b)) for i, a in enumerate(rows) for b in rows[i + 1 :]]


@pytest.mark.parametrize("count", [2, 3, 63, 64, 65, 66, 129, 150])
def test_blocks_find_what_all_pairs_hold(count):
    rows = _unit(count, 24, seed=count)
    expected = _exact(rows)
    largest, mean = distances.largest_and_mean(rows)
    assert max(expected) <= largest < max(expected) + 1.1e-6
    assert mean == pytest.approx(math.fsum(expected) / len(expected), rel=1e-12)


def test_512_coordinates_are_rounded_up():
    rows = _unit(40)
    assert max(_exact(rows)) <= distances.largest_and_mean(rows)[0] < max(_exact(rows)) + 1.1e-6


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 129), (63, 64), (64, 65), (128, 129)])
def test_the_largest_is_found_wherever_it_is(first, second):
    rows = np.zeros((130, 5), np.float32)
    rows[first, 0], rows[second, 0] = -3.0, 4.0
    assert distances.largest_and_mean(rows)[0] == pytest.approx(7.0, abs=2e-6)


def test_the_order_does_not_matter():
    rows = _unit(100, 16)
    largest, mean = distances.largest_and_mean(rows)
    again, other = distances.largest_and_mean(rows[::-1])
    assert again == largest and other == pytest.approx(mean, rel=1e-13)


def test_twins_have_no_distance():
    assert distances.largest_and_mean(np.ones((3, 4))) == (0.0, 0.0)


@pytest.mark.parametrize("rows", [np.ones((1, 4)), np.ones((0, 4)), np.array([[1.0], [np.nan]])])
def test_what_has_no_distance_is_refused(rows):
    with pytest.raises(ValueError, match="two or more finite"):
        distances.largest_and_mean(rows)


@pytest.mark.benchmark
def test_millions_of_pairs_take_seconds():
    start = time.perf_counter()
    distances.largest_and_mean(_unit(2000))
    assert time.perf_counter() - start < 10
