"""Alpha: looking for faces where a viewer looks, and hiding what alpha shows of them."""

import numpy as np

from identitydp_jax.anonymize import compositing
from identitydp_jax.data.detection import Detections

_STRIP = 1 << 20  # pixels of a photo that are flattened at once
_SAME_PLACE = 0.5  # shared part of the union of two boxes
_WHITE, _BLACK = 255, 0


def look(photo: np.ndarray, detector) -> tuple[np.ndarray, np.ndarray | None, Detections]:
    """Return a photo's colours, its alpha, and the faces in it.

    A viewer shows a photo over some background, so faces are looked for in the colours alone, over
    white and over black. Where a background shows a face that the colours do not, the photo is
    flattened over it: replacing the colours there would leave that face in alpha.

    Args:
      photo: uint8 (H, W, 3) sRGB, or (H, W, 4) with straight alpha; not changed.
      detector: `detector.detect(photo)` gives `data.detection.Detections` of (H, W, 3).

    Returns:
      uint8 (H, W, 3), uint8 (H, W) or None without alpha, and what the detector found in the first.
    """
    alpha = photo[..., 3].copy() if photo.shape[2] == 4 else None
    shown = views(photo)
    colours = next(shown)
    found = detector.detect(colours)
    for flat in shown:
        seen = detector.detect(flat)
        if not all(_is_among(box, found.boxes) for box in seen.boxes):
            return flat, np.full_like(alpha, 255), seen
    return colours, alpha, found


def views(photo: np.ndarray):
    """Yield what may be seen of a photo, (H, W, 3): its colours and, where alpha varies, flattened.

    Args:
      photo: uint8 (H, W, 3) sRGB, or (H, W, 4) with straight alpha.
    """
    yield np.ascontiguousarray(photo[..., :3])
    if photo.shape[2] == 4 and photo[..., 3].min() < photo[..., 3].max():
        for background in (_WHITE, _BLACK):
            yield flatten(photo, background)


def flatten(photo: np.ndarray, background: int = _WHITE) -> np.ndarray:
    """Return what a viewer shows over a grey background: uint8 (H, W, 3) of (H, W, 4)."""
    height, width = photo.shape[:2]
    flat, rows = np.empty((height, width, 3), np.uint8), max(1, _STRIP // width)
    for start in range(0, height, rows):
        strip = photo[start : start + rows].astype(np.uint32)
        alpha = strip[..., 3:]
        mixed = strip[..., :3] * alpha + background * (255 - alpha)
        flat[start : start + rows] = (mixed + 127) // 255
    return flat


def blur(photo: np.ndarray) -> np.ndarray:
    """Return a photo (H, W, 3) or (H, W, 4) blurred, opaque unless its alpha shows nothing."""
    if photo.shape[2] == 3:
        return compositing.blur_photo(photo)
    alpha = photo[..., 3:]
    if alpha.min() == alpha.max():
        return np.dstack([compositing.blur_photo(photo[..., :3]), alpha])
    return np.dstack([compositing.blur_photo(flatten(photo)), np.full_like(alpha, 255)])


def _is_among(box: np.ndarray, boxes: np.ndarray) -> bool:
    """Return whether one of boxes (N, 4) is of the same face as a box (4,)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared
    return bool((shared >= _SAME_PLACE * union).any())
