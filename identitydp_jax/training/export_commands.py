"""The command `identitydp export`."""

import argparse


def add_parser(subparsers) -> None:
    """Add `export` to the program's subcommands."""
    parser = subparsers.add_parser(
        "export",
        help="write a trained network as safetensors, with a model card",
        description="Write the averaged network of a run's newest checkpoint as safetensors, and "
        "its model card beside it. The run may be going on.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the training run")
    parser.add_argument("--output", required=True, metavar="FILE", help="NAME.safetensors")
    parser.add_argument(
        "--best", action="store_true",
        help="the checkpoint with the lowest loss on held-out faces instead of the newest",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Export and return the exit status."""
    import absl.logging

    from identitydp_jax.training.export import export_run

    absl.logging.set_verbosity(absl.logging.FATAL)  # orbax's tracebacks; the program says it once
    export_run(args.workdir, args.output, best=args.best, command=args.line)
    print(args.output)
    return 0
