import collections
import itertools
import math
from fractions import Fraction

import hypothesis
import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released
import scipy.stats
from hypothesis import strategies as st
from tiny import keys

from identitydp_jax.privacy import chacha, discrete_laplace
from identitydp_jax.privacy.discrete_laplace import add_noise, decode, quantize, release
from identitydp_jax.privacy.lattice import UNIT, Lattice, _thresholds, design, pmf

D = 512
SQRT = math.sqrt(D)
SIX = design(2 * SQRT / 6, SQRT)
LATTICES = [design(2 * s / e, s) for s in (SQRT, 19.0) for e in (0.01, 6.0, 1000.0, 10_000.0)]
SMALL = Lattice(
    resolution=3,
    guard=4,
    digits=((2**63 - 5, 2**62 + 2**32, 2**32 * 77), (2**32 - 1,), (2**60 + 1, 2**32)),
    zero=2**62 + 2**32,
    replaced=2**60 + 3,
)

jitted = jax.jit(lambda rows, keys, lattice: release(rows, key=keys, lattice=lattice))


def _with(setting):
    """Return `release(rows, keys)` with a setting, as it is and jitted."""
    arrays = setting.arrays()
    return (
        lambda rows, keys: release(rows, key=keys, lattice=arrays),
        lambda rows, keys: jitted(rows, keys, arrays),
    )


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def unit(r):
    r = np.asarray(r, np.float64)
    return r / np.linalg.norm(r, axis=-1, keepdims=True)


def noise(lattice, n=400, seed=0):
    return np.asarray(jitted(np.zeros((n, D), np.float32), keys(n, seed), lattice.arrays())).ravel()


def scale_of(lattice, epsilon):
    return lattice.sensitivity / epsilon


# The distribution


def _sides(thresholds):
    """64-bit uniforms at the ends of every interval that the thresholds make, and its measure."""
    edges = [0, *sorted(thresholds), 2**64]
    for low, high in itertools.pairwise(edges):
        half = Fraction(high - low, 2**65)
        yield from ((low, half), (high - 1, half))


def _as_words(digits, outcomes, last):
    """(..., I) and two (...) of Python integers or uint64, as words (W, ...)."""
    digits, outcomes = np.moveaxis(np.asarray(digits, object), -1, 0), np.asarray(outcomes, object)
    high, low = (
        np.concatenate([x, y[None]])
        for x, y in zip(
            (digits >> 32, digits & (2**32 - 1)),
            (outcomes >> 32, outcomes & (2**32 - 1)),
            strict=True,
        )
    )
    count = len(digits)
    words = [*high[:count], *low[:count], high[count], low[count], np.asarray(last, object)]
    return np.stack(words).astype(np.uint32)


def test_the_sampler_has_exactly_the_stated_distribution():
    """The sampler is run on every outcome of every comparison; their exact measures are summed."""
    digits = [list(_sides(thresholds)) for thresholds in SMALL.digits]
    outcome = list(_sides([SMALL.replaced, SMALL.replaced + SMALL.zero]))
    codes = range(SMALL.largest_code + 1)
    last = [((sign << 31) + code, Fraction(1, 2 * len(codes))) for sign in (0, 1) for code in codes]
    cases = list(itertools.product(*digits, outcome, last))
    values = [[value for value, _ in case] for case in cases]
    measures = [math.prod(measure for _, measure in case) for case in cases]
    words = _as_words(
        [row[:3] for row in values], [row[3] for row in values], [row[4] for row in values]
    )
    for value in (-3, 0, 1):
        start = np.full((1, len(cases)), value, np.int32)
        found = collections.Counter()
        noisy = np.asarray(add_noise(start, words[None], lattice=SMALL.arrays()))[0]
        for code, measure in zip(noisy.tolist(), measures, strict=True):
            found[code] += measure
        assert sum(found.values()) == 1
        stated = range(-SMALL.largest_code, SMALL.largest_code + 1)
        assert dict(found) == {code: pmf(SMALL, code, value) for code in stated}


