"""The checks pass on the real mechanism and fail on wrong ones; see also test_mutations."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
from scipy import stats

from identitydp_jax.privacy import (
    audit,
    audit_examples,
    audit_laplace,
    audit_suite,
    chacha,
    discrete_gaussian,
    discrete_laplace,
)
from identitydp_jax.privacy import audit_statistics as statistics
from identitydp_jax.privacy.lattice import design, exact_epsilon
from identitydp_jax.privacy.setting import PrivacySetting

WHOLE, NINETEEN = design(2 / 6, 1.0), design(2 * 19 / 6, 19.0)
SEED = 3

jitted = jax.jit(
    lambda rows, keys, arrays: discrete_laplace.release(rows, key=keys, lattice=arrays)
)


def of(lattice):
    return functools.partial(_call, lattice.arrays())


def _call(arrays, rows, keys):
    return jitted(rows, keys, arrays)


def bound(release, lattice, draws=2**15):
    pair = audit_laplace.opposites(lattice)
    return audit.check_lower_bound(release, pair, "x", error=0.01, seed=SEED, draws=draws), pair


def test_the_real_mechanism_passes():
    release = of(NINETEEN)
    checks = [audit_laplace.check_distribution, audit_laplace.check_support]
    for check in [*checks, audit_laplace.check_guard]:
        finding = check(release, NINETEEN, "epsilon 6", seed=SEED)
        assert finding.passed and finding.subject == "epsilon 6", finding
    for check in (audit.check_independence, audit.check_keys):
        assert check(release, "epsilon 6", seed=SEED).passed
    assert audit.check_determinism(release, "epsilon 6", seed=SEED, width=8).passed


def test_the_lower_bound_comes_near_the_whole_epsilon():
    finding, pair = bound(of(WHOLE), WHOLE, draws=2**16)
    assert pair.claim == exact_epsilon(WHOLE)
    assert 0.92 * 6 < finding.value <= 6 and finding.passed


@pytest.mark.parametrize("epsilon", [1.0, 100.0, 10_000.0])
def test_pairs_are_what_draws_can_show(epsilon):
    lattice = design(2 * 19 / epsilon, 19.0)
    pair = audit_laplace.opposites(lattice)
    q = np.asarray(
        discrete_laplace.quantize(np.stack([pair.one, pair.other]), lattice=lattice.arrays())
    )
    real = np.abs(q[0] - q[1]).sum() * epsilon / lattice.sensitivity
    assert 0.95 * pair.claim < real <= pair.claim * (1 + 1e-12) < 6.1


def test_a_bound_above_the_claim_fails():
    narrow = design(2 * 19 / 8.5, 19.0)  # the scale of epsilon 6 over sqrt(2)
    finding, pair = bound(of(narrow), NINETEEN)
    assert not finding.passed and finding.value > pair.claim


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_another_scale_has_another_distribution(factor):
    def stretched(rows, keys):
        q = np.asarray(discrete_laplace.quantize(rows, lattice=NINETEEN.arrays()))
        return q + np.rint((np.asarray(of(NINETEEN)(rows, keys)) - q) * factor).astype(np.int32)

    assert not audit_laplace.check_distribution(stretched, NINETEEN, "x", seed=SEED).passed


def test_a_distribution_check_without_power_fails():
    law = dataclasses.replace(audit_laplace.law(NINETEEN), sizes=(2,))
    finding = audit.check_distribution(of(NINETEEN), law, "x", seed=SEED, rows=8)
    assert finding.value > audit.FALSE_ALARM and not finding.passed


def test_the_survival_function_sums_the_pmf():
    from test_lattice import ideal

    from identitydp_jax.privacy.lattice import pmf

    lattice = ideal(1.5, (4, 2, 3), replaced=1)
    uniform = 2 * pmf(lattice, lattice.largest_code)
    noise = {k: pmf(lattice, k) - uniform / 2 for k in range(1, lattice.reach + 1)}
    for size in range(1, lattice.reach + 2):
        exact = sum(p for k, p in noise.items() if k >= size)
        assert float(audit_laplace.law(lattice).survival(size)) == pytest.approx(float(exact))


@pytest.mark.parametrize("wrong", ["low bits", "dtype", "bounds", "few in the tail"])
def test_support_sees_what_samplers_do_wrong(wrong):
    def mutant(rows, keys):
        codes = np.array(of(NINETEEN)(rows, keys))
        if wrong == "low bits":
            codes &= ~1
        elif wrong == "bounds":
            codes[0, 0] = NINETEEN.largest_code + 1
        elif wrong == "few in the tail":
            q = np.asarray(discrete_laplace.quantize(rows, lattice=NINETEEN.arrays()))
            noise = codes - q
            tail = np.abs(noise) > 5 * NINETEEN.sensitivity / 6
            noise[tail] = np.resize(noise[tail][:200], tail.sum())
            codes = q + noise
        return codes.astype(np.float32) if wrong == "dtype" else codes

    finding = audit_laplace.check_support(mutant, NINETEEN, "x", seed=SEED)
    assert not finding.passed, finding


def test_support_sees_rounded_floats_that_the_distribution_does_not():
    def mutant(rows, keys):
        q = np.asarray(discrete_laplace.quantize(rows, lattice=NINETEEN.arrays()))
        threefry = jax.random.wrap_key_data(jax.random.key_data(keys)[:, :2], impl="threefry2x32")
        zeros = np.zeros(rows.shape, np.float32)
        noise = audit_examples.release_floats(zeros, threefry, NINETEEN.sensitivity / 6)
        return q + np.rint(noise).astype(np.int32)

    assert not audit_laplace.check_support(mutant, NINETEEN, "x", seed=SEED).passed
    assert audit_laplace.check_distribution(mutant, NINETEEN, "x", seed=SEED).passed


def test_support_asks_the_exact_probabilities():
    never = dataclasses.replace(NINETEEN, replaced=0)
    finding = audit_laplace.check_support(of(never), never, "x", seed=SEED)
    assert not finding.passed and "there is no epsilon" in finding.figures
    assert finding.figures[0] != "0"
    never = dataclasses.replace(NINETEEN, zero=0)
    assert not audit_laplace.check_support(of(never), never, "x", seed=SEED).passed


def test_a_missing_clip_passes_the_guard():
    unclipped = dataclasses.replace(NINETEEN, guard=2 * NINETEEN.guard)
    finding = audit_laplace.check_guard(of(unclipped), NINETEEN, "x", seed=SEED)
    assert not finding.passed and finding.value > NINETEEN.guard


@pytest.mark.parametrize("shared", ["keys", "coordinates", "sizes"])
def test_shared_noise_is_dependent(shared):
    def mutant(rows, keys):
        codes = np.array(of(NINETEEN)(rows, keys))
        if shared == "keys":
            codes[2] = codes[1]
        elif shared == "coordinates":
            codes[:, 100] = codes[:, 7]
        else:
            codes[:, 100] = np.abs(codes[:, 7]) * np.sign(codes[:, 100])
        return codes

    assert not audit.check_independence(mutant, "x", seed=SEED, rows=1024).passed
    if shared == "keys":
        assert not audit.check_keys(mutant, "x", seed=SEED).passed


def test_codes_that_depend_on_the_batch_or_on_no_key_are_seen():
    def by_batch(rows, keys):
        return np.asarray(of(NINETEEN)(rows, keys)) + len(rows)

    def without_key(rows, keys):
        return np.ones(rows.shape, np.int32)

    for mutant, said in ((by_batch, "batch of 1; batch of 3"), (without_key, "another key")):
        finding = audit.check_determinism(mutant, "x", seed=SEED, width=8)
        assert not finding.passed and said in finding.figures


def test_an_exact_epsilon_may_be_less_by_1e6th_and_not_more():
    for exact, passed in ((6.0, True), (6 - 9e-7, True), (6 - 2e-6, False), (6 + 1e-12, False)):
        assert audit.check_exact("x", nominal=6.0, exact=exact).passed == passed


def test_random_identities_use_no_input():
    release = audit_suite.releasing(PrivacySetting("random"))
    assert audit.check_input_unused(release, "random", seed=SEED).passed
    assert not audit.check_input_unused(of(NINETEEN), "random", seed=SEED).passed


def test_rho_is_bounded_from_below():
    setting = PrivacySetting("gaussian", 6.0)
    pair = audit_suite._gaussian_opposites(setting.noise)
    assert pair.claim == pytest.approx(discrete_gaussian.exact_rho(setting.noise), rel=1e-6)
    release = audit_suite.releasing(setting)
    finding = audit.check_lower_bound(release, pair, "x", error=0.01, seed=SEED, draws=2**15)
    assert finding.passed and 0.55 * pair.claim < finding.value
    less = dataclasses.replace(pair, claim=pair.claim / 2)
    assert not audit.check_lower_bound(
        release, less, "x", error=0.01, seed=SEED, draws=2**15
    ).passed


def test_float_outputs_are_all_enumerated():
    every = audit_examples.every_output(0.03, 7.5)
    keys = jax.random.split(jax.random.key(0), 1000)
    rows = np.full((1000, 8), 0.03, np.float32)
    assert audit_examples.possible(audit_examples.release_floats(rows, keys, 7.5), every).all()
    keys = jax.random.split(jax.random.key(1), 1000)
    other = audit_examples.possible(audit_examples.release_floats(-rows, keys, 7.5), every)
    assert 0.05 < other.mean() < 0.15


def test_keys_are_chacha20_and_bound_to_seed_and_label():
    def data(seed, label):
        return np.asarray(jax.random.key_data(audit.derive_keys(seed, label, 2)))

    assert jax.random.key_impl(audit.derive_keys(0, "a", 1)) == chacha.CHACHA20
    assert np.array_equal(data(0, "a"), data(0, "a"))
    assert not np.array_equal(data(0, "a"), data(0, "b"))
    assert not np.array_equal(data(0, "a"), data(1, "a"))


# Statistics


def test_clopper_pearson():
    for count in (0, 1, 37, 99, 100):
        low, high = statistics.proportion_bounds(count, 100, 0.01)
        exact = stats.binomtest(count, 100).proportion_ci(0.98, "exact")
        assert (low, high) == pytest.approx((exact.low, exact.high))


def test_p_values():
    observed = [18, 22, 31, 29]
    law = np.array([0.2, 0.2, 0.3, 0.3])
    expected = stats.chisquare(observed, law * 100).pvalue
    assert statistics.goodness_of_fit(observed, law) == pytest.approx(expected)
    both = stats.chi2_contingency([observed, [20, 20, 20, 40]], correction=False).pvalue
    assert statistics.homogeneity([*observed, 0], [20, 20, 20, 40, 0]) == pytest.approx(both)
    assert statistics.at_least(3, 1.5) == pytest.approx(stats.poisson.sf(2, 1.5))
    assert statistics.at_least(0, 1.5) == 1


def test_sign_dependence_bounds_the_tail():
    values = np.random.default_rng(0).normal(size=(400, 30))
    assert statistics.sign_dependence(values) > 0.1
    values[:, 3] = values[:, 8] + 0.1 * values[:, 3]
    assert statistics.sign_dependence(values) < 1e-30
    equal = np.ones((10, 2))
    assert statistics.sign_dependence(equal) == pytest.approx(2 * math.exp(-5))
