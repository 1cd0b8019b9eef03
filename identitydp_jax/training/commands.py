"""The command `identitydp train`."""

import argparse
import importlib.util
import pathlib

from identitydp_jax.checks import UserError


def add_parser(subparsers) -> None:
    """Add `train` to the program's subcommands."""
    parser = subparsers.add_parser(
        "train",
        help="train a model; the same command continues a stopped run",
        description="Train a model as a configuration says. The same command continues a run.",
    )
    parser.add_argument("--config", required=True, help="configuration file, configs/NAME.py")
    parser.add_argument(
        "--workdir", required=True, help="folder for checkpoints, metrics, pictures"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change one value of the configuration, e.g. --set data=FOLDER; repeatable",
    )
    parser.add_argument(
        "--export", metavar="FILE",
        help="when the run has ended, write its averaged network as safetensors to FILE",
    )


def run(args: argparse.Namespace) -> int:
    """Train, then export if asked to; return the exit status."""
    from identitydp_jax.models.pretrained import save
    from identitydp_jax.training.loop import train
    from identitydp_jax.training.state import network_config

    config = read_config(args.config, args.set)
    state = train(config, args.workdir)
    if args.export:
        save(args.export, network_config(config), state.average, encoder=config.encoder)
    return 0


def read_config(path, overrides=()):
    """Run `get_config()` of a configuration file and apply NAME=VALUE overrides.

    Raises `UserError` if the file has no `get_config`, or a name or value doesn't fit.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such configuration; see the folder configs/")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise UserError(f"{path}: not a Python file; see the folder configs/")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path}: defines no get_config()")
    config = module.get_config()
    for override in overrides:
        _override(config, override)
    return config


def _override(config, override: str) -> None:
    name, separator, text = override.partition("=")
    known = dict(_leaves(config))
    if not separator or name not in known:
        names = ", ".join(sorted(known))
        raise UserError(f"--set {override}: give NAME=VALUE, NAME one of {names}")
    kind = type(known[name])
    try:
        config.update_from_flattened_dict({name: kind(text)})
    except (TypeError, ValueError):
        raise UserError(f"--set {override}: {text!r} is not of type {kind.__name__}") from None


def _leaves(config, prefix=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
