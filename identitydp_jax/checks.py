"""Validators that name the value, the bound and the fix."""

import json
import math
import os
import pathlib
import tempfile


class UserError(Exception):
    """A mistake that the user can fix; its one line says what, where and what to do."""


def given_path(text) -> pathlib.Path:
    """Return the path that a user names.

    A leading `~` means a home folder, unless there is a file of that name or no such home.
    """
    path = pathlib.Path(text)
    if os.path.lexists(path):
        return path
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def printable(text: str) -> str:
    """Return a text for the screen: what would move the cursor or hide is escaped, as "\\n"."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def parse_json(text: str | bytes):
    """Return what JSON stands for; `ValueError` also where it nests too deep to read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def positive(name: str, value: float) -> float:
    """Return `value` as a float if it is finite and above zero, else raise `UserError`."""
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise UserError(f"{name} is {value}: give a finite number above 0")
    return number


def shaped(name: str, value):
    """Return `value` if it is an array, else raise `UserError` naming what it is."""
    if not (hasattr(value, "dtype") and hasattr(value, "shape")):
        raise UserError(
            f"{name} is a {type(value).__name__}: give a NumPy array, as numpy.asarray makes of it"
        )
    return value


def one_of(name: str, value: str, choices) -> str:
    """Return `value` if it is one of `choices`, else raise `UserError` naming them."""
    if value not in choices:
        raise UserError(f"{name} is {value!r}: choose one of {', '.join(map(str, choices))}")
    return value


def writable_folder(path, option: str) -> pathlib.Path:
    """Return a folder, made if it is missing.

    Raises `UserError` naming it and the option that chose it unless files can be made in it.
    """
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); give another {option}"
        ) from None
    return folder
