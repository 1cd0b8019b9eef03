"""Saving and restoring a run with orbax."""

import json
import pathlib
import sys

import flax.traverse_util
import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint.experimental import v1 as ocp

from identitydp_jax.checks import UserError, parse_json

# A run that continues with another of these would be another run.
_FIXED = ("network", "discriminator", "encoder", "seed", "batch_size", "data", "held_out", "pool",
          "refresh")  # fmt: skip
_policies = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for what is being written.

    A checkpoint holds the training state (step, parameters, their average, moments), the state of
    the data iterator and the whole configuration. Orbax writes it beside its place and renames it,
    so what a kill leaves half-written is not taken for one.
    """

    def __init__(self, folder, *, keep: int, config):
        """Open or make `folder` for a run of `config`; keep the newest `keep` and the best one.

        The best one has the lowest `loss` among its metrics, the newest of equal ones.
        """
        self._config = json.loads(json.dumps(config.to_dict()))
        self._folder = pathlib.Path(folder).resolve()
        best = _policies.BestN(
            n=1, get_metric_fn=_loss, reverse=True, keep_checkpoints_without_metrics=False
        )
        _drop_torn_metrics(self._folder)
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=_policies.AnyPreservationPolicy([_policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )

    def __enter__(self):
        """Return the open checkpoints."""
        return self

    def __exit__(self, kind, *exception):
        """Finish pending writes, but for an error among several processes, which may be gone."""
        if kind is None or jax.process_count() == 1:
            self._written(self._checkpointer.close)

    def restore(self, state):
        """Return the newest saved state that can be read, and the state of its data iterator.

        The arrays get the shardings of `state`, whatever devices they were saved from. Newer
        checkpoints that can't be read are named on standard error and moved aside.

        Returns:
          `(state, batches)`; `(state, None)` as given if nothing is saved.

        Raises:
          UserError: the run was begun with another network, data, seed or batch size, or there are
            checkpoints and none can be read.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )

        def described(config):
            _check_same(self._folder, config, self._config)
            return abstract

        found = _last_readable(self._checkpointer, self._checkpointer.checkpoints, described)
        if found is None:
            return state, None
        metadata, state, torn = found
        for step in torn:
            self._move_aside(step)
        return state, metadata["batches"]

    def save(self, step: int, state, batches: dict, metrics: dict | None = None) -> None:
        """Save in the background, once what is still being written is done.

        Args:
          step: number of steps done.
          state: training state; its buffers may be donated after the call.
          batches: JSON state of the data iterator, alike in all processes.
          metrics: floats by name, `loss` among them, alike in all processes; None if the state has
            not been measured.

        Raises:
          UserError: this or the previous checkpoint can't be written, as on a full disk. The ones
            before are as they were.
        """
        metadata = {"config": self._config, "batches": batches}
        self._written(
            lambda: self._checkpointer.save_async(
                step, state, force=True, metrics=metrics, custom_metadata=metadata
            )
        )

    def wait(self) -> None:
        """Wait for what is being written; raises as `save` does."""
        self._written(self._checkpointer.wait)

    def _written(self, write) -> None:
        try:
            write()
        except (OSError, ValueError) as error:  # tensorstore raises the latter on a full disk
            if not _is_about_files(error):
                raise
            reason = getattr(error, "strerror", None)
            reason = reason or str(error).rpartition(": ")[2].partition(" [")[0]
            raise UserError(
                f"{self._folder}: a checkpoint cannot be written ({reason}): stopped; the ones "
                "before it are sound, make room and run the same command to continue"
            ) from None

    def _move_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            (self._folder / str(step)).rename(self._folder / f"unreadable-{step}")
        multihost_utils.sync_global_devices(f"unreadable-{step}")
        self._checkpointer.reload()


