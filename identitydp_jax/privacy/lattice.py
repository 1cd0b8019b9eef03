"""The integers behind the exact discrete Laplace mechanism, and the epsilon that they certify.

`privacy.discrete_laplace` rounds an embedding to integers, adds integer noise and compares uniform
64-bit integers with thresholds. A `Lattice` holds every one of those integers; this module picks
them and computes in exact rational arithmetic what they guarantee. Nothing here runs on a device.

**The noise.** One coordinate with the integer value v is released as the code

- uniform: a random sign and random bits, with probability `replaced` / 2^64;
- v, with probability `zero` / 2^64;
- v + 1 + G or v - 1 - G, evenly, otherwise. G is a number of several digits in mixed radix, each
  drawn independently: digit i is n or more with probability digits[i][n-1] / 2^64.

If digit i, of place value s, took the value n with probability proportional to exp(-s n / t), G
would be geometric and the noise the discrete Laplace distribution of scale t (Ghosh, Roughgarden
and Sundararajan 2009). 64 bits are not exact, so the thresholds are rounded in the one direction
that keeps the guarantee, and what is too improbable for 64 bits is paid for by the uniform code.

**The guarantee.** f(k) is the probability of noise k, zero for |k| > M, the product of the bases;
P_i(n) is the probability that digit i is n; u is the smallest probability of a uniform code. Let
rho be the largest of

1. f(0) / f(1) and its inverse;
2. f(k) / f(k + 1) and its inverse for 1 <= k < M. Adding one to G = k - 1 turns its lowest digits,
   as far as they are at their top, into 0, and the next digit, i, from n to n + 1. So this is
   P_i(n) / P_i(n + 1) times the product of P_l(top) / P_l(0) over l < i: one number for each i and
   n, whatever the higher digits are;
3. 1 + f(M) / u.

For every code y and adjacent values v, v', P[y | v] = f(y - v) + w(y), with w(y) >= u whatever the
value. So P[y | v] / P[y | v'] <= rho: by 1 and 2 where both f are above 0 (a common summand only
brings a ratio closer to 1), by 3 at the edge, where f(y - v') = 0, and with equality beyond it.
The codes have room for |v| + M, so none of this is cut off. Two vectors at an L1 distance D are
joined by D such steps, and coordinates are independent: the whole vector's ratio is at most rho^D.
As every input is guarded to an L1 norm of at most `guard`, D <= 2 guard and

    epsilon = 2 guard ln(rho),    delta = 0,

for any two inputs, any set of outputs and any number of coordinates. u > 0 also means that every
vector of codes is possible under every input. The one assumption is that the random words are
uniform and independent, for whoever does not hold the key.
"""

import dataclasses
import decimal
import itertools
import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from identitydp_jax.checks import UserError, positive
from identitydp_jax.privacy.sensitivity import MAX_DIMENSION

UNIT = 2**22  # length of a unit vector in integers; 512 coordinates sum to 2^31 at most
_MIN_RESOLUTION, _MAX_RESOLUTION = 32, 2**28  # coarser, and most coordinates would round to 0
# Few random words for many bits; no digit has a value less likely than e^-31, for 64 bits.
_BASES = (16, 16, 16, 16, 16, 8, 2)
_REACH = math.prod(_BASES)  # the largest noise
_SCALES = 60  # the same in units of t
_REPLACED = 256  # 2^-56, three times what e^-60 needs
_ONE = 2**64
_PRECISION = 60
_ROOM = 1 - Fraction(1, 2**48)  # what rounding a scale to a float, and an epsilon up, may take


