"""Checks of a mechanism that claims to be the discrete Laplace mechanism of a `lattice.Lattice`.

Like those of `audit`: `release(embedding, key) -> codes` from outside, with the lattice as its
claim, whose law is used in exact rational arithmetic.
"""

import itertools
import math
from fractions import Fraction

import numpy as np

from identitydp_jax.privacy import audit
from identitydp_jax.privacy import audit_statistics as statistics
from identitydp_jax.privacy import lattice as lattices
from identitydp_jax.privacy.audit import (
    FALSE_ALARM,
    Finding,
    Law,
    Pair,
    Release,
    derive_keys,
    draw,
    hostile_embeddings,
)
from identitydp_jax.privacy.discrete_laplace import quantize
from identitydp_jax.privacy.lattice import Lattice

_ROWS = 1024
_LARGEST_LOSS = 6.0  # that draws show: e^-6 of them
_CELLS = 32  # of each sign
_TAIL = 5.0  # scales: where float32 noise has few values


def opposites(lattice: Lattice) -> Pair:
    """Return two unit embeddings (2,) that differ in a coordinate, by up to its whole range.

    Their claim is the exact epsilon of the lattice times their L1 distance in its integers over
    its sensitivity, which only a lattice of guard R can have whole; at most about 6.
    """
    step = lattices.exact_epsilon(lattice) / lattice.sensitivity
    sine = min(1.0, _LARGEST_LOSS / (2 * lattice.resolution * step))
    cosine = math.sqrt(1 - sine * sine)
    one, other = (np.array([sign * sine, cosine], np.float32) for sign in (1, -1))
    codes = np.asarray(quantize(np.stack([one, other]), lattice=lattice.arrays()), np.int64)
    return Pair(one, other, float(np.abs(codes[0] - codes[1]).sum() * step))


def law(lattice: Lattice) -> Law:
    """Return the exact law of the noise of a lattice."""
    t = _scale(lattice)
    quantiles = np.arange(1, _CELLS) / _CELLS
    return Law(
        quantize=lambda row: np.asarray(quantize(row, lattice=lattice.arrays())),
        survival=lambda size: _survival(lattice, size),
        sizes=tuple(np.unique(np.ceil(-t * np.log1p(-quantiles)).astype(np.int64) + 1).tolist()),
    )


def check_distribution(
    release: Release, lattice: Lattice, subject: str, *, seed: int, width: int = 512
) -> Finding:
    """`audit.check_distribution` for the law of a lattice."""
    return audit.check_distribution(release, law(lattice), subject, seed=seed, width=width)


def check_support(
    release: Release, lattice: Lattice, subject: str, *, seed: int, width: int = 512
) -> Finding:
    """Whether every code that one input releases is as possible under another.

    In exact arithmetic, the codes at the edges and those drawn under one input have a probability
    above 0 under the other; of the draws, the lowest four bits have one law under both, and the
    lowest digit its own; and among those beyond 5 scales no more are equal than the law says
    (floats have few values out there). Codes must be integers within the bounds.
    """
    rng = np.random.default_rng(0)
    one = rng.normal(size=width).astype(np.float32)
    codes, other = (
        draw(release, row, count=_ROWS, seed=seed, label=f"support, {name}, {subject}")
        for name, row in (("one", one), ("other", -one))
    )
    if not np.issubdtype(codes.dtype, np.integer):
        return Finding("support", subject, False, f"releases {codes.dtype}, not integers", 0.0)
    noise = codes - np.asarray(quantize(one, lattice=lattice.arrays()))
    impossible = _impossible(lattice, rng.choice(codes.ravel(), 200))
    if impossible or math.isinf(lattices.exact_epsilon(lattice)):
        figures = f"{impossible} codes impossible under another input: there is no epsilon"
        return Finding("support", subject, False, figures, math.inf)
    outside = int(np.sum(np.abs(codes.astype(np.int64)) > lattice.largest_code))
    low = [np.bincount((drawn & 15).ravel(), minlength=16) for drawn in (codes, other)]
    bits = min(statistics.homogeneity(*low), _digit_fit(lattice, noise))
    equal, expected = _collisions(lattice, noise)
    p = min(1.0, 3 * min(bits, statistics.at_least(equal, expected)))
    passed = not outside and p > FALSE_ALARM
    figures = (
        f"no code impossible under another input, {outside} out of bounds; low bits alike,"
        f" p = {bits:.2g}; {equal} equal pairs beyond 5 scales, {expected:.1f} expected"
    )
    return Finding("support", subject, passed, figures, p)


