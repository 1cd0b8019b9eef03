"""How fast the privacy mechanisms release identity embeddings."""

import itertools
import os
import statistics

import jax
import numpy as np

from identitydp_jax.benchmarks import timing
from identitydp_jax.benchmarks.report import Report, machine
from identitydp_jax.privacy.calibration import EMBEDDING_DIM
from identitydp_jax.privacy.chacha import key_from_bytes
from identitydp_jax.privacy.mechanism import release
from identitydp_jax.privacy.setting import PrivacySetting

_SETTINGS = {
    "discrete Laplace, certified-l2": PrivacySetting("laplace", 6.0),
    "discrete Laplace, paper": PrivacySetting("laplace", 6.0, "paper"),
    "PrivUnit": PrivacySetting("privunit", 6.0),
    "discrete Gaussian": PrivacySetting("gaussian", 6.0),
}
_NOTES = (
    f"A row is one embedding of {EMBEDDING_DIM} values, at epsilon 6. Quantising, a fresh ChaCha20"
    " key for every row and all random bits are included. On one device.",
)


def bench(batch_sizes: list[int]) -> Report:
    """Measure every mechanism on batches of every size."""
    runs = {
        (name, count): releasing(setting, count)
        for name, setting in _SETTINGS.items()
        for count in batch_sizes
    }
    rows = []
    for (name, count), taken in timing.take_turns(runs).items():
        seconds = statistics.median(taken)
        rows.append(
            {
                "mechanism": name,
                "rows": count,
                "values/s": count * EMBEDDING_DIM / seconds,
                "microseconds per row": 1e6 * seconds / count,
            }
        )
    return Report("mechanism", machine(), rows, _NOTES)


def releasing(setting: PrivacySetting, count: int):
    """Return a function that releases `count` embeddings as a setting says, under keys of its own.

    What it returns are codes, int32 (count, 512), on the default device; other ones at every call.
    """
    embedding = np.random.default_rng(0).normal(size=(count, EMBEDDING_DIM)).astype(np.float32)
    embedding, arrays = jax.device_put((embedding, setting.arrays))
    batches, root = itertools.count(), key_from_bytes(os.urandom(32))

    @jax.jit
    def compiled(embedding, root, batch, arrays):
        keys = jax.random.split(jax.random.fold_in(root, batch), count)
        return release(embedding, key=keys, mechanism=setting.mechanism, arrays=arrays)

    return lambda: compiled(embedding, root, next(batches), arrays)
