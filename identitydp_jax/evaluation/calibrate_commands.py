"""The command `identitydp calibrate`: the paper's Delta, measured on a set of faces."""

import argparse
import sys

from identitydp_jax.checks import UserError, given_path

_FEW = 1000


def add_parser(subparsers) -> None:
    """Add `calibrate` to the program's subcommands."""
    parser = subparsers.add_parser(
        "calibrate",
        help="measure the L1 sensitivity of a set of faces, for --calibration paper:FILE",
        description="Measure the paper's Delta: the largest L1 distance between the identity"
        " embeddings of a set of faces, over every pair. It bounds these faces and no others. This"
        " is not private: Delta is a function of the photos, and the file tells whoever has a photo"
        " whether it was in the set. Give photos of people who need no protection; a photo of the"
        " set is refused by everything that uses its calibration.",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="folder with a subfolder per person or identities.csv, flat folder, tfds:NAME[:SPLIT]",
    )
    parser.add_argument(
        "--output", "-o", required=True, metavar="FILE", help="calibration to write, JSON"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N photos")


def run(args: argparse.Namespace) -> int:
    """Measure, write the calibration and return 0.

    Raises:
      UserError: the output can't be written or is something else, the photos can't be had, or they
        show fewer than two different faces.
    """
    from identitydp_jax.data.detection import Detector
    from identitydp_jax.evaluation import calibration_set, sources
    from identitydp_jax.privacy import sensitivity

    if args.limit is not None and args.limit < 2:
        raise UserError(f"--limit is {args.limit}: give a number from 2")
    output = given_path(args.output)
    sensitivity.check_writable(output)  # before the work
    source = sources.open_source(args.data)
    record = calibration_set.measure(
        source, detector=Detector(), command=args.line, limit=args.limit
    )
    sensitivity.write(output, record)
    _report(record)
    print(output)
    return 0


def _report(record) -> None:
    from identitydp_jax.privacy import calibration

    certified = 6 * calibration.parse("certified-l2").sensitivity / record.value
    print(
        f"Delta {record.value}, the largest of {record.pairs} L1 distances between"
        f" {record.faces} faces ({record.left_out} photos left out); mean {record.mean:.4g}"
    )
    print(f"{record.name}: its epsilon 6 is a certified {certified:.3g}")
    if record.faces < _FEW:
        print(
            f"identitydp: {record.faces} faces are few: Delta grows with their number, and a"
            " smaller one means less noise for the same epsilon",
            file=sys.stderr,
        )