def check_guard(
    release: Release, lattice: Lattice, subject: str, *, seed: int, width: int = 512
) -> Finding:
    """Whether no input at all passes the L1 guard, or one coordinate the resolution.

    Two releases under one key differ by exactly the difference of their integers (which is why no
    key is ever used twice): so the integers of hostile inputs are read off, against those of zero.
    """
    rows = hostile_embeddings(width)
    codes = [
        np.asarray(release(batch, derive_keys(seed, "guard", len(rows))))
        for batch in (rows, np.zeros_like(rows))
    ]
    integers = np.abs(codes[0].astype(np.int64) - codes[1])
    norm, largest = int(integers.sum(axis=1).max()), int(integers.max())
    reference = np.abs(np.asarray(quantize(rows, lattice=lattice.arrays())).astype(np.int64))
    passed = (
        norm <= lattice.guard
        and largest <= lattice.resolution
        and np.array_equal(integers, reference)
    )
    figures = (
        f"largest L1 norm {norm} of {lattice.guard}, largest coordinate {largest} of"
        f" {lattice.resolution}, over {len(rows)} hostile inputs"
    )
    return Finding("guard", subject, passed, figures, norm)


def _survival(lattice: Lattice, size: int) -> Fraction:
    """Return the exact probability that noise is `size` or more, of noise that was not replaced."""
    one = 2**64
    beyond, equal, rest = Fraction(0), Fraction(1), size - 1
    places = [math.prod(len(d) + 1 for d in lattice.digits[:i]) for i in range(len(lattice.digits))]
    for digit, place in reversed(list(zip(lattice.digits, places, strict=True))):
        value, rest = divmod(rest, place)
        edges = (one, *digit, 0)
        if value >= len(edges) - 1:
            return Fraction(0)
        beyond += equal * Fraction(edges[value + 1], one)
        equal *= Fraction(edges[value] - edges[value + 1], one)
    noisy = Fraction(one - lattice.zero - lattice.replaced, 2 * (one - lattice.replaced))
    return noisy * (beyond + equal)


def _digit_fit(lattice: Lattice, noise) -> float:
    """Return the p-value of the lowest digit of the noise."""
    sizes = np.abs(noise).ravel().astype(np.int64)
    edges = [2**64, *lattice.digits[0], 0]
    law = [(high - low) / 2**64 for high, low in itertools.pairwise(edges)]
    counts = np.bincount((sizes[sizes > 0] - 1) % len(law), minlength=len(law))
    return statistics.goodness_of_fit(counts, law)


def _impossible(lattice: Lattice, codes) -> int:
    """Return how many codes, of those and of the edges, an input of either extreme cannot give."""
    edge = lattice.resolution + lattice.reach
    edges = [sign * code for sign in (1, -1) for code in (0, edge, edge + 1, lattice.largest_code)]
    extremes = (lattice.resolution, 0, -lattice.resolution)
    return sum(
        lattices.pmf(lattice, code, value) == 0
        for code in {*codes.tolist(), *edges}
        for value in extremes
        if abs(code) <= lattice.largest_code
    )


def _collisions(lattice: Lattice, noise) -> tuple[int, float]:
    """Return how many pairs of noise beyond `_TAIL` scales are equal, and how many should be."""
    t = _scale(lattice)
    least = math.ceil(_TAIL * t)
    counts = np.unique(noise[np.abs(noise) >= least], return_counts=True)[1].astype(np.int64)
    # The law is geometric out there: sum p^2 = P^2 tanh(1 / 2t) for each of two signs.
    survival = float(_survival(lattice, least))
    pairs = noise.size * (noise.size - 1) / 2
    return int(np.sum(counts * (counts - 1) // 2)), pairs * 2 * survival**2 * math.tanh(0.5 / t)


def _scale(lattice: Lattice) -> float:
    """t: the scale of the noise in steps, from the exact epsilon."""
    return lattice.sensitivity / lattices.exact_epsilon(lattice)
