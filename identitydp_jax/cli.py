"""The program `identitydp`: parses the command line and calls."""

import argparse
import importlib
import os
import shlex
import sys

from identitydp_jax import __version__
from identitydp_jax.checks import UserError, printable
from identitydp_jax.compilation_cache import enable as _cache_compilations

# Each module has add_parser(subparsers) and run(args) -> exit status, and imports what is slow
# (jax, onnxruntime, PIL) inside run.
_COMMANDS = {
    "anonymize": "identitydp_jax.anonymize.commands",
    "demo": "identitydp_jax.demo",
    "evaluate": "identitydp_jax.evaluation.commands",
    "audit": "identitydp_jax.anonymize.audit_commands",
    "calibrate": "identitydp_jax.evaluation.calibrate_commands",
    "keys": "identitydp_jax.privacy.key_commands",
    "ledger": "identitydp_jax.privacy.ledger_commands",
    "train": "identitydp_jax.training.commands",
    "export": "identitydp_jax.training.export_commands",
    "bench": "identitydp_jax.benchmarks.commands",
    "data": "identitydp_jax.training.data_commands",
    "weights": "identitydp_jax.weights.commands",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the program and return its exit status: 2 for wrong usage, 130 when interrupted."""
    modules = {name: importlib.import_module(module) for name, module in _COMMANDS.items()}
    try:
        given = sys.argv[1:] if arguments is None else arguments
        args = _parser(modules.values()).parse_args(given)
        _refuse_empty(args)
        args.line = shlex.join(["identitydp", *given])
        _cache_compilations()
        return modules[args.command].run(args)
    except UserError as error:
        print(f"identitydp: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except (AssertionError, RuntimeError) as error:
        if not (line := _of_the_machine(error)):
            raise
        print(f"identitydp: error: {printable(line)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("identitydp: interrupted", file=sys.stderr)
        return 130


def _parser(modules) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="identitydp", description="Face anonymization with differentially private identity."
    )
    parser.add_argument("--version", action="version", version=f"identitydp {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in modules:
        module.add_parser(subparsers)
    return parser


def _refuse_empty(args: argparse.Namespace) -> None:
    """Raise `UserError` for an option that is given as an empty text, which would mean another."""
    for name, value in vars(args).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise UserError(f"{name.replace('_', '-')} is empty: give a name, or leave it out")


def _of_the_machine(error: Exception) -> str:
    """Return what to tell of an error that is no fault of the program, else ""."""
    if str(error).startswith("Symlink loop"):  # of pathlib, before Python 3.13
        return f"{error}: name another path"
    asked = os.environ.get("JAX_PLATFORMS")
    if asked and "jax" in sys.modules:
        try:
            sys.modules["jax"].devices()
        except Exception:  # an assertion for one, an error of its own for another
            return f"JAX_PLATFORMS={asked}: there is no such device; give cpu, or leave it unset"
    return ""


if __name__ == "__main__":
    sys.exit(main())
