"""The command `identitydp data synthetic`: a folder of generated faces to train on."""

import argparse

from identitydp_jax.checks import UserError, one_of

_SEED_LIMIT = 2**32  # `jax.random.key` drops higher bits: two seeds would give the same faces


def add_parser(subparsers) -> None:
    """Add `data` with its one action, `synthetic`, to the program's subcommands."""
    actions = subparsers.add_parser("data", help="make training data").add_subparsers(
        dest="action", required=True
    )
    parser = actions.add_parser(
        "synthetic",
        help="write faces of nobody into a folder",
        description="Write faces of nobody (MobileStyleGAN, Apache-2.0) into a folder. Face i "
        "depends on the seed and i alone; the same command goes on where it was stopped.",
    )
    parser.add_argument("--count", type=int, required=True, help="number of faces in the folder")
    parser.add_argument(
        "--resolution", type=int, default=256, help="64, 128, 256 (default), 512 or 1024 px"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("--seed", type=int, default=0, help="0 (default) to 2^32 - 1")
    parser.add_argument(
        "--format", choices=("png", "jpeg"), default="png", help="png (default) or jpeg"
    )


def run(args: argparse.Namespace) -> int:
    """Write the faces and return the exit status 0.

    Raises:
      UserError: a setting is out of range, the weights or the folder cannot be had.
    """
    from identitydp_jax.models.face_source import RESOLUTIONS
    from identitydp_jax.training.synthetic_source import write_folder

    one_of("--resolution", args.resolution, RESOLUTIONS)
    if args.count < 1:
        raise UserError(f"--count is {args.count}: give 1 or more")
    if not 0 <= args.seed < _SEED_LIMIT:
        raise UserError(f"--seed is {args.seed}: give a whole number from 0 to {_SEED_LIMIT - 1}")
    written = write_folder(
        args.output,
        count=args.count,
        resolution=args.resolution,
        seed=args.seed,
        image_format=args.format,
    )
    print(f"{args.output}: {args.count} faces, {written} of them written now")
    return 0
