"""The speed of a training step, what it is made of, and whether its input keeps up."""

import itertools
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax import sharding
from identitydp_jax.benchmarks import step_parts, timing
from identitydp_jax.benchmarks.report import Report, machine
from identitydp_jax.checks import UserError
from identitydp_jax.data.batches import picture_shape
from identitydp_jax.models.identity import load_encoder
from identitydp_jax.training import state as states
from identitydp_jax.training.configuration import check, check_dimension
from identitydp_jax.training.face_stream import open_stream
from identitydp_jax.training.loop import lower_step
from identitydp_jax.training.utilization import matrix_peak, step_flops, utilization

_READ_AHEAD = 16  # batches that a stream may hold ready when it is first asked
_TAKEN = 32  # batches, to measure a stream alone


def bench(config, *, steps: int) -> Report:
    """Measure the step that `train` runs with a configuration, on random faces on the devices.

    Args:
      config: a training configuration.
      steps: number of steps to time.

    Raises:
      UserError: the configuration can't be used, as `train` says.
    """
    check(config)
    mesh = sharding.make_mesh()
    sharding.check_divisible(config.batch_size, mesh, accumulate=config.accumulate)
    encode, encoder_params = load_encoder(config.encoder)
    check_dimension(config, encode)
    args = _arguments(config, mesh, encoder_params)
    _tell("compiling the step")
    since = time.perf_counter()
    step = lower_step(config, encode, mesh, args[1], frozen=False).compile()
    compiling = time.perf_counter() - since
    _tell("running the step")
    args, seconds, _ = _run(step, args, itertools.repeat(args[2]), steps)
    peak_memory = _peak_memory()
    limits = step_parts.Limits(matrix_peak(config.compute), timing.memory_rate(), mesh.size)
    flops = step_flops(config, encode, *args[:2])
    args, fed = _input(config, mesh, step, args, seconds)
    facts = {
        **_described(config),
        "seconds to trace and compile, or read what was compiled before": compiling,
        **_speed(config, seconds, flops),
        f"matrix peak of a device in {config.compute}, GFLOP/s": limits.peak / 1e9,
        "memory rate of a device, GB/s": limits.rate / 1e9,
        "peak memory of a device, GB": peak_memory,
        **fed,
    }
    rows = step_parts.measure(config, encode, mesh, step, args, limits)
    return Report("train", facts, rows, step_parts.NOTES)


def _arguments(config, mesh, encoder_params):
    """Return state, encoder, random faces and a key as the loop places them."""
    state = states.create(config)
    state = sharding.place(state, sharding.state_shardings(state, mesh, fsdp=config.fsdp))
    encoder_params = sharding.place(encoder_params, sharding.replicated(mesh))
    shape = (config.batch_size, *picture_shape(config))
    draw = jax.jit(
        lambda key: jax.random.bits(key, shape, jnp.uint8), out_shardings=sharding.over_batch(mesh)
    )
    return state, encoder_params, draw(jax.random.key(config.seed)), jax.random.key(config.seed)


def _run(step, args, batches, count: int):
    """Run steps as the loop does, one queued behind the other.

    Returns the arguments with the last state, the seconds of `count` steps, and the share of the
    time in which the next faces were waited for when no step was left to run, at most.
    """
    state, encoder_params, faces, root = args
    ends, waits, before = [], [], None
    # A step may start before the end of the one before is seen, so the first and last do not count.
    for i in range(count + 2):
        since = time.perf_counter()
        given = next(batches)
        if ends and before["total"].is_ready():
            waits.append(time.perf_counter() - since)
        state, metrics = step(state, encoder_params, given, jax.random.fold_in(root, i))
        if before is not None:
            jax.block_until_ready(before)
            ends.append(time.perf_counter())
        before = metrics
    jax.block_until_ready(before)
    share = sum(waits) / (ends[-1] - ends[0])
    return (state, encoder_params, faces, root), np.diff(ends).tolist(), share


def _described(config) -> dict[str, object]:
    return {
        **machine(),
        "resolution, width": f"{config.network.resolution} px, {config.network.width:g}",
        "faces per step": config.batch_size,
        "compute": config.compute,
        "accumulate, remat, fsdp": f"{config.accumulate}, {config.remat}, {config.fsdp}",
    }


def _speed(config, seconds: list[float], flops: float) -> dict[str, object]:
    usual = statistics.median(seconds)
    return {
        "steps timed": len(seconds),
        "milliseconds per step, median": 1e3 * usual,
        "milliseconds of the fastest step": 1e3 * min(seconds),
        "milliseconds of the slowest step": 1e3 * max(seconds),
        "images/s": config.batch_size / usual,
        "GFLOP per image": flops / config.batch_size / 1e9,
        "GFLOP/s over all devices": flops / usual / 1e9,
        "MFU, %": 100 * utilization(flops, usual, config.compute),
    }


def _peak_memory() -> float | None:
    """Return the most GB that a device of this process has held at once, if it tells."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use")
             for device in jax.local_devices()]  # fmt: skip
    return None if None in peaks else max(peaks) / 1e9


def _input(config, mesh, step, args, seconds: list[float]):
    """Measure the configured data alone, and what they take of the time of steps that take so long.

    Returns the arguments with the last state, and the facts.
    """
    _tell("measuring the input")
    on_devices = config.data == "synthetic" and config.refresh > 0
    config, cycle = _little_data(config)
    rate, lost = "images/s of the input alone", "% of the time lost to the input"
    with tempfile.TemporaryDirectory() as workdir:
        try:
            batches = open_stream(config, pathlib.Path(workdir), mesh)
            alone = _seconds_of_batches(batches, cycle)
        except UserError as error:
            return args, {rate: None, lost: f"not measured: {error}"}
        if on_devices:  # between the steps
            share = alone / (alone + statistics.median(seconds))
        else:
            args, _, share = _run(step, args, batches, len(seconds))
    return args, {rate: config.batch_size / alone, lost: 100 * share}


def _seconds_of_batches(batches, cycle: int) -> float:
    """Return the seconds that one batch takes, over whole cycles, of nothing read ahead."""
    for _ in range(_READ_AHEAD):
        jax.block_until_ready(next(batches))
    count, since = -(-_TAKEN // cycle) * cycle, time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(next(batches))
    return (time.perf_counter() - since) / count


def _little_data(config):
    """Return a configuration that generates few faces, and after how many steps its work repeats.

    How many faces lie ready changes nothing of what the next one costs.
    """
    if config.data != "synthetic":
        return config, 1
    few = config.copy_and_resolve_references()
    rounds = max(1, -(-config.refresh // config.batch_size))
    few.update({"pool": rounds * config.batch_size, "held_out": 0})
    return few, -(-config.batch_size // config.refresh) if config.refresh else 1


def _tell(line: str) -> None:
    print(f"identitydp: {line}", file=sys.stderr, flush=True)
