"""The endless stream of batches that a model trains on, whatever it comes from."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from identitydp_jax import sharding
from identitydp_jax.checks import UserError
from identitydp_jax.data.batches import open_batches, read_held_out
from identitydp_jax.training.face_pool import FacePool
from identitydp_jax.training.synthetic_source import write_folder


def open_stream(config, workdir, mesh):
    """Open the batches of a run, from the first on.

    `config.data` is ``synthetic`` or what `data.sources.open_faces` takes. Synthetic faces that
    are replaced while training (`config.refresh` > 0) stay in the devices' memory, see `FacePool`:
    a restart generates them again. A fixed set of them (`config.refresh` = 0) is generated once,
    into the folder `faces` of the workdir, resumed there after a stop, and then read like any
    folder: the way for devices that generate slowly.

    Args:
      config: `data`, `batch_size`, `held_out`, `seed`, `network.resolution`, `mixture.twin`; for
        ``synthetic`` also `pool` and `refresh`.
      workdir: folder of the run, shared by all processes.
      mesh: from `sharding.make_mesh`.

    Returns:
      An iterator over uint8 global arrays (N, R, K R, 3), see `picture_shape`, split over the mesh,
      with `get_state()`, `set_state(state)` and `held_out()`, `config.held_out` pictures that are
      in no batch, uint8 on the host. All processes have to take batches in step.

    Raises:
      UserError: `mixture.twin` asks for twins of faces that are not generated; else as
        `open_batches`, `FacePool` and `write_folder` do.
    """
    if config.data != "synthetic":
        if config.mixture.twin:
            raise UserError(
                f"mixture.twin is {config.mixture.twin}, but only generated faces have twins: set"
                " mixture.twin=0 or data=synthetic"
            )
        return HostStream(config, mesh)
    if config.refresh:
        return FacePool(config, mesh)
    folder = workdir / "faces"
    if jax.process_index() == 0:
        write_folder(
            folder, count=config.pool + config.held_out, resolution=config.network.resolution,
            seed=config.seed, image_format="png", twins=config.mixture.twin > 0,
            cut=config.network.get("fusion") == "prior",
        )  # fmt: skip
    multihost_utils.sync_global_devices("faces")
    from_folder = config.copy_and_resolve_references()
    from_folder.data = str(folder)
    return HostStream(from_folder, mesh)


class HostStream:
    """Batches that grain reads in every process, joined into arrays over all devices."""

    def __init__(self, config, mesh):
        """Open this process's part; raise `UserError` as `open_batches` does."""
        self._mesh, self._config = mesh, config
        self._batches = open_batches(
            config, process_index=jax.process_index(), process_count=jax.process_count()
        )

    def __iter__(self):
        """Return itself."""
        return self

    def __next__(self) -> jax.Array:
        """Return the next batch: uint8 (N, R, K R, 3), split over the devices of the mesh."""
        return sharding.global_batch(next(self._batches), self._mesh)

    def get_state(self) -> dict[str, int]:
        """Return grain's state, the number of the next batch."""
        return self._batches.get_state()

    def set_state(self, state: dict[str, int]) -> None:
        """Continue with the batch that `get_state` named, with any number of processes."""
        self._batches.set_state(state)

    def held_out(self) -> np.ndarray:
        """Return the last pictures of the source, alike in every process; see `read_held_out`."""
        return read_held_out(self._config)
