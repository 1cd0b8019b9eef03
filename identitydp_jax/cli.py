"""The program `identitydp`: parses the command line and calls."""

import argparse
import importlib
import shlex
import sys

from identitydp_jax import __version__
from identitydp_jax.checks import UserError
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
        args.line = shlex.join(["identitydp", *given])
        _cache_compilations()
        return modules[args.command].run(args)
    except UserError as error:
        print(f"identitydp: error: {error}", file=sys.stderr)
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


if __name__ == "__main__":
    sys.exit(main())
