"""What several releases of one subject reveal together: pure epsilon, rho, epsilon at a delta.

A *subject* is whoever appears in the photos; two data sets are neighbours if one person takes the
place of another in all of them. A `Loss` says how much one release tells of its subject. Losses
add up, even if photos are picked after looking at earlier releases. Pure epsilon and rho add up
even if settings are (Rogers and others 2016; Feldman, Zrnic 2021); epsilon at a delta is proven for
a sequence of settings that was fixed beforehand.

**Rényi divergence of a Laplace coordinate.** Let P, Q be the discrete Laplace law of scale t and
the same moved by s steps; x = s/t and c = 2 alpha - 1. Summing the three geometric series,

    (alpha - 1) D_alpha(P || Q) = K(x) = -x/2 + ln( cosh(cx/2) + T sinh(cx/2) ),
    T = tanh(x/2s) / tanh(cx/2s),

for alpha > 1. For s -> infinity this is the continuous Laplace law (T = 1/c), for s = 1 randomised
response, and s = 1 bounds *every* x-differentially private coordinate (Kairouz, Oh, Viswanath
2015: it is randomised response, processed).

**Worst split.** Let the coordinates be independent, with sum x_i <= X1 and sum x_i^2 <= X2^2. Then

    sum K(x_i) <= k K(X1 / k),    k = (X1 / X2)^2,

with equality for k equal coordinates: nothing is worse than spreading the difference evenly.
Proof: h(x) = K(x) / x is the mean of K' over [0, x]. For the Laplace law, K'' is c^2 w (1 - w) with
w >= 1/2 growing in x, so K' is concave, and so is h, as a mean of K'(ux). For s = 1, h(x) is the
integral of tanh(ux/2) / 2 over u from 1 to c, which is concave as well. h grows and h(0) >= 0, so
its tangent at X1/k = X2^2/X1 is m + l x with l, m >= 0, and sum x_i h(x_i) <= m X1 + l X2^2 =
X1 (m + l X2^2/X1) = X1 h(X1/k). (s is fixed here by t: s = x t, and K is extended to any x >= 0.)

**rho.** For s = 1, K(x) = ln(cosh(cx/2) / cosh(x/2)), and ln cosh is concave in the square of its
argument, as cosh v = prod(1 + 4 v^2 / (pi (2n - 1))^2). So K(x) is at most its tangent in c^2 at
c = 1, which is alpha (alpha - 1) x tanh(x/2): D_alpha <= rho alpha with
rho = k x tanh(x/2) <= X2^2 / 2 at x = X1/k. Unit-L2 embeddings and Laplace noise of scale b have
X2 = 2/b, hence rho <= 2 / b^2.

**Which one counts.** The sampler of `privacy.lattice` is exactly x-differentially private in every
coordinate, so s = 1 holds for it as it stands: epsilon and rho rest on that alone. Its law is
discrete Laplace but for a part in 10^12, so epsilon at a delta takes the lower of s = 1 and of
the Laplace K with `_EXCESS` added: 0.2 % less at epsilon 6, a fifth less at 1000.

**Why not lower still.** epsilon at delta is converted from the divergence at the best order. That
is 6 to 8 % above what the privacy-loss distribution of an even split gives (certified epsilon 6:
1.21 against 1.12, and 16.4 against 15.5 for 100 releases, at delta 1e-6). But no proof makes that
distribution a bound: where delta is large a difference in a single coordinate is worse than an
even one (certified epsilon 6: at epsilon 0, delta is 0.124 against 0.106).
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Iterable

import numpy as np

from identitydp_jax.checks import UserError, positive

# Orders to minimise over: any set gives a bound; these come within a part in 10^4.
_ORDERS = 1.0 + np.logspace(-6, 7, 3001)
# A coordinate's K may exceed that of the discrete Laplace law by 2 alpha - 1 times this. It is ten
# times what it can be: e^-30 of the noise lies where the sampler's thresholds are coarse, and
# elsewhere its probabilities are the law's to 1e-12.
_EXCESS = 1e-11


@dataclasses.dataclass(frozen=True)
class PureLoss:
    """One release by an epsilon-differentially private mechanism, delta 0.

    Attributes:
      epsilon: finite, from 0. Of any mechanism, 0 for one that never saw the subject.
      coordinates: k above, from 1: the privacy loss comes from independent coordinates, and
        epsilon^2 / k bounds the sum of their squared losses; or from k rounds, each
        epsilon / k-private given the earlier ones. 1 where nothing is known of it.
      steps: s above, from 1: the noise is discrete Laplace, and an even split moves a coordinate
        by this many steps. 1 where nothing is known of the law.

    Raises:
      ValueError: a value is out of its range or not finite.
    """

    epsilon: float
    coordinates: float = 1.0
    steps: float = 1.0

    def __post_init__(self):
        """Refuse what is no loss: a NaN would pass every budget."""
        if not (0.0 <= self.epsilon < math.inf):
            raise ValueError(f"epsilon is {self.epsilon}: give a finite number from 0")
        if not (1.0 <= self.coordinates < math.inf and 1.0 <= self.steps < math.inf):
            raise ValueError("coordinates and steps: give finite numbers from 1")

    @property
    def rho(self) -> float:
        """Zero-concentrated differential privacy (Bun, Steinke 2016): D_alpha <= rho alpha."""
        return self.epsilon * math.tanh(0.5 * self.epsilon / self.coordinates)

    def log_moments(self, orders: np.ndarray) -> np.ndarray:
        """Return (alpha - 1) D_alpha, bounded, float64 of the shape of the orders alpha > 1."""
        x = self.epsilon / self.coordinates
        bound = _log_moments(orders, x, 1.0)
        if self.steps > 1.0:
            excess = (2.0 * orders - 1.0) * _EXCESS
            bound = np.minimum(bound, _log_moments(orders, x, self.steps) + excess)
        return self.coordinates * bound


@dataclasses.dataclass(frozen=True)
class GaussianLoss:
    """One release with Gaussian noise; see `gaussian`.

    Attributes:
      rho: finite, from 0.

    Raises:
      ValueError: rho is out of its range or not finite.
    """

    rho: float

    def __post_init__(self):
        """Refuse what is no loss: a NaN would pass every budget."""
        if not (0.0 <= self.rho < math.inf):
            raise ValueError(f"rho is {self.rho}: give a finite number from 0")

    @property
    def epsilon(self) -> float:
        """Infinite: no pure guarantee."""
        return math.inf

    def log_moments(self, orders: np.ndarray) -> np.ndarray:
        """Return (alpha - 1) D_alpha = alpha (alpha - 1) rho, float64 of the orders' shape."""
        return orders * (orders - 1.0) * self.rho


