"""The command `identitydp train`."""

import argparse
import sys
import warnings

from identitydp_jax.training.configuration import add_arguments, read_config


def add_parser(subparsers) -> None:
    """Add `train` to the program's subcommands."""
    parser = subparsers.add_parser(
        "train",
        help="train a model; the same command continues a stopped run",
        description="Train a model as a configuration says. The same command continues a run; one "
        "that SIGTERM stops saves what it has done and ends with status 143.",
    )
    add_arguments(parser)
    parser.add_argument(
        "--workdir", required=True, help="folder for checkpoints, metrics, pictures"
    )
    parser.add_argument(
        "--start-from", metavar="MODEL",
        help="begin with the network of this model, a name or a file, instead of the first stages",
    )  # fmt: skip
    parser.add_argument(
        "--profile", action="store_true",
        help="write what JAX's profiler sees of three steps into WORKDIR/profile",
    )  # fmt: skip
    parser.add_argument(
        "--export", metavar="FILE",
        help="when the run has ended, do as `identitydp export --output FILE` does",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train, then export if asked to; return the exit status, 143 if the run was stopped."""
    config = read_config(args.config, args.set)
    import jax

    from identitydp_jax.training import processes

    _quieten_orbax()
    processes.start()
    with processes.ending_together():
        from identitydp_jax.training.coarse import train_in_stages
        from identitydp_jax.training.export import export
        from identitydp_jax.training.loop import on_host

        try:
            state = train_in_stages(
                config, args.workdir, profile=args.profile, start_from=args.start_from
            )
        except processes.Preempted as stopped:
            if jax.process_index() == 0:
                print(f"identitydp: {stopped}", file=sys.stderr, flush=True)
            return processes.PREEMPTED_STATUS
        if args.export:
            variables, steps = on_host(state.variables), int(state.step)
            if jax.process_index() == 0:
                export(args.export, config, variables, steps=steps, command=args.line)
    return 0


def _quieten_orbax() -> None:
    """Leave it to the program to say, once, what orbax says several times with tracebacks."""
    import absl.logging

    absl.logging.set_verbosity(absl.logging.FATAL)
    # When a file can't be written, the other files of the checkpoint find their writer gone.
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    stock = sys.unraisablehook

    def hook(args):
        if str(args.exc_value) != "Event loop is closed":
            stock(args)

    sys.unraisablehook = hook
