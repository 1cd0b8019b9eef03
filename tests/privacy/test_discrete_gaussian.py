import bisect
import math
from decimal import Decimal, getcontext
from fractions import Fraction

import hypothesis
import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released
import scipy.special
import scipy.stats
from hypothesis import strategies as st
from tiny import keys

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import discrete_gaussian, discrete_laplace
from identitydp_jax.privacy.discrete_gaussian import (
    SIGMA,
    DiscreteGaussian,
    add_noise,
    design,
    exact_rho,
    expected_cosine,
    pmf,
    quantize,
    release,
)
from identitydp_jax.privacy.discrete_laplace import decode

D = 512
RHOS = [4e-5, 0.01, 0.1, 1.0, 10.0, 1000.0, 32_000.0]
ONE = design(1.0)
KEPT = 2**128 - 2**108
REACH = 16 * SIGMA - 1
jitted = jax.jit(lambda rows, keys, arrays: release(rows, key=keys, arrays=arrays))
jit_quantize = jax.jit(lambda rows, arrays: quantize(rows, arrays=arrays))


def _with(setting):
    """Return `release(rows, keys)` with a setting, as it is and jitted."""
    arrays = setting.arrays()
    return (
        lambda rows, keys: release(rows, key=keys, arrays=arrays),
        lambda rows, keys: jitted(rows, keys, arrays),
    )


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def unit(r):
    return r / np.linalg.norm(r, axis=-1, keepdims=True)


def noise(n=400, seed=0):
    return np.asarray(jitted(np.zeros((n, D), np.float32), keys(n, seed), ONE.arrays())).ravel()


def thresholds():
    return [discrete_gaussian._threshold(k) for k in range(1, REACH + 1)]


# The distribution


def as_words(uniforms, last):
    data = b"".join(u.to_bytes(16) for u in uniforms)
    words = np.frombuffer(data, ">u4").astype(np.uint32).reshape(-1, 4).T
    return np.concatenate([words, np.asarray(last, np.uint32)[None]])[None]


def noisy(value, uniforms, last):
    start = np.full((1, len(uniforms)), value, np.int32)
    return np.asarray(add_noise(start, as_words(uniforms, last), arrays=ONE.arrays()))[0]


def test_every_threshold_is_compared_exactly():
    """|N| >= k below S[k] and not at it, for every k; so |N| is distributed as the table says."""
    levels = thresholds()
    assert levels == sorted(levels, reverse=True) and levels[0] < KEPT
    uniforms = [0, *(level - 1 for level in levels if level), *levels, KEPT - 1]
    rising = levels[::-1]
    expected = [len(levels) - bisect.bisect_right(rising, u) for u in uniforms]
    for sign in (0, 1):
        last = np.full(len(uniforms), (sign << 31) + 12345)
        found = noisy(-3, uniforms, last)
        np.testing.assert_array_equal(found + 3, np.multiply(expected, 1 - 2 * sign))


def test_a_replaced_code_is_uniform_whatever_the_value():
    codes = np.arange(ONE.largest_code + 1)[::501]
    for sign in (0, 1):
        for value in (-5000, 0, 1):
            for uniform in (KEPT, 2**128 - 1):
                last = (sign << 31) + (3 << 20) + codes  # bits between are not read
                found = noisy(value, [uniform] * len(codes), last)
                np.testing.assert_array_equal(found, codes * (1 - 2 * sign))
    assert noisy(7, [KEPT - 1], [5])[0] == 7


def test_the_exact_pmf_sums_to_one():
    law = [pmf(ONE, code, 77) * 2**148 for code in range(-ONE.largest_code, ONE.largest_code + 1)]
    assert all(mass.denominator == 1 for mass in law)
    assert sum(mass.numerator for mass in law) == 2**148
    assert min(law) > 0  # every code is possible under every input
    assert pmf(ONE, ONE.largest_code + 1) == 0


def test_the_noise_is_within_the_stated_slack_of_the_discrete_gaussian():
    getcontext().prec = 80
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620")
    total = SIGMA * (2 * pi).sqrt()  # Poisson summation: the rest is below e^(-2 pi^2 sigma^2)
    uniform = Fraction(1, 2**20 * 2 * (ONE.largest_code + 1))
    sizes = [*range(0, 20), *range(20, REACH, 997), REACH - 1, REACH]
    for k in sizes:
        law = (-Decimal(k * k) / (2 * SIGMA**2)).exp() / total
        ideal = Fraction(law) * (1 - Fraction(1, 2**20))
        ours = pmf(ONE, 5 + k, 5) - uniform
        assert abs(ours - ideal) < discrete_gaussian._SLACK, k