def test_every_comparison_of_a_real_lattice_is_exact_at_its_threshold():
    rng = np.random.default_rng(0)
    n, expected, values = 4000, np.ones(4000, np.int64), []
    for place, digit in zip(SIX.arrays().places, SIX.digits, strict=True):
        thresholds = np.array(digit, np.uint64)
        one = thresholds[rng.integers(0, len(digit), n)]
        near = one + rng.integers(-2, 2, n).astype(np.uint64)
        carry = one + (rng.integers(-1, 2, n) << 32).astype(np.uint64)
        anywhere = rng.integers(0, 2**64, n, dtype=np.uint64)
        values.append(np.choose(rng.integers(0, 3, n), [near, carry, anywhere]))
        expected += int(place) * (values[-1] < thresholds[:, None]).sum(0)
    words = _as_words(np.stack(values, -1), np.full(n, 2**64 - 1), np.zeros(n, int))
    found = add_noise(np.zeros((1, n), np.int32), words[None], lattice=SIX.arrays())[0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("factor", "accepted"), [(1.0, True), (0.9, False), (1.1, False)])
@pytest.mark.parametrize("epsilon", [0.01, 6.0, 10_000.0])
def test_noise_passes_kolmogorov_smirnov_at_its_scale_alone(epsilon, factor, accepted):
    lattice = design(2 * SQRT / epsilon, SQRT)
    law = scipy.stats.laplace(scale=scale_of(lattice, epsilon) * factor)
    # Spread over the cell of its integer, the discrete noise is continuous to a part in t^2.
    found = noise(lattice) + np.random.default_rng(1).uniform(-0.5, 0.5, 400 * D)
    p = scipy.stats.kstest(found, law.cdf).pvalue
    assert p > 1e-3 if accepted else p < 1e-6


@pytest.mark.parametrize(("factor", "accepted"), [(1.0, True), (0.9, False), (1.1, False)])
def test_noise_passes_chi_square_at_its_scale_alone(factor, accepted):
    t = scale_of(SIX, 6.0) * factor
    digits = SIX.digits if accepted else _thresholds(Fraction(math.exp(1 / t)))
    law = np.ones(1)
    for digit in digits[4:]:
        law = np.outer(_law(digit), law).ravel()
    cells = (abs(noise(SIX)) - 1) >> 16  # no noise at all is a cell of its own, -1
    p = _chi_square(cells[cells >= 0], law)
    assert p > 1e-3 if accepted else p < 1e-6


def test_every_digit_of_the_noise_has_the_distribution_of_its_thresholds():
    rest = abs(noise(SIX))
    rest = rest[rest > 0] - 1
    for digit in SIX.digits[:-1]:
        rest, value = np.divmod(rest, len(digit) + 1)
        assert _chi_square(value, _law(digit)) > 1e-3
    assert SIX.digits[-1][0] < 2**64 * 1e-12 and not rest.any()


def _law(digit):
    edges = [2**64, *digit, 0]
    return np.array([(high - low) / 2**64 for high, low in itertools.pairwise(edges)])


def _chi_square(values, law):
    """The p-value; what is expected fewer than 10 times joins the last cell that is not."""
    expected, observed = law * len(values), np.bincount(values, minlength=len(law))
    usual = np.flatnonzero(expected >= 10)
    for counts in (expected, observed):
        counts[usual[-1]] += np.delete(counts, usual).sum()
    return scipy.stats.chisquare(observed[usual], expected[usual]).pvalue


def test_coordinates_and_signs_are_independent():
    found = np.concatenate([noise(SIX, seed=seed).reshape(-1, D) for seed in range(5)])
    correlation = np.corrcoef(found[:, :64], rowvar=False) - np.eye(64)
    assert abs(correlation).max() < 5.5 / math.sqrt(2000)
    sizes = np.corrcoef(abs(found[:, :64]), rowvar=False) - np.eye(64)
    assert abs(sizes).max() < 5.5 / math.sqrt(2000)
    assert abs((found > 0).mean() - 0.5) < 5 / math.sqrt(2000 * D) / 2


def test_float_noise_has_outputs_that_its_neighbour_lacks_and_codes_have_none():
    """Of the 2^23 values of jax.random.laplace added to a coordinate, 9 % are possible for both."""
    uniform = np.arange(2**23, dtype=np.float32) * np.float32(2**-22) + np.float32(-1 + 2**-24)
    every = np.asarray(jnp.sign(uniform) * jnp.log1p(-abs(uniform)))
    drawn = np.asarray(jax.random.laplace(jax.random.key(0), (10_000,)))
    assert _occurs(drawn, every).all()
    b = np.float32(2 * SQRT / 6)
    one, other = (np.float32(value) + b * every for value in (0.031, 0.047))
    assert _occurs(one[::1000], other).mean() < 0.15
    edge = SIX.resolution + SIX.reach
    for code in (-SIX.largest_code, -edge, 0, edge, SIX.largest_code):
        assert pmf(SIX, code, -SIX.resolution) > 0 and pmf(SIX, code, SIX.resolution) > 0


