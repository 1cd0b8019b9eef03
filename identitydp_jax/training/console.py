"""What a run prints while it trains: one line per interval."""

import contextlib
import datetime
import time

import jax

from identitydp_jax.training.utilization import utilization


class Console:
    """Measures the pace of a run and prints it, a line at a time."""

    def __init__(self, config, *, start: int, flops: float):
        """Begin after step `start` of a run of `config`, whose step takes so many `flops`."""
        self._stop, self._batch_size = config.steps, config.batch_size
        self._compute, self._flops = config.compute, flops
        self._since, self._counted, self._waited = time.perf_counter(), start, 0.0

    @contextlib.contextmanager
    def pause(self):
        """Leave what is done within out of the pace."""
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before

    @contextlib.contextmanager
    def wait(self, metrics):
        """Count the time within as waiting if the step that `metrics` come from has ended by then.

        `metrics` are None before the first step.
        """
        before = time.perf_counter()
        yield
        if metrics is not None and metrics["total"].is_ready():
            self._waited += time.perf_counter() - before

    def pace(self, step: int) -> dict[str, float]:
        """Return the pace since the last call, and begin a new interval.

        `images_per_second` is of the whole run, over all its processes. `input_wait` is the share
        of the time that this process's devices waited for faces, at most: a step that ended while
        faces were waited for counts as if it had ended before. `mfu`: see `utilization`.
        """
        now = time.perf_counter()
        seconds, steps = now - self._since, step - self._counted
        pace = {
            "images_per_second": steps * self._batch_size / seconds,
            "input_wait": self._waited / seconds,
            "mfu": utilization(self._flops, seconds / steps, self._compute),
        }
        self._since, self._counted, self._waited = now, step, 0.0
        return pace

    def line(self, step: int, values: dict[str, float]) -> None:
        """Print loss, pace, and the time to the end at this pace; process 0 alone does."""
        if jax.process_index():
            return
        left = (self._stop - step) * self._batch_size / values["images_per_second"]
        print(
            f"step {step}/{self._stop}  loss {values['total']:.3f}  "
            f"{values['images_per_second']:.1f} images/s  MFU {100 * values['mfu']:.1f} %  "
            f"input wait {100 * values['input_wait']:.1f} %  "
            f"ETA {datetime.timedelta(seconds=round(left))}",
            flush=True,
        )
