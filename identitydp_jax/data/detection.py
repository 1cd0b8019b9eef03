"""Finding faces and their five points in photos, with SCRFD-500M through onnxruntime."""

import dataclasses
import math
import os

import cv2
import numpy as np
import onnxruntime

from identitydp_jax.checks import UserError, shaped
from identitydp_jax.data import alignment
from identitydp_jax.weights import cache

onnxruntime.disable_telemetry_events()  # of Windows, and where it was imported before this package

# The network finds faces of 16 to 400 px, those under 60 px only within 25 degrees of upright.
# So the photo is searched upright in its own size, in eight turns in one in which turned faces of
# 40 px still have 30, and then in halves of that.
# Long sides: photos of less than 1280 are doubled, or brought to 640; halving ends at 192.
_DOUBLED, _ENLARGED, _SMALLEST = 1280, 640, 192
_TURNED = 0.75
_STRIDES = (8, 16, 32)
_TILE, _OVERLAP = 1280, 160  # bounds the memory of one run, whatever the size

_CANDIDATE = 0.1
_SCORE = 0.4  # half of what lies between 0.4 and 0.5 in crowds is a face turned away or covered
_SAME_FACE = 0.3  # shared part of the union of two boxes, or of one and where a look expects it

# Each candidate is looked at again, brought upright into the middle of a crop of a size at which
# the network is surest: sides of the crop and of the face in it in pixels.
_CROP, _FACE = 128, 80
_WIDTH = 0.8  # of a face's box, in its height
_SURE = 0.65  # of a look: hands, lamps and leaves have less
_BATCH = 32
_GREY = (127, 127, 127)  # around a picture


@dataclasses.dataclass(frozen=True)
class Detections:
    """Faces found in one photo, the surest first.

    Attributes:
      boxes: (N, 4) float32, left, top, right, bottom in pixels; may reach beyond the photo.
      scores: (N,) float32 in [0, 1].
      points: (N, 5, 2) float32, x and y in pixels of the left eye, right eye, nose, left and right
        mouth corner, where left is the side that is left in an upright image of the face.
    """

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        """Return N."""
        return len(self.scores)

    def __getitem__(self, index) -> "Detections":
        """Return the faces that a slice, mask or integer array picks."""
        return Detections(self.boxes[index], self.scores[index], self.points[index])


