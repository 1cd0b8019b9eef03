"""The discrete Gaussian mechanism in 32-bit integers, with an exact bound on its zCDP.

**The noise.** One coordinate with the integer value v is released as the code

- uniform: a random sign and random bits, with probability w = 2^-20;
- v + N, otherwise. N is the discrete Gaussian of `SIGMA` (Canonne, Kamath and Steinke 2020), drawn
  by a binary search of one table of 128-bit thresholds: |N| is k or more if a 128-bit uniform is
  below S[k]. Its sign is a random bit.

One table serves every rho: the noise stays as it is, and the embedding is scaled to a length of at
most R = `resolution`.

**The guarantee.** g is the law of the discrete Gaussian, proportional to exp(-k^2 / (2 SIGMA^2)) on
all integers, and a(k) the exact probability of noise k here, not replaced. Then
|a(k) - (1 - w) g(k)| < s = 2^-126 for every k: S is rounded to 2^-128 from 256-bit numbers, and
beyond the table's reach M = 16 SIGMA - 1 lies less than 2^-180. Let u be the smallest probability
of a uniform code, and P(y | v) = a(y - v) + w(y), w(y) >= u.

*The ideal*, P*(y | v) = (1 - w) g(y - v) + w(y), with what g has beyond the codes (which have room
for R + M) counted at the last code. The Rényi divergence of g and g moved by x steps is at most
alpha x^2 / (2 SIGMA^2) (Canonne, Kamath and Steinke 2020, proposition 5), clamping to the codes is
post-processing, and as exp((alpha - 1) D_alpha) is jointly convex and at least 1, mixing both with
the same law does not add to it. Coordinates are independent, and every input is guarded to
sum v^2 <= R^2 in exact integers, so that two are at most 2 R apart:

    D_alpha(P* || P*') <= rho0 alpha,    rho0 = 2 R^2 / SIGMA^2.

*The implemented law*: |P - P*| <= s, and both are at least u, so that P / P* lies in
[e^-eta, e^eta] with eta = s / u for every code and value. Over d <= 512 coordinates, the integral
of P^alpha P'^(1 - alpha) grows by at most e^(512 eta (2 alpha - 1)):

    D_alpha(P || P') <= rho0 alpha + 512 eta (2 + 1 / (alpha - 1)).

Use it for alpha >= 1 + c, with c = 2^-32; as D_alpha grows with alpha, its value at 1 + c bounds
those before. So for every alpha > 1, D_alpha <= rho alpha with

    rho = rho0 (1 + c) + 512 eta (2 + 1 / c),

rho-zCDP (Bun and Steinke 2016) for any two inputs, which `exact_rho` computes in exact rational
arithmetic: it is above rho0 by a part in 10^9 and 10^-12. There is no delta in it. Every vector of
codes is possible under every input. The one assumption is that the random words are uniform and
independent for whoever does not hold the key.
"""

import dataclasses
import decimal
import functools
import itertools
import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.checks import UserError, positive
from identitydp_jax.privacy import chacha, discrete_laplace
from identitydp_jax.privacy.lattice import Lattice, LatticeArrays
from identitydp_jax.privacy.sensitivity import MAX_DIMENSION

SIGMA = 2**13
_REACH_BITS = 17
_REACH = 2**_REACH_BITS - 1  # M, the largest noise
_ONE = 2**128
_REPLACED_BITS = 20
_KEPT = _ONE - (_ONE >> _REPLACED_BITS)
_SLACK = Fraction(4, _ONE)  # s
_LEAST_ORDER = Fraction(1, 2**32)  # c
_MIN_RESOLUTION, _MAX_RESOLUTION = 32, 2**20
_WORDS_PER_CODE = 5
_TABLE_BITS = 256


class GaussianArrays(NamedTuple):
    """A `DiscreteGaussian` as arrays, to be traced: one compiled program serves every rho.

    Attributes:
      lattice: what `discrete_laplace.quantize` reads.
      square: uint32, shape (2,): R^2 as (high, low) of 2^20.
      mask: uint32, shape (), the largest code, 2^n - 1.
      table: uint32, shape (M + 1, 4), S[k] in words, the highest first; S[0] is not used.
    """

    lattice: LatticeArrays
    square: np.ndarray
    mask: np.ndarray
    table: np.ndarray


