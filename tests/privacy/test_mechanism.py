"""What all mechanisms have in common; the noise itself is tested beside each of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import tiny
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from identitydp_jax.privacy import mechanism
from identitydp_jax.privacy.setting import PrivacySetting

D = 512
SETTINGS = [
    PrivacySetting("laplace", 400.0, "paper"),
    PrivacySetting("laplace", 100.0, "certified-l1:19"),
    PrivacySetting("privunit", 12.0),
    PrivacySetting("gaussian", 6.0),
    PrivacySetting("random"),
]
every = pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.mechanism}-{s.epsilon:g}")


def unit_rows(n, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def release(rows, key, setting):
    arrays = setting.arrays
    return mechanism.release(rows, key=key, mechanism=setting.mechanism, arrays=arrays)


@every
def test_a_row_depends_on_its_own_key_and_input_alone(setting):
    r = unit_rows(6)
    whole = np.asarray(release(r, tiny.keys(6), setting))
    assert whole.dtype == np.int32 and whole.shape == (6, D)
    alone = [np.asarray(release(r[i], tiny.keys(6)[i], setting)) for i in range(6)]
    np.testing.assert_array_equal(alone, whole)
    order = np.array([4, 0, 5, 1, 3, 2])
    np.testing.assert_array_equal(release(r[order], tiny.keys(6)[order], setting), whole[order])
    stacked = release(r.reshape(2, 3, D), tiny.keys(6).reshape(2, 3), setting)
    np.testing.assert_array_equal(np.reshape(stacked, (6, D)), whole)
    other = np.asarray(release(r, tiny.keys(6, seed=1), setting))
    assert (other != whole).any(axis=1).all()


@every
def test_jit_vmap_and_eight_devices_change_no_integer(setting):
    def one(row, key):
        return release(row, key, setting)

    r, jitted = unit_rows(8), jax.jit(one)
    with jax.disable_jit():
        eager = np.asarray(one(r[:1], tiny.keys(8)[:1]))
    whole = np.asarray(jitted(r, tiny.keys(8)))
    np.testing.assert_array_equal(whole[:1], eager)
    np.testing.assert_array_equal(jax.vmap(one)(r, tiny.keys(8)), whole)
    mapped = jax.lax.map(lambda pair: one(*pair), (jnp.asarray(r), tiny.keys(8)))
    np.testing.assert_array_equal(mapped, whole)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("batch"))
    sharded = jitted(jax.device_put(r, rows), jax.device_put(tiny.keys(8), rows))
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_array_equal(sharded, whole)


@every
def test_the_cosine_is_the_expected_one(setting):
    r = unit_rows(200)
    y = np.asarray(mechanism.decode(release(r, tiny.keys(200), setting)))
    error = 3.5 / np.sqrt(D * 200)
    assert (r * y).sum(1).mean() == pytest.approx(setting.expected_cosine, abs=error)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, atol=1e-5)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, 1e-42])
def test_an_input_without_direction_is_noise_alone(setting, bad):
    row = np.full((1, D), bad, np.float32)
    zero = release(np.zeros((1, D), np.float32), tiny.keys(1), setting)
    np.testing.assert_array_equal(release(row, tiny.keys(1), setting), zero)


@every
@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (lambda: tiny.keys(1)[0], ValueError, "one per row"),
        (lambda: tiny.keys(3), ValueError, "one per row"),
        (lambda: jnp.zeros((2, 2), jnp.uint32), TypeError, "typed ChaCha20 keys"),
        (lambda: jax.random.split(jax.random.key(0), 2), TypeError, "typed ChaCha20 keys"),
        (lambda: jax.random.split(jax.random.key(0, impl="rbg"), 2), TypeError, "typed ChaCha20"),
    ],
)
def test_wrong_keys_are_refused(setting, key, error, message):
    with pytest.raises(error, match=message):
        release(unit_rows(2), key(), setting)


@every
def test_wrong_dimensions_are_refused(setting):
    with pytest.raises(ValueError, match="512 coordinates"):
        release(np.ones((2, 1024), np.float32), tiny.keys(2), setting)


def test_a_random_identity_is_uniform_and_never_saw_the_input():
    setting = SETTINGS[-1]
    seen = release(unit_rows(500), tiny.keys(500), setting)
    other = release(np.full((500, D), np.nan, np.float32), tiny.keys(500), setting)
    np.testing.assert_array_equal(seen, other)
    # A coordinate of a uniform direction: (1 + y_0) / 2 is Beta((d-1)/2, (d-1)/2).
    y = np.asarray(mechanism.decode(seen))[:, 0] + np.random.default_rng(0).uniform(-1, 1, 500) / (
        2 * 4 * np.sqrt(D)  # half a step of the codes, whose deviation is 4
    )
    beta = scipy.stats.beta((D - 1) / 2, (D - 1) / 2)
    assert scipy.stats.kstest((1 + y) / 2, beta.cdf).pvalue > 1e-3
    wrong = scipy.stats.kstest((1 + 1.3 * y) / 2, beta.cdf).pvalue
    assert wrong < 1e-3
