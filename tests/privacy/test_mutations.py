"""Wrong mechanisms, each caught by a named check; the real mechanism passes every check.

A mutant is the real code with one thing wrong. The checks of the audit see what it releases and
are told what it claims, the lattice and the epsilon of the real one. What no number of draws would
show is caught in the integers themselves.
"""

import dataclasses
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_discrete_laplace

from identitydp_jax.privacy import audit, audit_laplace, discrete_laplace, keys
from identitydp_jax.privacy.audit_examples import release_floats
from identitydp_jax.privacy.discrete_laplace import add_noise, quantize, words_per_code
from identitydp_jax.privacy.lattice import _thresholds, design, exact_epsilon
from identitydp_jax.privacy.setting import PrivacySetting

EPSILON, NORM = 6.0, 19.0
SCALE = 2 * NORM / EPSILON
LATTICE = design(SCALE, NORM)
COUNT = len(LATTICE.digits)
SUBJECT = "epsilon 6"

CHECKS = {
    "lower bound": lambda release: audit.check_lower_bound(
        release, audit_laplace.opposites(LATTICE), SUBJECT, error=1e-3, seed=0, draws=2**15
    ),
    "distribution": lambda release: audit.check_distribution(
        release, audit_laplace.law(LATTICE), SUBJECT, seed=0
    ),
    "support": lambda release: audit_laplace.check_support(release, LATTICE, SUBJECT, seed=0),
    "guard": lambda release: audit_laplace.check_guard(release, LATTICE, SUBJECT, seed=0),
    "independence": lambda release: audit.check_independence(release, SUBJECT, seed=0),
    "determinism": lambda release: audit.check_determinism(release, SUBJECT, seed=0, width=16),
    "keys": lambda release: audit.check_keys(release, SUBJECT, seed=0),
}


def with_arrays(arrays):
    """The real mechanism, given other integers than it claims."""
    compiled = jax.jit(lambda e, k, a: discrete_laplace.release(e, key=k, lattice=a))
    return lambda embedding, key: compiled(embedding, key, arrays)


def with_scale(factor):
    return with_arrays(design(SCALE * factor, NORM).arrays())


def with_words(change):
    """The real mechanism with the random words (rows, W, d) of a batch changed."""

    @jax.jit
    def release(embedding, key, arrays):
        shape = (words_per_code(arrays), embedding.shape[-1])
        words = jax.vmap(lambda row: jax.random.bits(row, shape, jnp.uint32))(key)
        return add_noise(quantize(embedding, lattice=arrays), change(words), lattice=arrays)

    arrays = LATTICE.arrays()
    return lambda embedding, key: release(embedding, key, arrays)


def with_floats(finish):
    """Laplace noise in float32, of the right scale, on rows of unit length."""

    def release(embedding, key):
        unit = embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)
        return finish(release_floats(unit, key, SCALE))

    return release


def round_to_codes(floats):
    return np.rint(np.asarray(floats) * LATTICE.resolution).astype(np.int32)


def halves_alike(words):
    """The second half of a row's coordinates with the words of the first."""
    half = words.shape[-1] // 2
    return jnp.concatenate([words[..., :half], words[..., : words.shape[-1] - half]], axis=-1)


def digits_alike(words):
    """The fifth digit with the high and the low words of the sixth."""
    return words.at[:, [4, COUNT + 4]].set(words[:, [5, COUNT + 5]])


def unguarded():
    return LATTICE.arrays()._replace(cap=np.uint32(2**31), guard=np.uint32(2**32 - 1))


def tenth_less():
    """The real lattice with the digits of nine tenths of its scale."""
    t = 0.9 * LATTICE.sensitivity / EPSILON
    return changed(digits=_thresholds(Fraction(math.exp(1 / t))))


def changed(**fields):
    return dataclasses.replace(LATTICE, **fields)


