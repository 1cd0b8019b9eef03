"""Noised identities come out as identities of people do: their moments, and nothing new."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from identitydp_jax.models.population import anchor, measure, transport, zeros

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


def test_anchored_identities_go_from_the_moved_to_the_faces(people):
    faces, moved = jnp.asarray(people[:50]), jnp.asarray(people[50:100])
    np.testing.assert_allclose(anchor(faces, moved, cosine=1.0), moved, atol=1e-6)
    np.testing.assert_allclose(anchor(faces, moved, cosine=0.0), faces, atol=1e-6)
    cosines = np.linspace(0, 1, 50, dtype=np.float32)
    found = np.asarray(anchor(faces, moved, cosine=jnp.asarray(cosines)))
    expected = cosines[:, None] * moved + np.sqrt(1 - cosines**2)[:, None] * faces
    np.testing.assert_allclose(found, _unit(np.asarray(expected)), atol=1e-5)
