"""Saving and restoring a run with orbax."""

import pathlib

import jax
from orbax.checkpoint.experimental import v1 as ocp

from identitydp_jax.checks import UserError


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for what is being written."""

    def __init__(self, folder, *, keep: int, network: dict):
        """Open or make `folder`; keep the newest `keep`.

        `network` describes the networks; restoring checks that it is the one of the checkpoint.
        """
        policy = ocp.training.preservation_policies.LatestN(keep)
        self._network = network
        self._folder = pathlib.Path(folder).resolve()
        self._checkpointer = ocp.training.Checkpointer(
            self._folder, preservation_policy=policy, cleanup_tmp_directories=True
        )

    def __enter__(self):
        """Return the open checkpoints."""
        return self

    def __exit__(self, *exception):
        """Finish pending writes."""
        self._checkpointer.close()

    def restore(self, state):
        """Return the newest saved state with the shardings of `state`, or `state` if none is saved.

        Raises `UserError` if the newest checkpoint is of other networks.
        """
        latest = self._checkpointer.latest
        if latest is None:
            return state
        saved = self._checkpointer.metadata(latest).custom_metadata or {}
        if saved.get("network") != self._network:
            raise UserError(
                f"{self._folder}: holds a run of other networks, {saved.get('network')}; "
                "give another --workdir or the configuration that began it"
            )
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        return self._checkpointer.load(latest, abstract)

    def save(self, step: int, state) -> None:
        """Save in the background, once what is still being written is done."""
        self._checkpointer.save_async(
            step, state, force=True, custom_metadata={"network": self._network}
        )
