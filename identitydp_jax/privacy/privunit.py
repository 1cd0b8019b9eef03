"""PrivUnit over a finite set of random directions: exact in integers, for any two inputs.

A round draws K directions of +-1 in d dimensions (512 for ArcFace, 128 for SFace), ranks them by
their inner product with what is left of the embedding, calls the m best ones *top* and picks one
direction:

- with probability p = `threshold` / 2^64, each of the top ones alike;
- otherwise, each of all K alike.

The code is the sum of the chosen directions with public weights; `discrete_laplace.decode` turns
it into a unit vector.

**The guarantee.** The directions of a round are made from random words that know nothing of the
input. Given the directions, and what the earlier rounds chose, direction k is chosen with
probability

    p / m + (1 - p) / K  if k is top,    (1 - p) / K  if it is not,

whatever the input, as exactly m of them are top: ties in the score go by the directions' order. So
the probabilities of a choice under two inputs differ by a factor of at most 1 + p K / ((1 - p) m).
In `rounds` rounds, each with fresh words, these factors multiply, for every sequence of directions
and choices. The code depends on those alone, hence

    epsilon = rounds ln(1 + p K / ((1 - p) m)),    delta = 0,

for any two inputs at all, unit vectors or not. It is reached by inputs with different tops. The
proof does not ask what the score is, or whether it is right: no rounding of the embedding, on any
device, can change epsilon. The one assumption is that the random words are uniform and independent
for whoever does not hold the key: child 0 of the row's key gives the directions and child 1 the
choices, each with a key of its own for every round.

The choice among two sets of alike probabilities is PrivUnit's (Bhowmick, Duchi, Freudiger, Kapoor
and Rogers 2018, arXiv 1812.00984), with p and m / K for its p and cap. Its cap of the sphere needs
real numbers, exactly drawn; a finite set does not: this is subset selection (Ye and Barg 2018) over
public random candidates (Feldman and Talwar 2021; Shah, Chen, Ballé, Kairouz and Theis 2022).

**The directions.** A block is the d rows of a Hadamard matrix with the signs of the columns flipped
at random, each row a uniform direction, and their negatives. Only d random bits for 2 d directions,
and one fast Walsh-Hadamard transform gives the scores. As many blocks as make K = 16,384, whatever
d is.

**Several rounds.** A round finds at most the best of K directions, a cosine of 0.17 for d = 512 and
0.35 for 128, whatever its epsilon. So a large epsilon is spread over rounds, each of which ranks by
the residual: the embedding less the weighted directions so far, as in matching pursuit. A
direction's cosine with the residual is `gain` on average, so each weight is `gain` times the length
that should be left, and sqrt(1 - gain^2) times the one before.
"""

import dataclasses
import decimal
import functools
import itertools
import math
import statistics
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.checks import UserError, positive
from identitydp_jax.privacy import chacha, discrete_laplace
from identitydp_jax.privacy.lattice import Lattice
from identitydp_jax.privacy.sensitivity import EMBEDDING_DIM, MAX_DIMENSION

