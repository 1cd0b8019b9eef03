"""The discrete Laplace mechanism in 32-bit integers: an embedding goes in, integer codes come out.

`privacy.lattice` says what is guaranteed, proves it and picks the integers; here they are used.
There is no floating-point number between the bits of the embedding and the codes, so the codes are
the same on every device, for any batch, order or sharding, jitted or not. There are no branches
that depend on data. Every function is pure and can be jitted, vmapped and sharded over rows.

The proof needs three things of this file: that `quantize` never passes the guard, that
`add_noise` compares as the lattice says, and that a row's words are used once.
"""

import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.privacy import chacha
from identitydp_jax.privacy.lattice import UNIT, LatticeArrays
from identitydp_jax.privacy.sensitivity import MAX_DIMENSION


def release(embedding, *, key, lattice: LatticeArrays):
    """Return codes that hide an embedding with the exact epsilon of the lattice, delta 0.

    Args:
      embedding: (..., d) floating, d at most 512, any values; see `quantize`.
      key: typed ChaCha20 keys (`privacy.chacha`), one per row, of shape `embedding.shape[:-1]`.
        Each must be used once and stay secret.
      lattice: `Lattice.arrays()`, may be traced.

    Returns:
      int32 (..., d), from -largest_code to largest_code: q + noise. A row of codes is a function
      of that row, its key and the lattice alone. The scale is the lattice's; `decode` gives the
      unit vector.

    A row takes 35 kB of random words, drawn on the device that holds it. A CPU is fastest with
    about 32 rows at once: map larger batches in blocks, by `sharding.map_rows`.

    Raises:
      TypeError: `key` is not an array of typed ChaCha20 keys.
      ValueError: the keys are not one per row, or d is above 512.
    """
    codes = quantize(embedding, lattice=lattice)
    chacha.check_keys(key, codes.shape[:-1])
    shape = (words_per_code(lattice), codes.shape[-1])
    words = jax.vmap(lambda row: jax.random.bits(row, shape, jnp.uint32))(key.reshape(-1))
    return add_noise(codes, words.reshape(*key.shape, *shape), lattice=lattice)


def quantize(embedding, *, lattice: LatticeArrays):
    """Return an embedding as integers of a guarded L1 norm, q = trunc(R r / ||r||_2).

    Args:
      embedding: (..., d) floating, d at most 512. Rows are normalised to unit L2, then scaled down
        to an L1 norm of guard / R where theirs is more. A row without a direction (zero or
        subnormal, or with a NaN or an infinity anywhere) becomes zero; float64 counts as float32.
      lattice: `Lattice.arrays()`.

    Returns:
      int32 (..., d) with |q_i| <= R and sum |q_i| <= guard in exact integers, for any input at
      all. The sum of squares lacks at most a 2^15th of ||r||_2 of each coordinate, sqrt(512) of
      which are 1 / 1448: so sum q_i^2 < (1.001 R)^2, and rows within the guard are off the exact
      R r_i / ||r||_2 by less than 1 + R / 1400. No gradient.

    Raises:
      ValueError: d is above 512.
    """
    if not 1 <= jnp.shape(embedding)[-1] <= MAX_DIMENSION:
        raise ValueError(
            f"embedding has shape {jnp.shape(embedding)}: 32 bits hold the sums of "
            f"{MAX_DIMENSION} coordinates at most"
        )
    with np.errstate(over="ignore"):  # float64 beyond float32 is infinite
        rows = jnp.asarray(embedding, jnp.float32)
    return _guarded(jax.lax.bitcast_convert_type(rows, jnp.uint32), lattice)


def words_per_code(lattice: LatticeArrays) -> int:
    """Return how many uniform uint32 a coordinate takes: 17 with the 7 digits of `design`."""
    return 2 * lattice.digits.shape[0] + 3


@jax.jit
def add_noise(codes, words, *, lattice: LatticeArrays):
    """Return the codes with the noise that uniform words give: the deterministic half of `release`.

    Args:
      codes: int32 (..., d), of `quantize`.
      words: uint32 (..., W, d), W = `words_per_code(lattice)`, for I = (W - 3) / 2 digits: the
        high words of the I digits, their I low words, the high and the low word of the outcome,
        and one whose top bit is the sign and whose lowest bits are the uniform code.
      lattice: `Lattice.arrays()`.

    Returns:
      int32 (..., d), distributed as `lattice.pmf` says where the words are uniform.
    """
    count = lattice.digits.shape[0]
    high, low = words[..., :count, None, :], words[..., count : 2 * count, None, :]
    reached = _below(high, low, lattice.digits[:, :, None, :])  # (..., digit, value, d)
    digits = jnp.sum(reached, axis=-2, dtype=jnp.uint32)
    size = 1 + jnp.sum(digits * lattice.places[:, None], axis=-2, dtype=jnp.uint32)
    high, low, last = (words[..., 2 * count + i, :] for i in range(3))
    replaced = _below(high, low, lattice.outcomes[0])
    size = jnp.where(_below(high, low, lattice.outcomes[1]), 0, size)
    size = jnp.where(replaced, last & lattice.mask, size).astype(jnp.int32)
    return jnp.where(replaced, 0, codes) + jnp.where(last >> 31 == 1, -size, size)


