"""The command `identitydp train`."""

import argparse

from identitydp_jax.training.configuration import read_config


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
