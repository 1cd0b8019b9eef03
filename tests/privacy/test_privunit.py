import collections
import functools
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
import scipy.linalg
from hypothesis import strategies as st
from tiny import keys

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import privunit
from identitydp_jax.privacy.accounting import PureLoss
from identitydp_jax.privacy.discrete_laplace import decode, quantize
from identitydp_jax.privacy.privunit import (
    PrivUnit,
    design,
    exact_epsilon,
    expected_cosine,
    release,
)

D = 512
EPSILONS = [0.01, 0.57, 1, 6, 19.3, 100, 1000, 10_000]
SIX = design(6.0)
TWO_ROUNDS = design(20.0)
jitted = jax.jit(lambda rows, keys, arrays: release(rows, key=keys, arrays=arrays))


def _with(setting):
    """Return `release(rows, keys)` with a setting, as it is and jitted."""
    arrays = setting.arrays()
    return (
        lambda rows, keys: release(rows, key=keys, arrays=arrays),
        lambda rows, keys: jitted(rows, keys, arrays),
    )


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


# The guarantee


def tops(scores, m):
    """The m top directions, by brute force: (i, 1 for the negative)."""
    order = sorted(range(len(scores)), key=lambda i: (-abs(scores[i]), i))
    return {(i, int(scores[i] < 0)) for i in order[:m]}


@functools.cache
def enumerated(scores, m, threshold):
    """Exact probabilities of the choice: it is run on every outcome of every word."""
    arrays = PrivUnit(1, m, threshold).arrays()
    edges = [(0, threshold), (threshold, 2**64)]
    sides = [
        (value, Fraction(b - a, 2**65))
        for a, b in edges
        for value in (a, b - 1)  # the ends of each interval, half of its measure each
    ]
    last = [(value, Fraction(1, 2 * len(scores))) for value in range(2 * len(scores))]
    cases = list(itertools.product(sides, last))
    words = np.array([(u >> 32, u & (2**32 - 1), v) for (u, _), (v, _) in cases], np.uint32)
    choose = jax.vmap(privunit._choose, (None, 0, None))
    index, negative = choose(jnp.asarray(scores, jnp.int32), words, arrays)
    found = collections.Counter()
    pairs = zip(index.tolist(), negative.tolist(), strict=True)
    for pair, ((_, p), (_, q)) in zip(pairs, cases, strict=True):
        found[pair] += p * q
    return dict(found)


SCORES = [
    (5, -7, 7, 0, -7, 2, 0, 1),  # ties
    (0, 0, 0, 0, 0, 0, 0, 0),
    (2**31 - 1, -(2**31) + 1, 3, -4, 2**30, 8, 8, -8),
    (-1, 2, -3, 4, -5, 6, -7, 8),
]
THRESHOLDS = [2**63 + 5, 3 * 2**32, 2**64 - 1, 2**32 - 7, 1]


@pytest.mark.parametrize("m", [1, 2, 4, 8])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_each_choice_has_exactly_the_stated_probability(m, threshold):
    p, count = Fraction(threshold, 2**64), 2 * len(SCORES[0])
    for scores in SCORES:
        found = enumerated(scores, m, threshold)
        top = tops(scores, m)
        assert len(top) == m and sum(found.values()) == 1
        assert found == {
            (i, sign): (1 - p) / count + (p / m if (i, sign) in top else 0)
            for i in range(len(scores))
            for sign in (0, 1)
        }


@pytest.mark.parametrize("m", [1, 2, 4])
def test_the_exact_epsilon_is_reached_and_not_passed(m, monkeypatch):
    monkeypatch.setattr(privunit, "_PAIRS", len(SCORES[0]))
    for threshold in THRESHOLDS:
        epsilon = exact_epsilon(PrivUnit(1, m, threshold))
        laws = [enumerated(scores, m, threshold) for scores in SCORES]
        assert all(law.keys() == laws[0].keys() for law in laws)  # equal supports
        worst = max(one[k] / other[k] for one in laws for other in laws for k in one)
        assert float(worst) == pytest.approx(math.exp(epsilon), rel=1e-12)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_the_exact_epsilon_is_the_nominal_one(epsilon):
    made = design(epsilon)
    assert epsilon - 1e-6 < exact_epsilon(made) <= epsilon
    p = made.threshold / 2**64
    if p < 0.999:
        odds = p / (1 - p) * 2**14 / made.top
        assert exact_epsilon(made) == pytest.approx(made.rounds * math.log1p(odds), rel=1e-9)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.floats(math.log(0.01), math.log(10_000)))
