"""Batches in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from identitydp_jax import sharding
from identitydp_jax.training.accumulation import over_parts


def _slope(weights, batch):
    def loss(weights):
        predicted = batch["x"] @ weights
        return ((predicted - batch["y"]) ** 2).mean(), predicted

    (value, predicted), slope = jax.value_and_grad(loss, has_aux=True)(weights)
    return {"loss": value, "slope": slope}, predicted


def _data():
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(48, 5)), rng.normal(size=(48, 2)), rng.normal(size=(5, 2))
    x, y, w = (jnp.asarray(a, jnp.float32) for a in (x, y, w))
    return w, {"x": x, "y": y}


@pytest.mark.parametrize("count", [1, 2, 3, 16, 48])
def test_means_and_rows_are_those_of_the_whole_batch(count):
    weights, batch = _data()
    parts = jax.jit(lambda w, b: over_parts(lambda part: _slope(w, part), b, count))
    means, rows = parts(weights, batch)
    expected, expected_rows = _slope(weights, batch)
    np.testing.assert_allclose(means["loss"], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(means["slope"], expected["slope"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows, expected_rows, rtol=1e-5, atol=1e-6)


def test_parts_are_small_and_come_in_turn():
    seen = []

    def function(part):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), part, ordered=True)
        return part.mean(), part

    means, _ = over_parts(function, jnp.arange(12.0), 3)
    jax.effects_barrier()
    assert [part.tolist() for part in seen] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert float(means) == 5.5


def test_a_batch_over_devices_is_divided_without_exchange():
    mesh = sharding.make_mesh()
    split = sharding.over_batch(mesh)

    def rows(batch):
        return over_parts(lambda part: (jnp.float32(0), jnp.sin(part)), batch, 4)[1]

    batch = jax.ShapeDtypeStruct((64, 6), jnp.float32)
    program = jax.jit(rows, in_shardings=split, out_shardings=split).lower(batch).compile()
    for exchange in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert exchange not in program.as_text()
