"""The command `identitydp demo`: one contact sheet of faces beside their anonymizations."""

import argparse
import io
import os
import pathlib
import sys

from identitydp_jax import storage
from identitydp_jax.checks import UserError, given_path


def add_parser(subparsers) -> None:
    """Add `demo` to the program's subcommands."""
    parser = subparsers.add_parser(
        "demo",
        help="write a contact sheet of faces beside their anonymizations",
        description="Anonymize generated faces of nobody, and one of NASA's portraits, at several"
        " privacy levels, and write one contact sheet with the measured numbers.",
    )
    parser.add_argument(
        "--output",
        default="identitydp-demo",
        metavar="DIR",
        help="folder to write into (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        default="default",
        metavar="NAME_OR_FILE",
        help="model to show (default: the one that ships with the package)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the sheet and one anonymized photo, print their paths and return the exit status 0.

    Raises:
      UserError: the folder cannot be written, or the model or the pretrained files can't be had.
    """
    folder = _folder(args.output)
    _tell("identitydp: loading the model and the face detector")
    from PIL import Image

    from identitydp_jax.anonymize.faces import load_model
    from identitydp_jax.contact_sheet import anonymize_examples
    from identitydp_jax.data.detection import Detector

    model, detector = load_model(args.model), Detector()
    _tell(
        "identitydp: anonymizing with keys from audit seeds: no secrets, so everybody gets the"
        " same sheet; real photos need a key file, see identitydp anonymize --help"
    )
    sheet, photo = anonymize_examples(model, detector)
    _save(sheet, folder / "contact-sheet.png")
    _save(Image.fromarray(photo), folder / "astronaut-anonymized.png")
    return 0


def _folder(given: str) -> pathlib.Path:
    """Return the folder, made if it is absent and tried out, so as not to fail after the work."""
    folder = given_path(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{folder}: not a folder; name another with --output") from None
    except OSError as error:
        raise _cannot_write(folder, error) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: no permission to write; name another folder with --output")
    return folder


def _save(image, path: pathlib.Path) -> None:
    """Write a PNG and print its path."""
    content = io.BytesIO()
    image.save(content, format="PNG")
    try:
        storage.write(path, content.getvalue())
    except OSError as error:
        raise _cannot_write(path, error) from None
    print(path)


def _cannot_write(path: pathlib.Path, error: OSError) -> UserError:
    reason = error.strerror or error
    return UserError(f"{path}: cannot be written ({reason}); name another folder with --output")


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
