"""One process of a tiny run; the environment says which it is of how many.

run_process.py DEVICES DATA WORKDIR [--quick] [--kill-before BATCH] [--compile-for SECONDS]
    [--file-limit BYTES] [NAME=VALUE...]

Batch 0 of a run is what its population is measured on.
With --quick the networks give way to what compiles in no time; all else is the real thing. With
--compile-for the last process pretends that it takes so long; with --file-limit no file may grow
beyond so many bytes.
"""

import argparse
import os
import resource
import signal
import sys
import time
from unittest import mock

parser = argparse.ArgumentParser()
parser.add_argument("devices")
parser.add_argument("data")
parser.add_argument("workdir")
parser.add_argument("--quick", action="store_true")
parser.add_argument("--kill-before", type=int)
parser.add_argument("--compile-for", type=float, default=0.0)
parser.add_argument("--file-limit", type=int)
parser.add_argument("settings", nargs="*")
args = parser.parse_intermixed_args()
if args.file_limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (args.file_limit, args.file_limit))
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.devices}"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import tiny  # noqa: E402

from identitydp_jax import cli  # noqa: E402
from identitydp_jax.models.pixels import to_float  # noqa: E402
from identitydp_jax.training import (  # noqa: E402
    commands,
    console,
    face_stream,
    loop,
    step,
)

stock = face_stream.open_batches


def augment(faces, *, key):
    """Change nothing: the stock one takes long to compile."""
    return to_float(faces)


def open_batches(*how, **more):
    """The batches, but the process dies when it asks for the one that it was told."""
    batches, real = mock.MagicMock(), stock(*how, **more)
    batches.get_state, batches.set_state = real.get_state, real.set_state

    def following():
        if real.get_state()["next_index"] == args.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        batch = next(real)
        print(f"rows {len(batch)}", flush=True)
        return batch

    batches.__next__ = lambda _: following()
    return batches


def make_quick_step(*_, **__):
    """Every value depends on all faces so far, their order, and the keys."""
    if jax.process_index() == jax.process_count() - 1:
        time.sleep(args.compile_for)

    def step(state, encoder_params, pictures, key):
        each = to_float(pictures).mean((1, 2, 3))
        seen = (each * jnp.arange(1.0, 1 + len(each))).sum() + jax.random.normal(key)
        params = jax.tree.map(lambda p: 0.9 * p + 0.01 * seen, state.params)
        average = {**state.average, "params": params}
        state = state.replace(step=state.step + 1, params=params, average=average)
        return state, {"total": _norm(params), "seen": seen}

    return step


def make_quick_evaluation(*_):
    """Measure the parameters and show the faces."""
    return lambda variables, _, pictures: ({"loss": _norm(variables["params"])}, pictures[None])


def _norm(tree):
    return sum(jnp.abs(x).mean() for x in jax.tree.leaves(tree))


jax.config.update("jax_disable_most_optimizations", True)
replacements = [
    (loop, "load_encoder", lambda _: (tiny.encode, tiny.encoder_params())),
    (step, "augment", augment),
    (loop, "_STATISTICS_BATCH", 8),
    (loop, "_STATISTICS_BATCHES", 2),
    (face_stream, "open_batches", open_batches),
    (loop, "step_flops", lambda *_: 1.0),
    (console, "utilization", lambda *_: 0.5),
    (
        commands,
        "read_config",
        lambda *_: tiny.training_config(f"data={args.data}", "mixture.twin=0", *args.settings),
    ),
]
if args.quick:
    replacements += [
        (loop, "make_step", make_quick_step),
        (loop, "make_evaluation", make_quick_evaluation),
    ]
for module, name, value in replacements:
    mock.patch.object(module, name, value).start()
sys.exit(cli.main(["train", "--config", "x.py", "--workdir", args.workdir]))
