import dataclasses
import itertools
import math
from decimal import Decimal
from fractions import Fraction

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import lattice
from identitydp_jax.privacy.lattice import Lattice, design, exact_epsilon, pmf

D = 512
NORMS = {"certified-l2": math.sqrt(D), "certified-l1": 19.0, "least": 1.0}
EPSILONS = (0.01, 0.57, 1.0, 6.0, 100.0, 1000.0, 10000.0)


def nominal(scale, norm):
    return 2 * Fraction(norm) / Fraction(scale)


def thresholds_of(masses):
    """Thresholds of a digit from the masses of its values, scaled to a sum of 2^64 by the last."""
    exact = [Fraction(mass) for mass in masses]
    whole = [int(2**64 * mass / sum(exact)) for mass in exact[:-1]]
    whole.append(2**64 - sum(whole))
    return tuple(sum(whole[n:]) for n in range(1, len(whole)))


def ideal(t, bases, *, resolution=3, guard=4, replaced=2**60):
    """A small lattice with the probabilities of the discrete Laplace distribution, rounded."""
    a, place, digits = math.exp(-1 / t), 1, []
    for base in bases:
        digits.append(thresholds_of([a ** (place * n) for n in range(base)]))
        place *= base
    zero = int((2**64 - replaced) * (1 - a) / (1 + a - 2 * a ** (place + 1)))
    return Lattice(resolution, guard, tuple(digits), zero, replaced)


def worst_loss(lat, dimensions=2):
    """The privacy loss of the worst inputs and codes, every one of them tried."""
    values = range(-min(lat.resolution, lat.guard), min(lat.resolution, lat.guard) + 1)
    codes = range(-lat.largest_code, lat.largest_code + 1)
    table = {v: [pmf(lat, code, v) for code in codes] for v in values}
    ratio = {
        (v, w): max(a / b if b else math.inf for a, b in zip(table[v], table[w], strict=True) if a)
        for v, w in itertools.product(values, repeat=2)
    }
    rows = [
        row
        for row in itertools.product(values, repeat=dimensions)
        if sum(map(abs, row)) <= lat.guard
    ]
    worst = max(
        math.prod(ratio[v, w] for v, w in zip(one, two, strict=True))
        for one, two in itertools.product(rows, repeat=2)
    )
    return math.inf if worst == math.inf else float(log(worst))


def log(fraction):
    return Decimal(fraction.numerator).ln() - Decimal(fraction.denominator).ln()


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_exact_epsilon_is_at_most_the_nominal_one_and_hardly_less(norm):
    # The least norm stops at a scale that 32 bits do not hold.
    for epsilon in (*EPSILONS, *np.geomspace(0.01, 10_000, 100)):
        scale = 2 * norm / epsilon
        if scale < 0.0015:
            continue
        lat = design(scale, norm)
        assert lat.guard <= lat.resolution * norm < lat.guard + 1
        found = Fraction(exact_epsilon(lat))
        stated = nominal(scale, norm)
        assert stated - Fraction(1, 10**9) < found <= min(stated, Fraction(epsilon))


@pytest.mark.parametrize("norm", [NORMS["certified-l2"], NORMS["certified-l1"]])
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_some_pair_of_inputs_in_512_dimensions_attains_it(norm, epsilon):
    scale = 2 * norm / epsilon
    lat = design(scale, norm)
    share, rest = divmod(lat.guard, D)
    assert share < lat.resolution

    def loss(value):  # inputs of +value and -value; the code is +value
        return log(pmf(lat, value, value) / pmf(lat, value, -value))

    attained = rest * loss(share + 1) + (D - rest) * loss(share)
    stated = nominal(scale, norm)
    assert abs(attained - Decimal(stated.numerator) / Decimal(stated.denominator)) < 1e-7
    assert attained <= exact_epsilon(lat)


