"""The command `identitydp anonymize`: photos in, anonymized photos and a manifest out."""

import argparse
import pathlib
import sys

from identitydp_jax import storage
from identitydp_jax.checks import UserError, given_path, printable

_ON_NO_FACE = ("fail", "blur", "copy")
_LEVELS = ("anonymous", "strong", "similar")  # of privacy.setting, which loads JAX
_COUNTS = ("anonymized", "pixelated", "blurred", "copied", "already done", "failed")
_DONE, _FAILED, _NOTHING_FOUND = 0, 1, 3


def add_parser(subparsers) -> None:
    """Add `anonymize` to the program's subcommands."""
    parser = subparsers.add_parser(
        "anonymize",
        help="replace every face in photos by the face of nobody",
        description="Replace every face in photos: JPEG, PNG, WebP, HEIC, AVIF, TIFF, BMP, still"
        " GIF, and JPEG XL where pillow-jxl-plugin is installed. Results have the same name, format"
        " and size, and no metadata but what the colours are; manifest.jsonl beside them says what"
        " was done. The same command continues a stopped run.",
        epilog="Exit status: 0 all done, 1 some failed (nothing is written for those), 2 wrong"
        " usage, 3 no photo found.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="file, folder or quoted glob; - is standard input",
    )
    parser.add_argument(
        "--output",
        "-o",
        required=True,
        metavar="DIR",
        help="folder for results; - writes a single one to standard output, without a manifest",
    )
    parser.add_argument(
        "--recursive", "-r", action="store_true", help="also do subfolders, linked ones too"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results of other settings or origin"
    )
    parser.add_argument(
        "--method",
        default="identitydp",
        help="what replaces the faces: %(default)s (the default), identitydp:MECHANISM:EPSILON, or"
        " for comparison and without any guarantee pixelate:8, noise:49, blur:19, mask, k-same:10,"
        " or with another number",
    )
    _add_privacy_options(parser)
    _add_account_options(parser)
    parser.add_argument("--model", help="name or file of a trained model (default)")
    parser.add_argument(
        "--preserve",
        metavar="LIST",
        help="what a drawn face shares with its original: gender,age,skin,glasses,beard, some of"
        " them, or none (all that the model can preserve)",
    )
    parser.add_argument(
        "--min-face",
        type=int,
        default=20,
        metavar="PX",
        help="pixelate faces smaller than this instead of replacing them (%(default)s)",
    )
    parser.add_argument(
        "--on-no-face",
        choices=_ON_NO_FACE,
        default="fail",
        help="a photo without a face that the detector sees: write nothing and fail (the default),"
        " write it blurred beyond recognition, or copy its pixels AS THEY ARE",
    )
    parser.add_argument(
        "--other-format",
        choices=("png", "jpeg"),
        default="png",
        help="what a photo becomes whose own format can be read here but not written (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Anonymize; return 0 all done, 1 some failed, 3 nothing found."""
    from identitydp_jax.anonymize import files

    if args.min_face < 0:
        raise UserError(f"--min-face is {args.min_face}: give a number of pixels from 0")
    if "-" in (*args.inputs, args.output):
        return _run_stream(args)
    output = given_path(args.output)
    found = files.find(args.inputs, output, recursive=args.recursive)
    for line in found.problems:
        _tell(f"identitydp: error: {line}")
    for line in found.skipped:
        _tell(f"identitydp: {line}")
    if not found.jobs:
        _tell("identitydp: error: no photo found")
        return _NOTHING_FOUND
    return max(_run_batch(args, found.jobs, output), _FAILED if found.problems else _DONE)


def _add_privacy_options(parser) -> None:
    privacy = parser.add_argument_group("privacy")
    privacy.add_argument(
        "--privacy",
        choices=_LEVELS,
        help="the setting in a word: anonymous, an identity that never saw the face; strong; or"
        " similar, somebody who looks like a relative",
    )
    privacy.add_argument(
        "--target-similarity",
        type=float,
        metavar="COSINE",
        help="the setting by the expected cosine between identity embeddings before and after",
    )
    privacy.add_argument(
        "--epsilon",
        type=float,
        help="privacy budget per face, smaller is more private (6)",
    )
    privacy.add_argument(
        "--mechanism",
        help="laplace, privunit, gaussian, or random: an identity that never saw the face"
        " (laplace), or privunit with --target-similarity",
    )
    privacy.add_argument(
        "--calibration",
        help="what the epsilon of laplace is measured against: certified-l2, certified-l1:S, paper,"
        " or paper:FILE of identitydp calibrate (certified-l2)",
    )
    key = privacy.add_mutually_exclusive_group()
    key.add_argument(
        "--key-file",
        metavar="FILE",
        help="the secret master key of 256 bits, made with mode 0600"
        " if absent (by default one in your own data folder)",
    )
    key.add_argument(
        "--audit-seed",
        type=int,
        metavar="N",
        help="take the noise from this number instead of a"
        " secret: anybody can repeat it, and undo it; for audits and examples",
    )


def _add_account_options(parser) -> None:
    from identitydp_jax.privacy import ledger_commands

    account = parser.add_argument_group(
        "ledger", "Every face is charged to its subject, whose noisy code is remembered."
    )
    account.add_argument("--ledger", metavar="FILE", help="by default beside the key file")
    account.add_argument(
        "--subject",
        metavar="NAME",
        help="the one person or track in all these photos, who then gets one face and one charge;"
        " by default every face of every photo is a subject of its own",
    )
    ledger_commands.add_limits(account)


def _run_batch(args, jobs, output: pathlib.Path) -> int:
    """Do every photo; one that fails leaves a line and no result, and the others go on."""
    from tqdm import tqdm

    from identitydp_jax.anonymize.batch import Batch
    from identitydp_jax.anonymize.manifest import Manifest

    batch = Batch.prepare(args)
    _tell(f"identitydp: {batch.describe()}")
    counts = dict.fromkeys(_COUNTS, 0)
    with batch, Manifest(output) as manifest, tqdm(jobs, unit="photo", disable=None) as bar:
        for folder in {(output / job.name).parent for job in jobs}:
            storage.sweep(folder)
        for job in bar:
            try:
                counts[batch.do(job, output, manifest, overwrite=args.overwrite)] += 1
            except Exception as error:
                # Whatever went wrong in one photo, nothing was written for it.
                counts["failed"] += 1
                reason = _one_line(error)
                line = printable(f"identitydp: error: {job.source}: {reason}")
                bar.write(line, file=sys.stderr)
                batch.record_failure(job, manifest, reason)
    done = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    _tell(f"identitydp: {done} in {output}")
    return _FAILED if counts["failed"] else _DONE


def _run_stream(args) -> int:
    """Do one photo, from standard input or a file to standard output."""
    from identitydp_jax.anonymize.batch import Batch

    if len(args.inputs) > 1 or args.output != "-":
        raise UserError("- stands for one photo: give it as the only INPUT, with --output -")
    if sys.stdout.isatty():
        raise UserError("--output - would write an image to the screen: send it to a file")
    batch = Batch.prepare(args)
    _tell(f"identitydp: {batch.describe()}")
    (source,) = args.inputs
    try:
        data = _read_input() if source == "-" else storage.read(given_path(source))
        with batch:
            encoded, status = batch.stream(data)
        sys.stdout.buffer.write(encoded)
        sys.stdout.buffer.flush()
    except Exception as error:  # whatever went wrong, there is no result
        _tell(f"identitydp: error: {source}: {_one_line(error)}")
        return _FAILED
    _tell(f"identitydp: 1 {status}, without a manifest")
    return _DONE


def _read_input() -> bytes:
    data = sys.stdin.buffer.read(storage.MAX_BYTES + 1)
    if len(data) > storage.MAX_BYTES:
        raise UserError(f"larger than {storage.MAX_BYTES >> 30} GiB: not a photo")
    return data


def _one_line(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())[:300]


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr)
