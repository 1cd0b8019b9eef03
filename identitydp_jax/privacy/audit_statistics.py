"""Statistics of the audit: exact bounds where there are some, and the error rate of each."""

import math

import numpy as np
from scipy import special


def proportion_bounds(count, total: int, error: float):
    """Return lower and upper bounds of a probability (Clopper, Pearson 1934), float64.

    Args:
      count: how often the event happened, integers from 0 to `total`, of any shape.
      total: independent trials.
      error: probability with which each of the two bounds, alone, is wrong at most.
    """
    count = np.asarray(count, np.float64)
    low = special.betaincinv(np.maximum(count, 1), total - count + 1, error)
    high = special.betaincinv(count + 1, np.maximum(total - count, 1), 1 - error)
    return np.where(count == 0, 0.0, low), np.where(count == total, 1.0, high)


def goodness_of_fit(observed, law) -> float:
    """Return the p-value of Pearson's chi-square of counts (C,) against probabilities (C,)."""
    expected = np.asarray(law, np.float64) * np.sum(observed)
    return _tail(np.sum((observed - expected) ** 2 / expected), len(expected) - 1)


def homogeneity(one, other) -> float:
    """Return the p-value of Pearson's chi-square that counts (C,) and (C,) have one law."""
    table = np.array([one, other], np.float64)
    table = table[:, table.sum(axis=0) > 0]
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    return _tail(np.sum((table - expected) ** 2 / expected), table.shape[1] - 1)


def at_least(count: int, mean: float) -> float:
    """Return the probability that a Poisson variable of that mean is `count` or more."""
    return 1.0 if count == 0 else float(special.gammainc(count, mean))


def sign_dependence(values) -> float:
    """Return a bound on the p-value that the columns of (n, c) have independent fair signs.

    The largest |sum of products of signs| over pairs of columns, by Hoeffding's inequality
    2 exp(-s^2 / 2n) times the number of pairs: it holds for any n.
    """
    signs = np.where(values >= 0, 1.0, -1.0).astype(np.float32)
    n, c = signs.shape
    products = np.abs(signs.T @ signs)
    np.fill_diagonal(products, 0)
    largest = float(products.max())
    return min(1.0, c * (c - 1) / 2 * 2 * math.exp(-largest * largest / (2 * n)))


def _tail(statistic: float, freedom: int) -> float:
    return float(special.chdtrc(freedom, statistic))
