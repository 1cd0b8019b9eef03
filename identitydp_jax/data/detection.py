"""Finding faces and their five points in photos, with SCRFD-500M through onnxruntime."""

import dataclasses
import math
import os

import cv2
import numpy as np
import onnxruntime

from identitydp_jax.checks import UserError, shaped
from identitydp_jax.weights import cache

onnxruntime.disable_telemetry_events()  # of Windows, and where it was imported before this package

# The network finds faces of about 10 to 400 px. Its scales are long sides to which the photo is
# resized; each doubling overlaps the next in the sizes of face that it finds.
_SCALES = (256, 640, 1280, 2560, 5120)
_TURNED_SCALES = (256, 640)
_STRIDES = (8, 16, 32)
_TILE, _OVERLAP = 1280, 160  # bounds the memory of one run, whatever the scale

_SCORE = 0.4  # half of what lies between 0.4 and 0.5 in crowds is a face turned away or covered
_TURNED_SCORE = 0.6  # a photo on its side is rare, a facade that looks like a face is not
_SAME_FACE = 0.55  # shared part of the smaller box


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
    """SCRFD-500M with five points, at several scales and in the four quarter turns.

    Args:
      path: an ONNX file of the same layout; None takes the packaged `scrfd_500m`.

    Raises:
      UserError: the file cannot be had, or is no such network.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        path = path or cache.path("scrfd_500m")
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # onnxruntime has no common base class; its messages run over several lines
            raise UserError(f"{path} is not a usable ONNX file of SCRFD: fetch it again") from error
        self._input = self._session.get_inputs()[0].name

    def detect(self, photo: np.ndarray) -> Detections:
        """Return every face of a photo.

        Args:
          photo: uint8 (H, W, 3) RGB, any size, upright or on any side.

        Returns:
          At most one detection per face. Faces under about 10 px, or under 1/500 of the long side
          of a photo of more than 5120 px, are not found.
        """
        _check(photo)
        photo = np.asarray(photo)
        long_side = max(photo.shape[:2])
        found = []
        for scale in _SCALES:
            if scale > 640 and scale > 1.25 * long_side:
                break
            resized, factors = _resize(photo, scale)
            for turns in range(4 if scale in _TURNED_SCALES else 1):
                turned = self._detect_turned(resized, turns)
                found.append(_to_photo(turned, factors))
        return _merge(found)

    def _detect_turned(self, image: np.ndarray, turns: int) -> Detections:
        """Detect in `image` turned counter-clockwise by quarter turns; answer in its own frame."""
        found = self._detect_tiled(np.rot90(image, turns))
        if turns:
            found = found[found.scores >= _TURNED_SCORE]
        height, width = image.shape[:2]
        points = _turn_back(found.points, turns, height, width)
        corners = _turn_back(found.boxes.reshape(-1, 2, 2), turns, height, width)
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return Detections(boxes, found.scores, points)

    def _detect_tiled(self, image: np.ndarray) -> Detections:
        found = []
        for top in _tile_starts(image.shape[0]):
            for left in _tile_starts(image.shape[1]):
                tile = self.detect_once(image[top : top + _TILE, left : left + _TILE])
                offset = np.array([left, top], np.float32)
                boxes = tile.boxes + np.tile(offset, 2)
                found.append(Detections(boxes, tile.scores, tile.points + offset))
        return _concatenate(found)

    def detect_once(self, image: np.ndarray) -> Detections:
        """Run the network once on uint8 (H, W, 3) as it is.

        Turned, small and very large faces are missed, and others found several times: what `detect`
        makes good.
        """
        height, width = (32 * math.ceil(side / 32) for side in image.shape[:2])
        padded = np.full((height, width, 3), 127, np.uint8)
        padded[: image.shape[0], : image.shape[1]] = image
        batch = cv2.dnn.blobFromImage(padded, 1 / 128, mean=(127.5, 127.5, 127.5))
        names = [f"{kind}_{s}" for s in _STRIDES for kind in ("score", "bbox", "kps")]
        outputs = [output[0] for output in self._session.run(names, {self._input: batch})]
        found = []
        for level, stride in enumerate(_STRIDES):
            scores, distances, offsets = outputs[3 * level : 3 * level + 3]
            keep = np.flatnonzero(scores[:, 0] >= _SCORE)
            cell = keep // 2  # two anchors share each centre
            row, column = np.divmod(cell, width // stride)
            centres = np.stack([column, row], axis=1).astype(np.float32) * stride
            boxes = distances[keep] * stride * np.array([-1, -1, 1, 1], np.float32)
            points = centres[:, None] + offsets[keep].reshape(-1, 5, 2) * stride
            found.append(Detections(boxes + np.tile(centres, 2), scores[keep, 0], points))
        return _concatenate(found)


def _check(photo: np.ndarray) -> None:
    kind = shaped("photo", photo).dtype
    if kind != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
        raise ValueError(f"photo is {photo.dtype} {photo.shape}: give uint8 (H, W, 3)")


def _resize(photo: np.ndarray, scale: int):
    """Return the photo with a long side of `scale`, and by what its width and height shrank."""
    height, width = photo.shape[:2]
    factor = scale / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    factors = np.array([size[0] / width, size[1] / height], np.float32)
    return cv2.resize(photo, size, interpolation=how), factors


def _to_photo(found: Detections, factors: np.ndarray) -> Detections:
    """Return detections of a resized photo in the photo's own pixels, whose centres are whole."""

    def grow(coordinates):
        return (coordinates + np.float32(0.5)) / factors - np.float32(0.5)

    boxes = grow(found.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
    return Detections(boxes, found.scores, grow(found.points))


def _turn_back(coordinates: np.ndarray, turns: int, height: int, width: int) -> np.ndarray:
    """Return where (..., 2) coordinates lay before `np.rot90` of an image (height, width)."""
    x, y = coordinates[..., 0], coordinates[..., 1]
    before = [(x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x)]
    return np.stack(before[turns], axis=-1)


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


def _merge(found: list[Detections]) -> Detections:
    """Keep the surest of detections that overlap: non-maximum suppression over all runs."""
    every = _concatenate(found)
    usable = np.isfinite(every.boxes).all(axis=1) & (every.boxes[:, 2:] > every.boxes[:, :2]).all(1)
    every = every[usable]
    order = np.argsort(-every.scores, kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[_overlap(every.boxes[best], every.boxes[order]) < _SAME_FACE]
    return every[np.array(kept, np.intp)]


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return what a box (4,) shares with each of boxes (N, 4), over the smaller one's area.

    Not over their union: half a face found at another scale is a small part of the union.
    """
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared / np.minimum((box[2:] - box[:2]).prod(), areas)