MUTANTS = {
    "Delta of half the size": (lambda: with_scale(1 / 2), "lower bound"),
    "scale wrong by sqrt(2)": (lambda: with_scale(1 / math.sqrt(2)), "lower bound"),
    "scale 10 % too small": (lambda: with_arrays(tenth_less().arrays()), "distribution"),
    "no clip to the L1 norm": (lambda: with_arrays(unguarded()), "guard"),
    "one key for two rows": (
        lambda: with_words(lambda words: words.at[1::2].set(words[: len(words) // 2 * 2 : 2])),
        "independence",
    ),
    "words of two coordinates alike": (lambda: with_words(halves_alike), "independence"),
    "words of two digits alike": (lambda: with_words(digits_alike), "distribution"),
    "the sign from a word of a digit": (
        lambda: with_words(lambda words: words.at[:, -1].set(words[:, 5])),
        "distribution",
    ),
    "no sign": (
        lambda: with_words(lambda words: words.at[:, -1].set(words[:, -1] >> 1)),
        "distribution",
    ),
    "a constant key": (
        lambda: with_words(lambda words: jnp.full_like(words, 2**31)),
        "independence",
    ),
    "a row's noise from its place in the batch": (
        lambda: with_words(
            lambda words: words ^ (jnp.arange(len(words), dtype=jnp.uint32) << 28)[:, None, None]
        ),
        "determinism",
    ),
    "float noise, rounded to codes": (lambda: with_floats(round_to_codes), "support"),
    "float noise": (lambda: with_floats(lambda floats: floats), "support"),
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_real_mechanism_passes(check):
    finding = CHECKS[check](with_arrays(LATTICE.arrays()))
    assert finding.passed, finding.figures


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught_by_its_draws(mutant):
    build, check = MUTANTS[mutant]
    assert not CHECKS[check](build()).passed


@pytest.mark.parametrize(
    ("lattice", "passes"),
    [
        (LATTICE, True),
        (design(SCALE / 2, NORM), False),
        (design(SCALE / math.sqrt(2), NORM), False),
        (changed(guard=2 * LATTICE.guard), False),
        (changed(replaced=0), False),
        (changed(zero=LATTICE.zero * 2), False),
        (tenth_less(), False),
        (changed(digits=LATTICE.digits[:-1]), False),
        (changed(digits=LATTICE.digits[::-1]), False),
    ],
    ids=[
        "the real lattice",
        "Delta of half the size",
        "scale wrong by sqrt(2)",
        "the guard of two vectors taken for that of one",
        "noise that ends",
        "no noise too often",
        "scale 10 % too small",
        "noise cut off",
        "digits in the wrong order",
    ],
)
def test_a_wrong_lattice_is_caught_by_its_exact_epsilon(lattice, passes):
    exact = exact_epsilon(lattice)
    assert audit.check_exact(SUBJECT, nominal=EPSILON, exact=exact).passed == passes


@pytest.mark.parametrize("calibration", ["certified-l2", "certified-l1:19"])
@pytest.mark.parametrize(("factor", "passes"), [(1, True), (0.5, False), (0.71, False)])
def test_a_calibration_of_a_wrong_delta_is_caught_by_its_exact_epsilon(calibration, factor, passes):
    setting = PrivacySetting("laplace", EPSILON, calibration)
    delta = factor * setting.calibration.sensitivity
    wrong = dataclasses.replace(
        setting, calibration=dataclasses.replace(setting.calibration, sensitivity=delta)
    )
    exact = wrong.certified_epsilon
    assert audit.check_exact(SUBJECT, nominal=EPSILON, exact=exact).passed == passes


@pytest.mark.parametrize("part", range(3), ids=["photo", "policy", "face"])
def test_a_key_that_does_not_depend_on_its_photo_policy_or_face_is_caught(part, monkeypatch):
    derive = keys._derive

    def forgetful(master, purpose, *parts):
        return derive(master, purpose, *(p for i, p in enumerate(parts) if i != part))

    monkeypatch.setattr(keys, "_derive", forgetful)
    assert not CHECKS["keys"](with_arrays(LATTICE.arrays())).passed


EXACT = {
    "law": test_discrete_laplace.test_the_sampler_has_exactly_the_stated_distribution,
    "comparisons": (
        test_discrete_laplace.test_every_comparison_of_a_real_lattice_is_exact_at_its_threshold
    ),
}


@pytest.mark.parametrize(
    ("below", "test"),
    [
        (lambda high, low, t: high < t[..., 0], "comparisons"),
        (lambda high, low, t: (high < t[..., 0]) | (low < t[..., 1]), "law"),
        (
            lambda high, low, t: (high < t[..., 0]) | ((high == t[..., 0]) & (high < t[..., 1])),
            "comparisons",
        ),
        (
            lambda high, low, t: (high < t[..., 0]) | ((high == t[..., 0]) & (low <= t[..., 1])),
            "law",
        ),
    ],
    ids=["32 bits alone", "halves apart", "the high word twice", "not less but at most"],
)
def test_a_wrong_comparison_is_caught_by_a_test_of_the_sampler(below, test, monkeypatch):
    monkeypatch.setattr(discrete_laplace, "_below", below)
    monkeypatch.setattr(test_discrete_laplace, "add_noise", discrete_laplace.add_noise.__wrapped__)
    with pytest.raises(AssertionError):
        EXACT[test]()