@dataclasses.dataclass(frozen=True)
class DiscreteGaussian:
    """Every number of the mechanism that is not constant; see `design`. Hashable, equal by value.

    Attributes:
      resolution: R, the largest L2 norm of a quantised embedding, 32 to 2^20.

    Raises:
      UserError: it is out of its range.
    """

    resolution: int

    def __post_init__(self):
        """Refuse what the 32-bit arithmetic of the guard cannot hold."""
        if not _MIN_RESOLUTION <= self.resolution <= _MAX_RESOLUTION:
            raise UserError(f"resolution is {self.resolution}: 32-bit integers hold 32 to 2^20")

    @property
    def largest_code(self) -> int:
        """Codes lie in [-largest_code, largest_code]: room for any value and any noise."""
        return 2 ** (self.resolution + _REACH).bit_length() - 1

    @property
    def length(self) -> int:
        """What embeddings are quantised to: R less the part in 2^10 by which `quantize` may err."""
        return self.resolution - -(-self.resolution // 2**10)

    def arrays(self) -> GaussianArrays:
        """Return what the device needs; the table is the same array each time."""
        # `quantize` reads the resolution and the guard alone; this guard clips nothing.
        lattice = Lattice(self.length, 2**32 - 1, digits=((1,),), zero=0, replaced=0)
        return GaussianArrays(
            lattice=lattice.arrays(),
            square=np.array(divmod(self.resolution**2, 2**20), np.uint32),
            mask=np.uint32(self.largest_code),
            table=_table(),
        )


def design(rho: float) -> DiscreteGaussian:
    """Return the mechanism of the highest resolution whose `exact_rho` is at most `rho`.

    Args:
      rho: from 0.00004 to 32,000. The resolution is a whole number, so that the exact rho is less
        than `rho` by up to a part in SIGMA sqrt(rho / 8): 0.04 % at rho 1, 0.4 % at 0.01.

    Raises:
      UserError: rho is out of its range.
    """
    number = Fraction(positive("rho", rho))
    resolution = math.isqrt(int(number * SIGMA**2 / 2))
    if not _MIN_RESOLUTION < resolution <= _MAX_RESOLUTION:
        raise UserError(f"rho is {rho}: 32-bit integers hold those from 0.00004 to 32000")
    made = DiscreteGaussian(resolution)
    return made if exact_rho(made) <= number else DiscreteGaussian(resolution - 1)


def exact_rho(design: DiscreteGaussian) -> float:
    """Return the rho of zCDP that the implemented integers guarantee, for any two inputs.

    rho of this module's docstring, in exact rational arithmetic, rounded up. It holds for any
    `DiscreteGaussian` and up to 512 coordinates.
    """
    ideal = Fraction(2 * design.resolution**2, SIGMA**2)
    eta = _SLACK / _least_uniform(design)
    bound = ideal * (1 + _LEAST_ORDER) + MAX_DIMENSION * eta * (2 + 1 / _LEAST_ORDER)
    nearest = float(bound)
    return nearest if Fraction(nearest) >= bound else math.nextafter(nearest, math.inf)


def expected_cosine(design: DiscreteGaussian, dimension: int) -> float:
    """Return the expected cosine of an embedding (dimension,) and its release, to 0.003."""
    return 1.0 / math.hypot(1.0, math.sqrt(dimension) * SIGMA / design.length)


def pmf(design: DiscreteGaussian, code: int, value: int = 0) -> Fraction:
    """Return the exact probability that a coordinate with `value` is released as `code`.

    Args:
      design: any.
      code: any integer; outside of [-largest_code, largest_code] the answer is 0.
      value: the quantised coordinate, from -resolution to resolution.
    """
    if abs(code) > design.largest_code:
        return Fraction(0)
    size, uniform = abs(code - value), _least_uniform(design) * (2 if code == 0 else 1)
    reached = [_KEPT if k == 0 else _threshold(k) for k in (size, size + 1)]
    return Fraction(reached[0] - reached[1], _ONE * (2 if size else 1)) + uniform


def release(embedding, *, key, arrays: GaussianArrays):
    """Return codes that hide an embedding with the `exact_rho` of the design.

    Args:
      embedding: (..., d) floating, d at most 512, any values; see `discrete_laplace.quantize`.
        Only its direction counts. A row without one counts as zero.
      key: typed ChaCha20 keys, one per row, of shape `embedding.shape[:-1]`. Each key must be used
        once and stay secret.
      arrays: `DiscreteGaussian.arrays()`, may be traced.

    Returns:
      int32 (..., d), from -largest_code to largest_code; `discrete_laplace.decode` gives the unit
      vector. A row of codes is a function of that row, its key and the arrays alone: 32-bit
      integers on every device, for any batch, order or sharding, jitted or not. No gradient.

    Raises:
      TypeError: `key` is not an array of typed ChaCha20 keys.
      ValueError: the keys are not one per row, or d is above 512.
    """
    codes = quantize(embedding, arrays=arrays)
    chacha.check_keys(key, codes.shape[:-1])
    shape = (_WORDS_PER_CODE, codes.shape[-1])
    words = jax.vmap(lambda row: jax.random.bits(row, shape, jnp.uint32))(key.reshape(-1))
    return add_noise(codes, words.reshape(*key.shape, *shape), arrays=arrays)


def quantize(embedding, *, arrays: GaussianArrays):
    """Return an embedding as integers of a guarded L2 norm, at most R.

    As `discrete_laplace.quantize` does, to the length `DiscreteGaussian.length`, with no clipping
    of the L1 norm; then a row with sum q^2 > R^2, in exact integers, becomes zero. That is what the
    guarantee rests on. No row comes to it: the norm that is divided by may be too small by rounding
    a coordinate a down by 255 where the largest is 2^23, so sum a^2 by a part of at most
    510 sqrt(512) / 2^23, and q too long by 0.07 %, where the length leaves 0.1 %.

    Returns:
      int32 (..., d).
    """
    codes = discrete_laplace.quantize(embedding, lattice=arrays.lattice)
    return _guarded(codes, arrays)


@jax.jit
def add_noise(codes, words, *, arrays: GaussianArrays):
    """Return the codes with the noise that uniform words give: the deterministic half of `release`.

    Args:
      codes: int32 (..., d), of `quantize`.
      words: uint32 (..., 5, d): a 128-bit uniform, the highest word first, of which the first 20
        bits say whether the code is replaced; and a word whose top bit is the sign and whose lowest
        bits are the uniform code.
      arrays: `DiscreteGaussian.arrays()`.

    Returns:
      int32 (..., d), distributed as `pmf` says where the words are uniform.
    """
    uniform, last = jnp.moveaxis(words[..., :4, :], -2, -1), words[..., 4, :]

    def bit(i, size):
        larger = size | (np.uint32(1 << (_REACH_BITS - 1)) >> jnp.uint32(i))
        return jnp.where(_below(uniform, arrays.table[larger]), larger, size)

    size = jax.lax.fori_loop(0, _REACH_BITS, bit, last ^ last)  # of what varies over devices
    replaced = uniform[..., 0] >> (32 - _REPLACED_BITS) == 2**_REPLACED_BITS - 1
    size = jnp.where(replaced, last & arrays.mask, size).astype(jnp.int32)
    return jnp.where(replaced, 0, codes) + jnp.where(last >> 31 == 1, -size, size)


def _below(uniform, threshold):
    """Whether 128-bit integers (..., 4) are less than others."""
    below = uniform[..., 3] < threshold[..., 3]
    for i in (2, 1, 0):
        high, other = uniform[..., i], threshold[..., i]
        below = (high < other) | ((high == other) & below)
    return below


@jax.jit
def _guarded(codes, arrays):
    """Return rows of at most 512 integers below 2^21 in size, or zeros if sum q^2 > R^2."""
    sizes = jnp.abs(codes).astype(jnp.uint32)
    high, low = sizes >> 10, sizes & 1023  # q^2 = high^2 2^20 + 2 high low 2^10 + low^2
    squares, middle, rest = (
        jnp.sum(part, axis=-1, keepdims=True, dtype=jnp.uint32)
        for part in (high * high, 2 * high * low, low * low)
    )
    rest = rest + ((middle & 1023) << 10)
    squares, rest = squares + (middle >> 10) + (rest >> 20), rest & (2**20 - 1)
    most, least = arrays.square
    return jnp.where((squares < most) | ((squares == most) & (rest <= least)), codes, 0)


def _least_uniform(design: DiscreteGaussian) -> Fraction:
    """u: the probability of a uniform code that is not 0."""
    return Fraction(1, 2**_REPLACED_BITS * 2 * (design.largest_code + 1))


def _threshold(k: int) -> int:
    """S[k] of 2^128, for k from 1; zero beyond the reach."""
    return int.from_bytes(_table()[k].astype(">u4").tobytes()) if k <= _REACH else 0


@functools.cache
def _table() -> np.ndarray:
    """Return S in words: S[k] / 2^128 is the probability of |N| >= k and no uniform code."""
    context = decimal.Context(prec=100)
    ratio = context.exp(context.divide(decimal.Decimal(-1), 2 * SIGMA**2))  # e^(-1 / 2 sigma^2)
    ratio = int(context.multiply(ratio, 2**_TABLE_BITS))
    square, step, weights = ratio * ratio >> _TABLE_BITS, ratio, [1 << _TABLE_BITS]
    for _ in range(_REACH):  # weight k is e^(-k^2 / 2 sigma^2): the next, times e^(-(2k + 1) / ...)
        weights.append(weights[-1] * step >> _TABLE_BITS)
        step = step * square >> _TABLE_BITS
    tails = list(itertools.accumulate(reversed(weights)))[::-1]
    total = weights[0] + 2 * tails[1]
    thresholds = [_ONE - 1] + [2 * tail * _KEPT // total for tail in tails[1:]]
    words = np.frombuffer(b"".join(s.to_bytes(16) for s in thresholds), ">u4")
    return words.astype(np.uint32).reshape(-1, 4)