class LatticeArrays(NamedTuple):
    """A `Lattice` as uint32 arrays, to be traced: one compiled program serves every lattice.

    Attributes:
      resolution: shape ().
      guard: shape ().
      cap: shape (), the L1 norm that an embedding of length `UNIT` is scaled down to.
      mask: shape (), the largest code, 2^n - 1.
      places: shape (I,), the place values of the digits.
      digits: shape (I, N, 2), high and low words of the thresholds, zero beyond a digit's base.
      outcomes: shape (2, 2): a 64-bit uniform below the first is replaced; below the second, else,
        it gets no noise.
    """

    resolution: np.ndarray
    guard: np.ndarray
    cap: np.ndarray
    mask: np.ndarray
    places: np.ndarray
    digits: np.ndarray
    outcomes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Lattice:
    """Every integer of the mechanism; see `design`. Hashable, equal by value.

    Attributes:
      resolution: R, how many codes a unit of the embedding has, 1 to 2^28.
      guard: the largest L1 norm of a quantised embedding, 1 to 2^32 - 1.
      digits: for each digit of the noise, the lowest first, the probabilities of 1 or more, of 2
        or more, and so on, of 2^64; falling, below 2^64. The product of the bases, one more than
        the number of thresholds each, is at most 2^28.
      zero: of 2^64, the probability of no noise.
      replaced: of 2^64, the probability of a uniform code.

    Raises:
      UserError: a value is out of its range.
    """

    resolution: int
    guard: int
    digits: tuple[tuple[int, ...], ...]
    zero: int
    replaced: int

    def __post_init__(self):
        """Refuse what the 32-bit arithmetic of the sampler cannot hold."""
        fits = (
            1 <= self.resolution <= _MAX_RESOLUTION
            and 1 <= self.guard < 2**32
            and 2 <= self.reach <= 2**28
            and all(d and d[0] < _ONE and min(_masses(d)) >= 0 for d in self.digits)
            and min(self.zero, self.replaced) >= 0
            and self.zero + self.replaced < _ONE
        )
        if not fits:
            raise UserError("the lattice does not fit 32-bit integers: take one from design()")

    @property
    def sensitivity(self) -> int:
        """The largest L1 distance between two guarded inputs, 2 guard."""
        return 2 * self.guard

    @property
    def reach(self) -> int:
        """M, the largest noise."""
        return math.prod(len(digit) + 1 for digit in self.digits)

    @property
    def largest_code(self) -> int:
        """Codes lie in [-largest_code, largest_code]: room for any value and any noise."""
        return 2 ** (self.resolution + self.reach).bit_length() - 1

    def arrays(self) -> LatticeArrays:
        """Return what the device needs."""
        most = max(len(digit) for digit in self.digits)
        bases = [len(digit) + 1 for digit in self.digits]
        padded = [_words(digit + (0,) * (most - len(digit))) for digit in self.digits]
        return LatticeArrays(
            resolution=np.uint32(self.resolution),
            guard=np.uint32(self.guard),
            cap=np.uint32(min(self.guard * UNIT // self.resolution, 2**31)),
            mask=np.uint32(self.largest_code),
            places=np.array([math.prod(bases[:i]) for i in range(len(bases))], np.uint32),
            digits=np.stack(padded),
            outcomes=_words((self.replaced, self.replaced + self.zero)),
        )


def design(scale: float, l1_norm: float) -> Lattice:
    """Return the lattice of the Laplace scale b for embeddings of L1 norm at most S.

    Args:
      scale: b in units of a unit-L2 embedding, 2 S / epsilon; from 0.0015 to 8,700, which at
        S = sqrt(512) are epsilons of 0.0053 to 30,000.
      l1_norm: S, from 1 (no unit vector has less) to sqrt(512) (none has more). Embeddings beyond
        it are scaled down to it.

    The exact epsilon of the result, `exact_epsilon`, is at most 2 S / b and within 1e-9 of it for
    epsilons up to 10,000; with the float b = 2 S / epsilon it is at most this epsilon too. The
    noise in lattice units is t = b guard / S, close to 2^18.1 always; the resolution is t / b.

    Raises:
      UserError: a value is out of its range, or the scale cannot be represented.
    """
    b, norm = Fraction(positive("scale", scale)), Fraction(positive("l1_norm", l1_norm))
    if not 1 <= norm <= Fraction(math.sqrt(MAX_DIMENSION)):
        raise UserError(f"l1_norm is {l1_norm}: give one from 1 to sqrt({MAX_DIMENSION})")
    resolution = int(_REACH / (_SCALES * b))
    guard = int(resolution * norm)
    if not _MIN_RESOLUTION <= resolution <= _MAX_RESOLUTION or guard >= 2**32:
        raise UserError(f"scale is {scale}: 32-bit integers hold scales from 0.0015 to 8700")
    # e^(1/t): t = 2 guard / epsilon, epsilon = 2 S / b
    most = _exp_below(_ROOM * norm / (b * guard))
    digits = _thresholds(most)
    lattice = Lattice(resolution, guard, digits, _zero(most, digits), _REPLACED)
    if _largest_step(lattice) > most:
        raise UserError(f"scale is {scale}: 64-bit thresholds cannot certify it, change it")
    return lattice


def exact_epsilon(lattice: Lattice) -> float:
    """Return the epsilon that the implemented integers guarantee, with delta 0.

    2 guard ln(rho) of this module's docstring: rho in exact rational arithmetic, its logarithm to
    60 digits, rounded up. It holds for any lattice, however it was made, and any number of
    coordinates; infinite if some code is possible under one input only. For a lattice of `design`
    and an epsilon up to 10,000, a pair of inputs in 512 dimensions and a vector of codes lose
    within 1e-7 of it; far above that it is too high, as no coordinate loses more than 60.
    """
    rho = _largest_step(lattice)
    if rho == math.inf:
        return math.inf
    up = decimal.Context(prec=_PRECISION, rounding=decimal.ROUND_CEILING)
    quotient = up.divide(decimal.Decimal(rho.numerator), decimal.Decimal(rho.denominator))
    bound = up.multiply(lattice.sensitivity, up.next_plus(up.ln(quotient)))
    nearest = float(bound)
    return nearest if decimal.Decimal(nearest) >= bound else math.nextafter(nearest, math.inf)


def pmf(lattice: Lattice, code: int, value: int = 0) -> Fraction:
    """Return the exact probability that a coordinate with `value` is released as `code`.

    Args:
      lattice: any.
      code: any integer; outside of [-largest_code, largest_code] the answer is 0.
      value: the quantised coordinate, from -resolution to resolution.
    """
    if abs(code) > lattice.largest_code:
        return Fraction(0)
    uniform = _least_uniform(lattice) * (2 if code == 0 else 1)  # both signs of 0 are 0
    return _noise(lattice, code - value) + uniform


def _noise(lattice: Lattice, k: int) -> Fraction:
    """f(k): the probability of noise k, not replaced."""
    if k == 0:
        return Fraction(lattice.zero, _ONE)
    rest = abs(k) - 1
    mass = _ONE - lattice.zero - lattice.replaced
    for digit in lattice.digits:
        masses = _masses(digit)
        rest, value = divmod(rest, len(masses))
        mass *= masses[value]
    return Fraction(0 if rest else mass, 2 * _ONE ** (len(lattice.digits) + 1))


def _masses(digit: tuple[int, ...]) -> list[int]:
    """Return the probabilities of the values of a digit, of 2^64."""
    return [high - low for high, low in zip((_ONE, *digit), (*digit, 0), strict=True)]


def _least_uniform(lattice: Lattice) -> Fraction:
    """u: the probability of a uniform code that is not 0."""
    return Fraction(lattice.replaced, _ONE * 2 * (lattice.largest_code + 1))


def _largest_step(lattice: Lattice):
    """rho: a Fraction, or infinity where a probability that must not be 0 is."""
    digits = [_masses(digit) for digit in lattice.digits]
    if not lattice.zero or not lattice.replaced or not all(map(all, digits)):
        return math.inf
    steps = [
        _noise(lattice, 0) / _noise(lattice, 1),
        1 + _noise(lattice, lattice.reach) / _least_uniform(lattice),
    ]
    carried = Fraction(1)
    for masses in digits:
        pairs = itertools.pairwise(masses)
        steps.extend(carried * Fraction(this, following) for this, following in pairs)
        carried *= Fraction(masses[-1], masses[0])
    return max(max(step, 1 / step) for step in steps)


def _thresholds(most: Fraction) -> tuple[tuple[int, ...], ...]:
    """Return digits of which no step down passes `most`, and hardly is below it."""
    carried, digits = Fraction(1), []
    for base in _BASES:
        ratio = carried / most  # P(n + 1) >= ratio P(n)
        spare = base * (base - 1) // 2  # no less than what rounding up adds
        masses = [int((_ONE - spare) / sum(ratio**n for n in range(base)))]
        for _ in range(base - 2):
            masses.append(math.ceil(masses[-1] * ratio))
        masses.append(_ONE - sum(masses))
        digits.append(tuple(sum(masses[n:]) for n in range(1, base)))
        carried *= Fraction(masses[-1], masses[0])
    return tuple(digits)


def _zero(most: Fraction, digits) -> int:
    """Return the largest probability of no noise, of 2^64, that is `most` times that of 1."""
    ratio = most / 2  # to the probability of any noise: half are positive, of which G = 0
    for digit in digits:
        ratio *= Fraction(_masses(digit)[0], _ONE)
    return int((_ONE - _REPLACED) * ratio / (1 + ratio))


def _exp_below(x: Fraction) -> Fraction:
    """Return a rational just below e^x, for x > 0."""
    down = decimal.Context(prec=_PRECISION, rounding=decimal.ROUND_FLOOR)
    quotient = down.divide(decimal.Decimal(x.numerator), decimal.Decimal(x.denominator))
    return Fraction(down.next_minus(down.exp(quotient)))  # exp rounds to nearest, always


def _words(integers) -> np.ndarray:
    """Return 64-bit integers as uint32 (N, 2), the high word first."""
    return np.array([divmod(integer, 2**32) for integer in integers], np.uint32)
