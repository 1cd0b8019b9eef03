"""Pickled trees of numpy arrays as plain arrays; nothing that the pickle names is run."""

import pathlib

import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.weights import restricted_pickle


def read(path: str | pathlib.Path) -> dict:
    """Read nested dictionaries of float32 arrays that were pickled by any version of numpy.

    Returns:
      The same tree of strings and read-only little-endian float32 arrays.

    Raises:
      UserError: the file is missing or damaged, or holds anything else.
    """
    stand_ins = {"numpy.ndarray": None, "numpy.dtype": _Dtype}
    for core in ("core", "_core"):
        stand_ins[f"numpy.{core}.multiarray._reconstruct"] = _Array
    try:
        with open(path, "rb") as file:
            tree = restricted_pickle.load(file, path, stand_ins)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return _arrays(tree, path)


class _Dtype:
    """Stands for `numpy.dtype`: its code and byte order."""

    def __init__(self, code, *_):
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


class _Array:
    """Stands for an array while it is read; `values` is the array."""

    def __init__(self, *_):
        self.values = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, column_major, content = state
        if (dtype.code, dtype.order) != ("f4", "<"):
            raise ValueError(f"an array of type {dtype.order}{dtype.code}")
        order = "F" if column_major else "C"
        self.values = np.frombuffer(content, "<f4").reshape(shape, order=order)


def _arrays(tree, path):
    """Return the tree with every stand-in replaced by its array."""
    if isinstance(tree, dict) and all(isinstance(name, str) for name in tree):
        return {name: _arrays(branch, path) for name, branch in tree.items()}
    if isinstance(tree, _Array) and tree.values is not None:
        return tree.values
    raise UserError(f"{path}: not a weight file of the known kind (it holds more than arrays)")
