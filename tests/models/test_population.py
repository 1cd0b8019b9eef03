"""Noised identities come out as identities of people do: their moments, and nothing new."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from identitydp_jax.models import declared
from identitydp_jax.models.population import (
    anchor,
    condition,
    measure,
    suitable,
    transport,
    zeros,
)

D = 128
TRANSPORT = jax.jit(lambda population, noised, c: transport(population, noised, cosine=c))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def people():
    """Identities (20000, D) that vary along a quarter of all directions, unequally."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(D, 33)))
    varying = rng.normal(size=(20_000, 32)) * np.geomspace(2.0, 0.5, 32)
    return _unit(5 * axes[:, 0] + varying @ axes[:, 1:].T).astype(np.float32)


@pytest.fixture(scope="module")
def population(people):
    return measure(jnp.asarray(people))


def _noised(people, cosine, seed=1):
    """Rows of this expected cosine with the identities: c r + sqrt(1 - c^2) u."""
    noise = _unit(np.random.default_rng(seed).normal(size=people.shape))
    return _unit(cosine * people + np.sqrt(1 - cosine**2) * noise).astype(np.float32)


def _apart(found, expected):
    """Return how far mean and covariance are apart, in shares of what is expected."""
    mean = np.linalg.norm(found.mean(0) - expected.mean(0)) / np.linalg.norm(expected.mean(0))
    covariances = np.cov(found.T), np.cov(expected.T)
    difference = np.linalg.norm(covariances[0] - covariances[1])
    return mean, difference / np.linalg.norm(covariances[1])


def test_measures_mean_and_principal_axes(people, population):
    np.testing.assert_allclose(population["mean"], people.mean(0), atol=1e-5)
    basis, deviation = (np.asarray(population[name]) for name in ("basis", "deviation"))
    np.testing.assert_allclose(basis.T @ basis, np.eye(D), atol=1e-4)
    covariance = basis * deviation**2 @ basis.T
    np.testing.assert_allclose(covariance, np.cov(people.T, bias=True), atol=1e-5)
    assert np.isfinite(deviation).all() and (deviation >= 0).all()
    along = ((people - people.mean(0)) @ basis).std(0)
    np.testing.assert_allclose(deviation[-32:], along[-32:], rtol=1e-3)


def test_zeros_have_the_shapes_that_are_measured_and_move_nothing(people, population):
    nothing = zeros(D)
    described = [jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in (nothing, population)]
    assert described[0] == described[1]
    noised = _noised(people[:50], 0.3)
    np.testing.assert_allclose(TRANSPORT(nothing, noised, 0.3), noised, atol=1e-6)


def test_without_noise_nothing_moves(people, population):
    # Nor does what lies where no face is.
    for rows in (people[:50], _noised(people[:50], 0.0)):
        np.testing.assert_allclose(TRANSPORT(population, rows, 1.0), rows, atol=1e-6)


@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.8])
def test_noised_identities_get_the_moments_of_the_population(people, population, cosine):
    noised = _noised(people, cosine)
    moved = np.asarray(TRANSPORT(population, noised, cosine))
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, rtol=1e-5)
    mean, covariance = _apart(moved, people)
    assert mean < 0.05 and covariance < 0.15
    # Which they lack without, and with the noise taken for another.
    assert max(_apart(noised, people)) > 0.3
    wrong = 0.9 if cosine < 0.5 else 0.2
    assert max(_apart(np.asarray(TRANSPORT(population, noised, wrong)), people)) > 0.3


def test_what_is_left_of_the_identity_stays(people, population):
    noised = _noised(people, 0.8)
    moved = np.asarray(TRANSPORT(population, noised, 0.8))
    centred = people - people.mean(0)
    before, after = (((x - x.mean(0)) * centred).sum(1).mean() for x in (noised, moved))
    assert after > before > 0


def test_a_row_goes_its_own_way(people, population):
    """Its noised self, the population and its cosine decide: not the rows beside it."""
    noised = _noised(people[:8], 0.3)
    whole = np.asarray(TRANSPORT(population, noised, 0.3))
    order = np.array([3, 1, 7, 0, 2, 6, 5, 4])
    np.testing.assert_allclose(TRANSPORT(population, noised[order], 0.3), whole[order], atol=1e-6)
    alone = [TRANSPORT(population, row[None], 0.3)[0] for row in noised]
    np.testing.assert_allclose(alone, whole, atol=1e-6)
    # Cosines may differ from row to row.
    cosines = jnp.linspace(0.0, 1.0, 8)
    each = TRANSPORT(population, noised, cosines)
    for i in range(8):
        one = TRANSPORT(population, noised[i : i + 1], cosines[i])
        np.testing.assert_allclose(each[i], one[0], atol=1e-6)
    assert np.abs(np.asarray(each[0]) - whole[0]).max() > 0.01


@pytest.fixture(scope="module")
def answered(people):
    """Answers of the same people, and their identities moved along an axis for each yes.

    Nobody with a beard is a child, and the three that are left say nothing.
    """
    rng = np.random.default_rng(7)
    answers = rng.random((len(people), len(declared.QUESTIONS))) < 0.3
    answers[:, 1] &= ~answers[:, 6]
    axes, _ = np.linalg.qr(np.random.default_rng(8).normal(size=(D, 7)))
    moved = people + 0.4 * (answers[:, :4] - 0.3) @ axes.T[:4]
    return _unit(moved).astype(np.float32), answers.astype(np.float32)


