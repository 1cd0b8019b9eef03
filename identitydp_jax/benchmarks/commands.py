"""The command `identitydp bench`."""

import argparse
import sys

from identitydp_jax.checks import UserError, given_path, writable_folder
from identitydp_jax.training.configuration import add_arguments, read_config

_BATCHES = (1, 32, 256)


def add_parser(subparsers) -> None:
    """Add `bench` with `train`, `anonymize` and `mechanism` to the program's subcommands."""
    actions = subparsers.add_parser(
        "bench", help="measure how fast this machine trains, anonymizes and draws noise"
    ).add_subparsers(dest="action", required=True)
    train = actions.add_parser(
        "train",
        help="a training step: its speed, MFU, parts and input",
        description="Run the training step of a configuration on all devices of this process, on"
        " random faces, and its parts by themselves.",
    )
    add_arguments(train)
    train.add_argument("--steps", type=int, default=20, help="steps to time (%(default)s)")
    anonymize = actions.add_parser("anonymize", help="faces and photos per second")
    anonymize.add_argument("--model", default="default", help="name or file (%(default)s)")
    mechanism = actions.add_parser("mechanism", help="embeddings per second of each mechanism")
    for parser in (anonymize, mechanism):
        parser.add_argument(
            "--batch-size", type=int, nargs="+", default=_BATCHES, metavar="N",
            help=f"one or more ({' '.join(map(str, _BATCHES))})",
        )  # fmt: skip
    for parser in (train, anonymize, mechanism):
        parser.add_argument("--output", metavar="DIR", help="also write the figures, as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, print Markdown and return the exit status 0.

    Raises:
      UserError: an option can't be used, or what it names can't be had.
    """
    folder = None
    if args.output is not None:
        folder = writable_folder(given_path(args.output), "--output")
    report = {"train": _train, "anonymize": _anonymize, "mechanism": _mechanism}[args.action](args)
    print(report.markdown(), flush=True)
    if folder is not None:
        report.write(folder)
        print(f"identitydp: {folder}/{report.name}.json", file=sys.stderr)
    return 0


def _train(args):
    if args.steps < 1:
        raise UserError(f"--steps is {args.steps}: give a whole number from 1")
    config = read_config(args.config, args.set)
    from identitydp_jax.benchmarks import train

    return train.bench(config, steps=args.steps)


def _anonymize(args):
    sizes = _sizes(args)
    from identitydp_jax.benchmarks import anonymize

    return anonymize.bench(args.model, sizes)


def _mechanism(args):
    sizes = _sizes(args)
    from identitydp_jax.benchmarks import mechanism

    return mechanism.bench(sizes)


def _sizes(args) -> list[int]:
    for size in args.batch_size:
        if size < 1:
            raise UserError(f"--batch-size is {size}: give whole numbers from 1")
    return list(dict.fromkeys(args.batch_size))
