"""Seconds of repeated calls, and how fast memory is."""

import functools
import time

import jax
import jax.numpy as jnp

_SECONDS = 10.0  # of calls, at least
_LEAST = 3  # of each


def take_turns(runs: dict, *, seconds: float | None = None) -> dict[str, list[float]]:
    """Return the seconds of several calls of every run, after one call that is not counted.

    The runs take turns, so that whatever else the machine does slows all of them alike.

    Args:
      runs: functions of nothing by name; what they return is waited for.
      seconds: how long to go on.
    """
    for run in runs.values():
        jax.block_until_ready(run())
    taken = {name: [] for name in runs}
    stop = time.perf_counter() + (_SECONDS if seconds is None else seconds)
    while min(map(len, taken.values())) < _LEAST or time.perf_counter() < stop:
        for name, run in runs.items():
            since = time.perf_counter()
            jax.block_until_ready(run())
            taken[name].append(time.perf_counter() - since)
    return taken


@functools.cache
def memory_rate() -> float:
    """Measure the bytes/s that one device of this process reads and writes in one large array.

    Its best of a second. CPU devices share one memory; each counts as its equal part.
    """
    on_cpu = jax.default_backend() == "cpu"
    size = 2**28 if on_cpu else 2**31  # bytes, past any cache
    # In place, as a step updates its state; new pages would cost a CPU more than its memory does.
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    held = [jnp.zeros(size // 4, jnp.float32)]

    def run():
        held[0] = add(held[0])
        return held[0]

    seconds = take_turns({"add": run}, seconds=1.0)
    return 2 * size / min(seconds["add"]) / (jax.local_device_count() if on_cpu else 1)