Loss = PureLoss | GaussianLoss


def laplace(epsilon: float, *, l1: float, l2: float) -> PureLoss:
    """Return the loss of one release with independent discrete Laplace noise in every coordinate.

    Args:
      epsilon: the exact epsilon of the sampler, for two inputs at an L1 distance of `l1`.
      l1: the largest L1 distance between two inputs in lattice steps, twice the guard.
      l2: the largest L2 distance, in lattice steps: twice the resolution for unit vectors, and
        what rounding may add to it. Above `l1` it counts as `l1`.

    Raises:
      ValueError: a value is not finite and above 0, or l1 is below 1.
    """
    if not (1.0 <= l1 < math.inf and 0.0 < l2 < math.inf):
        raise ValueError("l1 and l2: give finite distances above 0, l1 from 1")
    l2 = min(l1, l2)
    return PureLoss(epsilon, coordinates=(l1 / l2) ** 2, steps=max(1.0, l2 * l2 / l1))


def gaussian(sigma: float, *, l2: float = 2.0) -> GaussianLoss:
    """Return the loss of one release with N(0, sigma^2) in every coordinate.

    rho = l2^2 / (2 sigma^2) (Bun, Steinke 2016, proposition 6), with `l2` the largest L2 distance
    between two inputs in the unit of sigma: 2 for unit vectors. Both finite and above 0, or
    `UserError`. Holds for real-valued noise; a sampler that rounds must prove its own.
    """
    return GaussianLoss((positive("l2", l2) / positive("sigma", sigma)) ** 2 / 2.0)