@pytest.fixture(scope="module")
def conditioned(answered):
    rows, answers = (jnp.asarray(x) for x in answered)
    stats = declared.measure(rows, answers)
    return {
        names: condition(measure(rows), stats, declared.preserved(names))
        for names in ((), ("gender",), declared.ATTRIBUTES)
    }


def _given(population, noised, c, answers):
    return np.asarray(transport(population, noised, cosine=c, answers=answers))


@pytest.mark.parametrize("cosine", [0.0, 0.3])
def test_targets_lie_where_those_with_the_same_answers_are(answered, conditioned, cosine):
    rows, answers = answered
    noised = _noised(rows, cosine)
    moved = _given(conditioned[declared.ATTRIBUTES], noised, cosine, answers)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, rtol=1e-5)
    for question in range(4):
        for yes in (0, 1):
            group = answers[:, question] == yes
            assert max(_apart(moved[group], rows[group])) < 0.3
        # Which is more than without: there, both groups have one mean.
        gap = rows[answers[:, question] == 1].mean(0) - rows[answers[:, question] == 0].mean(0)
        groups = [moved[answers[:, question] == yes].mean(0) for yes in (1, 0)]
        assert (groups[0] - groups[1]) @ gap / (gap @ gap) == pytest.approx(1.3, abs=0.1)


def test_answers_that_nobody_gave_together_add_up(answered, conditioned):
    rows, answers = answered
    assert not (answers[:, 1] * answers[:, 6]).any()
    both = np.zeros((len(rows), answers.shape[1]), np.float32)
    both[:, [0, 1, 6]] = 1
    wanted = [rows[answers[:, question] == 1].mean(0) for question in (0, 1)]
    moved = _given(conditioned[declared.ATTRIBUTES], _noised(rows, 0.0), 0.0, both).mean(0)
    assert all((moved - rows.mean(0)) @ (mean - rows.mean(0)) > 0 for mean in wanted)


def test_what_is_not_chosen_has_no_say(answered, conditioned):
    rows, answers = answered
    noised, other = _noised(rows[:50], 0.3), 1 - answers[:50]
    nothing = _given(conditioned[()], noised, 0.3, answers[:50])
    np.testing.assert_allclose(nothing, _given(conditioned[()], noised, 0.3, other), atol=1e-6)
    plain = TRANSPORT(measure(jnp.asarray(rows)), noised, 0.3)
    np.testing.assert_allclose(nothing, plain, atol=1e-3)
    other[:, 0] = answers[:50, 0]
    gender = conditioned[("gender",)]
    same, moved = (_given(gender, noised, 0.3, x) for x in (answers[:50], other))
    np.testing.assert_allclose(same, moved, atol=1e-6)
    other[:, 0] = 1 - answers[:50, 0]
    assert (np.abs(_given(gender, noised, 0.3, other) - same).max(1) > 0.01).all()


def test_without_noise_answers_move_nothing(answered, conditioned):
    rows, answers = answered
    still = _given(conditioned[declared.ATTRIBUTES], rows[:50], 1.0, 1 - answers[:50])
    np.testing.assert_allclose(still, rows[:50], atol=1e-5)


def test_faces_that_suit_share_what_is_chosen_and_differ_from_each_other(answered, conditioned):
    rows, answers = answered
    chosen = declared.preserved(("gender", "glasses"))
    population = conditioned[declared.ATTRIBUTES]
    gallery = {"gallery": jnp.asarray(rows[:1000]), "gallery_answers": jnp.asarray(answers[:1000])}
    asked = answers[1000:1200]
    moved = _given(population, _noised(rows[1000:1200], 0.0), 0.0, asked)
    faces = np.asarray(suitable(population, gallery, moved, asked, chosen))
    place = [int(np.abs(rows[:1000] - face).sum(1).argmin()) for face in faces]
    np.testing.assert_allclose(rows[place], faces, atol=1e-6)
    np.testing.assert_array_equal(answers[place][:, chosen], asked[:, chosen])
    assert len(set(place)) > 60  # not a few for all
    plain, nothing = conditioned[()], np.zeros_like(chosen)
    again = suitable(plain, gallery, moved, 1 - asked, nothing)
    other = suitable(plain, gallery, moved, asked, nothing)
    np.testing.assert_array_equal(again, other)


def test_a_rare_combination_has_a_choice_of_24_faces(answered, conditioned):
    rows, answers = answered
    chosen = declared.preserved(declared.ATTRIBUTES)
    theirs = np.zeros_like(answers[:1000])
    theirs[5] = 1
    gallery = {"gallery": jnp.asarray(rows[:1000]), "gallery_answers": jnp.asarray(theirs)}
    asked = np.ones((400, answers.shape[1]), np.float32)
    population = conditioned[declared.ATTRIBUTES]
    moved = _given(population, _noised(rows[:400], 0.0), 0.0, asked)
    faces = np.asarray(suitable(population, gallery, moved, asked, chosen))
    assert len(np.unique(faces, axis=0)) >= 24


@pytest.mark.parametrize("cosine, what", [(0.0, "face"), (1.0, "moved")])
def test_an_anchor_holds_where_nothing_is_left_of_a_face(people, cosine, what):
    moved, faces = jnp.asarray(people[:20]), jnp.asarray(people[20:40])
    expected = {"face": faces, "moved": moved}[what]
    np.testing.assert_allclose(anchor(faces, moved, cosine=cosine), expected, atol=1e-6)
    between = anchor(faces, moved, cosine=0.6)
    assert ((between * faces).sum(1) > (moved * faces).sum(1)).all()
    assert ((between * moved).sum(1) > (moved * faces).sum(1)).all()