class Detector:
    """SCRFD-500M with five points, for faces of any size and turn.

    The whole photo is searched first, in several sizes and quarter turns, for whatever may be a
    face; each candidate is then looked at again from near, upright.

    Args:
      path: an ONNX file of the same layout; None takes the packaged `scrfd_500m`.

    Raises:
      UserError: the file cannot be had, or is no such network.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        path = path or cache.path("scrfd_500m")
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # onnxruntime has no common base class; its messages run over several lines
            raise UserError(f"{path} is not a usable ONNX file of SCRFD: fetch it again") from error
        self._input = self._session.get_inputs()[0].name

    def detect(self, photo: np.ndarray) -> Detections:
        """Return every face of a photo.

        Args:
          photo: uint8 (H, W, 3) RGB, any size.

        Returns:
          One detection per face, in any turn. Upright faces under about 16 px and turned ones
          under about 40 px are missed.
        """
        _check(photo)
        photo = np.asarray(photo)
        found, sure = self._search(photo)
        faces, seen = [], found
        for _ in range(2):  # the second time upright by what the first saw
            seen = self._look(photo, seen)
            certain = seen.scores >= _SURE
            faces += [seen[certain], found[sure & ~certain & (seen.scores > 0)]]
            found, sure, seen = found[~certain], sure[~certain], seen[~certain]
        return surest(faces)

    def detect_once(self, image: np.ndarray) -> Detections:
        """Run the network once on uint8 (H, W, 3) as it is.

        Turned, small and very large faces are missed, and others found several times: what `detect`
        makes good.
        """
        return self._run(image[None], _SCORE)[1]

    def _search(self, photo: np.ndarray) -> tuple[Detections, np.ndarray]:
        """Return what may be a face, and bool (N,): what is one unless a look sees nothing."""
        found, sure = [], []
        own = max(photo.shape[:2])
        largest = max(own, min(2 * own, _DOUBLED), _ENLARGED)
        image = resize(photo, largest)
        for side, turns in _plan(largest):
            image = resize(image, side)
            grow = growth(photo, image)
            for turn in range(turns):
                turned = self._search_turned(image, 2 * np.pi * turn / turns)
                found.append(mapped(turned, grow))
                plain = turn == 0 and side <= max(_ENLARGED, 1.25 * own)  # not blurred by enlarging
                sure.append((turned.scores >= _SCORE) & plain)
        every, sure = _concatenate(found), np.concatenate(sure)
        every, sure = (each[_inside(every, photo)] for each in (every, sure))
        kept = _distinct(every)
        return every[kept], sure[kept]

    def _search_turned(self, image: np.ndarray, angle: float) -> Detections:
        """Search `image` turned by an angle in radians; answer in its own frame."""
        found = []
        for corner, tile in tiles(image, angle):
            _, seen = self._run(tile[None], _CANDIDATE)
            found.append(mapped(seen[_distinct(seen)], corner))
        return _concatenate(found)

    def _look(self, photo: np.ndarray, found: Detections) -> Detections:
        """Look at each face from near; one that isn't seen there stays, with score 0."""
        frames = _frames(found)
        looked = Detections(found.boxes.copy(), np.zeros_like(found.scores), found.points.copy())
        for start in range(0, len(found), _BATCH):
            part = frames[start : start + _BATCH]
            crops = np.stack([alignment.crop(photo, frame, _CROP) for frame in part])
            image, seen = self._run(crops, _CANDIDATE)
            order = np.argsort(seen.scores, kind="stable")
            order = order[_shared(_EXPECTED, seen.boxes[order]) >= _SAME_FACE]
            for index, row in dict(zip(image[order], order, strict=True)).items():
                one = mapped(seen[row : row + 1], cv2.invertAffineTransform(part[index]))
                if _inside(one, photo).all():
                    place = start + index
                    looked.boxes[place], looked.points[place] = one.boxes[0], one.points[0]
                    looked.scores[place] = one.scores[0]
        return looked

    def _run(self, images: np.ndarray, least: float) -> tuple[np.ndarray, Detections]:
        """Run the network on uint8 (N, H, W, 3).

        Returns:
          What scores `least` or more, M detections, before them the image of each, int (M,).
        """
        height, width = (32 * math.ceil(side / 32) for side in images.shape[1:3])
        padded = np.full((len(images), height, width, 3), _GREY, np.uint8)
        padded[:, : images.shape[1], : images.shape[2]] = images
        batch = cv2.dnn.blobFromImages(list(padded), 1 / 128, mean=(127.5, 127.5, 127.5))
        names = [f"{kind}_{s}" for s in _STRIDES for kind in ("score", "bbox", "kps")]
        outputs = self._session.run(names, {self._input: batch})
        places, found = [], []
        for level, stride in enumerate(_STRIDES):
            scores, distances, offsets = outputs[3 * level : 3 * level + 3]
            image, keep = np.nonzero(scores[..., 0] >= least)
            cell = keep // 2  # two anchors share each centre
            row, column = np.divmod(cell, width // stride)
            centres = np.stack([column, row], axis=1).astype(np.float32) * stride
            boxes = distances[image, keep] * stride * np.array([-1, -1, 1, 1], np.float32)
            points = centres[:, None] + offsets[image, keep].reshape(-1, 5, 2) * stride
            boxes += np.tile(centres, 2)
            places.append(image)
            found.append(Detections(boxes, scores[image, keep, 0], points))
        return np.concatenate(places), _concatenate(found)


def _check(photo: np.ndarray) -> None:
    kind = shaped("photo", photo).dtype
    if kind != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
        raise ValueError(f"photo is {photo.dtype} {photo.shape}: give uint8 (H, W, 3)")


def _plan(side: int):
    """Yield the long sides of the sizes that are searched, and in how many turns."""
    yield side, 1
    side, turns = math.ceil(_TURNED * side), 8
    while side >= _SMALLEST:
        yield side, turns
        side, turns = math.ceil(side / 2), 4


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """Return the image with a long side of so many pixels."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=how)


def growth(photo: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return the map (2, 3) from a resized photo to the photo; pixel centres are whole numbers."""
    growth = np.array(photo.shape[1::-1]) / image.shape[1::-1]
    return np.column_stack([np.diag(growth), (growth - 1) / 2])


def tiles(image: np.ndarray, angle: float):
    """Yield the tiles of a turned image, each after the map (2, 3) from it to the image."""
    height, width = image.shape[:2]
    c, s = np.cos(angle), np.sin(angle)
    sides = np.rint(np.abs([[c, s], [s, c]]) @ [width, height]).astype(int)
    back = np.array([[c, -s], [s, c]])
    shift = (np.array([width, height]) - 1) / 2 - back @ (sides - 1) / 2
    for top in _tile_starts(sides[1]):
        for left in _tile_starts(sides[0]):
            size = np.minimum(sides - [left, top], _TILE)
            origin = back @ [left, top] + shift
            corners = origin + np.array([[x, y] for x in (0, 1) for y in (0, 1)]) * size @ back.T
            low, high = corners.min(axis=0), corners.max(axis=0)
            if (high < 0).any() or (low > [width, height]).any():
                continue
            matrix = np.column_stack([back, origin])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            yield (
                matrix,
                cv2.warpAffine(image, matrix, size.tolist(), flags=flags, borderValue=_GREY),
            )


def _tile_starts(length: int) -> list[int]:
    """Return where tiles begin along one side, so that neighbours share at least `_OVERLAP`."""
    count = 1 + max(0, math.ceil((length - _TILE) / (_TILE - _OVERLAP)))
    if count == 1:
        return [0]
    return [round(i * (length - _TILE) / (count - 1)) for i in range(count)]


def _concatenate(found: list[Detections]) -> Detections:
    return Detections(
        np.concatenate([each.boxes for each in found]),
        np.concatenate([each.scores for each in found]),
        np.concatenate([each.points for each in found]),
    )


def _frames(found: Detections) -> np.ndarray:
    """Return similarities (N, 2, 3) that bring each face upright into the middle of a crop."""
    longest = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1)
    turn = alignment.rotation(found.points) * _FACE / longest
    matrices = np.stack([turn.real, -turn.imag, turn.imag, turn.real], axis=-1).reshape(-1, 2, 2)
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    shifts = (_CROP - 1) / 2 - (matrices @ centres[..., None])
    return np.concatenate([matrices, shifts], axis=2)