_PAIRS = 2**13  # of a direction and its negative
_MIN_DIMENSION = 64
_SIGN_WORDS = _PAIRS // 32
_MAX_ROUNDS = 512
_MAX_PER_ROUND = 32  # above it, 64 bits no longer hold 1 - p to a part in 10^9
_ONE = 2**64
_LENGTH = 2**20  # of a quantised embedding
_GUARD = 2**25  # above sqrt(MAX_DIMENSION) _LENGTH: no embedding is clipped
# `quantize` reads the resolution and the guard alone.
_LATTICE = Lattice(_LENGTH, _GUARD, digits=((_ONE // 2,),), zero=0, replaced=0)
_PRECISION = 60


class PrivUnitArrays(NamedTuple):
    """A `PrivUnit` as arrays, to be traced: one compiled program serves every epsilon.

    Attributes:
      rounds: int32, shape ().
      mask: uint32, shape (), m - 1.
      threshold: uint32, shape (2,), high and low word.
      weights: int32, shape (512,), zero from `rounds` on.
    """

    rounds: np.ndarray
    mask: np.ndarray
    threshold: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class PrivUnit:
    """Every number of the mechanism; see `design`. Hashable, equal by value.

    Attributes:
      rounds: 1 to 512.
      top: m, a power of two from 1 to half of the directions, 8192.
      threshold: p as a part of 2^64, from 0 to 2^64 - 1.
      dimension: d, a power of two from 64 to 512. Epsilon does not depend on it.

    Raises:
      UserError: a value is out of its range, or together they do not fit 32-bit integers.
    """

    rounds: int
    top: int
    threshold: int
    dimension: int = EMBEDDING_DIM

    def __post_init__(self):
        """Refuse what the sampler does not do as the proof says."""
        _check_dimension(self.dimension)
        fits = (
            1 <= self.rounds <= _MAX_ROUNDS
            and 1 <= self.top <= _PAIRS
            and self.top.bit_count() == 1
            and 0 <= self.threshold < _ONE
        )
        if not fits or _GUARD + self.dimension * sum(self.weights) >= 2**31:
            raise UserError("this PrivUnit does not fit 32-bit integers: take one from design()")

    @property
    def gain(self) -> float:
        """The average cosine of a round's direction with a residual of many coordinates."""
        return _gain(self.threshold / _ONE, self.top, self.dimension)

    @property
    def weights(self) -> tuple[int, ...]:
        """What the direction of each round is multiplied by, from 1; falling."""
        first = _LENGTH * self.gain / math.sqrt(self.dimension)
        falling = math.sqrt(1.0 - self.gain**2)
        return tuple(max(1, round(first * falling**j)) for j in range(self.rounds))

    def arrays(self) -> PrivUnitArrays:
        """Return what the device needs."""
        weights = np.zeros(_MAX_ROUNDS, np.int32)
        weights[: self.rounds] = self.weights
        return PrivUnitArrays(
            rounds=np.int32(self.rounds),
            mask=np.uint32(self.top - 1),
            threshold=np.array(divmod(self.threshold, 2**32), np.uint32),
            weights=weights,
        )


@functools.lru_cache(maxsize=64)
def design(epsilon: float, dimension: int = EMBEDDING_DIM) -> PrivUnit:
    """Return the PrivUnit of the highest expected cosine whose exact epsilon is at most `epsilon`.

    Args:
      epsilon: from 0.01 to 10,000. The exact epsilon of the result, `exact_epsilon`, is below it by
        less than 1e-6.
      dimension: of the embeddings, a power of two from 64 to 512.

    Of designs whose cosines agree to four digits, the one of the fewest rounds.

    Raises:
      UserError: epsilon or the dimension is out of its range.
    """
    _check_dimension(dimension)
    number = positive("epsilon", epsilon)
    if not 0.01 <= number <= 10_000:
        raise UserError(f"epsilon is {epsilon}: PrivUnit holds those from 0.01 to 10000")
    fewest = math.ceil(number / _MAX_PER_ROUND)
    tops = [2**c for c in range(_PAIRS.bit_length())]
    rounds, top = max(
        itertools.product(range(fewest, _MAX_ROUNDS + 1), tops),
        key=lambda pair: (
            round(_cosine(_spend(number / pair[0], pair[1]), *pair, dimension), 4),
            -pair[0],
        ),
    )
    return PrivUnit(rounds, top, _threshold(number, rounds, top), dimension)


def exact_epsilon(design: PrivUnit) -> float:
    """Return the epsilon that the implemented integers guarantee, with delta 0, for any two inputs.

    rounds ln(1 + p K / ((1 - p) m)) of this module's docstring: the argument in exact rational
    arithmetic, its logarithm to 60 digits, rounded up. It holds for any `PrivUnit`.
    """
    factor = 1 + Fraction(design.threshold * 2 * _PAIRS, (_ONE - design.threshold) * design.top)
    up = decimal.Context(prec=_PRECISION, rounding=decimal.ROUND_CEILING)
    quotient = up.divide(decimal.Decimal(factor.numerator), decimal.Decimal(factor.denominator))
    bound = up.multiply(design.rounds, up.next_plus(up.ln(quotient)))
    nearest = float(bound)
    return nearest if decimal.Decimal(nearest) >= bound else math.nextafter(nearest, math.inf)


def expected_cosine(design: PrivUnit) -> float:
    """Return the expected cosine of an embedding and its release, to 0.003 (0.012 at 128).

    sqrt(1 - (1 - gain^2)^rounds): each round takes gain^2 of the square of the residual's length.
    For embeddings of many coordinates, as those of faces; if a few are most of its length, even the
    best +-1 direction is far from it, and the cosine lower. Inner products with 128 signs already
    have shorter tails than the normal ones of this reckoning. Epsilon does not depend on that.
    """
    return _cosine(design.threshold / _ONE, design.rounds, design.top, design.dimension)


def release(embedding, *, key, arrays: PrivUnitArrays):
    """Return codes that hide an embedding with the exact epsilon of the design, delta 0.

    Args:
      embedding: (..., d) floating, any values; see `discrete_laplace.quantize`. Only its direction
        counts. A row without one is released as any other. d is that of the design: with another
        one epsilon holds, but less is kept.
      key: typed ChaCha20 keys, one per row, of shape `embedding.shape[:-1]`. Each key must be used
        once and stay secret.
      arrays: `PrivUnit.arrays()`, may be traced.

    Returns:
      int32 (..., d), below 2^22 in size; `discrete_laplace.decode` gives the unit vector. A row
      of codes is a function of that row, its key and the arrays alone: 32-bit integers on every
      device, for any batch, order or sharding, jitted or not. No gradient.

    A round takes 1 kB of random words a row and about 100 kB of memory while it runs: map large
    batches in blocks, by `sharding.map_rows`. Time is proportional to the rounds.

    Raises:
      TypeError: `key` is not an array of typed ChaCha20 keys.
      ValueError: the keys are not one per row, or d is no power of two from 64 to 512.
    """
    shape = jnp.shape(embedding)
    if not _is_dimension(shape[-1]):
        raise ValueError(
            f"embedding has shape {shape}: give rows of 64, 128, 256 or 512 coordinates"
        )
    chacha.check_keys(key, shape[:-1])
    codes = discrete_laplace.quantize(embedding, lattice=_LATTICE.arrays())
    return _approach(codes.reshape(-1, shape[-1]), key.reshape(-1), arrays).reshape(shape)


@jax.jit
def _approach(targets, keys, arrays):
    """Return the sum of the weighted directions, int32 (N, d), for rows and their keys."""

    def one(target, key):
        for_signs, for_choices = jax.random.split(key)

        def next_round(j, residual):
            signs = jax.random.bits(jax.random.fold_in(for_signs, j), (_SIGN_WORDS,), jnp.uint32)
            choice = jax.random.bits(jax.random.fold_in(for_choices, j), (3,), jnp.uint32)
            return residual - arrays.weights[j] * _direction(residual, signs, choice, arrays)

        return target - jax.lax.fori_loop(0, arrays.rounds, next_round, target)

    return jax.vmap(one)(targets, keys)


def _direction(residual, signs, choice, arrays):
    """Return the chosen direction, int32 (d,) of +-1, for a residual (d,)."""
    d = residual.size
    bits = (signs.reshape(_PAIRS // d, -1, 1) >> jnp.arange(32, dtype=jnp.uint32)) & 1
    flipped = bits.reshape(_PAIRS // d, d)
    scores = _hadamard(jnp.where(flipped == 1, -residual, residual)).reshape(-1)
    index, negative = _choose(scores, choice, arrays)
    row, block = index % d, index // d
    parity = jax.lax.population_count(row & jnp.arange(d, dtype=jnp.uint32)) & 1
    return 1 - 2 * (parity ^ flipped[block] ^ negative).astype(jnp.int32)


def _choose(scores, words, arrays):
    """Choose one of the directions v_i and -v_i, by the scores <residual, v_i>.

    Args:
      scores: int32 (N,), above -2^31; N a power of two.
      words: uint32 (3,), uniform: the high and the low word that decide between top and all, and
        one whose lowest bits are the rank, or the direction.
      arrays: `PrivUnit.arrays()`, with m at most N.

    Returns:
      uint32 i and 0 for v_i, 1 for -v_i. The m top directions are those of the largest |<residual,
      v_i>|, in the direction of the residual (v_i where it is 0); among equals, the smallest i.
    """
    high, low, last = words
    top, bottom = arrays.threshold
    is_top = (high < top) | ((high == top) & (low < bottom))
    ranked = _ranked(jnp.abs(scores), (last & arrays.mask).astype(jnp.int32))
    index = jnp.where(is_top, ranked, (last >> 1) & (scores.size - 1))
    return index, jnp.where(is_top, (scores[index] < 0).astype(jnp.uint32), last & 1)


def _ranked(sizes, rank):
    """Return the uint32 index of the value that `rank` values are before: larger, or equal earlier.

    Args:
      sizes: int32 (N,), from 0.
      rank: int32, from 0 to N - 1.
    """

    def bit(i, value):
        higher = value | (1 << (30 - i))
        return jnp.where(jnp.sum(sizes >= higher, dtype=jnp.int32) > rank, higher, value)

    value = jax.lax.fori_loop(0, 31, bit, rank - rank)
    left = rank - jnp.sum(sizes > value, dtype=jnp.int32)
    return jnp.sum(jnp.cumsum(sizes == value, dtype=jnp.int32) <= left, dtype=jnp.uint32)


def _hadamard(rows):
    """Return the inner products of rows (..., d) with v_i[j] = (-1)^popcount(i & j), by i."""
    shape = rows.shape
    for stage in range(shape[-1].bit_length() - 1):
        pairs = rows.reshape(*shape[:-1], -1, 2, 2**stage)
        one, other = pairs[..., 0, :], pairs[..., 1, :]
        rows = jnp.stack([one + other, one - other], axis=-2).reshape(shape)
    return rows


def _spend(epsilon: float, top: int) -> float:
    """Return p of a round that spends epsilon."""
    odds = math.expm1(epsilon) * top / (2 * _PAIRS)
    return odds / (1.0 + odds)


def _is_dimension(dimension: int) -> bool:
    return _MIN_DIMENSION <= dimension <= MAX_DIMENSION and dimension.bit_count() == 1


def _check_dimension(dimension: int) -> None:
    if not _is_dimension(dimension):
        raise UserError(
            f"dimension is {dimension}: PrivUnit holds 64, 128, 256 and 512; take laplace instead"
        )


def _gain(p: float, top: int, dimension: int) -> float:
    return p * _mean_of_top()[top - 1] / math.sqrt(dimension)


def _cosine(p: float, rounds: int, top: int, dimension: int) -> float:
    return math.sqrt(-math.expm1(rounds * math.log1p(-(_gain(p, top, dimension) ** 2))))


@functools.cache
def _mean_of_top() -> tuple[float, ...]:
    """Return, for m = 1 to _PAIRS, the mean of the m largest of as many half-normal scores."""
    normal, count = statistics.NormalDist(), 2 * _PAIRS
    # Expected order statistics of a normal sample of this size (Blom 1958).
    sizes = [-normal.inv_cdf((i + 0.625) / (count + 0.25)) for i in range(_PAIRS)]
    return tuple(total / (i + 1) for i, total in enumerate(itertools.accumulate(sizes)))


def _threshold(epsilon: float, rounds: int, top: int) -> int:
    """Return the largest p, of 2^64, that does not spend more than epsilon."""
    down = decimal.Context(prec=_PRECISION, rounding=decimal.ROUND_FLOOR)
    per_round = down.divide(decimal.Decimal(epsilon), decimal.Decimal(rounds))
    factor = Fraction(down.next_minus(down.exp(per_round)))  # exp rounds to nearest, always
    odds = (factor - 1) * top / (2 * _PAIRS)
    return int(_ONE * odds / (1 + odds))
