"""The command `identitydp demo`: one contact sheet of faces beside their anonymizations."""

import argparse
import dataclasses
import os
import pathlib
import sys

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont
from skimage.metrics import structural_similarity
from tqdm import tqdm

from identitydp_jax.anonymize.faces import Model, embed_faces, load_model
from identitydp_jax.anonymize.photos import anonymize_photo
from identitydp_jax.checks import UserError
from identitydp_jax.data import alignment
from identitydp_jax.data.detection import Detections, Detector
from identitydp_jax.privacy import PrivacySetting
from identitydp_jax.privacy.keys import audit_master

_FACES = pathlib.Path(__file__).parent / "demo_faces"
_KEYS = {"A": audit_master(0), "B": audit_master(1)}

# The columns after the original: a setting and the name of a key. Low budgets are shown with two
# keys, as it is there that the key decides who appears.
_COLUMNS = (
    (PrivacySetting(epsilon=3200.0), "A"),
    (PrivacySetting(epsilon=800.0), "A"),
    (PrivacySetting(epsilon=100.0), "A"),
    (PrivacySetting(epsilon=100.0), "B"),
    (PrivacySetting(epsilon=6.0), "A"),
    (PrivacySetting(epsilon=6.0), "B"),
    (PrivacySetting(mechanism="random"), "A"),
)
_PHOTO_COLUMN = _COLUMNS[4]  # of the photo written beside the sheet

_TITLE = "IdentityDP: faces anonymized at several privacy levels"
_TEXT = (
    "The guarantee is epsilon-local differential privacy of the identity embedding, given the"
    " attribute maps.",
    "The image itself is not epsilon-differentially private: pose, expression, hair, light and"
    " background carry no noise.",
    "epsilon: nominal, calibration certified-l2. expected cosine: mean, over keys, of the cosine"
    " between the noised embedding and the original's.",
    "measured cosine: between the embeddings of the face shown and of the original, by the model's"
    " own encoder. SSIM: structural similarity of the two pictures.",
    "Keys A and B come from the audit seeds 0 and 1, so that everybody gets this sheet. They are"
    " no secrets: real photos need a key file.",
)

_TILE = 256
_MARGIN, _GAP = 24, 12
_LINE = 19  # pixels from one line of text to the next
_HEAD = 40 + (len(_TEXT) + 3) * _LINE  # height of everything above the first row
_ROW = _TILE + 5 * _LINE
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class Tile:
    """One face of the sheet: uint8 (_TILE, _TILE, 3) and the lines printed under it."""

    pixels: np.ndarray
    lines: tuple[str, ...]