def test_no_epsilon_is_passed(exponent):
    epsilon = min(max(math.exp(exponent), 0.01), 10_000.0)
    assert epsilon - 1e-6 < exact_epsilon(design(epsilon)) <= epsilon


def test_a_larger_threshold_passes_the_epsilon():
    more = PrivUnit(SIX.rounds, SIX.top, SIX.threshold + 2**12)
    assert exact_epsilon(more) > 6.0 >= exact_epsilon(SIX)
    assert exact_epsilon(PrivUnit(7, 256, 0)) == pytest.approx(0, abs=1e-50)


def test_the_accounting_takes_rounds_for_coordinates():
    made = design(100.0)
    loss = PureLoss(exact_epsilon(made), coordinates=made.rounds)
    assert loss.rho == pytest.approx(100 * math.tanh(50 / made.rounds))


# The whole release, against another implementation


def reference(row, key, made):
    """The release in numpy, with every direction written out and a stable sort."""
    residual = np.asarray(quantize(row, lattice=privunit._LATTICE.arrays())).astype(np.int64)
    children = jax.random.split(key)
    matrix, code = scipy.linalg.hadamard(D).astype(np.int64), np.zeros(D, np.int64)
    for j, weight in enumerate(made.weights):
        words = [
            np.asarray(jax.random.bits(jax.random.fold_in(child, j), (count,), jnp.uint32))
            for child, count in zip(children, (256, 3), strict=True)
        ]
        bits = np.unpackbits(words[0].astype("<u4").view(np.uint8), bitorder="little")
        flips = 1 - 2 * bits.astype(np.int64).reshape(16, 1, D)
        directions = (matrix[None] * flips).reshape(-1, D)
        scores = directions @ residual
        high, low, last = (int(word) for word in words[1])
        if (high << 32) + low < made.threshold:
            index = np.argsort(-abs(scores), kind="stable")[last % made.top]
            sign = -1 if scores[index] < 0 else 1
        else:
            index, sign = (last >> 1) % len(scores), 1 - 2 * (last & 1)
        code += weight * sign * directions[index]
        residual -= weight * sign * directions[index]
    return code


SPECIAL = np.stack([np.zeros(D), np.ones(D), np.eye(D)[3], -np.eye(D)[9], np.full(D, np.nan)])


@pytest.mark.parametrize("epsilon", [0.5, 20.0, 60.0])
def test_a_release_is_that_of_the_definition(epsilon):
    made = design(epsilon)
    r = np.concatenate([rows(5), SPECIAL.astype(np.float32)])
    codes = np.asarray(jitted(r, keys(len(r)), made.arrays()))
    for row, key, code in zip(r, keys(len(r)), codes, strict=True):
        np.testing.assert_array_equal(reference(row, key, made), code)


def test_the_transform_is_that_of_hadamard():
    x = np.random.default_rng(0).integers(-(2**21), 2**21, (3, D)).astype(np.int32)
    expected = x.astype(np.int64) @ scipy.linalg.hadamard(D)
    np.testing.assert_array_equal(privunit._hadamard(x), expected)


# Use


@pytest.mark.parametrize(("epsilon", "count"), [(6, 2000), (60, 300), (600, 24)])
def test_released_identities_have_the_expected_cosine(epsilon, count):
    made = design(float(epsilon))
    r = rows(count, seed=1)
    y = np.asarray(decode(jitted(r, keys(count, 3), made.arrays())))
    cosines = (r / np.linalg.norm(r, axis=1, keepdims=True) * y).sum(1)
    error = cosines.std() / math.sqrt(count)
    assert abs(cosines.mean() - expected_cosine(made)) < 0.001 + 3 * error < 0.009
    if epsilon == 6:  # 23 times that of Laplace noise; a tenth less would be noticed
        assert expected_cosine(made) == pytest.approx(0.0957, abs=2e-4)
        assert 3 * error < 0.05 * cosines.mean()


