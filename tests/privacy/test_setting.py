import dataclasses
import hashlib
import math

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import accounting, calibration, setting
from identitydp_jax.privacy.setting import PrivacySetting

RANDOM = PrivacySetting("random")


@pytest.mark.parametrize("epsilon", [0.01, 0.57, 1, 6, 100, 1000, 10_000])
def test_the_certified_epsilon_is_the_nominal_one(epsilon):
    for mechanism in ("laplace", "privunit"):
        certified = PrivacySetting(mechanism, epsilon).certified_epsilon
        assert epsilon - 1e-6 <= certified <= epsilon + 1e-6
    clipped = PrivacySetting("laplace", epsilon, "certified-l1:19").certified_epsilon
    assert clipped == pytest.approx(epsilon, abs=1e-6)


def test_epsilons_of_both_definitions():
    certified = PrivacySetting("laplace", 6.0, "certified-l2")
    assert certified.scale == pytest.approx(45.2548 / 6, rel=1e-5)
    assert certified.certified_epsilon == pytest.approx(6, abs=1e-6)
    assert certified.paper_epsilon < 6
    paper = PrivacySetting("laplace", 6.0, "paper")
    assert paper.paper_epsilon == pytest.approx(6)
    factor = 2 * math.sqrt(512) / paper.calibration.sensitivity
    assert paper.certified_epsilon == pytest.approx(6 * factor, abs=1e-5)
    # Clipping gives the same epsilon for less noise.
    assert PrivacySetting("laplace", 6.0, "certified-l1:19").scale == pytest.approx(38 / 6)
    assert PrivacySetting("privunit", 6.0).paper_epsilon is None


def test_what_a_release_costs():
    laplace = PrivacySetting("laplace", 6.0)
    assert laplace.rho <= 2 / laplace.scale**2 * 1.003
    assert laplace.epsilon_at_delta < 2 < laplace.certified_epsilon
    gaussian = PrivacySetting("gaussian", 6.0)
    assert gaussian.certified_epsilon is None
    assert gaussian.epsilon_at_delta == pytest.approx(6.0, abs=1e-3)
    assert gaussian.epsilon_at_delta <= 6.0
    assert accounting.total_epsilon([RANDOM.loss]) == RANDOM.rho == RANDOM.epsilon_at_delta == 0


def test_privunit_keeps_more_of_the_face_than_laplace_for_the_same_epsilon():
    laplace, privunit = PrivacySetting("laplace", 6.0), PrivacySetting("privunit", 6.0)
    assert privunit.expected_cosine > 15 * laplace.expected_cosine > 0
    assert RANDOM.expected_cosine == 0.0


@pytest.mark.parametrize("cosine", [0.05, 0.2, 0.5])
def test_the_setting_of_a_similarity_has_it(cosine):
    for mechanism in ("laplace", "privunit"):
        found = setting.for_similarity(cosine, mechanism)
        assert found.mechanism == mechanism
        assert found.expected_cosine == pytest.approx(cosine, abs=0.005)
        less = PrivacySetting(mechanism, found.epsilon * 0.9)
        assert less.expected_cosine < cosine + 0.005


@pytest.mark.parametrize("cosine", [-0.1, 0.0, 1.0, math.nan])
def test_a_similarity_that_no_budget_has_is_refused(cosine):
    with pytest.raises(UserError, match=r"similarity is .*privunit reaches"):
        setting.for_similarity(cosine)


def test_levels_are_in_order():
    cosines = [level.expected_cosine for level in setting.LEVELS.values()]
    assert list(setting.LEVELS) == ["anonymous", "strong", "similar"]
    assert cosines == sorted(cosines) and cosines[0] == 0 < cosines[1] < 0.15 < cosines[2]


@pytest.mark.parametrize("epsilon", [0, -1, 0.009, 10_001, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mechanism", ["laplace", "privunit", "gaussian"])
def test_epsilons_out_of_bounds_are_refused(mechanism, epsilon):
    with pytest.raises(UserError, match="epsilon is"):
        PrivacySetting(mechanism, epsilon)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mechanism": "gauss"}, "mechanism is 'gauss': choose one of laplace, privunit"),
        ({"calibration": "certified"}, "calibration"),
        ({"mechanism": "privunit", "calibration": "paper"}, "goes with the mechanism laplace"),
    ],
)
def test_unknown_names_are_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        PrivacySetting(**arguments)


def test_settings_are_frozen_hashable_and_equal_by_value():
    assert PrivacySetting("laplace", 6) == PrivacySetting("laplace", np.float64(6.0))
    assert len({PrivacySetting("laplace", 6), PrivacySetting("laplace", 6.0)}) == 1
    assert PrivacySetting("random", 3) == PrivacySetting("random", 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        RANDOM.epsilon = 1.0


def test_policy_tells_apart_all_that_matters_and_nothing_else():
    settings = [
        PrivacySetting("laplace", e, c)
        for e in (6, 7)
        for c in ("certified-l2", "certified-l1:19", "paper")
    ]
    settings += [PrivacySetting(m, e) for m in ("privunit", "gaussian") for e in (6, 7)]
    texts = {s.policy(m, e) for s in [*settings, RANDOM] for m, e in ("aa", "ba", "ab")}
    assert len(texts) == 33
    assert RANDOM.policy("a", "b") == PrivacySetting("random", 3).policy("a", "b")
    whole, half = (PrivacySetting(epsilon=epsilon) for epsilon in (6, 6.0))
    assert whole.policy("a", "b") == half.policy("a", "b")


def test_a_photo_of_the_calibration_set_is_refused():
    digest = hashlib.sha256(b"some photo").digest()
    measured = dataclasses.replace(
        calibration.parse("paper").measured, members=frozenset({digest[:8]})
    )
    mine = dataclasses.replace(calibration.parse("paper"), measured=measured)
    with pytest.raises(UserError, match="use certified-l2"):
        PrivacySetting("laplace", 6.0, mine).check_disjoint(digest)
    PrivacySetting("laplace", 6.0, mine).check_disjoint(bytes(32))
    PrivacySetting("laplace", 6.0).check_disjoint(digest)
