import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import accounting, lattice
from identitydp_jax.privacy.accounting import Budget, GaussianLoss, PureLoss

ORDERS = np.array([1.001, 1.3, 2.0, 7.0, 40.0, 900.0])
GUARD = 22.627  # times the resolution: sqrt(512)


def embedding_loss(epsilon, resolution=2.0**14):
    """Certified-l2, where t = 2 guard / epsilon."""
    return accounting.laplace(epsilon, l1=2 * GUARD * resolution, l2=2 * resolution)


losses = st.one_of(
    st.floats(0, 50).map(PureLoss),
    st.tuples(st.floats(0, 50), st.floats(1, 512), st.floats(1, 1e6)).map(lambda t: PureLoss(*t)),
    st.floats(0, 50).map(GaussianLoss),
)
some_losses = st.lists(losses, max_size=5)
deltas = st.floats(1e-12, 0.5)


def brute_force(scale, steps):
    """(alpha - 1) D_alpha of discrete Laplace against itself moved by whole steps."""
    codes = np.arange(-3000, 3001)  # exp(-3000 / scale) is left out
    here, there = (
        math.log(math.tanh(0.5 / scale)) - np.abs(codes - moved) / scale for moved in (0, steps)
    )
    exponents = ORDERS[:, None] * here + (1 - ORDERS[:, None]) * there
    return np.logaddexp.reduce(exponents, axis=1)


@pytest.mark.parametrize(
    ("scale", "steps"), [(1.0, 1), (20.0, 1), (20.0, 7), (4.0, 30), (50.0, 90)]
)
def test_the_divergence_is_that_of_discrete_laplace_noise(scale, steps):
    found = accounting._log_moments(ORDERS, steps / scale, float(steps))
    np.testing.assert_allclose(found, brute_force(scale, steps), rtol=1e-9, atol=1e-12)


def test_one_step_is_randomised_response_and_many_are_continuous_laplace():
    x, alpha = 0.7, ORDERS
    yes = math.exp(x) / (1 + math.exp(x))
    response = np.logaddexp(
        alpha * math.log(yes) + (1 - alpha) * math.log(1 - yes),
        alpha * math.log(1 - yes) + (1 - alpha) * math.log(yes),
    )
    np.testing.assert_allclose(accounting._log_moments(alpha, x, 1.0), response, rtol=1e-10)
    laplace = np.logaddexp(
        np.log(alpha / (2 * alpha - 1)) + (alpha - 1) * x,
        np.log((alpha - 1) / (2 * alpha - 1)) - alpha * x,
    )
    found = accounting._log_moments(alpha, x, 1e9)
    np.testing.assert_allclose(found, laplace, rtol=1e-10)
    # The Kullback-Leibler divergence, where alpha tends to 1.
    near = accounting._log_moments(np.array([1 + 1e-6]), x, 1e9) / 1e-6
    np.testing.assert_allclose(near, x + math.exp(-x) - 1, rtol=1e-5)


def sampler_law(made, codes):
    """log P[code | value 0] of the integers that the sampler compares, by floats."""
    rest = np.maximum(np.abs(codes) - 1, 0)
    noise = np.full(len(codes), math.log((2**64 - made.zero - made.replaced) / 2**65))
    for digit in made.digits:
        bounds = [2**64, *digit, 0]
        masses = [high - low for high, low in itertools.pairwise(bounds)]
        rest, value = np.divmod(rest, len(masses))
        noise += np.log(np.array(masses, np.float64) / 2.0**64)[value]
    noise = np.where(rest == 0, noise, -np.inf)
    noise = np.where(codes == 0, math.log(made.zero / 2**64), noise)
    uniform = math.log(made.replaced / 2**64 / (2 * (made.largest_code + 1)))
    return np.logaddexp(noise, uniform + np.where(codes == 0, math.log(2), 0.0))


@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_the_sampler_stays_below_the_loss_that_is_charged_for_it(scale, monkeypatch):
    monkeypatch.setattr(lattice, "_BASES", (16, 16, 8, 2))  # few enough codes to sum over
    monkeypatch.setattr(lattice, "_REACH", 16**3)
    made, reach = lattice.design(scale, math.sqrt(512)), 16**3
    for code in (0, 1, -7, 300, reach, reach + 1):
        exact = lattice.pmf(made, code)
        log = math.log(exact.numerator) - math.log(exact.denominator)
        assert sampler_law(made, np.array([code]))[0] == pytest.approx(log, abs=1e-12)
    orders = ORDERS[ORDERS < 100]  # above, a float's sum over the codes says nothing
    per_step = lattice.exact_epsilon(made) / made.sensitivity
    for steps in (1, 30, 300):
        codes = np.arange(-reach, reach + steps + 1)
        here, there = sampler_law(made, codes), sampler_law(made, codes - steps)
        exact = np.logaddexp.reduce(orders[:, None] * here + (1 - orders[:, None]) * there, axis=1)
        # Of one coordinate at this distance; beyond these codes both are uniform, 2^-60 in all.
        loss = PureLoss(per_step * steps, 1.0, float(steps))
        assert np.all(exact <= loss.log_moments(orders) + 1e-13)
        assert np.all(exact >= loss.log_moments(orders) * (1 - 1e-6) - 1e-9)