def total_epsilon(losses: Iterable[Loss]) -> float:
    """Return the sum of pure epsilons, correctly rounded; infinite with a Gaussian release."""
    return math.fsum(loss.epsilon for loss in losses)


def total_rho(losses: Iterable[Loss]) -> float:
    """Return the sum of rho, correctly rounded."""
    return math.fsum(loss.rho for loss in losses)


def epsilon_at(delta: float, losses: Iterable[Loss]) -> float:
    """Return an epsilon with which all releases together are (epsilon, delta)-private.

    The lower of the pure sum and, over orders alpha, of

        D_alpha + ln(1 - 1/alpha) - (ln delta + ln alpha) / (alpha - 1)

    (Canonne, Kamath, Steinke 2020, proposition 12), D_alpha the sum of the divergences. Grows
    with every release, falls with delta, and 0 for no release. Time grows with the number of
    different losses, not with that of the releases.

    Raises:
      UserError: delta is not above 0 and below 1.
    """
    _check_delta(delta)
    counts = collections.Counter(losses)
    moments = sum((n * loss.log_moments(_ORDERS) for loss, n in counts.items()), np.zeros(()))
    converted = (moments - math.log(delta) - np.log(_ORDERS)) / (_ORDERS - 1.0)
    converted += np.log1p(-1.0 / _ORDERS)
    return max(0.0, min(float(np.min(converted)), total_epsilon(counts.elements())))


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much the releases of one subject may add up to; None is no limit.

    Attributes:
      epsilon: of `total_epsilon`.
      rho: of `total_rho`.
      epsilon_at_delta: of `epsilon_at`, at `delta`.
      delta: above 0 and below 1; 1e-6 unless told.

    Raises:
      UserError: a limit is not finite and above 0, or delta is out of its range.
    """

    epsilon: float | None = None
    rho: float | None = None
    epsilon_at_delta: float | None = None
    delta: float = 1e-6

    def __post_init__(self):
        """Refuse what would let everything or nothing pass."""
        for name in ("epsilon", "rho", "epsilon_at_delta"):
            if getattr(self, name) is not None:
                positive(f"budget {name.replace('_', ' ')}", getattr(self, name))
        _check_delta(self.delta)

    def updated(self, given: "Budget") -> "Budget":
        """Return these limits with the ones that `given` sets in their place."""
        set_there = ("epsilon", "rho", "epsilon_at_delta")
        changes = {name: getattr(given, name) for name in set_there if getattr(given, name)}
        if given.epsilon_at_delta:
            changes["delta"] = given.delta
        return dataclasses.replace(self, **changes)

    def excess(self, losses: Iterable[Loss]) -> str | None:
        """Say which limit the losses pass, and with how much; None where they reach it at most."""
        losses = list(losses)
        measures = [
            ("epsilon", self.epsilon, total_epsilon),
            ("rho", self.rho, total_rho),
            (
                f"epsilon at delta {self.delta:g}",
                self.epsilon_at_delta,
                functools.partial(epsilon_at, self.delta),
            ),
        ]
        for name, limit, measure in measures:
            if limit is not None and measure(losses) > limit:
                return f"{name} would be {measure(losses):.6g}, above {limit:.6g}"
        return None


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise UserError(f"delta is {delta}: give a number above 0 and below 1")


def _log_moments(orders, x: float, steps: float):
    """K(x) of the module's docstring, without cancellation for large orders."""
    c = 2.0 * orders - 1.0
    y = x / steps
    slope = np.tanh(0.5 * y) / np.tanh(0.5 * c * y) if y > 1e-100 else 1.0
    return (orders - 1.0) * x + np.log1p(0.5 * (1.0 - slope) * np.expm1(-c * x))
