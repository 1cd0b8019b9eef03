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
    sharding.check_divisible(16, mesh)
    with pytest.raises(UserError, match="batch_size is 12: make it a multiple of the 8 devices"):
        sharding.check_divisible(12, mesh)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_positive_names_value_and_bound(value):
    assert positive("width", 2) == 2.0
    with pytest.raises(UserError, match=f"width is {value}: give a finite number above 0"):
        positive("width", value)


def test_one_of_names_the_choices():
    assert one_of("norm", "batch", ("batch", "instance")) == "batch"
    with pytest.raises(UserError, match="norm is 'layer': choose one of batch, instance"):
        one_of("norm", "layer", ("batch", "instance"))