@given(
    step=st.floats(1e-5, 3.0),
    power=st.floats(0.0, 8.0),
    slack=st.tuples(st.floats(1.0, 2.0), st.floats(1.0, 2.0)),
    coordinates=st.integers(1, 512),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=300, deadline=None)
def test_no_split_of_the_difference_is_worse_than_an_even_one(
    step, power, slack, coordinates, seed
):
    """Coordinates are moved by whole steps; step is one of them in units of the scale."""
    sizes = np.random.default_rng(seed).exponential(size=coordinates) ** power
    steps = np.ceil(300 * sizes / sizes.max())
    l1, l2 = slack[0] * steps.sum(), slack[1] * np.linalg.norm(steps)
    loss = accounting.laplace(step * l1, l1=l1, l2=l2)
    split = sum(accounting._log_moments(ORDERS, step * s, s) for s in steps)
    assert np.all(split <= loss.log_moments(ORDERS) + 1e-9)
    responses = sum(accounting._log_moments(ORDERS, step * s, 1.0) for s in steps)
    even = PureLoss(step * l1, loss.coordinates)
    assert np.all(responses <= even.log_moments(ORDERS) * (1 + 1e-9) + 1e-9)
    assert sum(s * step * math.tanh(s * step / 2) for s in steps) <= even.rho * (1 + 1e-12)


@pytest.mark.parametrize("step", [1e-4, 0.01, 1.0])
def test_an_even_split_attains_the_bound(step):
    coordinates, steps = 300, 20
    l1, l2 = coordinates * steps, math.sqrt(coordinates) * steps
    loss = accounting.laplace(step * l1, l1=l1, l2=l2)
    assert loss.coordinates == pytest.approx(coordinates)
    assert loss.steps == pytest.approx(steps)
    split = coordinates * accounting._log_moments(ORDERS, step * steps, steps)
    np.testing.assert_allclose(loss.log_moments(ORDERS), split, rtol=1e-6, atol=1e-5)


@given(loss=losses)
def test_rho_bounds_every_order(loss):
    divergences = loss.log_moments(ORDERS) / (ORDERS - 1)
    assert np.all(divergences <= loss.rho * ORDERS + 1e-6)
    if loss.epsilon < math.inf:
        assert np.all(divergences <= loss.epsilon + 1e-6)


@pytest.mark.parametrize("epsilon", [0.01, 0.57, 1.0, 6.0, 100.0])
def test_rho_of_unit_embeddings_is_at_most_two_over_the_scale_squared(epsilon):
    scale = 2 * GUARD / epsilon
    assert 0.98 * 2 / scale**2 < embedding_loss(epsilon).rho <= 2 / scale**2


@given(losses=some_losses, other=losses, delta=deltas)
@settings(deadline=None)
def test_what_is_spent_grows_with_every_release(losses, other, delta):
    for measure in (
        accounting.total_epsilon,
        accounting.total_rho,
        lambda all_: accounting.epsilon_at(delta, all_),
    ):
        assert measure([*losses, other]) >= measure(losses)
        assert measure([other, *losses]) == pytest.approx(measure([*losses, other]), rel=1e-12)
    assert accounting.total_rho([*losses, other]) == pytest.approx(
        accounting.total_rho(losses) + other.rho
    )
    assert accounting.total_epsilon([*losses, other]) == pytest.approx(
        accounting.total_epsilon(losses) + other.epsilon
    )


@given(losses=some_losses, delta=deltas, factor=st.floats(1.1, 100.0))
@settings(deadline=None)
def test_epsilon_at_delta_falls_with_delta_and_stays_below_the_pure_sum(losses, delta, factor):
    epsilon = accounting.epsilon_at(delta, losses)
    assert 0 <= epsilon <= accounting.total_epsilon(losses)
    assert accounting.epsilon_at(delta / factor, losses) >= epsilon
    total = accounting.total_rho(losses)
    simple = total + 2 * math.sqrt(total * math.log(1 / delta))
    assert epsilon <= simple * (1 + 1e-4) + 1e-5


@pytest.mark.parametrize("free", [[], [PureLoss(0.0)], [PureLoss(0.0, 512.0, 9.0)] * 3])
def test_nothing_costs_nothing(free):
    assert accounting.total_epsilon(free) == accounting.total_rho(free) == 0.0
    assert accounting.epsilon_at(1e-6, free) == 0.0