def test_more_epsilon_gives_more_cosine():
    cosines = [expected_cosine(design(e)) for e in EPSILONS]
    assert cosines == sorted(cosines) and cosines[0] < 0.001 and cosines[-1] > 0.999


def test_one_program_serves_every_epsilon():
    traced = []

    @jax.jit
    def count(r, k, arrays):
        traced.append(1)
        return release(r, key=k, arrays=arrays)

    found = {int(np.abs(count(rows(2), keys(2), design(e).arrays())).sum()) for e in (1, 6, 60)}
    assert len(traced) == 1 and len(found) == 3


ANY_FLOAT = st.floats(width=32) | st.sampled_from([np.inf, -np.inf, np.nan, 0.0, 3e38, 1e-45])


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    row=hypothesis.extra.numpy.arrays(np.float32, 8, elements=ANY_FLOAT), repeated=st.booleans()
)
def test_any_input_gives_codes_of_the_same_kind(row, repeated):
    r = np.tile(row, D // 8) if repeated else np.pad(row, (0, D - 8))
    codes = np.asarray(jitted(r[None], keys(1), TWO_ROUNDS.arrays()))
    one, other = TWO_ROUNDS.weights
    assert codes.dtype == np.int32
    assert set(np.unique(np.abs(codes))) <= {one + other, abs(one - other)}


def test_the_residual_of_the_longest_row_and_rounds_fits_32_bits():
    made = design(10_000.0)
    longest = np.ones(D, np.float32)  # the largest L1 norm
    code = np.asarray(jitted(longest[None], keys(1), made.arrays()))[0]
    q = np.asarray(quantize(longest, lattice=privunit._LATTICE.arrays())).astype(np.int64)
    assert np.abs(q).sum() > 0.999 * 2**20 * math.sqrt(D)
    assert np.linalg.norm(q - code) < 0.1 * np.linalg.norm(q)


# The same integers everywhere


def test_a_row_depends_on_its_own_key_and_input_alone():
    released.assert_rows_stand_alone(*_with(TWO_ROUNDS), rows(16))


def test_vmap_map_and_eight_devices_change_nothing():
    released.assert_same_however_it_is_mapped(*_with(TWO_ROUNDS), rows(16))


def test_a_known_key_gives_known_codes():
    """The same on every machine and with every version: receipts are replayed from it."""
    r = np.arange(-256, 256, dtype=np.float32)[None]
    codes = np.asarray(release(r, key=keys(1, seed=7), arrays=TWO_ROUNDS.arrays()))[0]
    assert codes[:8].tolist() == GOLDEN
    assert int((codes.astype(np.int64) * np.arange(D)).sum()) == GOLDEN_SUM


GOLDEN = [69, 13185, 69, -13185, -69, 13185, -13185, -69]
GOLDEN_SUM = 162343212


def test_no_floating_point_number_lies_between_the_embedding_and_the_codes():
    released.assert_integers_of_32_bits_at_most(_with(SIX)[0], rows(2))


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
        release(rows(2), key=key(), arrays=SIX.arrays())


def test_a_key_used_twice_is_noticed():
    key = keys(1)
    release(rows(1), key=key, arrays=SIX.arrays())
    with pytest.raises(jax.errors.KeyReuseError):
        release(rows(1), key=key, arrays=SIX.arrays())


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="512 coordinates"):
        release(np.ones((2, 511), np.float32), key=keys(2), arrays=SIX.arrays())


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 0.009, 10_001.0, math.inf, math.nan])
def test_an_epsilon_out_of_range_is_refused(epsilon):
    with pytest.raises(UserError, match="epsilon"):
        design(epsilon)


@pytest.mark.parametrize(
    ("rounds", "top", "threshold"),
    [(0, 1, 1), (513, 1, 2**63), (1, 3, 1), (1, 2**14, 1), (1, 1, 2**64), (1, 1, -1), (1, 0, 1)],
)
def test_a_design_that_the_sampler_cannot_hold_is_refused(rounds, top, threshold):
    with pytest.raises(UserError, match="32-bit"):
        PrivUnit(rounds, top, threshold)
