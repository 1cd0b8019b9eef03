"""What a step aims at: identities for the faces, and where and how sharply to look."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from identitydp_jax.models.population import measure, transport, zeros
from identitydp_jax.privacy.setting import PrivacySetting
from identitydp_jax.training.noise import add_laplace
from identitydp_jax.training.step import draw_rows, draw_targets, soften

NOWHERE = zeros(512)  # moves nothing


def _unit(count, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, 512)).astype(np.float32)
    return jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _mixture(**values):
    shares = {"same": 0.15, "twin": 0.2, "other": 0.3, "noised": 0.25}
    return ml_collections.ConfigDict(
        {**shares, "epsilon": (4000.0, 10000.0), "anchored": False, **values}
    )


def _only(name, **values):
    none = dict.fromkeys(("same", "twin", "other", "noised"), 0.0)
    return _mixture(**{**none, name: 1.0, **values})


def _drawn(own, seed, mixture, population=NOWHERE):
    """Return the targets and what was drawn for the rows."""

    def draw(own, population, key):
        row_key, target_key = jax.random.split(key)
        rows = draw_rows(len(own), key=row_key, mixture=mixture)
        keys = {"key": target_key, "mixture": mixture, "population": population}
        return draw_targets(own, rows, **keys), rows

    found = jax.jit(draw)(own, population, jax.random.key(seed))
    return jax.tree.map(np.asarray, found)


def _people(count=600, seed=7):
    """Unit rows that vary along 16 axes around a mean far from 0."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(np.random.default_rng(8).normal(size=(512, 17)))
    rows = axes[:, 0] + 0.3 * rng.normal(size=(count, 16)) @ axes[:, 1:].T
    return jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), jnp.float32)


def test_targets_have_the_shares_of_the_mixture():
    own = _unit(4000)
    targets, rows = _drawn(own, 1, _mixture())
    np.testing.assert_allclose(np.linalg.norm(targets, axis=1), 1, rtol=1e-5)
    assert np.sum(rows, axis=0).max() == 1
    np.testing.assert_array_equal(rows.known, np.all(targets == own, axis=1))
    np.testing.assert_array_equal(rows.other, np.all(targets == np.roll(own, 1, axis=0), axis=1))
    cosine = (targets * np.asarray(own)).sum(1)
    assert cosine[rows.noised].min() > 0.8
    random = ~np.any(rows, axis=0)
    assert np.abs(cosine[random]).max() < 0.25
    shares = (rows.same, 0.15), (rows.twin, 0.2), (rows.other, 0.3), (rows.noised, 0.25)
    for found, share in (*shares, (random, 0.1)):
        assert abs(found.mean() - share) < 5 * np.sqrt(share * (1 - share) / 4000)


def test_noised_and_random_identities_are_brought_to_the_population():
    own, population = _people(), measure(_people(seed=9))
    mean = np.asarray(own).mean(0)
    low = {"epsilon": (60.0, 60.0)}
    for mixture in (_only("noised", **low), _only("same", same=0.0)):
        before, after = (
            _drawn(own, 2, mixture, population=where)[0] for where in (NOWHERE, population)
        )
        assert np.linalg.norm(before.mean(0)) < 0.5
        np.testing.assert_allclose(after.mean(0), mean, atol=0.02)
        np.testing.assert_allclose(np.trace(np.cov(after.T)), np.trace(np.cov(own.T)), rtol=0.1)
        assert np.trace(np.cov(before.T)) > 1.5 * np.trace(np.cov(own.T))
    # Identities of people are taken as they are.
    for name, expected in (("same", own), ("twin", own), ("other", np.roll(own, 1, axis=0))):
        found, _ = _drawn(own, 2, _only(name), population)
        np.testing.assert_array_equal(found, expected)


