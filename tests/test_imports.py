"""Imports go down only: cli -> protocols -> drivers -> rooms -> ground."""

import ast
import pathlib

import pytest

import identitydp_jax

ROOT = pathlib.Path(identitydp_jax.__file__).parent
# Rooms on one floor do not import each other, but all use the lowest.
FLOORS = (
    {"checks", "storage"},
    {"weights", "sharding", "compilation_cache"},
    {"models", "privacy", "data", "baselines"},
    {"anonymize", "training"},
    {"contact_sheet"},
    {"evaluation", "demo", "benchmarks"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MAY_USE_FLAX = {"models", "training"}


def _modules():
    return sorted(ROOT.rglob("*.py"))


def _room(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def _imported(path):
    """Every module name that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _forbidden(room, name):
    """Say why a room may not import a module, or return None."""
    package, _, rest = name.partition(".")
    if package == "flax" and room not in MAY_USE_FLAX:
        return "only models/ and training/ import flax"
    if package != "identitydp_jax":
        return None
    other = rest.partition(".")[0]
    if other in (room, "__version__"):
        return None
    if other not in FLOOR_OF:
        return "unknown room"
    return None if FLOOR_OF[other] < FLOOR_OF[room] else "imports go down only"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path):
    room = _room(path)
    if room == "__init__":
        return
    assert room in FLOOR_OF, f"{room} has no floor yet: add it to FLOORS"
    problems = {name: _forbidden(room, name) for name in _imported(path)}
    assert not {name: why for name, why in problems.items() if why}


@pytest.mark.parametrize(
    ("room", "name"),
    [
        ("data", "flax.linen"),
        ("data", "identitydp_jax.models.layers"),
        ("privacy", "identitydp_jax.data.folder"),
        ("training", "identitydp_jax.evaluation.metrics"),
        ("anonymize", "identitydp_jax.training.step"),
        ("weights", "identitydp_jax.models.identity"),
        ("checks", "identitydp_jax.weights.cache"),
        ("anonymize", "identitydp_jax.nowhere"),
    ],
)
def test_the_rule_can_be_broken(room, name):
    assert _forbidden(room, name)


@pytest.mark.parametrize(
    ("room", "name"),
    [
        ("models", "flax.linen"),
        ("anonymize", "identitydp_jax.models.aeinet"),
        ("anonymize", "identitydp_jax.checks.UserError"),
        ("anonymize", "identitydp_jax.__version__"),
        ("cli", "identitydp_jax.training.commands"),
        ("data", "numpy"),
    ],
)
def test_the_rule_allows_going_down(room, name):
    assert _forbidden(room, name) is None