def _occurs(values, among):
    among = np.sort(among)
    return among[np.minimum(np.searchsorted(among, values), len(among) - 1)] == values


# Integers from embeddings


@pytest.mark.parametrize("lattice", LATTICES)
def test_quantized_embeddings_are_the_truncated_unit_vectors(lattice):
    r = rows(64)
    q = np.asarray(quantize(r, lattice=lattice.arrays()))
    norm = Fraction(lattice.guard, lattice.resolution)
    exact = unit(r)
    exact *= np.minimum(1, float(norm) / abs(exact).sum(1, keepdims=True)) * lattice.resolution
    assert abs(q - exact).max() < 1 + lattice.resolution / 2**15
    assert (abs(q) <= abs(exact) * (1 + 1e-4) + 1e-6).all()  # towards zero
    assert ((q == 0) | (np.sign(q) == np.sign(r))).all()


def test_quantized_embeddings_are_no_longer_than_unit_vectors_may_be():
    """The worst rows: every mantissa ends in eight ones, which the sum of squares leaves out."""
    lattice = Lattice(2**27, 2**32 - 1, SIX.digits, SIX.zero, SIX.replaced)
    tails = np.arange(0, 30_000, 100, dtype=np.float32)[:, None] * 256 + np.full(D, 255, np.float32)
    tails[:, 0] = 2**23 + 255
    r = np.concatenate([tails, tails[:, ::-1], rows(8)])
    off = np.asarray(jit_quantize(r, lattice.arrays())) - unit(r) * lattice.resolution
    assert abs(off).max() < 1 + lattice.resolution / 1400
    norms = np.linalg.norm(off + unit(r) * lattice.resolution, axis=1) / lattice.resolution
    assert 1.0002 < norms.max() < 1.001


@pytest.mark.parametrize("lattice", LATTICES)
def test_rows_of_the_largest_l1_norm_meet_the_guard(lattice):
    signs = np.where(np.random.default_rng(0).random((4, D)) < 0.5, -1, 1).astype(np.float32)
    near = (signs * np.random.default_rng(1).uniform(0.9, 1, (4, D))).astype(np.float32)
    for r in (signs, near):
        norms = abs(np.asarray(quantize(r, lattice=lattice.arrays()), np.int64)).sum(1)
        assert norms.max() <= lattice.guard
        assert norms.min() >= 0.99 * lattice.guard - D


def test_one_coordinate_alone_keeps_its_length():
    for lattice in LATTICES:
        for value in (1.0, -3e38, 1e-37):
            r = np.zeros(D, np.float32)
            r[5] = value
            q = np.asarray(quantize(r, lattice=lattice.arrays()))
            assert abs(abs(q[5]) - lattice.resolution) <= 1 + lattice.resolution / 2**15
            assert np.sign(q[5]) == np.sign(value) and np.count_nonzero(q) == 1