def chi_square(sample, sigma):
    edges = np.arange(-3, 3.01, 0.25) * SIGMA + 0.5
    observed = np.histogram(sample, np.concatenate([[-np.inf], edges, [np.inf]]))[0]
    expected = np.diff(scipy.stats.norm.cdf(edges / sigma), prepend=0, append=1) * len(sample)
    return scipy.stats.chisquare(observed, expected).pvalue


def test_samples_fit_the_law_and_no_other_scale():
    sample = noise()
    uniform = np.random.default_rng(0).uniform(-0.5, 0.5, sample.size)
    for factor in (0.9, 1.0, 1.1):
        fit = chi_square(sample, factor * SIGMA)
        smooth = scipy.stats.kstest((sample + uniform) / (factor * SIGMA), "norm").pvalue
        assert (min(fit, smooth) > 0.001) == (factor == 1.0)
        assert factor == 1.0 or max(fit, smooth) < 1e-9


def test_noise_is_independent_between_coordinates_and_rows():
    sample = noise().reshape(400, D).astype(np.float64) / SIGMA
    assert len(np.unique(sample[:, 0])) > 380
    for one, other in ((sample[:, 0::2], sample[:, 1::2]), (sample[::2], sample[1::2])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.015


# The guarantee


@pytest.mark.parametrize("rho", RHOS)
def test_the_exact_rho_is_just_below_the_nominal_one(rho):
    made = design(rho)
    assert exact_rho(made) <= rho < exact_rho(DiscreteGaussian(made.resolution + 1))
    ideal = 2 * made.resolution**2 / SIGMA**2
    assert ideal < exact_rho(made) < ideal * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("order", [1.01, 2.0, 8.0, 64.0])
def test_the_divergence_of_the_implemented_law_is_that_of_rho_and_no_more(order):
    """All of the distance in one coordinate, at its most: from -R to R."""
    # This close to the centre, S in float64 differences is exact enough; the tails have no weight.
    levels = np.array([KEPT, *thresholds(), 0], object)
    sizes = np.diff(-levels).astype(np.float64) / 2.0**129
    law = np.concatenate([sizes[:0:-1], [2 * sizes[0]], sizes[1:]])
    codes = ONE.largest_code
    apart = []
    for value in (-ONE.resolution, ONE.resolution):
        moved = np.full(2 * codes + 1, 2.0**-21 / (codes + 1))
        moved[codes] *= 2
        moved[codes + value - REACH : codes + value + REACH + 1] += law
        assert moved.sum() == pytest.approx(1, abs=1e-12)
        apart.append(moved)
    one, other = apart
    terms = order * np.log(one) + (1 - order) * np.log(other)
    divergence = scipy.special.logsumexp(terms) / (order - 1)
    assert divergence <= order * exact_rho(ONE)
    assert order > 4 or divergence > 0.98 * order * exact_rho(ONE)  # then, the uniform codes count


@pytest.mark.parametrize("resolution", [32, 1000, 2**20])
def test_the_guard_is_exact(resolution, monkeypatch):
    arrays = DiscreteGaussian(resolution).arrays()
    square, most = resolution**2, math.isqrt(resolution**2 // 2)
    q = np.zeros((8, D), np.int32)
    q[0, 0] = resolution
    q[1, :2] = -resolution, 1
    q[2, 9] = -resolution - 1
    q[3, :2] = most
    q[4, :3] = most + 1, -most, most % 7
    q[5] = int(resolution / math.sqrt(D))
    q[6] = int(resolution / math.sqrt(D)) + 1
    q[7] = resolution
    monkeypatch.setattr(discrete_laplace, "quantize", lambda embedding, lattice: q)
    found = np.asarray(quantize(None, arrays=arrays))
    for before, after in zip(q, found, strict=True):
        inside = (before.astype(np.int64) ** 2).sum() <= square
        np.testing.assert_array_equal(after, before if inside else 0)
    assert found.any(axis=1).tolist()[:3] == [True, False, False] and not found[7].any()


ANY_FLOAT = st.floats(width=32) | st.sampled_from([np.inf, -np.inf, np.nan, 0.0, 3e38, 1e-45])


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
    pattern=hypothesis.extra.numpy.arrays(np.uint32, 8, elements=st.integers(0, 2**32 - 1)),
    row=hypothesis.extra.numpy.arrays(np.float32, 8, elements=ANY_FLOAT),
    repeated=st.booleans(),
    rho=st.sampled_from(RHOS),
)
def test_any_bits_at_all_stay_within_the_guard(pattern, row, repeated, rho):
    made = design(rho)
    for r in (pattern.view(np.float32), row):
        r = np.tile(r, D // 8) if repeated else np.pad(r, (0, D - 8))
        q = np.asarray(jit_quantize(r, made.arrays())).astype(np.int64)
        assert (q**2).sum() <= made.resolution**2
        clear = np.isfinite(r).all() and np.abs(r).max() > 1e-30
        assert q.any() or not clear or (repeated and made.resolution < 600)
        codes = np.asarray(jitted(r[None], keys(1), made.arrays()))
        assert codes.dtype == np.int32 and np.abs(codes).max() <= made.largest_code


def test_no_row_is_so_long_that_the_guard_ends_it():
    """The worst for the norm of `quantize`: one large coordinate, others with low bits set."""
    others = (2.0 ** np.linspace(8, 23.9, 400)).astype(np.int64) | 255
    r = np.repeat(others[:, None], D, axis=1).astype(np.float32)
    r[:, 0] = 2.0**23
    for rho in RHOS:
        made = design(rho)
        q = np.asarray(jit_quantize(r, made.arrays())).astype(np.int64)
        assert q.any(axis=1).all()
        lengths = np.sqrt((q**2).sum(1))
        assert lengths.max() <= made.resolution
        assert rho < 1000 or lengths.max() > made.length  # so the margin is needed


# Use


@pytest.mark.parametrize("rho", [0.1, 10.0, 1000.0])
def test_released_identities_have_the_expected_cosine(rho):
    made, r = design(rho), rows(1500, seed=1)
    y = np.asarray(decode(jitted(r, keys(1500, 3), made.arrays())))
    cosines = (unit(r) * y).sum(1)
    error = cosines.std() / math.sqrt(len(r))
    assert abs(cosines.mean() - expected_cosine(made, D)) < 0.001 + 3 * error < 0.006


def test_one_program_and_one_table_serve_every_rho():
    traced = []

    @jax.jit
    def count(r, k, arrays):
        traced.append(1)
        return release(r, key=k, arrays=arrays)

    found = {int(np.abs(count(rows(2), keys(2), design(rho).arrays())).sum()) for rho in RHOS}
    assert len(traced) == 1 and len(found) == len(RHOS)
    assert design(1.0).arrays().table is design(10.0).arrays().table


# The same integers everywhere


def test_a_row_depends_on_its_own_key_and_input_alone():
    released.assert_rows_stand_alone(*_with(ONE), rows(16))


def test_vmap_map_and_eight_devices_change_nothing():
    released.assert_same_however_it_is_mapped(*_with(ONE), rows(16))


def test_a_known_key_gives_known_codes():
    """The same on every machine and with every version: receipts are replayed from it."""
    r = np.arange(-256, 256, dtype=np.float32)[None]
    codes = np.asarray(release(r, key=keys(1, seed=7), arrays=ONE.arrays()))[0]
    assert codes[:4].tolist() == GOLDEN
    assert int(codes.astype(np.int64).sum()) == GOLDEN_SUM


GOLDEN = [2140, 4436, 4354, -7928]
GOLDEN_SUM = -134584


def test_no_floating_point_number_lies_between_the_embedding_and_the_codes():
    released.assert_integers_of_32_bits_at_most(_with(ONE)[0], rows(2))


# Mistakes


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (lambda: keys(1)[0], ValueError, "one per row"),
        (lambda: keys(3), ValueError, "one per row"),
        (lambda: jnp.zeros((2, 8), jnp.uint32), TypeError, "ChaCha20"),
        (lambda: jax.random.split(jax.random.key(0), 2), TypeError, "ChaCha20"),
    ],
)
def test_wrong_keys_are_refused(key, error, message):
    with pytest.raises(error, match=message):
        release(rows(2), key=key(), arrays=ONE.arrays())


def test_a_key_used_twice_is_noticed():
    key = keys(1)
    release(rows(1), key=key, arrays=ONE.arrays())
    with pytest.raises(jax.errors.KeyReuseError):
        release(rows(1), key=key, arrays=ONE.arrays())


def test_too_many_dimensions_are_refused():
    with pytest.raises(ValueError, match="512 coordinates at most"):
        release(np.ones((2, 513), np.float32), key=keys(2), arrays=ONE.arrays())
    assert release(np.ones((2, 3), np.float32), key=keys(2), arrays=ONE.arrays()).shape == (2, 3)


@pytest.mark.parametrize("rho", [0.0, -1.0, 1e-5, 40_000.0, math.inf, math.nan])
def test_a_rho_out_of_range_is_refused(rho):
    with pytest.raises(UserError, match="rho"):
        design(rho)


@pytest.mark.parametrize("resolution", [0, 31, 2**20 + 1])
def test_a_resolution_that_the_guard_cannot_hold_is_refused(resolution):
    with pytest.raises(UserError, match="32-bit"):
        DiscreteGaussian(resolution)
