"""The command `identitydp data`: what networks are trained on, and what is fitted without any."""

import argparse
import os

from identitydp_jax.checks import UserError, one_of

_SEED_LIMIT = 2**32  # `jax.random.key` drops higher bits: two seeds would give the same faces


def add_parser(subparsers) -> None:
    """Add `data` with its actions to the program's subcommands."""
    actions = subparsers.add_parser("data", help="make training data").add_subparsers(
        dest="action", required=True
    )
    _add_synthetic(actions)
    _add_prepare(actions)
    _add_heads(actions)


def _add_synthetic(actions) -> None:
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


def _add_prepare(actions) -> None:
    parser = actions.add_parser(
        "prepare",
        help="cut the faces out of photos into ArrayRecord shards",
        description="Detect and align every face of a folder, an archive or a tfds data set and "
        "write them as ArrayRecord shards, to train on with --set data=array_record:DIR --set "
        "mixture.twin=0. The same command goes on where it was stopped.",
    )
    parser.add_argument(
        "--source", required=True,
        help="a folder at any depth, a zip or tar file, or tfds:NAME[:SPLIT], e.g. "
        "tfds:celeb_a:train",
    )  # fmt: skip
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write into")
    parser.add_argument(
        "--resolution", type=int, default=256, help="side of the faces in px (default: 256)"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)"
    )


def _add_heads(actions) -> None:
    parser = actions.add_parser(
        "heads",
        help="fit an identity encoder's heads for declared attributes",
        description="Draw 5,000 faces of nobody, of which some are labelled, and fit to an identity"
        " encoder what asks for gender, age group, skin, glasses and beard (--preserve of"
        " anonymize).",
    )
    parser.add_argument(
        "--encoder", default="w600k_mbf", help="name or ONNX file of the encoder (%(default)s)"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write")


def run(args: argparse.Namespace) -> int:
    """Do the action and return the exit status 0.

    Raises:
      UserError: a setting is out of range, the source or the weights cannot be had, or the folder
        cannot be written.
    """
    actions = {"synthetic": _synthetic, "prepare": _prepare, "heads": _heads}
    return actions[args.action](args)


def _heads(args: argparse.Namespace) -> int:
    from identitydp_jax.training import declared_heads

    declared_heads.write(args.encoder, args.output)
    print(f"{args.output}: heads for {args.encoder}")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    from identitydp_jax.data import shards
    from identitydp_jax.data.prepare import prepare
    from identitydp_jax.weights import cache

    if not 16 <= args.resolution <= 2048:
        raise UserError(f"--resolution is {args.resolution}: give 16 to 2048 px")
    if args.workers < 1:
        raise UserError(f"--workers is {args.workers}: give 1 or more")
    cache.path("scrfd_500m")  # once, before every process asks for it
    made = prepare(args.source, args.output, resolution=args.resolution, workers=args.workers)
    print(
        f"{args.output}: {made.faces} faces of {made.photos} photos, {made.written} shards written"
        f" now; train on them with --set data=array_record:{args.output} --set mixture.twin=0"
    )
    for reason, count in sorted(made.left_out.items()):
        print(f"left out: {count} photos, {reason}; {shards.MANIFEST} names them")
    return 0


def _synthetic(args: argparse.Namespace) -> int:
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