ANY_FLOAT = st.floats(width=32) | st.sampled_from([np.inf, -np.inf, np.nan, 0.0, -0.0, 3e38, 1e-45])


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    pattern=hypothesis.extra.numpy.arrays(np.uint32, 8, elements=st.integers(0, 2**32 - 1)),
    row=hypothesis.extra.numpy.arrays(np.float32, 8, elements=ANY_FLOAT),
    repeated=st.booleans(),
    which=st.integers(0, len(LATTICES) - 1),
)
def test_any_bits_at_all_stay_within_the_guard(pattern, row, repeated, which):
    lattice, arrays = LATTICES[which], LATTICES[which].arrays()
    for r in (pattern.view(np.float32), row):
        r = np.tile(r, D // 8) if repeated else np.pad(r, (0, D - 8))
        q = np.asarray(jit_quantize(r, arrays), np.int64)
        assert abs(q).max() <= lattice.resolution and abs(q).sum() <= lattice.guard
        codes = jitted(r, chacha.key_from_bytes(bytes(32)), arrays)
        assert codes.dtype == jnp.int32
        assert abs(np.asarray(codes, np.int64)).max() <= lattice.largest_code
        y = np.asarray(decode(codes))
        assert np.isfinite(y).all() and np.linalg.norm(y) == pytest.approx(1, abs=1e-6)


jit_quantize = jax.jit(lambda r, arrays: quantize(r, lattice=arrays))


@pytest.mark.parametrize("resolution", [1, 77, 2**22, 2**28])
@pytest.mark.parametrize("guard", [1, 50, 2**32 - 1])
def test_the_guard_holds_for_lattices_of_all_sizes(resolution, guard):
    lattice = Lattice(resolution, guard, SIX.digits, SIX.zero, SIX.replaced)
    r = np.concatenate([rows(8), np.sign(rows(8)), np.eye(4, D, dtype=np.float32)])
    q = abs(np.asarray(jit_quantize(r, lattice.arrays()), np.int64))
    assert q.max() <= resolution and q.sum(1).max() <= guard


def test_the_guard_ends_what_the_scaling_lets_through():
    arrays = SIX.arrays()
    broken = arrays._replace(cap=np.uint32(2**31), guard=np.uint32(SIX.guard * 3 // 4))
    q = np.asarray(quantize(np.stack([np.ones(D), np.eye(1, D)[0]]), lattice=broken))
    assert not q[0].any() and q[1].any()


def test_no_coordinate_passes_the_resolution_whatever_the_scaling_gives(monkeypatch):
    lattice = Lattice(1000, 10**6, SIX.digits, SIX.zero, SIX.replaced)
    monkeypatch.setattr(discrete_laplace, "_cap_l1", lambda unit, _: 2 * unit - 1)
    one = np.eye(1, D, dtype=np.float32).view(np.uint32)
    q = np.asarray(discrete_laplace._guarded.__wrapped__(one, lattice.arrays()))
    assert q[0, 0] == 1000


def test_a_norm_beyond_32_bits_does_not_pass_the_guard_by_wrapping_around(monkeypatch):
    lattice = Lattice(2**28, 2**32 - 1, SIX.digits, SIX.zero, SIX.replaced)
    monkeypatch.setattr(discrete_laplace, "_cap_l1", lambda unit, _: jnp.full_like(unit, UNIT))
    ones = np.ones((1, D), np.float32).view(np.uint32)  # 512 * 2^28 is 0 modulo 2^32
    q = discrete_laplace._guarded.__wrapped__(ones, lattice.arrays())
    assert not np.asarray(q).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, 1e-42])
def test_an_embedding_without_direction_becomes_zero(bad):
    whole, one_value = np.full(D, bad, np.float32), rows(1)[0]
    one_value[7] = bad
    assert not np.asarray(quantize(whole, lattice=SIX.arrays())).any()
    assert np.asarray(quantize(one_value, lattice=SIX.arrays())).any() == (abs(bad) < 1)


def test_one_bad_row_leaves_the_others_alone():
    r = rows(4)
    good = np.asarray(jitted(r, keys(4), SIX.arrays()))
    r[1, 3] = np.nan
    found = np.asarray(jitted(r, keys(4), SIX.arrays()))
    np.testing.assert_array_equal(np.delete(found, 1, 0), np.delete(good, 1, 0))


def test_only_the_direction_of_the_input_counts():
    r = rows(8)
    q = np.asarray(quantize(r, lattice=SIX.arrays()))
    for factor in (2.0**-90, 0.5, 2.0**90):
        np.testing.assert_array_equal(quantize(r * np.float32(factor), lattice=SIX.arrays()), q)
    np.testing.assert_allclose(quantize(r * np.float32(7), lattice=SIX.arrays()), q, atol=3)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_floats_count_as_float32(dtype):
    r = np.asarray(rows(2)).astype(dtype)
    np.testing.assert_array_equal(
        quantize(r, lattice=SIX.arrays()),
        quantize(np.asarray(r, np.float32), lattice=SIX.arrays()),
    )
    assert not np.asarray(quantize(np.full(D, 1e300), lattice=SIX.arrays())).any()


# The same integers everywhere


def test_a_row_depends_on_its_own_key_and_input_alone():
    released.assert_rows_stand_alone(*_with(SIX), rows(24))
    r, arrays = rows(24), SIX.arrays()
    whole = np.asarray(jitted(r, keys(24), arrays))
    np.testing.assert_array_equal(release(r, key=keys(24), lattice=arrays), whole)
    np.testing.assert_array_equal(jitted(r[:5], keys(24)[:5], arrays), whole[:5])
    stacked = jitted(r.reshape(2, 3, 4, D), keys(24).reshape(2, 3, 4), arrays)
    np.testing.assert_array_equal(np.reshape(stacked, (24, D)), whole)


def test_vmap_map_and_eight_devices_change_nothing():
    released.assert_same_however_it_is_mapped(*_with(SIX), rows(24))


def test_a_known_key_gives_known_codes():
    """The same on every machine and with every version: receipts are replayed from it."""
    r = np.arange(-256, 256, dtype=np.float32)[None]
    key = jax.random.split(chacha.key_from_bytes((7).to_bytes(32, "big")), 1)
    codes = np.asarray(release(r, key=key, lattice=SIX.arrays()))[0]
    assert codes[:4].tolist() == GOLDEN
    assert int(codes.astype(np.int64).sum()) == GOLDEN_SUM


GOLDEN = [-1565828, -354446, -400833, -154306]
GOLDEN_SUM = -4263696


def test_one_program_serves_every_lattice():
    traced = []

    @jax.jit
    def count(r, k, arrays):
        traced.append(1)
        return release(r, key=k, lattice=arrays)

    found = {int(np.abs(count(rows(2), keys(2), lat.arrays())).sum()) for lat in LATTICES}
    assert len(traced) == 1 and len(found) == len(LATTICES)


def test_no_floating_point_number_lies_between_the_embedding_and_the_codes():
    released.assert_integers_of_32_bits_at_most(_with(SIX)[0], rows(2))


# Keys and shapes


def test_another_key_gives_other_noise_and_the_same_key_the_difference_of_the_inputs():
    r, arrays = rows(2), SIX.arrays()
    one, other = (np.asarray(jitted(r[:1], keys(1, seed), arrays)) for seed in (0, 1))
    assert (one != other).mean() > 0.999
    two = np.asarray(jitted(r[1:], keys(1), arrays))
    q = np.asarray(quantize(r, lattice=arrays))
    np.testing.assert_array_equal(one - two, q[:1] - q[1:])  # why a key is used once


def test_a_key_used_twice_is_noticed():
    key = keys(1)
    release(rows(1), key=key, lattice=SIX.arrays())
    with pytest.raises(jax.errors.KeyReuseError):
        release(rows(1), key=key, lattice=SIX.arrays())


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (lambda: keys(1)[0], ValueError, "one per row"),
        (lambda: keys(3), ValueError, "one per row"),
        (lambda: jnp.zeros((2, 8), jnp.uint32), TypeError, "uint32: give typed ChaCha20 keys"),
        (lambda: jax.random.split(jax.random.key(0), 2), TypeError, "threefry2x32: give typed"),
        (lambda: jax.random.split(jax.random.key(0, impl="rbg"), 2), TypeError, "rbg: give typed"),
    ],
)
def test_wrong_keys_are_refused(key, error, message):
    with pytest.raises(error, match=message):
        release(rows(2), key=key(), lattice=SIX.arrays())


