"""One mesh over all devices; batches split along it, everything else replicated."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from identitydp_jax.checks import UserError

_AXIS = "data"


def make_mesh() -> Mesh:
    """Mesh of every device along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=(AxisType.Auto,))


def over_batch(mesh: Mesh) -> NamedSharding:
    """Sharding that splits the first axis of an array over the devices."""
    return NamedSharding(mesh, PartitionSpec(_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_divisible(batch_size: int, mesh: Mesh) -> None:
    """Raise `UserError` unless the batch splits evenly over the devices of the mesh."""
    if batch_size % mesh.size:
        raise UserError(
            f"batch_size is {batch_size}: make it a multiple of the {mesh.size} devices"
        )
