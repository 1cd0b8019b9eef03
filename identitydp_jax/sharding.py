"""One mesh over the devices of all processes: batches split, the rest copied or split too."""

import functools
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from identitydp_jax.checks import UserError

_AXIS = "data"
_MOST_CHUNKS = 64  # for one device at once
_SMALL_LEAF = 2**14  # entries; gathering a smaller array costs more than its copies


def make_mesh() -> Mesh:
    """Mesh of every device of every process along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=(AxisType.Auto,))


def over_batch(mesh: Mesh) -> NamedSharding:
    """Sharding that splits the first axis of an array over the devices."""
    return NamedSharding(mesh, PartitionSpec(_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(state, mesh: Mesh, *, fsdp: bool):
    """Return where every array of a training state lies.

    Args:
      state: tree of arrays or of `jax.ShapeDtypeStruct`.
      mesh: from `make_mesh`.
      fsdp: split every array of 2**14 entries or more along its largest axis that the devices
        divide (the first of equal ones), so that a device holds and updates only its part of
        parameters, averages and moments alike; otherwise every device holds a whole copy.

    Returns:
      The same tree with a `NamedSharding` for every array. It depends on shapes alone, so an
      optimizer's moments lie where their parameter lies.
    """

    def leaf(x):
        axes = [i for i, length in enumerate(x.shape) if length % mesh.size == 0]
        if not fsdp or math.prod(x.shape) < _SMALL_LEAF or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda i: x.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, _AXIS))

    return jax.tree.map(leaf, state)


def place(tree, shardings):
    """Put a tree that every process holds alike where `shardings` says.

    Every process copies only what its own devices hold; nothing is sent between processes.

    Args:
      tree: tree of arrays that lie whole on this process.
      shardings: one sharding for all, or a tree of them like `tree`.

    Returns:
      The tree as global arrays, in buffers of their own.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def leaf(x, sharding):
        host = np.array(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(leaf, tree, shardings)


def global_batch(local: np.ndarray, mesh: Mesh) -> jax.Array:
    """Join the rows of all processes into one array, split over the devices of the mesh.

    Args:
      local: (N / processes, ...), this process's rows; as many in every process.
      mesh: from `make_mesh`.

    Returns:
      Global array (N, ...), process after process; no row leaves its process.
    """
    return jax.make_array_from_process_local_data(over_batch(mesh), local)


def check_divisible(batch_size: int, mesh: Mesh, *, accumulate: int) -> None:
    """Raise `UserError` unless every microbatch splits evenly over the devices of the mesh."""
    if batch_size % (mesh.size * accumulate):
        raise UserError(
            f"batch_size is {batch_size}: make it a multiple of {mesh.size * accumulate}, "
            f"the {mesh.size} devices times accumulate={accumulate}"
        )


def map_rows(function, params, *rows):
    """Apply a function to rows, in chunks of one size that are spread over all devices.

    Every chunk runs the same program whatever its place, so what comes out for a row depends on
    that row alone, not on how many others there are or how many devices.

    Args:
      function: `function(params, *chunks)`, a pure function from arrays (C, ...) to one (C, ...),
        or a tree of them, for any C, row by row. It is compiled once for as long as it is the same
        object.
      params: tree of arrays that every row shares.
      *rows: arrays (N, ...), also of typed keys.

    Returns:
      numpy array (N, ...), or the tree of them.
    """
    count, mesh = len(rows[0]), make_mesh()
    chunk = _chunk()
    if count == 0:
        one = [jax.ShapeDtypeStruct((chunk, *row.shape[1:]), row.dtype) for row in rows]
        shapes = jax.eval_shape(function, params, *one)
        return jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), shapes)
    most = chunk * mesh.size * _MOST_CHUNKS
    blocks = []
    for start in range(0, count, most):
        size = min(most, count - start)
        chunks = -(-size // (chunk * mesh.size))
        # Few sizes of blocks mean few compilations; the padding repeats the last row.
        padded = chunk * mesh.size * 2 ** (chunks - 1).bit_length()
        index = start + np.minimum(np.arange(padded), size - 1)
        block = _map_block(function, mesh, chunk, params, *(row[index] for row in rows))
        blocks.append(jax.tree.map(lambda x, size=size: np.asarray(x)[:size], block))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *blocks)


def _chunk() -> int:
    return 1 if jax.default_backend() == "cpu" else 32


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _map_block(function, mesh, chunk, params, *rows):
    def on_device(params, *rows):
        split = tuple(row.reshape(-1, chunk, *row.shape[1:]) for row in rows)
        mapped = jax.lax.map(lambda chunks: function(params, *chunks), split)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), mapped)

    here, split = PartitionSpec(), PartitionSpec(_AXIS)
    specs = (here, *(split for _ in rows))
    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)(
        params, *rows
    )
