"""The mechanisms at 128 coordinates, as SFace's embeddings have them."""

import math

import jax
import numpy as np
import pytest
import scipy.stats
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import (
    audit,
    audit_suite,
    calibration,
    discrete_laplace,
    mechanism,
    privunit,
)
from identitydp_jax.privacy.ledger import Charge, Ledger
from identitydp_jax.privacy.setting import LEVELS, PrivacySetting, for_similarity

D = 128
LAPLACE = ("certified-l2", "certified-l1:10")
EPSILONS = (0.01, 0.57, 1.0, 6.0, 100.0, 1000.0, 10_000.0)


def rows(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def released(setting, r, seed=0):
    keys = tiny.keys(len(r), seed)
    program = jax.jit(mechanism.release, static_argnames="mechanism")
    return np.asarray(program(r, key=keys, mechanism=setting.mechanism, arrays=setting.arrays))


def test_the_sensitivity_is_that_of_128_coordinates():
    found = PrivacySetting(dimension=D).calibration
    assert found.sensitivity == found.certified_sensitivity == pytest.approx(22.627, abs=1e-3)
    one, other = np.full(D, D**-0.5), np.full(D, -(D**-0.5))
    assert np.abs(one - other).sum() == pytest.approx(found.sensitivity)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_the_exact_epsilon_is_the_nominal_one(epsilon):
    settings = [PrivacySetting("laplace", epsilon, name, D) for name in LAPLACE]
    for setting in [*settings, PrivacySetting("privunit", epsilon, dimension=D)]:
        assert epsilon - 1e-6 <= setting.certified_epsilon <= math.nextafter(epsilon, math.inf)
    laplace = settings[0]
    assert laplace.rho <= 2 / laplace.scale**2 * 1.003
    wrong = PrivacySetting("laplace", epsilon, "certified-l2", 512)  # twice as much noise
    assert laplace.scale == pytest.approx(wrong.scale / 2)


@pytest.mark.parametrize("epsilon", [6.0, 100.0])
def test_the_noise_of_codes_has_the_scale_of_the_setting(epsilon):
    setting, r = PrivacySetting("laplace", epsilon, dimension=D), rows(192)
    codes = released(setting, r)
    noise = codes - np.asarray(discrete_laplace.quantize(r, lattice=setting.arrays))
    noise = noise.ravel() / setting.noise.resolution
    right, narrow, wide = (
        scipy.stats.kstest(noise, scipy.stats.laplace(scale=share * setting.scale).cdf).pvalue
        for share in (1.0, 0.9, 1.1)
    )
    assert right > 1e-3 and max(narrow, wide) < 1e-3


@pytest.mark.parametrize(
    ("name", "epsilon"),
    [("laplace", 100.0), ("gaussian", 60.0), ("privunit", 6.0), ("privunit", 100.0), ("random", 0)],
)
def test_the_cosine_is_the_expected_one(name, epsilon):
    setting, r = PrivacySetting(name, epsilon, dimension=D), rows(200, seed=1)
    y = np.asarray(mechanism.decode(released(setting, r)))
    cosines = (r / np.linalg.norm(r, axis=1, keepdims=True) * y).sum(1)
    error = 3.5 * cosines.std() / math.sqrt(len(r))
    off = 0.012 if name == "privunit" else 0.003  # see `privunit.expected_cosine`
    assert abs(cosines.mean() - setting.expected_cosine) < off + error


def test_privunit_chooses_among_directions_of_128_signs():
    made = privunit.design(6.0, D)
    codes = released(PrivacySetting("privunit", 6.0, dimension=D), rows(4))
    assert codes.shape == (4, D) and set(np.unique(np.abs(codes))) == set(made.weights)
    assert (
        made.weights[0] > 3 * privunit.design(6.0).weights[0]
    )  # twice the cosine, of signs twice as long


def test_a_setting_goes_to_another_dimension_with_its_names_and_numbers():
    for setting in (PrivacySetting("laplace", 7.0), *LEVELS.values()):
        moved = setting.at(D)
        assert (moved.mechanism, moved.epsilon) == (setting.mechanism, setting.epsilon)
        assert moved == PrivacySetting(setting.mechanism, setting.epsilon, dimension=D)
        assert moved.dimension == D and moved.at(512) == setting
    clipped = PrivacySetting("laplace", 7.0, "certified-l1:10")
    assert clipped.at(D).calibration == calibration.parse("certified-l1:10", D)
    with pytest.raises(UserError, match=r"S from 1 to 11\.3137.* 10 clips"):
        PrivacySetting("laplace", 7.0, "certified-l1:19").at(D)


def test_only_a_delta_of_such_embeddings_gives_the_epsilon_of_the_paper():
    assert PrivacySetting(dimension=D).paper_epsilon is None
    paper = PrivacySetting("laplace", 6.0, "paper", D)  # which a model of this dimension refuses
    assert paper.paper_epsilon == pytest.approx(6.0)
    assert paper.certified_epsilon == pytest.approx(6 * 22.627417 / paper.calibration.sensitivity)


def test_the_setting_of_a_similarity_is_that_of_the_dimension():
    found, wide = for_similarity(0.3, "laplace", D), for_similarity(0.3, "laplace")
    assert found.dimension == D and found.expected_cosine == pytest.approx(0.3, abs=0.005)
    assert found.epsilon == pytest.approx(wide.epsilon / 4, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("laplace", 6.0, "certified-l2", 513), "dimension is 513"),
        (("gaussian", 6.0, "certified-l2", 0), "dimension is 0"),
        (("privunit", 6.0, "certified-l2", 100), "dimension is 100: PrivUnit holds 64, 128"),
    ],
)
def test_a_dimension_that_no_mechanism_holds_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        PrivacySetting(*arguments)
    assert "\n" not in str(error.value)


def test_a_ledger_keeps_codes_of_128(tmp_path):
    setting = PrivacySetting(dimension=D)
    charge = Charge("p", "laplace", "certified-l2", 6.0, setting.loss, "k", setting.dimension)
    with Ledger(tmp_path / "ledger", bytes(32)) as ledger:
        with pytest.raises(ValueError, match=r"give \(1, 128\)"):
            ledger.release(["Ada"], charge, lambda places: np.zeros((1, 512), np.int32))
        code = np.arange(D, dtype=np.int32)
        (first,) = ledger.release(["Ada"], charge, lambda places: code[None])
        (again,) = ledger.release(["Ada"], charge, lambda places: 1 / 0)
    assert again.reused and not first.reused
    np.testing.assert_array_equal(again.code, code)


@pytest.mark.parametrize("name", ["laplace", "privunit", "gaussian", "random"])
def test_the_audit_is_one_of_128_coordinates(name, monkeypatch):
    """Its lower bounds, which take many draws, are those of any width: see test_audit."""

    def skipped(release, pair, subject, **_):
        return audit.Finding("lower bound", subject, True, "", 0.0)

    monkeypatch.setattr(audit, "check_lower_bound", skipped)
    findings = list(audit_suite.run(name, [6.0], "certified-l2", seed=0, dimension=D))
    assert not [finding for finding in findings if not finding.passed]
    assert any("128 coordinates" in finding.figures for finding in findings)
