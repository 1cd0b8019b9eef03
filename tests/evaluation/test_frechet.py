import numpy as np
import pytest
import scipy.linalg

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation.frechet import frechet_distance


def _exact(rng, count, mean, covariance):
    """Draw rows whose sample mean and covariance are exactly the given ones."""
    rows = rng.normal(size=(count, len(mean)))
    rows -= rows.mean(axis=0)
    whiten = np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False)))
    return rows @ (np.linalg.cholesky(covariance) @ whiten).T + mean


def _by_matrix_root(a, b):
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s + t - 2 * root)


def test_gaussians_with_diagonal_covariances():
    """Then it is |m_a - m_b|^2 + sum (sigma_a - sigma_b)^2: here 9 + 16 + 1 + 4."""
    rng = np.random.default_rng(0)
    a = _exact(rng, 50, np.array([0.0, 0, 5]), np.diag([1.0, 4, 9]))
    b = _exact(rng, 80, np.array([3.0, 4, 5]), np.diag([4.0, 4, 1]))
    assert frechet_distance(a, b) == pytest.approx(30, rel=1e-9)


def test_covariances_that_do_not_commute():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(200, 16)) @ rng.normal(size=(16, 16))
    b = rng.normal(size=(150, 16)) @ rng.normal(size=(16, 16)) + 0.3
    assert frechet_distance(a, b) == pytest.approx(_by_matrix_root(a, b), rel=1e-8)


def test_fewer_rows_than_dimensions():
    """The missing directions add nothing: the figure is that of the rows' own coordinates."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(12, 8)), 2 * rng.normal(size=(9, 8)) + 1
    basis = np.linalg.qr(rng.normal(size=(40, 8)))[0]
    assert frechet_distance(a @ basis.T, b @ basis.T) == pytest.approx(_by_matrix_root(a, b))


def test_equal_sets_have_no_distance():
    rng = np.random.default_rng(3)
    a = rng.normal(100, 10, size=(30, 64)).astype(np.float32)
    assert 0 <= frechet_distance(a, a[rng.permutation(30)]) < 1e-6


def test_symmetry_and_moves():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(40, 6)), rng.normal(size=(60, 6)) ** 2
    distance = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(distance)
    assert frechet_distance(a + 7, b + 7) == pytest.approx(distance)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.zeros((1, 4)), np.zeros((3, 4)), "at least 2 rows"),
        (np.zeros(4), np.zeros((3, 4)), "at least 2 rows"),
        (np.zeros((3, 4)), np.zeros((3, 5)), "4 and 5 dimensions"),
        (np.zeros((3, 4)), np.full((3, 4), np.nan), "not finite"),
    ],
)
def test_features_without_a_distance(a, b, said):
    with pytest.raises(UserError, match=said):
        frechet_distance(a, b)
