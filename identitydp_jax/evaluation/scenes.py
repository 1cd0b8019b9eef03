"""Photos made of cut-out faces on pictures without any, so that it is known where faces are."""

import dataclasses

import cv2
import numpy as np
import skimage.data

from identitydp_jax.data.alignment import FRAME

_LONG = 0.72 * FRAME  # from hairline to chin, what a detector's box spans
_MIDDLE = np.array([128.0, 143.0])  # of the face in the frame
_HEAD = (93, 113)  # radii of what is cut out
NO_FACES = ("coffee", "chelsea", "rocket", "gravel", "brick", "grass", "coins", "clock", "page")


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the faces of a scene are like.

    Attributes:
      size: of each face, hairline to chin, in pixels.
      tilt: degrees, clockwise.
      width: of the photo in pixels.
      pitch: from face to face, in sizes; 0 puts each face in front of another twice its size.
      cover: `mask`, `sunglasses`, `hat`, `scarf`, `hand` or "".
      light: factor of the face's and the picture's brightness.
      border: whether faces lie on the border, a quarter cut off.
    """

    size: float
    tilt: float = 0.0
    width: int = 1280
    pitch: float = 2.0
    cover: str = ""
    light: float = 1.0
    border: bool = False


def scene(kind: Kind, faces: np.ndarray, count: int, *, rng: np.random.Generator):
    """Return a photo uint8 (H, W, 3), and middle and size (M, 3) of each face in it.

    Args:
      kind: what to make.
      faces: uint8 (N, 256, 256, 3) in the model frame.
      count: how many faces at most; there are fewer where they find no place.
      rng: chooses the faces and the picture behind them.
    """
    pitch = max(kind.pitch * kind.size, 2)
    columns = max(1, int(kind.width // pitch))
    rows = max(1, -(-count // columns))
    height = max(int(rows * pitch), kind.width // 8)
    photo = _picture(NO_FACES[rng.integers(5)], kind.width, height)
    truth = []
    for index in range(min(count, rows * columns)):
        x, y = (index % columns + 0.5) * pitch, (index // columns + 0.5) * pitch
        if kind.border:
            y = 0.25 * kind.size if index % 2 else height - 0.25 * kind.size
        face = cover(faces[rng.integers(len(faces))], kind.cover)
        _paste(photo, face, x, y, kind.size, kind.tilt)
        truth.append((x, y, kind.size))
    photo = np.clip(photo * kind.light, 0, 255).astype(np.uint8)
    return photo, np.array(truth)


def nested(size: float, faces: np.ndarray, count: int, *, rng: np.random.Generator):
    """Return, as `scene` does, faces in the corners of the boxes of faces four times as large."""
    large = Kind(4 * size, pitch=2.0)
    photo, truth = scene(large, faces, count, rng=rng)
    small = truth + np.array([1.1, 1.5, 0]) * size * [1, 1, 0]
    small[:, 2] = size
    for x, y, _ in small:
        _paste(photo, faces[rng.integers(len(faces))], x, y, size, 0.0)
    return photo, np.concatenate([truth, small])


def found(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return which faces (M, 3) have a box of (N, 4) around their middle and of their size."""
    x, y, size = truth.T[:, :, None]
    left, top, right, bottom = boxes.T[:, None]
    around = (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
    sides = np.maximum(right - left, bottom - top)
    return (around & (sides > size / 2.2) & (sides < 2.2 * size)).any(axis=1)


def pictures() -> list[np.ndarray]:
    """Return pictures without a face, uint8 (H, W, 3)."""
    return [_picture(name) for name in NO_FACES]


def _picture(name: str, width: int | None = None, height: int | None = None) -> np.ndarray:
    picture = getattr(skimage.data, name)()
    picture = np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture[..., :3]
    if width is None:
        return picture
    factor = max(width / picture.shape[1], height / picture.shape[0])
    grown = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(grown[:height, :width])


def cover(face: np.ndarray, what: str) -> np.ndarray:
    """Return a face uint8 (256, 256, 3) with something flat in front of it."""
    face = face.copy()
    if what == "mask":
        cv2.ellipse(face, (128, 180), (52, 42), 0, 0, 360, (190, 210, 225), -1)
    elif what == "sunglasses":
        for x in (97, 159):
            cv2.ellipse(face, (x, 122), (26, 19), 0, 0, 360, (20, 20, 25), -1)
        cv2.line(face, (70, 118), (186, 118), (20, 20, 25), 5)
    elif what == "hat":
        cv2.rectangle(face, (30, 0), (226, 98), (70, 60, 110), -1)
    elif what == "scarf":
        cv2.rectangle(face, (30, 165), (226, 256), (140, 60, 60), -1)
    elif what == "hand":
        for x in range(100, 150, 13):
            cv2.line(face, (x, 250), (x + 12, 160), (205, 160, 135), 12)
    return face


def _paste(photo: np.ndarray, face: np.ndarray, x: float, y: float, size: float, tilt: float):
    """Put the head of a face into a photo, in place, its middle at (x, y)."""
    mask = np.zeros((FRAME, FRAME), np.float32)
    cv2.ellipse(mask, (128, 140), _HEAD, 0, 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 5)
    scale, turn = size / _LONG, np.deg2rad(tilt)
    shrink = min(1.0, 2 * scale)  # by area first, so that nothing aliases
    side = max(8, round(FRAME * shrink))
    face, mask = (
        cv2.resize(each, (side, side), interpolation=cv2.INTER_AREA) for each in (face, mask)
    )
    c, s = np.cos(turn) * scale * FRAME / side, np.sin(turn) * scale * FRAME / side
    matrix = np.array([[c, -s, 0.0], [s, c, 0.0]])
    matrix[:, 2] = [x, y] - matrix[:, :2] @ (_MIDDLE * side / FRAME)
    reach = int(size) + 2
    left, top = max(0, int(x) - reach), max(0, int(y) - reach)
    part = photo[top : int(y) + reach, left : int(x) + reach]
    matrix[:, 2] -= [left, top]
    extent = part.shape[1::-1]
    drawn = cv2.warpAffine(face, matrix, extent, borderMode=cv2.BORDER_REPLICATE)
    share = cv2.warpAffine(mask, matrix, extent)[..., None]
    part[...] = np.rint(part + share * (drawn.astype(np.float32) - part)).astype(np.uint8)
