import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import bootstrap


def _coverage(draw, groups=None, experiments=800):
    """Return how often the interval of the mean holds the true one, which is 0."""
    rng = np.random.default_rng(0)
    ends = np.array(
        [
            bootstrap.interval(draw(rng), seed=i, resamples=200, groups=groups)
            for i in range(experiments)
        ]
    )
    return np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0))


def _covers_as_it_should():
    # 800 experiments have a standard deviation of 0.8 %, and 100 values are not many.
    return 0.92 < _coverage(lambda rng: rng.normal(size=100)) < 0.97


def test_coverage():
    assert _covers_as_it_should()


@pytest.mark.parametrize("tail", [0.1, 0.05, 0.005])
def test_coverage_shows_a_wrong_level(monkeypatch, tail):
    monkeypatch.setattr(bootstrap, "_TAIL", tail)
    assert not _covers_as_it_should()


def test_dependent_rows_need_groups():
    """Photos of one person that all agree count once."""
    people = np.repeat(np.arange(30), 5)

    def draw(rng):
        return np.repeat(rng.normal(size=30), 5)

    assert 0.9 < _coverage(draw, people, 200) < 0.98
    assert _coverage(draw, None, 200) < 0.75


def test_groups_are_drawn_whole():
    values, groups = np.array([1.0, 10, 100, 1000]), np.array(["b", "a", "b", "a"])
    sums = set()

    def collect(rows):
        sums.add(rows.sum())
        return rows.sum()

    assert bootstrap.interval(values, collect, groups=groups) == (202, 2020)
    assert sums == {202, 1111, 2020}


def test_the_width_is_that_of_a_normal_mean():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = bootstrap.interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.03)


def test_the_seed_decides():
    values = np.random.default_rng(0).normal(size=20)
    assert bootstrap.interval(values) == bootstrap.interval(values)
    assert bootstrap.interval(values) != bootstrap.interval(values, seed=1)


def test_rows_of_several_columns():
    values = np.stack([np.arange(50.0), np.arange(50.0) * 2], axis=1)
    low, high = bootstrap.interval(values, lambda rows: np.mean(rows[:, 1]) / np.mean(rows[:, 0]))
    assert low == high == 2


def test_infinite_values_are_carried():
    low, high = bootstrap.interval(np.array([30.0, 31, 32, np.inf]))
    assert 30 <= low <= 32 and high == np.inf


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        ([], {}, "no values"),
        ([1.0, np.nan], {}, "not numbers"),
        ([1.0, 2.0], {"resamples": 20}, "at least 40"),
        ([1.0, 2.0], {"groups": np.array([1])}, "one each"),
    ],
)
def test_values_without_an_interval(values, options, said):
    with pytest.raises(UserError, match=said):
        bootstrap.interval(np.array(values), **options)
