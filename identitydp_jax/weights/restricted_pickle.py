"""Pickles of foreign weight files, read with nothing of what they name imported or called."""

import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from identitydp_jax.checks import UserError


def load(
    file: BinaryIO,
    path,
    stand_ins: Mapping[str, Any],
    *,
    stored: Callable[[tuple], Any] | None = None,
) -> Any:
    """Read one pickle, with our own stand-ins for all that it may name.

    Args:
      file: opened for reading, at the pickle's start.
      path: what error messages call it.
      stand_ins: what takes the place of a class or function, by "module.name"; "module.*" stands
        for all of a module and of the modules inside it.
      stored: gives what a persistent id of the pickle stands for; without it there may be none.

    Returns:
      Plain containers and what the stand-ins made.

    Raises:
      UserError: the pickle names anything else, or is damaged.
    """
    unpickler = _Unpickler(file)
    unpickler.stand_ins = stand_ins
    unpickler.stored = stored
    try:
        return unpickler.load()
    except Exception as error:  # a damaged pickle raises anything at all
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: not a weight file of the known kind ({reason})") from None


class _Unpickler(pickle.Unpickler):
    """An unpickler that looks names up in `stand_ins` only."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in self.stand_ins:
            return self.stand_ins[f"{module}.{name}"]
        package = f"{module.partition('.')[0]}.*"
        if package in self.stand_ins:
            return self.stand_ins[package]
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: tuple) -> Any:
        if self.stored is None:
            raise pickle.UnpicklingError("it refers to other files")
        return self.stored(pid)
