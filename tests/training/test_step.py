import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType

from identitydp_jax import sharding
from identitydp_jax.privacy.setting import PrivacySetting
from identitydp_jax.training import state as states
from identitydp_jax.training.step import draw_targets, face_region, make_step, soften


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


@pytest.fixture(scope="module")
def config():
    return tiny.training_config()


def _sharded(config, devices):
    """Return the step over these devices as the loop compiles it, and where its inputs go."""
    mesh = jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)
    everywhere, split = sharding.replicated(mesh), sharding.over_batch(mesh)
    step = jax.jit(
        make_step(config, tiny.encode, frozen=False),
        in_shardings=(everywhere, everywhere, split, everywhere),
        out_shardings=everywhere,
        donate_argnums=0,
    )

    def run(state, faces, key):
        # From and to the host: the step takes the buffers of the state that it is given.
        state = jax.device_put(jax.device_get(state), everywhere)
        params = jax.device_put(tiny.encoder_params(), everywhere)
        return jax.device_get(step(state, params, jax.device_put(faces, split), key))

    return run


@pytest.fixture(scope="module")
def step(config):
    return _sharded(config, jax.devices()[:1])


@pytest.fixture(scope="module")
def once(config, step):
    """A state, the state after one step, and the metrics."""
    before = jax.device_get(states.create(config))
    after, metrics = step(before, tiny.faces(8), jax.random.key(0))
    return before, after, metrics


def test_metrics_are_finite_and_add_up(config, once):
    metrics = {name: float(value) for name, value in once[2].items()}
    assert all(np.isfinite(list(metrics.values())))
    terms = set(config.loss) & set(metrics)
    assert terms >= {"adversarial", "identity", "attributes", "reconstruction", "colour"}
    weighted = sum(config.loss[name] * metrics[name] for name in terms)
    np.testing.assert_allclose(metrics["total"], weighted, rtol=1e-5)
    for name in ("identity", "attributes", "reconstruction", "colour", "gradient_norm"):
        assert metrics[name] > 0
    assert 0 <= metrics["discriminator_accuracy"] <= 1


def test_every_parameter_of_both_networks_gets_a_gradient(config, once):
    before, after, _ = once
    for part in ("params", "discriminator"):
        changes = jax.tree_util.tree_map_with_path(
            lambda path, a, b: (jax.tree_util.keystr(path), np.abs(a - b)),
            getattr(before, part), getattr(after, part),
        )  # fmt: skip
        leaves = jax.tree.leaves(changes, is_leaf=lambda x: isinstance(x, tuple))
        still = [name for name, change in leaves if not change.max() > 0]
        assert not still
        # Adam without momentum moves what has a gradient by the learning rate.
        moved = np.concatenate([change.ravel() for _, change in leaves])
        np.testing.assert_allclose(np.median(moved), config.learning_rate, rtol=0.05)


def test_the_identity_encoder_is_no_part_of_the_state(once):
    assert int(once[1].step) == 1
    assert set(once[1].params) == {"encoder", "generator"}
    assert not any(leaf.shape == (768, 512) for leaf in jax.tree.leaves(once[1]))


def test_running_statistics_follow_the_faces_in_both_parts(once):
    before, after, _ = once
    assert set(after.batch_stats) == {"encoder", "generator"}
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(before.batch_stats),
        jax.tree.leaves(after.batch_stats),
        strict=True,
    ):
        assert np.abs(a - b).max() > 0, jax.tree_util.keystr(path)


def test_statistics_come_from_real_faces_alone(config, once):
    """The encoder also sees what is drawn; its first running mean must not."""
    from identitydp_jax.models.layers import conv
    from identitydp_jax.models.pixels import to_float

    before, after, _ = once
    kernel = before.params["encoder"]["down0"]["kernel"]
    mean = conv(to_float(tiny.faces(8)), kernel, stride=2, padding=1).mean((0, 1, 2))
    found = after.batch_stats["encoder"]["down0_norm"]["norm"]["mean"]
    np.testing.assert_allclose(found, 0.02 * mean, atol=1e-6)


def test_average_starts_short(once):
    before, after, _ = once
    # Its first decay is (1 + 0) / (10 + 0).
    for a, b, average in zip(
        jax.tree.leaves([before.params, before.batch_stats]),
        jax.tree.leaves([after.params, after.batch_stats]),
        jax.tree.leaves([after.average["params"], after.average["batch_stats"]]),
        strict=True,
    ):
        np.testing.assert_allclose(average, 0.1 * a + 0.9 * b, atol=1e-6)


def test_the_same_step_gives_the_same_bits(config, step, once):
    again, _ = step(states.create(config), tiny.faces(8), jax.random.key(0))
    for a, b in zip(jax.tree.leaves(once[1]), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_few_steps_learn_a_batch(config, step):
    state, root, history = states.create(config), jax.random.key(1), []
    for i in range(30):
        state, metrics = step(state, tiny.faces(8), jax.random.fold_in(root, i))
        history.append({name: float(value) for name, value in metrics.items()})
    for name in ("colour", "reconstruction"):
        first, last = (np.mean([row[name] for row in rows]) for rows in (history[:5], history[-5:]))
        assert last < 0.8 * first, name


def test_losses_on_one_device_and_on_eight_agree(config, step, once):
    """Apart by 4e-7 after one step; by 7e-5 after two.

    Adam without momentum first moves every parameter by the learning rate, so a gradient that
    rounds to the other side of zero moves the other way.
    """
    eight = _sharded(config, jax.devices()[:8])
    _, state, one_first = once
    eight_state, eight_first = eight(once[0], tiny.faces(8), jax.random.key(0))
    _, one_second = step(state, tiny.faces(8, seed=1), jax.random.key(1))
    _, eight_second = eight(eight_state, tiny.faces(8, seed=1), jax.random.key(1))
    for name in ("total", "identity", "attributes", "reconstruction", "discriminator"):
        np.testing.assert_allclose(eight_first[name], one_first[name], rtol=1e-5)
        np.testing.assert_allclose(eight_second[name], one_second[name], rtol=3e-4)


def test_soften_takes_detail_and_no_light():
    stripes = np.where(np.arange(16) % 2, 1.0, -1.0).astype(np.float32)
    faces = jnp.asarray(np.broadcast_to(stripes[:, None], (64, 16, 16, 3)) + 0.25)
    softened = np.asarray(jax.jit(lambda x, k: soften(x, key=k))(faces, jax.random.key(0)))
    np.testing.assert_allclose(softened.mean((1, 2, 3)), 0.25, atol=1e-5)
    left = softened.std((1, 2, 3))
    # Amounts are uniform: what is left of the stripes too, one amount for a whole face.
    assert left.min() < 0.1
    assert left.max() > 0.9
    assert 0.35 < left.mean() < 0.65
    np.testing.assert_allclose(np.abs(softened - 0.25).std((1, 2, 3)), 0, atol=1e-5)
    smooth = jnp.full((2, 16, 16, 3), 0.5)
    np.testing.assert_allclose(soften(smooth, key=jax.random.key(1)), 0.5, atol=1e-6)