def add_parser(subparsers) -> None:
    """Add `demo` to the program's subcommands."""
    parser = subparsers.add_parser(
        "demo",
        help="write a contact sheet of faces beside their anonymizations",
        description="Anonymize generated faces of nobody, and one of NASA's portraits, at several"
        " privacy levels, and write one contact sheet with the measured numbers.",
    )
    parser.add_argument(
        "--output", default="identitydp-demo", metavar="DIR",
        help="folder to write into (default: %(default)s)",
    )
    parser.add_argument(
        "--model", default="default", metavar="NAME_OR_FILE",
        help="model to show (default: the one that ships with the package)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the sheet and the anonymized photo, print their paths and return the exit status 0.

    Raises:
      UserError: the folder cannot be written, or the model or the pretrained files can't be had.
    """
    folder = _folder(args.output)
    _say("loading the model and the face detector")
    model, detector = load_model(args.model), Detector()
    _say("anonymizing; keys from audit seeds, which are no secret, so everybody gets this result")
    rows, photo = [], None
    photos = _photos()
    with tqdm(total=len(photos) * len(_COLUMNS), desc="faces", unit="face") as progress:
        for name, original in photos.items():
            found = detector.detect(original)
            results = []
            for setting, key in _COLUMNS:
                results.append(_anonymize(model, original, found, setting, key))
                progress.update()
            rows.append(_tiles(model, name, original, found, results))
            photo = results[_COLUMNS.index(_PHOTO_COLUMN)]
    sheet = draw_sheet(rows, footer=f"model {model.name}, SHA-256 {model.sha256}")
    _save(Image.fromarray(photo), folder / "astronaut-anonymized.png")
    _save(sheet, folder / "contact-sheet.png")
    return 0


def draw_sheet(rows: list[list[Tile]], *, footer: str) -> Image.Image:
    """Draw rows of one original and `_COLUMNS` anonymized faces below a title and column heads."""
    columns = len(_COLUMNS) + 1
    width = 2 * _MARGIN + columns * (_TILE + _GAP) - _GAP
    height = _HEAD + len(rows) * _ROW + _LINE + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 16), _TITLE, _INK, ImageFont.load_default(26))
    _write(draw, _MARGIN, 54, _TEXT)
    heads = [("original",), *((_name(setting), f"key {key}") for setting, key in _COLUMNS)]
    for column, head in enumerate(heads):
        left = _MARGIN + column * (_TILE + _GAP)
        _write(draw, left, _HEAD - 5 - len(head) * _LINE, head)
        for index, row in enumerate(rows):
            top = _HEAD + index * _ROW
            sheet.paste(Image.fromarray(row[column].pixels), (left, top))
            _write(draw, left, top + _TILE + 3, row[column].lines)
    _write(draw, _MARGIN, height - _MARGIN - _LINE // 2, (footer,))
    return sheet


def _write(draw, left: int, top: int, lines: tuple[str, ...]) -> None:
    font = ImageFont.load_default(15)
    for index, line in enumerate(lines):
        draw.text((left, top + index * _LINE), line, _INK, font)


def _name(setting: PrivacySetting) -> str:
    if setting.mechanism == "random":
        return "random identity, epsilon 0"
    return f"epsilon {setting.epsilon:g}"


def _photos() -> dict[str, np.ndarray]:
    """Return the photos of the sheet by caption, the astronaut last, uint8 (H, W, 3)."""
    photos = {}
    for path in sorted(_FACES.glob("*.jpg")):
        with Image.open(path) as image:
            photos[f"face of nobody, number {int(path.stem)}"] = np.array(image.convert("RGB"))
    return {**photos, "astronaut: NASA, public domain": skimage.data.astronaut()}


@dataclasses.dataclass(frozen=True)
class _Known:
    """Stands for the detector on a photo whose faces it has already found."""

    found: Detections

    def detect(self, photo: np.ndarray) -> Detections:
        return self.found


def _anonymize(model: Model, photo, found: Detections, setting: PrivacySetting, key: str):
    """Return the photo with all its faces anonymized."""
    master = _KEYS[key]
    return anonymize_photo(model, photo, master=master, setting=setting, detector=_Known(found))[0]


def _tiles(model: Model, name: str, original, found: Detections, results: list) -> list[Tile]:
    """Return one row of the sheet: the surest face of a photo, as it was and in each result."""
    points = found.points[0]
    tiles = [_crop(photo, points, _TILE) for photo in (original, *results)]
    crops = [_crop(photo, points, model.resolution) for photo in (original, *results)]
    embeddings = embed_faces(model, np.stack(crops))
    row = [Tile(tiles[0], (name,))]
    for (setting, key), tile, embedding in zip(_COLUMNS, tiles[1:], embeddings[1:], strict=True):
        similarity = structural_similarity(tiles[0], tile, channel_axis=2)
        lines = (
            f"{_name(setting)}, key {key}",
            f"expected cosine {setting.expected_cosine:.3f}",
            f"measured cosine {float(embedding @ embeddings[0]):.3f}",
            f"SSIM {similarity:.3f}",
        )
        row.append(Tile(tile, lines))
    return row


def _crop(photo, points, size: int):
    """Return the face with these points in the model frame, uint8 (size, size, 3)."""
    return alignment.crop(photo, alignment.similarity(points, size), size)


def _folder(given: str) -> pathlib.Path:
    """Return the folder, made if it is absent and tried out, so as not to fail after the work."""
    folder = pathlib.Path(given).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: no permission to write; name another folder with --output")
    return folder


def _save(image: Image.Image, path: pathlib.Path) -> None:
    """Write a PNG beside its place, then rename it, and print its path."""
    beside = path.with_name(f".{path.name}.part")
    try:
        image.save(beside, format="PNG")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _cannot_write(path, error) from None
    print(path)


def _cannot_write(path: pathlib.Path, error: OSError) -> UserError:
    reason = error.strerror or error
    return UserError(f"{path}: cannot be written ({reason}); name another folder with --output")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
