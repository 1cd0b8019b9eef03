"""What a step aims at: identities for the faces, and where and how sharply to look."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from identitydp_jax.privacy.setting import PrivacySetting
from identitydp_jax.training.step import draw_targets, face_region, soften


def _unit(count, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, 512)).astype(np.float32)
    return jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _mixture(**values):
    shares = {"same": 0.2, "other": 0.3, "noised": 0.25, "epsilon": (4000.0, 10000.0)}
    return ml_collections.ConfigDict({**shares, **values})


def _drawn(own, seed, mixture):
    targets, same = jax.jit(lambda x, k: draw_targets(x, key=k, mixture=mixture))(
        own, jax.random.key(seed)
    )
    return np.asarray(targets), np.asarray(same)


def test_targets_have_the_shares_of_the_mixture():
    own = _unit(4000)
    targets, same = _drawn(own, 1, _mixture())
    np.testing.assert_allclose(np.linalg.norm(targets, axis=1), 1, rtol=1e-5)
    kept = np.all(targets == own, axis=1)
    np.testing.assert_array_equal(kept, same == 1)
    other = np.all(targets == np.roll(own, 1, axis=0), axis=1)
    cosine = (targets * np.asarray(own)).sum(1)
    noised = ~kept & (cosine > 0.8)
    random = ~kept & ~other & ~noised
    assert np.abs(cosine[random]).max() < 0.25
    for found, share in ((kept, 0.2), (other, 0.3), (noised, 0.25), (random, 0.25)):
        assert abs(found.mean() - share) < 5 * np.sqrt(share * (1 - share) / 4000)


def test_noise_is_that_of_the_certified_budget():
    own = _unit(500)
    noised, _ = _drawn(own, 2, _mixture(same=0.0, other=0.0, noised=1.0, epsilon=(800.0, 800.0)))
    expected = PrivacySetting(epsilon=800).expected_cosine
    np.testing.assert_allclose((noised * np.asarray(own)).sum(1).mean(), expected, atol=0.01)


def test_budgets_are_log_uniform():
    mixture = _mixture(same=0.0, other=0.0, noised=1.0, epsilon=(100.0, 10000.0))
    own = _unit(2000)
    cosine = (_drawn(own, 3, mixture)[0] * np.asarray(own)).sum(1)
    # The median budget is the geometric mean, 1000.
    middle = PrivacySetting(epsilon=1000).expected_cosine
    assert abs((cosine < middle).mean() - 0.5) < 0.06


def test_target_of_a_face_does_not_depend_on_the_size_of_the_batch():
    own = _unit(8)
    whole, whole_same = _drawn(own, 4, _mixture(other=0.0))
    part, part_same = _drawn(own[:4], 4, _mixture(other=0.0))
    np.testing.assert_array_equal(whole_same[:4], part_same)
    np.testing.assert_allclose(whole[:4], part, atol=1e-6)


def test_other_keys_draw_other_targets():
    own = _unit(8)
    mixture = _mixture(same=0.0, other=0.0, noised=0.0)
    one, other = (_drawn(own, seed, mixture)[0] for seed in (5, 6))
    assert np.abs((one * other).sum(1)).max() < 0.25
    assert np.abs(one @ one.T - np.eye(8)).max() < 0.25


def test_face_region_holds_the_face_and_not_the_corners():
    region = np.asarray(face_region(256))[..., 0]
    assert region.min() == 0
    assert region.max() == 1
    for x, y in ((96, 121), (161, 121), (128, 158), (100, 186), (156, 186)):
        assert region[y, x] == 1
    assert region[:20].max() == region[:, :20].max() == region[:, -20:].max() == 0
    blocks = region.reshape(64, 4, 64, 4).mean((1, 3))
    np.testing.assert_allclose(face_region(64)[..., 0], blocks, atol=0.05)


def test_soften_takes_detail_and_no_light():
    stripes = np.where(np.arange(16) % 2, 1.0, -1.0).astype(np.float32)
    faces = jnp.asarray(np.broadcast_to(stripes[:, None], (64, 16, 16, 3)) + 0.25)
    amount = jax.random.uniform(jax.random.key(0), (64,))
    softened = np.asarray(jax.jit(soften)(faces, amount))
    np.testing.assert_allclose(softened.mean((1, 2, 3)), 0.25, atol=1e-5)
    # Pairs of stripes average to nothing: what is left of them is one less the amount.
    np.testing.assert_allclose(softened.std((1, 2, 3)), 1 - np.asarray(amount), atol=0.05)
    np.testing.assert_allclose(np.abs(softened - 0.25).std((1, 2, 3)), 0, atol=1e-5)
    smooth = jnp.full((2, 16, 16, 3), 0.5)
    np.testing.assert_allclose(soften(smooth, jnp.ones(2)), 0.5, atol=1e-6)