@pytest.mark.parametrize(
    ("releases", "expected", "even_split"), [(1, 1.2101, 1.1245), (100, 16.443, 15.511)]
)
def test_certified_epsilon_six(releases, expected, even_split):
    spent = [embedding_loss(6.0)] * releases
    found = accounting.epsilon_at(1e-6, spent)
    assert found == pytest.approx(expected, rel=1e-4)
    assert even_split < found < 1.08 * even_split
    # The plain conversion of rho, which every treatment of it starts with.
    rho = accounting.total_rho(spent)
    plain = rho + 2 * math.sqrt(rho * math.log(1e6))
    assert plain == pytest.approx({1: 1.4290, 100: 17.4541}[releases], abs=1e-3)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_what_is_no_loss_is_refused(wrong):
    for make in (
        PureLoss,
        GaussianLoss,
        lambda value: PureLoss(1.0, value),
        lambda value: PureLoss(1.0, 2.0, value),
        lambda value: accounting.laplace(1.0, l1=value, l2=1.0),
        lambda value: accounting.laplace(1.0, l1=5.0, l2=value),
    ):
        with pytest.raises(ValueError, match="give"):
            make(wrong)
    with pytest.raises(UserError, match="sigma is"):
        accounting.gaussian(wrong)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, 2.0, math.nan])
def test_another_delta_is_refused(delta):
    with pytest.raises(UserError, match="delta is"):
        accounting.epsilon_at(delta, [PureLoss(1.0)])
    with pytest.raises(UserError, match="delta is"):
        Budget(delta=delta)


def test_a_budget_names_the_limit_that_is_passed_and_allows_reaching_it():
    one = PureLoss(0.1)
    assert Budget().excess([one] * 1000 + [GaussianLoss(9.0)]) is None
    budget = Budget(epsilon=1.0)
    assert budget.excess([one] * 10) is None
    assert budget.excess([one] * 11) == "epsilon would be 1.1, above 1"
    assert "epsilon would be inf" in budget.excess([GaussianLoss(1e-9)])
    rho = Budget(rho=10 * one.rho)
    assert rho.excess([one] * 10) is None
    assert rho.excess([one] * 11).startswith("rho would be 0.05")
    spent = [embedding_loss(6.0)] * 100
    assert Budget(epsilon_at_delta=16.5).excess(spent) is None
    assert "epsilon at delta 1e-06 would be 16.44" in Budget(epsilon_at_delta=16).excess(spent)
    assert Budget(epsilon_at_delta=16, delta=1e-5).excess(spent) is None


@pytest.mark.parametrize("field", ["epsilon", "rho", "epsilon_at_delta"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_limit_that_is_none_is_refused(field, value):
    with pytest.raises(UserError, match=f"budget {field.replace('_', ' ')} is"):
        Budget(**{field: value})


@pytest.fixture
def pld():
    """Google's accounting, which is no dependency: pip install dp-accounting."""
    return pytest.importorskip("dp_accounting.pld.privacy_loss_distribution")


def test_gaussians_cost_what_dp_accounting_says():
    dp_accounting = pytest.importorskip("dp_accounting")
    from dp_accounting import rdp

    orders = 1 + np.logspace(-2, 3, 2000)
    for sigma, releases in ((10.0, 1), (10.0, 100), (2.0, 30)):
        accountant = rdp.RdpAccountant(orders)
        accountant.compose(dp_accounting.GaussianDpEvent(sigma / 2), releases)
        found = accounting.epsilon_at(1e-6, [accounting.gaussian(sigma)] * releases)
        assert found == pytest.approx(accountant.get_epsilon(1e-6), rel=1e-4)


def test_scalar_losses_are_just_above_their_loss_distributions(pld):
    cases = [
        (pld.from_laplace_mechanism(1 / 0.1), PureLoss(0.1, 1.0, 1e9), (300, 3000)),
        (pld.from_laplace_mechanism(1.0), PureLoss(1.0, 1.0, 1e9), (10, 100)),
        (pld.from_discrete_laplace_mechanism(0.25, 2), PureLoss(0.5, 1.0, 2.0), (30, 300)),
        (pld.from_gaussian_mechanism(10.0), accounting.gaussian(10.0, l2=1.0), (1, 30, 300)),
        (pld.from_randomized_response(2 / (1 + math.exp(0.5)), 2), PureLoss(0.5), (30, 300)),
    ]
    for distribution, loss, counts in cases:
        for count in counts:
            tight = distribution.self_compose(count).get_epsilon_for_delta(1e-6)
            found = accounting.epsilon_at(1e-6, [loss] * count)
            assert tight <= found <= 1.12 * tight


def test_an_even_split_is_not_the_worst_at_every_delta(pld):
    """Why its loss distribution is not what is charged, though it is lower."""
    x = 6.0 / 512
    even = pld.from_laplace_mechanism(1 / x, value_discretization_interval=1e-5).self_compose(512)
    assert even.get_epsilon_for_delta(1e-6) == pytest.approx(1.1245, abs=1e-3)
    single = pld.from_laplace_mechanism(1 / (x * math.sqrt(512)))
    assert single.get_delta_for_epsilon(0.0) == pytest.approx(0.124, abs=1e-3)
    assert even.get_delta_for_epsilon(0.0) == pytest.approx(0.106, abs=1e-3)