def test_it_bounds_the_worst_case_of_small_lattices_and_is_close():
    for t, bases in [(1.0, (2,) * 6), (0.5, (4, 2, 2)), (3.0, (3, 5, 4, 2)), (2.0, (8, 4, 2))]:
        lat = ideal(t, bases)
        worst = worst_loss(lat)
        # What replaced codes add to every code brings the worst case below the bound.
        assert 0.5 * 8 / t < worst <= exact_epsilon(lat) == pytest.approx(8 / t, rel=1e-6)
        rare = dataclasses.replace(lat, replaced=2**64 // 10**9)
        if t >= 2:
            assert worst_loss(rare) == pytest.approx(8 / t, rel=1e-4)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    masses=st.lists(
        st.lists(st.integers(0, 2**32), min_size=2, max_size=4).filter(lambda m: m[0] and sum(m)),
        min_size=1,
        max_size=3,
    ),
    zero=st.integers(0, 2**63),
    replaced=st.integers(0, 2**62),
    guard=st.integers(1, 4),
)
def test_it_bounds_the_worst_case_of_any_lattice(masses, zero, replaced, guard):
    lat = Lattice(3, guard, tuple(map(thresholds_of, masses)), zero, replaced)
    assert worst_loss(lat) <= exact_epsilon(lat) * (1 + 1e-12)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    t=st.floats(0.4, 4),
    bases=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    replaced=st.integers(1, 2**63),
    shifts=st.lists(st.integers(-(2**60), 2**60), min_size=3, max_size=3),
)
def test_it_bounds_the_worst_case_of_nearly_right_lattices(t, bases, replaced, shifts):
    lat = ideal(t, bases, replaced=replaced)
    moved = []
    for digit, shift in zip(lat.digits, shifts, strict=False):
        second = digit[1] if len(digit) > 1 else 0
        moved.append((min(max(digit[0] + shift, second + 1), 2**64 - 1), *digit[1:]))
    lat = dataclasses.replace(lat, digits=tuple(moved))
    assert worst_loss(lat) <= exact_epsilon(lat) * (1 + 1e-12)


