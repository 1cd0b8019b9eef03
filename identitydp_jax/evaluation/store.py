"""Measured rows on disk, so that a stopped evaluation goes on where it was."""

import functools
import hashlib
import io
import pathlib

import numpy as np
from tqdm import tqdm

from identitydp_jax import storage
from identitydp_jax.checks import UserError

_BLOCK = 32  # rows that are measured, and kept, at once


class Store:
    """A folder of blocks of rows. Blocks appear whole or not at all, whenever a run is killed."""

    def __init__(self, folder: pathlib.Path):
        """Keep blocks in `folder`, made on first use."""
        self._folder = folder

    def rows(self, what: dict[str, tuple], count: int, compute, *, label: str) -> dict:
        """Return what `compute` gives for all rows, computing only what isn't kept yet.

        Args:
          what: for each name of a result everything that its rows depend on, as plain values whose
            `repr` is stable.
          count: number of rows, at least 1.
          compute: `compute(index, names)` gives the named arrays (len(index), ...) for the rows of
            an integer array; a row must not depend on which others are asked for with it.
          label: of the progress bar.

        Returns:
          An array (count, ...) by name.

        Raises:
          UserError: the folder can't be written.
        """
        folders = {name: self._folder / _key(each) for name, each in what.items()}
        blocks = []
        with tqdm(total=count, desc=label, unit="face", disable=None, leave=False) as bar:
            for start in range(0, count, _BLOCK):
                index = np.arange(start, min(start + _BLOCK, count))
                paths = {name: folder / f"{start:08d}.npy" for name, folder in folders.items()}
                block = {name: _read(path) for name, path in paths.items()}
                lacking = [name for name, rows in block.items() if rows is None]
                if lacking:
                    block |= compute(index, lacking)
                for name in lacking:
                    self._keep(paths[name], block[name])
                blocks.append(block)
                bar.update(len(index))
        return {name: np.concatenate([block[name] for block in blocks]) for name in what}

    def _keep(self, path: pathlib.Path, rows: np.ndarray) -> None:
        content = io.BytesIO()
        np.save(content, rows)
        try:
            storage.write(path, content.getvalue(), sync=False)
        except OSError as error:
            raise UserError(
                f"{self._folder}: cannot be written ({error.strerror}): name another --output"
            ) from None


def _key(what: tuple) -> str:
    # The code too: other code may measure otherwise.
    return hashlib.sha256(repr((_code(), *what)).encode()).hexdigest()[:32]


@functools.cache
def _code() -> str:
    """Return SHA-256 of all modules of the package, with their names."""
    folder, digest = pathlib.Path(storage.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()


def _read(path: pathlib.Path) -> np.ndarray | None:
    """Return a block, or None where there is none that can be read."""
    try:
        return np.load(io.BytesIO(storage.read(path)), allow_pickle=False)
    except (OSError, ValueError, EOFError, RecursionError, MemoryError):
        return None