# Where the face then is.
_EXPECTED = (_CROP - 1) / 2 + _FACE / 2 * np.array([-_WIDTH, -1, _WIDTH, 1])


def mapped(found: Detections, matrix: np.ndarray) -> Detections:
    """Return detections after a map (2, 3); a turned box is that of the ellipse in it."""
    linear, shift = matrix[:, :2], matrix[:, 2]
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 @ linear.T + shift
    halves = (found.boxes[:, 2:] - found.boxes[:, :2]) / 2
    reach = np.sqrt(halves**2 @ (linear**2).T)
    boxes = np.concatenate([centres - reach, centres + reach], axis=1)
    points = found.points @ linear.T + shift
    return Detections(boxes.astype(np.float32), found.scores, points.astype(np.float32))


def _inside(found: Detections, photo: np.ndarray) -> np.ndarray:
    """Return which boxes, bool (N,), are at least in part inside the photo."""
    size = np.array(photo.shape[1::-1])
    return ((found.boxes[:, 2:] > 0) & (found.boxes[:, :2] < size)).all(axis=1)


def _distinct(found: Detections) -> np.ndarray:
    """Return the places of the surest detection of each face, the surest first.

    Non-maximum suppression by the shared part of the union: that of the smaller box would take a
    head in front of a shoulder for a part of the face behind it.
    """
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    usable = np.flatnonzero(np.isfinite(found.boxes).all(axis=1) & (sides >= 1).all(axis=1))
    boxes = np.concatenate([found.boxes[:, :2], sides], axis=1)[usable]
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), found.scores[usable].tolist(), 0.0, _SAME_FACE)
    return usable[np.array(kept, np.intp)]


def surest(found: list[Detections]) -> Detections:
    """Return the surest of several detections of each face, from all the looks at a photo."""
    every = _concatenate(found)
    return every[_distinct(every)]


def _shared(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return what a box (4,) shares with each of boxes (N, 4), over their union."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return shared / (areas - shared)
