"""Where the arrays of a training state lie, and batches that several processes read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec

from identitydp_jax import sharding
from identitydp_jax.training import state as states


def _leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((128, 256), PartitionSpec(None, "data")),
        ((256, 128), PartitionSpec("data")),
        ((3, 3, 64, 64), PartitionSpec(None, None, "data")),
        ((1028, 64), PartitionSpec(None, "data")),  # 8 divides no 1028
        ((2**14,), PartitionSpec("data")),
        ((2**13,), PartitionSpec()),  # small
        ((129, 257), PartitionSpec()),  # nothing divides
        ((), PartitionSpec()),
    ],
)
def test_big_arrays_are_split_along_their_largest_divisible_axis(shape, spec):
    mesh = sharding.make_mesh()
    found = sharding.state_shardings({"x": _leaf(*shape)}, mesh, fsdp=True)["x"]
    assert found.is_equivalent_to(jax.sharding.NamedSharding(mesh, spec), len(shape))
    whole = sharding.state_shardings({"x": _leaf(*shape)}, mesh, fsdp=False)["x"]
    assert whole.is_fully_replicated


@pytest.fixture(scope="module")
def state():
    return states.create(tiny.training_config("network.width=0.25"))


def _bytes_on_a_device(tree):
    """Bytes of a placed tree on the device that holds most."""
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values())


def test_a_device_holds_about_an_eighth_of_a_split_state(state):
    mesh = sharding.make_mesh()
    split, whole = (
        sharding.place(state, sharding.state_shardings(state, mesh, fsdp=fsdp))
        for fsdp in (True, False)
    )
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert _bytes_on_a_device(whole) == total
    assert total / 8 <= _bytes_on_a_device(split) < 0.17 * total
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(split), strict=True):
        np.testing.assert_array_equal(a, b)


def test_moments_and_averages_lie_where_their_parameters_lie(state):
    mesh = sharding.make_mesh()
    found = sharding.state_shardings(state, mesh, fsdp=True)
    assert found.params == found.optimizer[0].nu == found.average["params"]
    assert found.discriminator == found.discriminator_optimizer[0].nu
    assert found.step.is_fully_replicated
    split = [leaf for leaf in jax.tree.leaves(found.params) if not leaf.is_fully_replicated]
    assert len(split) > 20


def test_placed_arrays_are_no_one_elses_when_they_are_donated():
    mesh = sharding.make_mesh()
    host = np.ones((8, 2**12), np.float32)
    everywhere = sharding.replicated(mesh)
    placed = sharding.place({"x": host, "y": host}, everywhere)
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    for _ in range(3):
        placed = add(placed)
    np.testing.assert_array_equal(host, 1)
    for leaf in placed.values():
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, 4)


def test_rows_of_a_process_become_its_part_of_the_global_batch():
    mesh = sharding.make_mesh()
    local = np.arange(16 * 3, dtype=np.uint8).reshape(16, 3)
    batch = sharding.global_batch(local, mesh)
    assert batch.sharding == sharding.over_batch(mesh)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch, local)
