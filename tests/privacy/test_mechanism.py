import dataclasses
import math

import hypothesis
import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import PrivacySetting, calibration, laplace, mechanism, perturb

D = 512
LAPLACE = PrivacySetting("laplace", 400.0, "paper")
RANDOM = PrivacySetting("random")


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def unit_rows(n, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def first_axis(n):
    return np.tile(np.eye(1, D, dtype=np.float32), (n, 1))


def noise_of(scale, n=200):
    """Laplace noise read back from the public output: with r = e_0 and a small b,
    y_i / y_0 = b L_i / (1 + b L_0), which is b L_i to a part in a thousand."""
    y = np.asarray(laplace(first_axis(n), key=keys(n), scale=scale), np.float64)
    return (y[:, 1:] / y[:, :1]).ravel()


@pytest.mark.parametrize(("factor", "accepted"), [(1.0, True), (0.9, False), (1.1, False)])
def test_noise_has_the_laplace_distribution_of_the_given_scale(factor, accepted):
    p = scipy.stats.kstest(noise_of(1e-3), scipy.stats.laplace(scale=1e-3 * factor).cdf).pvalue
    assert p > 1e-3 if accepted else p < 1e-6


def test_noise_is_not_gaussian_of_the_same_variance():
    normal = scipy.stats.norm(scale=1e-3 * math.sqrt(2))
    assert scipy.stats.kstest(noise_of(1e-3), normal.cdf).pvalue < 1e-6


def test_coordinates_are_uncorrelated_with_each_other_and_the_input():
    y = np.asarray(laplace(first_axis(2000), key=keys(2000), scale=1e6), np.float64)
    correlation = np.corrcoef(y[:, :64], rowvar=False) - np.eye(64)
    assert abs(correlation).max() < 5.5 / math.sqrt(2000)
    assert abs(y.mean(0)).max() < 5.5 / math.sqrt(2000 * D)


@pytest.mark.parametrize(("factor", "accepted"), [(1.0, True), (0.9, False), (1.1, False)])
@pytest.mark.parametrize("name", calibration.CALIBRATIONS)
def test_perturb_matches_an_independent_reference(name, factor, accepted):
    n, setting = 1500, PrivacySetting("laplace", 800.0, name)
    measured = np.asarray(
        perturb(first_axis(n), key=keys(n), mechanism=setting.mechanism, scale=setting.scale)
    )[:, 0]
    noise = np.random.default_rng(1).laplace(size=(n, D)) * factor * setting.scale
    reference = first_axis(n) + noise
    reference = reference[:, 0] / np.linalg.norm(reference, axis=1)
    p = scipy.stats.ks_2samp(measured, reference).pvalue
    assert p > 1e-3 if accepted else p < 1e-6


@pytest.mark.parametrize(
    ("epsilon", "cosine"),
    [(6, 0.006), (100, 0.10), (400, 0.39), (800, 0.64), (1600, 0.86), (6400, 0.99)],
)
def test_cosine_at_sensitivity_30(epsilon, cosine):
    r = unit_rows(1000)
    y = np.asarray(laplace(r, key=keys(1000), scale=30 / epsilon))
    measured = (r * y).sum(1).mean()
    assert measured == pytest.approx(cosine, abs=0.008)
    assert mechanism.expected_cosine(30 / epsilon) == pytest.approx(cosine, abs=0.006)
    assert mechanism.expected_cosine(30 / epsilon) == pytest.approx(measured, abs=0.005)


def test_expected_cosine_at_its_ends():
    assert RANDOM.expected_cosine == 0.0
    assert mechanism.expected_cosine(0.0) == 1.0


def test_random_identity_is_uniform_and_never_saw_the_input():
    seen = perturb(unit_rows(500), key=keys(500), mechanism=RANDOM.mechanism, scale=RANDOM.scale)
    other = perturb(
        np.full((500, D), np.nan), key=keys(500), mechanism=RANDOM.mechanism, scale=RANDOM.scale
    )
    np.testing.assert_array_equal(seen, other)
    # A coordinate of a uniform direction: (1 + y_0) / 2 is Beta((d-1)/2, (d-1)/2).
    beta = scipy.stats.beta((D - 1) / 2, (D - 1) / 2)
    assert scipy.stats.kstest((1 + np.asarray(seen)[:, 0]) / 2, beta.cdf).pvalue > 1e-3


@pytest.mark.parametrize("setting", [LAPLACE, RANDOM], ids=["laplace", "random"])
def test_a_row_depends_on_its_own_key_and_input_alone(setting):
    r, k = unit_rows(24), keys(24)
    whole = np.asarray(perturb(r, key=keys(24), mechanism=setting.mechanism, scale=setting.scale))

    alone = np.stack(
        [
            perturb(r[i], key=k[i], mechanism=setting.mechanism, scale=setting.scale)
            for i in range(24)
        ]
    )
    np.testing.assert_allclose(alone, whole, atol=3e-8)
    order = np.random.default_rng(2).permutation(24)
    shuffled = perturb(
        r[order], key=keys(24)[order], mechanism=setting.mechanism, scale=setting.scale
    )
    np.testing.assert_allclose(shuffled, whole[order], atol=3e-8)
    head = perturb(r[:5], key=keys(24)[:5], mechanism=setting.mechanism, scale=setting.scale)
    np.testing.assert_allclose(head, whole[:5], atol=3e-8)
    stacked = perturb(
        r.reshape(2, 3, 4, D),
        key=keys(24).reshape(2, 3, 4),
        mechanism=setting.mechanism,
        scale=setting.scale,
    )
    np.testing.assert_allclose(np.reshape(stacked, (24, D)), whole, atol=3e-8)


@pytest.mark.parametrize("setting", [LAPLACE, RANDOM], ids=["laplace", "random"])
def test_jit_vmap_and_eight_devices_change_nothing(setting):
    def one(row, key):
        return perturb(row, key=key, mechanism=setting.mechanism, scale=setting.scale)

    r, jitted = unit_rows(24), jax.jit(one)
    eager = np.asarray(one(r, keys(24)))
    np.testing.assert_allclose(jitted(r, keys(24)), eager, atol=1e-7)
    np.testing.assert_allclose(jax.vmap(one)(r, keys(24)), eager, atol=1e-7)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("batch"))
    sharded = jitted(jax.device_put(r, rows), jax.device_put(keys(24), rows))
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(sharded, eager, atol=1e-7)


