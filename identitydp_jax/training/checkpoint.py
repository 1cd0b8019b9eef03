"""Saving and restoring a run with orbax."""

import pathlib

import jax
from orbax.checkpoint.experimental import v1 as ocp

from identitydp_jax.checks import UserError


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for what is being written."""

    def __init__(self, folder, *, every: int, keep: int, network: dict):
        """Open or make `folder`; save each `every` steps, keep the newest `keep`.

        `network` describes the networks; restoring checks that it is the one of the checkpoint.
        """
        policies = ocp.training
        self._network = network
        self._folder = pathlib.Path(folder).resolve()
        self._checkpointer = policies.Checkpointer(
            self._folder,
            save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(every),
            preservation_policy=policies.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
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

    def save(self, step: int, state, *, force: bool = False) -> None:
        """Save in the background if the policy wants this step, or if forced to."""
        latest = self._checkpointer.latest
        if latest is not None and latest.step == step:
            return
        self._checkpointer.save_async(
            step, state, force=force, custom_metadata={"network": self._network}
        )