@pytest.mark.parametrize("value", [-3, 0, 2])
def test_probabilities_sum_to_one_and_every_code_has_one(value):
    lat = ideal(1.5, (4, 2, 3))
    masses = [pmf(lat, code, value) for code in range(-lat.largest_code, lat.largest_code + 1)]
    assert sum(masses) == 1 and min(masses) > 0
    assert pmf(lat, lat.largest_code + 1, value) == pmf(lat, -lat.largest_code - 1, value) == 0
    assert pmf(lat, 1, value) == pmf(lat, -1, -value)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_noise_is_discrete_laplace_of_the_scale(epsilon):
    norm = NORMS["certified-l2"]
    lat = design(2 * norm / epsilon, norm)
    t = lat.sensitivity / epsilon
    a = math.exp(-1 / t)
    assert t / lat.resolution == pytest.approx(2 * norm / epsilon, rel=1e-2)
    for k in (0, 1, -1, 2, 77, int(t), -int(t) - 1, int(7.3 * t), int(20 * t)):
        expected = -math.expm1(-1 / t) / (1 + a) * math.exp(-abs(k) / t)
        assert float(pmf(lat, k)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_every_code_is_possible_under_every_input(epsilon):
    norm = NORMS["certified-l2"]
    lat = design(2 * norm / epsilon, norm)
    assert lat.resolution + lat.reach <= lat.largest_code < 2**30  # nothing is cut off
    for value in (-lat.resolution, 0, lat.resolution):
        edges = [value + k for k in (-lat.reach - 1, -lat.reach, 0, lat.reach, lat.reach + 1)]
        for code in (-lat.largest_code, lat.largest_code, *edges):
            assert pmf(lat, code, value) > 0


@pytest.mark.parametrize(
    "broken",
    [
        lambda lat: {"replaced": 0},
        lambda lat: {"zero": 0},
        lambda lat: {"digits": ((0,), *lat.digits[1:])},
        lambda lat: {"digits": ((lat.digits[0][0],) * 15, *lat.digits[1:])},
        lambda lat: {"digits": (*lat.digits[:-1], (0,))},
    ],
    ids=["not replaced", "never zero", "never odd", "a gap", "a bit that is never set"],
)
def test_a_code_that_is_possible_under_one_input_only_has_no_epsilon(broken):
    lat = design(7.5, 19)
    assert exact_epsilon(dataclasses.replace(lat, **broken(lat))) == math.inf


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_no_threshold_may_be_lower_and_no_zero_likelier(epsilon):
    norm = NORMS["certified-l2"]
    scale = 2 * norm / epsilon
    lat = design(scale, norm)
    # In the lowest digits a float does not show it: compare the step itself with e^(1/t).
    most = lattice._exp_below(nominal(scale, norm) / lat.sensitivity)
    assert lattice._largest_step(lat) <= most
    assert lattice._largest_step(dataclasses.replace(lat, zero=lat.zero + 1)) > most
    for i, digit in enumerate(lat.digits):
        for n in range(len(digit)):
            spare = len(digit) * (len(digit) + 1) // 2  # what is left for rounding
            lower = (*digit[:n], digit[n] - spare - 1, *digit[n + 1 :])
            digits = (*lat.digits[:i], lower, *lat.digits[i + 1 :])
            assert lattice._largest_step(dataclasses.replace(lat, digits=digits)) > most
    half = (*lat.digits[:-1], (lat.digits[-1][0] // 2,))
    assert exact_epsilon(dataclasses.replace(lat, digits=half)) > 1000 * epsilon


@pytest.mark.parametrize("factor", [0.5, 1 / math.sqrt(2), 0.9])
def test_a_wrong_sensitivity_or_scale_shows(factor):
    norm, epsilon = NORMS["certified-l2"], 6.0
    lat = design(2 * norm / epsilon, norm)
    wrong_delta = dataclasses.replace(lat, guard=round(lat.guard / factor))
    assert exact_epsilon(wrong_delta) == pytest.approx(epsilon / factor, rel=1e-5)
    assert exact_epsilon(design(factor * 2 * norm / epsilon, norm)) == pytest.approx(
        epsilon / factor, rel=1e-9
    )


def test_every_lattice_has_arrays_of_one_shape():
    shapes = set()
    for epsilon in EPSILONS:
        for norm in (NORMS["certified-l2"], NORMS["certified-l1"]):
            lat = design(2 * norm / epsilon, norm)
            arrays = lat.arrays()
            assert {leaf.dtype for leaf in arrays} == {np.dtype(np.uint32)}
            shapes.add(tuple(leaf.shape for leaf in arrays))
            joined = (arrays.digits[..., 0].astype(object) << 32) + arrays.digits[..., 1]
            for row, digit in zip(joined, lat.digits, strict=True):
                assert tuple(row) == digit + (0,) * (15 - len(digit))
            assert arrays.places.tolist() == [2 ** (4 * i) for i in range(6)] + [2**23]
            assert int(arrays.cap) * lat.resolution <= lat.guard * lattice.UNIT
            assert arrays.mask == lat.largest_code
    assert shapes == {((), (), (), (), (7,), (7, 15, 2), (2, 2))}


def test_lattices_are_frozen_hashable_and_equal_by_value():
    one = design(7.5, 19)
    assert one == design(7.5, 19.0) and len({one, design(7.5, 19.0), design(7.6, 19)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.guard = 1


@pytest.mark.parametrize(
    ("scale", "norm", "message"),
    [
        (0, 19, "scale is 0"),
        (-1, 19, "scale is -1"),
        (math.nan, 19, "scale is nan"),
        (math.inf, 19, "scale is inf"),
        (9000, 19, "scale is 9000: 32-bit integers hold"),
        (1e-3, 1, "scale is 0.001: 32-bit integers hold"),
        (0.00146, 22.6, "scale is 0.00146: 32-bit integers hold"),
        (1, 0.99, "l1_norm is 0.99: give one from 1 to"),
        (1, 22.63, "l1_norm is 22.63"),
        (1, math.nan, "l1_norm is nan"),
    ],
)
def test_what_cannot_be_represented_is_refused(scale, norm, message):
    with pytest.raises(UserError, match=message):
        design(scale, norm)


def test_design_refuses_what_its_thresholds_do_not_certify(monkeypatch):
    monkeypatch.setattr(lattice, "_REPLACED", 1)  # not 2^-56: too few
    with pytest.raises(UserError, match="64-bit thresholds cannot certify it"):
        design(0.002, 19)


@pytest.mark.parametrize("scale", [0.0015, 8700])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_the_ends_of_the_stated_range_work(scale, norm):
    assert exact_epsilon(design(scale, norm)) == pytest.approx(2 * norm / scale, rel=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": 0},
        {"resolution": 2**28 + 1},
        {"guard": 0},
        {"guard": 2**32},
        {"digits": ()},
        {"digits": ((),)},
        {"digits": ((1,),) * 29},
        {"digits": ((2**64,),)},
        {"digits": ((-1,),)},
        {"digits": ((1, 2),)},
        {"zero": -1},
        {"replaced": -1},
        {"zero": 2**63, "replaced": 2**63},
    ],
)
def test_a_lattice_that_passes_32_bits_is_refused(change):
    with pytest.raises(UserError, match="does not fit 32-bit integers"):
        dataclasses.replace(design(7.5, 19), **change)