def test_another_key_gives_other_noise():
    r = first_axis(2)
    y = np.asarray(laplace(r, key=keys(2), scale=1.0))
    assert abs(y[0] @ y[1]) < 0.3
    np.testing.assert_array_equal(y, laplace(r, key=keys(2), scale=1.0))


def test_only_the_direction_of_the_input_counts():
    r = unit_rows(8)
    y = laplace(r, key=keys(8), scale=0.05)
    for factor in (1e-30, 7.0, 1e30):
        scaled = laplace(r * np.float32(factor), key=keys(8), scale=0.05)
        np.testing.assert_allclose(scaled, y, atol=1e-6)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    row=hypothesis.extra.numpy.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.sampled_from([2, 8]),
        elements=st.floats(width=16) | st.sampled_from([np.inf, -np.inf, np.nan, 0.0, 6e4]),
    ),
    magnitude=st.sampled_from([0.0, 1e-45, 1e-30, 1.0, 1e30, 3e38]),
    scale=st.floats(width=32),
)
def test_any_input_gives_a_finite_unit_vector(row, magnitude, scale):
    with np.errstate(all="ignore"):
        row = row * row.dtype.type(magnitude)
    y = np.asarray(laplace(row, key=jax.random.key(3), scale=scale))
    assert y.dtype == np.float32 and np.isfinite(y).all()
    assert np.linalg.norm(y) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, 1e-42])
def test_an_input_without_direction_gives_its_noise_alone(bad):
    whole_row = np.full(D, bad, np.float32)
    one_value = np.zeros(D, np.float32)
    one_value[7] = bad
    noise = laplace(first_axis(1)[0], key=jax.random.key(4), scale=np.inf)
    for row in (whole_row, one_value):
        np.testing.assert_array_equal(laplace(row, key=jax.random.key(4), scale=0.01), noise)


def test_one_bad_row_leaves_the_others_alone():
    r = unit_rows(4)
    good = np.asarray(laplace(r, key=keys(4), scale=0.05))
    r[1, 3] = np.nan
    y = np.asarray(laplace(r, key=keys(4), scale=0.05))
    np.testing.assert_array_equal(np.delete(y, 1, 0), np.delete(good, 1, 0))


@pytest.mark.parametrize("wrong", [np.nan, -1.0, -np.inf])
def test_a_scale_that_is_none_hides_everything(wrong):
    r, k = first_axis(1)[0], jax.random.key(5)
    np.testing.assert_array_equal(
        laplace(r, key=k, scale=wrong), laplace(-r, key=jax.random.clone(k), scale=np.inf)
    )


