"""Validators that name the value, the bound and the fix."""

import math


class UserError(Exception):
    """A mistake that the user can fix; its one line says what, where and what to do."""


def positive(name: str, value: float) -> float:
    """Return `value` as a float if it is finite and above zero, else raise `UserError`."""
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise UserError(f"{name} is {value}: give a finite number above 0")
    return number


def one_of(name: str, value: str, choices) -> str:
    """Return `value` if it is one of `choices`, else raise `UserError` naming them."""
    if value not in choices:
        raise UserError(f"{name} is {value!r}: choose one of {', '.join(map(str, choices))}")
    return value