def test_too_many_dimensions_are_refused():
    with pytest.raises(ValueError, match="512 coordinates at most"):
        release(np.ones((2, 513), np.float32), key=keys(2), lattice=SIX.arrays())
    assert release(np.ones((2, 3), np.float32), key=keys(2), lattice=SIX.arrays()).shape == (2, 3)


# Decoding


def test_decoded_codes_are_unit_vectors_of_the_same_direction():
    codes = np.random.default_rng(0).integers(-(2**29) + 1, 2**29, (8, D)).astype(np.int32)
    codes[1] = 2**29 - 1
    codes[2] = 0
    codes[3, 1:] = 0
    y = np.asarray(decode(codes))
    assert y.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(y[0], unit(codes[0]), atol=1e-6)
    np.testing.assert_allclose(y[2], 1 / SQRT, rtol=1e-6)
    assert abs(y[3, 0]) == 1


@pytest.mark.parametrize(("epsilon", "cosine"), [(100, 0.07), (800, 0.48), (6400, 0.976)])
def test_released_identities_have_the_cosine_of_their_scale(epsilon, cosine):
    lattice = design(2 * SQRT / epsilon, SQRT)
    r = rows(400)
    y = np.asarray(decode(jitted(r, keys(400), lattice.arrays())))
    measured = (unit(r) * y).sum(1).mean()
    expected = 1 / math.hypot(1, math.sqrt(2 * D) * 2 * SQRT / epsilon)
    assert measured == pytest.approx(expected, abs=0.01)
    assert measured == pytest.approx(cosine, abs=0.02)


def test_words_per_code():
    assert discrete_laplace.words_per_code(SIX.arrays()) == 17
