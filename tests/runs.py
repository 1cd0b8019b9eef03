"""Training runs of `training/run_process.py`, and what they leave."""

import csv
import os
import pathlib
import socket
import subprocess
import sys

import jax
import ml_collections
import numpy as np

from identitydp_jax.training import state as states
from identitydp_jax.training.checkpoint import read_run

HERE = pathlib.Path(__file__).parent
NAMES = ("IDENTITYDP_COORDINATOR", "IDENTITYDP_PROCESSES", "IDENTITYDP_PROCESS")
QUICK = ("--quick", "steps=6", "checkpoint_every=2")
PATIENCE = 500  # seconds for one run
_PACE = ("images_per_second", "input_wait", "mfu")


def environment(compiled, **more):
    """Return the environment of a run that keeps what it compiles in a folder."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
        **more,
    }


class Run:
    """The processes of one run."""

    def __init__(self, count, devices, words, compiled, kill=None):
        """Start them, each with so many devices; `kill=(i, k)`: i dies in place of its batch k."""
        with socket.socket() as taken:
            taken.bind(("localhost", 0))
            port = taken.getsockname()[1]
        variables = environment(compiled)
        self.processes = []
        for i in range(count):
            if count > 1:
                values = (f"localhost:{port}", str(count), str(i))
                variables |= dict(zip(NAMES, values, strict=True))
            dies = ["--kill-before", str(kill[1])] if kill and kill[0] == i else []
            command = [sys.executable, HERE / "training" / "run_process.py", devices, *words, *dies]
            pipe = subprocess.PIPE
            self.processes.append(
                subprocess.Popen(
                    [*map(str, command)], env=variables, stdout=pipe, stderr=pipe, text=True
                )
            )

    def ended(self):
        """Wait for all; returns `(status, output, errors)` of each."""
        said = [process.communicate(timeout=PATIENCE) for process in self.processes]
        return [
            (process.returncode, *texts)
            for process, texts in zip(self.processes, said, strict=True)
        ]

    def succeeded(self):
        """Wait for all; returns the output of each."""
        ended = self.ended()
        assert [status for status, *_ in ended] == [0] * len(ended), ended
        return [output for _, output, _ in ended]


def table(workdir, name="metrics"):
    """Return the rows of a table, without what a run's pace adds."""
    with (workdir / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: row[key] for key in row if key not in _PACE} for row in rows]


def totals(workdir):
    """Return the losses of all steps."""
    return [float(row["total"]) for row in table(workdir)]


def variables(workdir):
    """Return what draws faces after the newest checkpoint."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def abstract(config):
        shapes = states.shapes(ml_collections.ConfigDict(config))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)

    return read_run(workdir / "checkpoints", abstract)[1].variables


def assert_same(a, b):
    """Hold the metrics and the result of two runs equal, bit for bit."""
    for name in ("metrics", "held_out"):
        assert table(a, name) == table(b, name)
    jax.tree.map(np.testing.assert_array_equal, variables(a), variables(b))
