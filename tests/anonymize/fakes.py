"""A model and a detector that need no files: faces are magenta, anonymized ones are not."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
from PIL import Image

from identitydp_jax.data import alignment
from identitydp_jax.data.detection import Detections
from identitydp_jax.privacy import calibration

MAGENTA = (255, 0, 255)


@dataclasses.dataclass(frozen=True)
class FakeModel:
    name: str = "fake"
    sha256: str = "00" * 32
    encoder_sha256: str = calibration.shipped().measured.encoder_sha256
    resolution: int = 64
    dimension: int = calibration.EMBEDDING_DIM
    attributes: tuple[str, ...] = ("gender", "glasses")


class MarkerDetector:
    """Finds what is magenta, and points in its box as they lie in a face."""

    def detect(self, photo):
        import cv2

        magenta = (photo[..., 0] > 180) & (photo[..., 1] < 80) & (photo[..., 2] > 180)
        _, _, stats, _ = cv2.connectedComponentsWithStats(magenta.astype(np.uint8))
        boxes = [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:] if w > 2 and h > 2]
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        return Detections(boxes, np.full(len(boxes), 0.9, np.float32), points_in(boxes))


class FixedDetector:
    """Finds the same boxes in any photo."""

    def __init__(self, boxes, points=None):
        self.boxes = np.array(boxes, np.float32)
        self.points = points_in(self.boxes) if points is None else points

    def detect(self, photo):
        scores = np.linspace(0.9, 0.5, len(self.boxes), dtype=np.float32)
        return Detections(self.boxes, scores, self.points)


def points_in(boxes):
    """Five points of upright faces, in boxes that reach from x = 60 to 196 of 256 in the frame."""
    scale = (boxes[:, 2] - boxes[:, 0]) / 136
    corner = boxes[:, :2] - scale[:, None] * np.array([60, 47], np.float32)
    points = corner[:, None] + scale[:, None, None] * alignment.TEMPLATE
    return points.astype(np.float32)


def release(model, faces, *, keys, setting):
    """Give codes that the key alone decides."""
    words = np.asarray(jax.random.key_data(keys)) >> 1
    return np.tile(words.astype(np.int32), (1, 512 // words.shape[1]))


def targets(model, faces, codes, *, setting, preserve):
    """Ask for what the codes say, moved by how much is preserved alone."""
    return codes + len(preserve)


def paint(model, faces, identities):
    """Paint each face in one colour that its identity gives; never magenta."""
    painted = np.zeros_like(faces)
    painted[..., 1] = 100 + (identities[:, 0] % 150).astype(np.uint8)[:, None, None]
    painted[..., 0] = (identities[:, 1] % 100).astype(np.uint8)[:, None, None]
    return painted


def picture(*boxes, size=(120, 160)):
    """A grey gradient, uint8 (H, W, 3), with magenta ellipses in boxes (l, t, r, b)."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[...] = np.linspace(60, 150, size[1]).astype(np.uint8)[None, :, None]
    for left, top, right, bottom in boxes:
        across = np.linspace(-1, 1, 2 * (right - left) + 1)[1::2]
        down = np.linspace(-1, 1, 2 * (bottom - top) + 1)[1::2]
        pixels[top:bottom, left:right][np.hypot(across, down[:, None]) < 1] = MAGENTA
    return pixels


def records(folder):
    """What the manifest in a folder says became of photos, without what was intended."""
    lines = pathlib.Path(folder, "manifest.jsonl").read_text().splitlines()
    return [each for each in map(json.loads, lines) if each["status"] != "writing"]


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path