def decode(codes):
    """Return the unit float32 vector of codes: post-processing, which costs no privacy.

    Args:
      codes: int32 (..., d), of `release`.

    Returns:
      float32 of the same shape, rows of unit L2 norm, always finite; a row of zeros, which has no
      direction, becomes (1, ..., 1) / sqrt(d).
    """
    rows = codes.astype(jnp.float32)
    rows = jnp.where(jnp.any(codes != 0, axis=-1, keepdims=True), rows, 1.0)
    # At most 512 squares of 2^58: no overflow.
    return rows / jnp.sqrt(jnp.sum(rows * rows, axis=-1, keepdims=True))


def _below(high, low, threshold):
    """Whether the 64-bit (high, low) is less than thresholds of shape (..., 2)."""
    top, bottom = threshold[..., 0], threshold[..., 1]
    return (high < top) | ((high == top) & (low < bottom))


@jax.jit
def _guarded(pattern, lattice):
    """Return what `quantize` does, from float32 bit patterns."""
    unit = _cap_l1(_unit_l2(pattern), lattice)
    sizes = _multiply_high(unit << 9, lattice.resolution << 1)  # unit R / UNIT
    # What the guarantee rests on. Nothing above lets the norm pass; if something did, it ends here.
    sizes = jnp.minimum(sizes, lattice.resolution)
    high, low = _wide_sum(sizes)
    guarded = (high < 2**16) & ((high << 16) + low <= lattice.guard)
    sizes = jnp.where(guarded, sizes, 0).astype(jnp.int32)
    return jnp.where(pattern >> 31 == 1, -sizes, sizes)


def _unit_l2(pattern):
    """Return UNIT |r_i| / ||r||_2, at most UNIT, from bit patterns; zeros for no direction."""
    exponent = (pattern >> 23) & 255
    largest = jnp.max(exponent, axis=-1, keepdims=True)
    mantissa = jnp.where(exponent > 0, (pattern & 0x7FFFFF) | 0x800000, 0)  # subnormals are zero
    aligned = mantissa >> jnp.minimum(largest - exponent, 24)  # the largest has 24 bits
    aligned = jnp.where(largest < 255, aligned, 0)
    high, low = _wide_sum((aligned >> 8) * (aligned >> 8))
    root = _square_root(high >> 16, (high << 16) + low)  # 2^8 sqrt, at least 2^23
    reciprocal = _ratio(jnp.uint32(2**22), root)  # 2^54 / root
    return jnp.minimum(_multiply_high(aligned, reciprocal), UNIT)


def _wide_sum(values):
    """Return (sum >> 16, sum & 0xFFFF) of at most 512 uint32 along the last axis."""
    low = jnp.sum(values & 0xFFFF, axis=-1, keepdims=True, dtype=jnp.uint32)
    high = jnp.sum(values >> 16, axis=-1, keepdims=True, dtype=jnp.uint32)
    return high + (low >> 16), low & 0xFFFF


def _cap_l1(unit, lattice):
    """Scale rows of integers down to an L1 norm of the cap."""
    norm = jnp.sum(unit, axis=-1, keepdims=True, dtype=jnp.uint32)  # at most 512 UNIT = 2^31
    capped = _multiply_high(unit, _ratio(lattice.cap, norm))
    return jnp.where(norm > lattice.cap, capped, unit)


def _square_root(high, low):
    """Return floor(2^8 sqrt(high 2^32 + low)) for high < 2^10, two binary digits at a time."""
    root = remainder = jnp.zeros_like(low)
    for word, bits in ((high, 10), (low, 32), (jnp.zeros_like(low), 16)):
        for shift in range(bits - 2, -1, -2):
            remainder = (remainder << 2) | ((word >> shift) & 3)
            trial = (root << 2) | 1
            fits = remainder >= trial
            remainder = jnp.where(fits, remainder - trial, remainder)
            root = (root << 1) | fits.astype(jnp.uint32)
    return root


def _ratio(numerator, denominator):
    """Return floor(2^32 numerator / denominator) for numerator < denominator <= 2^31."""
    quotient = jnp.zeros_like(denominator)
    for _ in range(32):
        numerator = numerator << 1
        fits = numerator >= denominator
        numerator = jnp.where(fits, numerator - denominator, numerator)
        quotient = (quotient << 1) | fits.astype(jnp.uint32)
    return quotient


def _multiply_high(a, b):
    """Return floor(a b / 2^32) of uint32."""
    a_high, a_low, b_high, b_low = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
    middle = a_high * b_low + (a_low * b_low >> 16)
    other = a_low * b_high + (middle & 0xFFFF)
    return a_high * b_high + (middle >> 16) + (other >> 16)
