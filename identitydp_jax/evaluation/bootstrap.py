"""How far a figure would vary on other photos of the same kind."""

from collections.abc import Callable

import numpy as np

from identitydp_jax.checks import UserError

_TAIL = 0.025  # on each side of a 95 % interval


def interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    seed: int = 0,
    resamples: int = 1000,
    groups: np.ndarray | None = None,
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a statistic.

    Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7(1), 1979.
    The ends are the 2.5 % and 97.5 % order statistics themselves, so infinite values, as PSNR
    has them, are allowed. Photos of one person are not independent: pass identities as `groups`,
    which are then drawn whole. One row, or one group, gives an interval of no width, which says
    nothing; a dozen give one that is too narrow.

    Args:
      values: (N, ...), one row per photo or pair.
      statistic: maps resampled rows (M, ...) to a number; M is N unless groups differ in size.
      seed: of the resampling; the same seed gives the same interval.
      resamples: how many.
      groups: (N,), any labels; rows with the same label are drawn together.

    Returns:
      (low, high).

    Raises:
      UserError: there are no values, some are NaN, `groups` has another length, or `resamples` is
        too few for the tails.
    """
    values = np.asarray(values)
    if not len(values):
        raise UserError("no values to put an interval around")
    if resamples < 1 / _TAIL:
        raise UserError(f"resamples is {resamples}: give at least {1 / _TAIL:.0f}")
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    if groups.shape != (len(values),):
        raise UserError(f"groups of shape {groups.shape} for {len(values)} values: give one each")
    rng = np.random.default_rng(seed)
    draw = _drawer(groups)
    drawn = np.sort([float(statistic(values[draw(rng)])) for _ in range(resamples)])
    if np.isnan(drawn).any():
        raise UserError("the values, or the statistic of some, are not numbers")
    # The k-th smallest of R draws is their k / (R + 1) quantile.
    outside = int(_TAIL * (resamples + 1))
    return float(drawn[outside - 1]), float(drawn[-outside])


def _drawer(groups):
    """Return a function that draws as many groups as there are and gives their rows."""
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if sizes.max() == 1:
        return lambda rng: rng.integers(len(groups), size=len(groups))
    members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(sizes)[:-1])
    count = len(members)
    return lambda rng: np.concatenate([members[i] for i in rng.integers(count, size=count)])