def test_scale_zero_adds_nothing_and_scales_may_differ_by_row():
    r = unit_rows(3)
    y = np.asarray(laplace(r, key=keys(3), scale=np.array([0.0, 0.05, np.inf])))
    np.testing.assert_allclose(y[0], r[0], atol=1e-7)
    np.testing.assert_allclose(y[1], laplace(r[1], key=keys(3)[1], scale=0.05), atol=1e-7)
    assert abs(y[2] @ r[2]) < 0.2


@pytest.mark.parametrize("row", [np.zeros(D), np.full(D, np.nan), np.eye(1, D)[0]])
def test_gradients_are_finite(row):
    def first(x):
        return laplace(x, key=jax.random.key(6), scale=0.05)[0]

    assert np.isfinite(jax.grad(first)(jnp.asarray(row, jnp.float32))).all()


def test_half_precision_and_tiny_budgets_work():
    r = jnp.asarray(unit_rows(2), jnp.bfloat16)
    for epsilon in (1e-27, 1e27):
        y = perturb(
            r, key=keys(2), mechanism="laplace", scale=PrivacySetting("laplace", epsilon).scale
        )
        assert y.dtype == jnp.float32 and np.isfinite(y).all()


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (lambda: jax.random.key(0), ValueError, "one per row"),
        (lambda: keys(3), ValueError, "one per row"),
        (lambda: jnp.zeros((2, 2), jnp.uint32), TypeError, "typed keys"),
        (lambda: jax.random.split(jax.random.key(0, impl="rbg"), 2), TypeError, "threefry2x32"),
    ],
)
@pytest.mark.parametrize("setting", [LAPLACE, RANDOM], ids=["laplace", "random"])
def test_wrong_keys_are_refused(key, error, message, setting):
    with pytest.raises(error, match=message):
        perturb(unit_rows(2), key=key(), mechanism=setting.mechanism, scale=setting.scale)


def test_wrong_dimensions_are_refused():
    with pytest.raises(ValueError, match="512 dimensions"):
        perturb(
            np.ones((2, 128), np.float32),
            key=keys(2),
            mechanism=LAPLACE.mechanism,
            scale=LAPLACE.scale,
        )


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf, -math.inf, 1e-40, 1e40])
def test_epsilon_must_be_finite_and_positive(epsilon):
    with pytest.raises(UserError, match="epsilon is"):
        PrivacySetting("laplace", epsilon)


@pytest.mark.parametrize(
    "arguments", [{"mechanism": "gauss"}, {"mechanism": "Laplace"}, {"calibration": "certified"}]
)
def test_unknown_names_are_refused(arguments):
    with pytest.raises(UserError, match="choose one of"):
        PrivacySetting(**arguments)


def test_epsilons_of_both_definitions():
    certified = PrivacySetting("laplace", 6.0, "certified-l2")
    assert certified.sensitivity == 2 * math.sqrt(512)
    assert certified.scale == pytest.approx(45.2548 / 6, rel=1e-5)
    assert certified.certified_epsilon == pytest.approx(6)
    assert certified.paper_epsilon < 6
    paper = PrivacySetting("laplace", 6.0, "paper")
    assert paper.paper_epsilon == pytest.approx(6)
    assert paper.certified_epsilon == pytest.approx(6 * 45.2548 / paper.sensitivity, rel=1e-5)
    for epsilon in (RANDOM.epsilon, RANDOM.certified_epsilon, RANDOM.paper_epsilon):
        assert epsilon == 0.0


def test_settings_are_frozen_hashable_and_equal_by_value():
    assert PrivacySetting("laplace", 6) == PrivacySetting("laplace", np.float64(6.0))
    assert len({PrivacySetting("laplace", 6), PrivacySetting("laplace", 6.0)}) == 1
    assert PrivacySetting("random", 3) == PrivacySetting("random", 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        LAPLACE.epsilon = 1.0


def test_policy_tells_apart_all_that_matters_and_nothing_else():
    settings = [PrivacySetting("laplace", e, c) for e in (6, 7) for c in calibration.CALIBRATIONS]
    texts = {s.policy(m) for s in [*settings, RANDOM] for m in ("a" * 64, "b" * 64)}
    assert len(texts) == 10
    other = PrivacySetting("random", 3, "paper")
    assert RANDOM.policy("a") == other.policy("a")
