"""What holds for the codes of every mechanism; `release(rows, keys)` and `program`, it jitted."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tiny import keys


def assert_rows_stand_alone(release, program, rows):
    """A row depends on its own key and input: not on place, number or shape (N, D) of the others.

    N is a multiple of 8, and above 8.
    """
    count, d = rows.shape
    k, whole = keys(count), np.asarray(program(rows, keys(count)))
    for i in (0, 7, count - 1):
        np.testing.assert_array_equal(release(rows[i], k[i]), whole[i])
    order = np.random.default_rng(2).permutation(count)
    np.testing.assert_array_equal(program(rows[order], keys(count)[order]), whole[order])
    shape = (2, count // 8, 4)
    stacked = release(rows.reshape(*shape, d), keys(count).reshape(shape))
    np.testing.assert_array_equal(np.reshape(stacked, (count, d)), whole)


def assert_same_however_it_is_mapped(release, program, rows):
    """Under vmap and map and on one and eight devices the codes of rows (N, D) are the same."""
    count = len(rows)
    whole = np.asarray(program(rows, keys(count)))
    np.testing.assert_array_equal(jax.vmap(release)(rows, keys(count)), whole)
    mapped = jax.jit(lambda r, k: jax.lax.map(lambda pair: release(*pair), (r, k)))
    np.testing.assert_array_equal(mapped(rows, keys(count)), whole)
    for devices in (1, 8):
        mesh = jax.make_mesh(
            (devices,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
        )
        split = NamedSharding(mesh, PartitionSpec("batch"))
        sharded = program(jax.device_put(rows, split), jax.device_put(keys(count), split))
        assert len(sharded.sharding.device_set) == devices
        np.testing.assert_array_equal(sharded, whole)


def assert_integers_of_32_bits_at_most(release, rows):
    """No floating-point number and no wider integer lies between the embedding and the codes."""

    def dtypes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.dtype for v in equation.outvars)
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from dtypes(inner)

    found = set(dtypes(jax.make_jaxpr(release)(rows, keys(len(rows))).jaxpr))
    assert found
    assert not [dtype for dtype in found if jnp.issubdtype(dtype, jnp.floating)]
    assert not [d for d in found if jnp.issubdtype(d, jnp.integer) and d.itemsize > 4]
