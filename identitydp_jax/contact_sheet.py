"""One picture that shows faces beside their anonymizations at several privacy levels."""

import dataclasses
import pathlib

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont
from skimage.metrics import structural_similarity
from tqdm import tqdm

from identitydp_jax.anonymize.faces import Model, embed_faces
from identitydp_jax.anonymize.methods import IdentityDP
from identitydp_jax.anonymize.photos import anonymize_photo
from identitydp_jax.data import alignment
from identitydp_jax.data.detection import Detector
from identitydp_jax.privacy.keys import audit_master
from identitydp_jax.privacy.setting import PrivacySetting

_FACES = pathlib.Path(__file__).parent / "demo_faces"
_KEYS = {"A": audit_master(0), "B": audit_master(1)}

# The columns after the original: a setting and the name of a key. Low budgets are shown with two
# keys, as it is there that the key decides who appears.
COLUMNS = (
    (PrivacySetting(epsilon=3200.0), "A"),
    (PrivacySetting(epsilon=800.0), "A"),
    (PrivacySetting(epsilon=100.0), "A"),
    (PrivacySetting(epsilon=100.0), "B"),
    (PrivacySetting(epsilon=6.0), "A"),
    (PrivacySetting(epsilon=6.0), "B"),
    (PrivacySetting(mechanism="random"), "A"),
)
_PHOTO_COLUMN = COLUMNS.index((PrivacySetting(epsilon=6.0), "A"))  # of the astronaut's photo

_TITLE = "IdentityDP: faces anonymized at several privacy levels"
_TEXT = (
    "The guarantee is epsilon-local differential privacy of the identity embedding, given the"
    " attribute maps, the alignment and the detector's output.",
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


def anonymize_examples(model: Model, detector: Detector) -> tuple[Image.Image, np.ndarray]:
    """Anonymize the generated faces and the astronaut, each as every column says.

    Args:
      model: from `load_model`.
      detector: finds the faces.

    Returns:
      The contact sheet, and the astronaut's photo, uint8 (512, 512, 3), at epsilon 6.

    Raises:
      NoFaceFound: the detector misses one of the faces.
    """
    rows, results = [], []
    photos = _photos()
    with tqdm(total=len(photos) * len(COLUMNS), desc="faces", unit="face") as progress:
        for caption, original in photos.items():
            results = []
            for setting, key in COLUMNS:
                method = IdentityDP(model, setting.at(model.dimension))
                result, _ = anonymize_photo(method, original, master=_KEYS[key], detector=detector)
                results.append(result)
                progress.update()
            points = detector.detect(original).points[0]
            rows.append([Tile(_crop(original, points, _TILE), (caption,))])
            rows[-1] += _measured(model, original, results, points)
    sheet = draw_sheet(rows, footer=f"model {model.name}, SHA-256 {model.sha256}")
    return sheet, results[_PHOTO_COLUMN]  # of the last photo, the astronaut


def draw_sheet(rows: list[list[Tile]], *, footer: str) -> Image.Image:
    """Draw rows of one original and `COLUMNS` anonymized faces below a title and column heads."""
    columns = len(COLUMNS) + 1
    width = 2 * _MARGIN + columns * (_TILE + _GAP) - _GAP
    height = _HEAD + len(rows) * _ROW + _LINE + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 16), _TITLE, _INK, ImageFont.load_default(26))
    _write(draw, _MARGIN, 54, _TEXT)
    heads = [("original",), *((_name(setting), f"key {key}") for setting, key in COLUMNS)]
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


def _measured(model: Model, original, results: list, points) -> list[Tile]:
    """Return the tiles of the face with these points in each result, with their numbers."""
    photos = (original, *results)
    tiles = [_crop(photo, points, _TILE) for photo in photos]
    embeddings = embed_faces(model, np.stack([_crop(p, points, model.resolution) for p in photos]))
    measured = []
    for (setting, key), tile, embedding in zip(COLUMNS, tiles[1:], embeddings[1:], strict=True):
        lines = (
            f"{_name(setting)}, key {key}",
            f"expected cosine {setting.at(model.dimension).expected_cosine:.3f}",
            f"measured cosine {float(embedding @ embeddings[0]):.3f}",
            f"SSIM {structural_similarity(tiles[0], tile, channel_axis=2):.3f}",
        )
        measured.append(Tile(tile, lines))
    return measured


def _crop(photo, points, size: int):
    """Return the face with these points in the model frame, uint8 (size, size, 3)."""
    return alignment.crop(photo, alignment.similarity(points, size), size)
