"""Batches of training faces: shuffled, decoded, prefetched and resumed by grain."""

import os

import grain
import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.data.sources import decode_face, open_faces

_MOST_THREADS = 16
_EPOCHS = 2**31  # grain's endless stream overflows in batches of one


def picture_shape(config) -> tuple[int, int, int]:
    """Return the shape (R, K R, 3) of a picture of a batch: a face, beside its twin if K is 2."""
    side = config.network.resolution
    return side, side * (2 if config.mixture.twin else 1), 3


def open_batches(config, *, process_index: int, process_count: int):
    """Open this process's part of an endless shuffled stream of faces.

    The global batch i holds faces i N to (i + 1) N - 1 of a stream that depends on the source and
    `config.seed` alone, N = `config.batch_size`; process p of P gets the p-th of P equal parts. A
    run therefore sees the same faces in the same order with any number of processes, and at any
    step that it resumes from. Every epoch shows each face once, in an order of its own.

    Args:
      config: `data` (what `sources.open_faces` takes), what `picture_shape` reads, `batch_size`,
        `seed`, and `held_out`: so many faces at the end of the source are never in a batch.
      process_index: of this process.
      process_count: number of processes.

    Returns:
      grain's iterator over uint8 arrays (N / P, R, K R, 3), read ahead by threads. `get_state()` is
      the number of batches taken so far; `set_state` continues from it, also in a run with another
      number of processes.

    Raises:
      UserError: the source can't be opened, holds too few faces for a batch, or N isn't a multiple
        of P. The iterator raises it for a face that can't be read.
    """
    source, count = open_faces(config.data), config.batch_size
    if count % process_count:
        raise UserError(
            f"batch_size is {count}: make it a multiple of the {process_count} processes"
        )
    trained = len(source) - config.held_out
    if trained < count:
        raise UserError(
            f"{config.data}: holds {len(source)} faces, too few for one batch of {count} and"
            f" {config.held_out} held out; add faces or give a lower batch_size or held_out"
        )
    batches = (
        grain.MapDataset.range(trained)
        .seed(config.seed)
        .shuffle()
        .repeat(_EPOCHS)
        .map(lambda i: _face(source, i, config))
        .batch(count // process_count)
    )
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return iter(batches[process_index::process_count].to_iter_dataset(options))


def read_held_out(config) -> np.ndarray:
    """Return the faces that `open_batches` leaves out, uint8 (`config.held_out`, R, K R, 3).

    Raises:
      UserError: the source can't be opened, holds fewer faces, or one of them can't be read.
    """
    source = open_faces(config.data)
    if len(source) < config.held_out:
        raise UserError(
            f"{config.data}: holds {len(source)} faces, fewer than held_out={config.held_out}; add"
            " faces or give a lower held_out"
        )
    last = range(len(source) - config.held_out, len(source))
    return np.stack([_face(source, i, config) for i in last])


def _face(source, i: int, config) -> np.ndarray:
    return decode_face(source[i], f"{config.data}: {source.name(i)}", *picture_shape(config)[:2])
