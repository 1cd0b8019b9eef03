"""Several processes as one run: how they find each other, end together, and are asked to stop."""

import contextlib
import os
import re
import signal
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from identitydp_jax import sharding
from identitydp_jax.checks import UserError

PREEMPTED_STATUS = 128 + signal.SIGTERM  # 143, what a shell says of a program ended by SIGTERM

_NAMES = ("IDENTITYDP_COORDINATOR", "IDENTITYDP_PROCESSES", "IDENTITYDP_PROCESS")
_FOUND_WITHIN = 300  # seconds in which all processes must have started
_HEARTBEAT = 100  # seconds of silence after which a process counts as lost, as JAX has it
# What the transports say when the other end is gone; each has an exception type of its own.
_LOST = re.compile("gloo|nccl|coordination|connection|deadline|unavailable|peer", re.IGNORECASE)


class Preempted(Exception):
    """The run was asked to stop by SIGTERM and has saved a checkpoint."""


def start() -> None:
    """Join the processes of a run, if the environment says that there are several.

    * ``IDENTITYDP_COORDINATOR=HOST:PORT`` (of process 0), ``IDENTITYDP_PROCESSES=N`` and
      ``IDENTITYDP_PROCESS=I`` from 0, all three;
    * or ``IDENTITYDP_DISTRIBUTED=1``: JAX finds them itself (Slurm, TPU, Kubernetes, Open MPI).

    Without any of them the process is alone. To be called before JAX is used, once; a process that
    is silent for 100 seconds afterwards ends the others.

    Raises:
      UserError: a variable is missing or no number, or the processes don't find each other.
    """
    given = [os.environ.get(name) for name in _NAMES]
    if not any(given) and os.environ.get("IDENTITYDP_DISTRIBUTED") != "1":
        return
    settings = _explicit(given) if any(given) else {}
    try:
        jax.distributed.initialize(
            **settings,
            initialization_timeout=_FOUND_WITHIN,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
        _connect()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes of the run don't find each other: {_line(error)}") from None


def _connect() -> None:
    """Let the devices connect while all processes are here.

    Where they are CPUs that takes both ends within 30 seconds, and before the first step one
    process may compile for minutes longer than another, which finds its programs in the cache.
    """
    mesh = sharding.make_mesh()
    ones = sharding.global_batch(np.ones(jax.local_device_count(), np.float32), mesh)
    jax.jit(jnp.sum, out_shardings=sharding.replicated(mesh))(ones).block_until_ready()
    multihost_utils.sync_global_devices("connected")  # over pairs of devices, as orbax does it


def _explicit(given) -> dict:
    """Read the three variables."""
    for name, value in zip(_NAMES, given, strict=True):
        if not value:
            raise UserError(f"{name} is not set: give {', '.join(_NAMES)} together")
    address, count, index = given
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"{_NAMES[2]} is {index} and {_NAMES[1]} is {count}: give whole numbers, the process "
            "from 0 and below their count"
        )
    if not re.fullmatch(r".+:\d+", address):
        raise UserError(f"{_NAMES[0]} is {address}: give HOST:PORT of process 0")
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(index),
        "cluster_detection_method": "deactivate",
    }


@contextlib.contextmanager
def ending_together():
    """Let several processes end in order, or none of them outlive an error in another.

    At the end of the block each waits for all others, as the first one carries what connects them.
    An error ends its process at once: in order it would wait for the others, which wait for it in
    their step. As it is, they see their connections break within that step. Alone, a process lets
    every exception pass.

    What ends the process is one line on standard error, with the traceback before it where it isn't
    clear that the user or another process is the cause. Status: 2 after a `UserError`, 130 after an
    interrupt, otherwise 1. When another process is gone JAX's runtime may be faster: it says so
    and aborts, status 134.
    """
    if not jax.distributed.is_initialized():
        yield
        return
    which = f"process {jax.process_index()} of {jax.process_count()}"
    try:
        yield
        jax.distributed.shutdown()
    except BaseException as error:
        line, status = _last_words(error)
        print(f"identitydp: error: {which}: {line}", file=sys.stderr, flush=True)
        os._exit(status)


def _last_words(error) -> tuple[str, int]:
    """Return the line and the exit status for an error that ends a process."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if _LOST.search(str(error)):
        return (
            "another process has ended or can't be reached, so this one stops too; the same "
            f"command continues from the last checkpoint ({_line(error)})"
        ), 1
    traceback.print_exception(error)
    return f"stopped by {type(error).__name__}", 1


def _line(error) -> str:
    """Return the first line of an error, cut to what fits."""
    return str(error).partition("\n")[0][:200]


@contextlib.contextmanager
def preemption():
    """Watch for SIGTERM; yields `asked(step) -> bool`, to be called after every step, in order.

    It is true once the run shall save and stop. Several processes get the same answer at the same
    step, whichever of them the signal reached: JAX's runtime sees to it.
    """
    if jax.distributed.is_initialized():
        yield multihost_utils.reached_preemption_sync_point
        return
    signals = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    try:
        yield lambda step: bool(signals)
    finally:
        signal.signal(signal.SIGTERM, previous)