def test_anchored_noised_identities_come_to_the_next_face_as_noise_takes_their_own():
    own, next_face = _people(), np.roll(_people(), 1, axis=0)
    centred = [np.asarray(x) - np.mean(own, axis=0) for x in (own, next_face)]

    def alike(**values):
        found = _drawn(own, 2, _only("noised", **values))[0]
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
        return [np.mean((found * faces).sum(1)) for faces in centred]

    mine, others = alike(epsilon=(60.0, 60.0), anchored=True)
    assert others > 0.9 * np.mean((centred[1] * next_face).sum(1)) and mine < 0.2 * others
    mine, others = alike(epsilon=(1e5, 1e5), anchored=True)
    assert mine > 3 * others
    _, others = alike(epsilon=(60.0, 60.0))
    assert abs(others) < 0.02
    # Identities of another kind are not anchored.
    for name in ("same", "other"):
        plain, anchored = (_drawn(own, 2, _only(name, anchored=x))[0] for x in (False, True))
        np.testing.assert_array_equal(plain, anchored)


def test_noise_tells_the_cosine_that_it_leaves():
    own, epsilon = _unit(400), jnp.repeat(jnp.float32([30.0, 100.0, 800.0, 5000.0]), 100)
    noised, cosine = add_laplace(own, key=jax.random.key(0), epsilon=epsilon)
    found = (noised * own).sum(1).reshape(4, 100).mean(1)
    np.testing.assert_allclose(found, cosine.reshape(4, 100)[:, 0], atol=0.015)
    for value, budget in zip(cosine[::100], epsilon[::100], strict=True):
        expected = PrivacySetting(epsilon=float(budget)).expected_cosine
        np.testing.assert_allclose(value, expected, rtol=1e-3)
    moved = transport(NOWHERE, noised, cosine=cosine)
    np.testing.assert_allclose(moved, noised, atol=1e-6)


def test_noise_is_that_of_the_certified_budget():
    own = _unit(500)
    noised, _ = _drawn(own, 2, _only("noised", epsilon=(800.0, 800.0)))
    expected = PrivacySetting(epsilon=800).expected_cosine
    np.testing.assert_allclose((noised * np.asarray(own)).sum(1).mean(), expected, atol=0.01)


def test_budgets_are_log_uniform():
    mixture = _only("noised", epsilon=(100.0, 10000.0))
    own = _unit(2000)
    cosine = (_drawn(own, 3, mixture)[0] * np.asarray(own)).sum(1)
    # The median budget is the geometric mean, 1000.
    middle = PrivacySetting(epsilon=1000).expected_cosine
    assert abs((cosine < middle).mean() - 0.5) < 0.06


def test_target_of_a_face_does_not_depend_on_the_size_of_the_batch():
    own = _unit(8)
    whole = _drawn(own, 4, _mixture(other=0.0))
    part = _drawn(own[:4], 4, _mixture(other=0.0))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_allclose(a[:4], b, atol=1e-6)


def test_other_keys_draw_other_targets():
    own = _unit(8)
    mixture = _only("noised", noised=0.0)
    one, other = (_drawn(own, seed, mixture)[0] for seed in (5, 6))
    assert np.abs((one * other).sum(1)).max() < 0.25
    assert np.abs(one @ one.T - np.eye(8)).max() < 0.25


def test_soften_takes_detail_and_no_light():
    # Stripes of two pixels: blocks of four average to nothing.
    stripes = np.where(np.arange(16) // 2 % 2, 1.0, -1.0).astype(np.float32)
    faces = jnp.asarray(np.broadcast_to(stripes[:, None], (64, 16, 16, 3)) + 0.25)
    amount = jax.random.uniform(jax.random.key(0), (64,))
    softened = np.asarray(jax.jit(soften)(faces, amount))
    np.testing.assert_allclose(softened.mean((1, 2, 3)), 0.25, atol=1e-5)
    np.testing.assert_allclose(softened.std((1, 2, 3)), 1 - np.asarray(amount), atol=1e-5)
    smooth = jnp.full((2, 16, 16, 3), 0.5)
    np.testing.assert_allclose(soften(smooth, jnp.ones(2)), 0.5, atol=1e-6)