def read_run(folder, abstract, *, best: bool = False):
    """Read a checkpoint in `folder`, changing nothing there; a run may be writing it.

    Args:
      folder: the checkpoints of a run.
      abstract: maps the run's configuration, a dict, to the abstract state to load.
      best: read the one with the lowest `loss` instead of the newest.

    Returns:
      `(config, state)`: the configuration as a dict, and the state.

    Raises:
      UserError: there is no such checkpoint, or none that can be read.
    """
    folder = pathlib.Path(folder).resolve()
    found = None
    if folder.is_dir():
        with _opened(folder) as checkpointer:
            checkpoints = checkpointer.checkpoints
            if best and checkpoints:
                checkpoints = _best_last(folder, checkpoints)
            found = _last_readable(checkpointer, checkpoints, abstract)
    if found is None:
        raise UserError(f"{folder}: holds no checkpoint; give the --workdir of a training run")
    metadata, state, _ = found
    return metadata["config"], state


def _opened(folder):
    try:
        return ocp.training.Checkpointer(folder)
    except ValueError:  # of JSON; nothing else is read here
        raise UserError(
            f"{folder}: the metrics of a checkpoint cannot be read; continue the run, which repairs"
            " that"
        ) from None


def _loss(metrics: dict) -> float:
    """Return what the best checkpoint has least of; what is no number is worse than any."""
    return np.nan_to_num(metrics["loss"], nan=np.inf)


def _best_last(folder, checkpoints) -> list:
    """Sort those that have been measured as orbax's policy does: of equal ones the newest last."""
    measured = [checkpoint for checkpoint in checkpoints if checkpoint.metrics is not None]
    if not measured:
        raise UserError(
            f"{folder}: no checkpoint has been measured on held-out faces yet; leave out --best for"
            " the newest one"
        )
    return sorted(measured, key=lambda checkpoint: _loss(checkpoint.metrics), reverse=True)


def _drop_torn_metrics(folder) -> None:
    """Let checkpoints count as unmeasured whose metrics are torn: orbax would open none of them."""
    if jax.process_index() == 0:
        for file in folder.glob("[0-9]*/metrics/metrics"):
            try:
                parse_json(file.read_bytes())
            except ValueError:
                file.unlink()
    multihost_utils.sync_global_devices("metrics")


def _last_readable(checkpointer, checkpoints, abstract):
    """Return metadata and state of the last one that can be read, and the steps passed over."""
    torn = []
    for checkpoint in reversed(checkpoints):
        metadata, state, problem = _read(checkpointer, checkpoint, abstract)
        if _every_process(problem is None):
            return metadata, state, torn
        torn.append(checkpoint.step)
        if jax.process_index() == 0:
            print(
                f"identitydp: {checkpoint.path}: passed over, it cannot be read ({problem})",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    if torn:
        raise UserError(
            f"{checkpointer.directory}: none of its checkpoints can be read; give another "
            "--workdir or bring them back"
        )
    return None


def _read(checkpointer, checkpoint, abstract):
    """Return metadata, state and None, or None, None and why the checkpoint can't be read."""
    try:
        metadata = checkpointer.metadata(checkpoint).custom_metadata or {}
        if "config" not in metadata:
            return None, None, "its configuration is missing"
        return metadata, checkpointer.load(checkpoint, abstract(metadata["config"])), None
    except UserError:
        raise
    except Exception as error:  # each broken file has an exception type of its own
        return None, None, type(error).__name__


def _every_process(here: bool) -> bool:
    return bool(np.all(multihost_utils.process_allgather(np.asarray(here))))


def _check_same(folder, saved: dict, now: dict) -> None:
    """Raise `UserError` naming the first value that a run may not change."""
    old, new = (
        flax.traverse_util.flatten_dict({k: v for k, v in x.items() if k in _FIXED}, sep=".")
        for x in (saved, now)
    )
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise UserError(
                f"{folder}: holds a run with {name}={old.get(name)}, not {new.get(name)}; give "
                "another --workdir or the value that it was begun with"
            )


def _is_about_files(error) -> bool:
    return isinstance(error, OSError) or "os_error_code" in str(error)
