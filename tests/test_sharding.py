"""The mesh, and batches that fit on it."""

import jax
import numpy as np
import pytest

from identitydp_jax import sharding
from identitydp_jax.checks import UserError, one_of, positive


def test_batches_are_split_over_all_devices_and_parameters_copied():
    mesh = sharding.make_mesh()
    assert mesh.size == jax.device_count() == 8
    batch = jax.device_put(np.zeros((16, 3)), sharding.over_batch(mesh))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 3)}
    copied = jax.device_put(np.zeros((16, 3)), sharding.replicated(mesh))
    assert {shard.data.shape for shard in copied.addressable_shards} == {(16, 3)}


def test_a_batch_that_does_not_split_is_named():
    mesh = sharding.make_mesh()
    sharding.check_divisible(16, mesh, accumulate=2)
    message = "batch_size is 24: make it a multiple of 16, the 8 devices times accumulate=2"
    with pytest.raises(UserError, match=message):
        sharding.check_divisible(24, mesh, accumulate=2)


def _noisy_products(weights, rows, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, rows.shape[1:]))(keys)
    return {"sum": (rows @ weights).sum(1), "noisy": rows + noise}


def _keys(count):
    return jax.random.split(jax.random.key(1), 1100)[:count]


@pytest.mark.parametrize("count", [1, 5, 8, 9, 100, 1100])
def test_what_map_rows_gives_for_a_row_depends_on_that_row_alone(count):
    rng = np.random.default_rng(0)
    weights, rows = rng.normal(size=(7, 5)), rng.normal(size=(1100, 7)).astype(np.float32)
    weights = weights.astype(np.float32)
    whole = sharding.map_rows(_noisy_products, weights, rows, _keys(1100))
    np.testing.assert_allclose(whole["sum"], (rows @ weights).sum(1), rtol=1e-4, atol=1e-5)
    head = sharding.map_rows(_noisy_products, weights, rows[:count], _keys(count))
    assert head["noisy"].shape == (count, 7)
    np.testing.assert_array_equal(head["sum"], whole["sum"][:count])
    np.testing.assert_array_equal(head["noisy"], whole["noisy"][:count])


def test_map_rows_uses_every_device_and_none_for_nothing():
    placed = []

    def watch(_, rows):
        jax.debug.callback(lambda index: placed.append(int(index)), jax.lax.axis_index("data"))
        return rows

    sharding.map_rows(watch, (), np.zeros((16, 2), np.float32))
    jax.effects_barrier()
    assert set(placed) == set(range(8))
    nothing = sharding.map_rows(_noisy_products, np.zeros((7, 5)), np.zeros((0, 7)), _keys(0))
    assert nothing["noisy"].shape == (0, 7)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_positive_names_value_and_bound(value):
    assert positive("width", 2) == 2.0
    with pytest.raises(UserError, match=f"width is {value}: give a finite number above 0"):
        positive("width", value)


def test_one_of_names_the_choices():
    assert one_of("norm", "batch", ("batch", "instance")) == "batch"
    with pytest.raises(UserError, match="norm is 'layer': choose one of batch, instance"):
        one_of("norm", "layer", ("batch", "instance"))
