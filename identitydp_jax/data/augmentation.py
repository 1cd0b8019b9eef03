"""Random changes that carry a model over from generated faces to real photos."""

import cv2
import numpy as np


def augment(face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flip, jitter the alignment and the colours, blur, add noise and recompress one face.

    Args:
      face: uint8 (R, R, 3) sRGB, model-framed.
      rng: draws every decision.

    Returns:
      uint8 (R, R, 3).
    """
    face = _jitter_alignment(face, rng)
    face = _jitter_colours(face, rng)
    if rng.random() < 0.3:
        face = _degrade(face, rng)
    return np.ascontiguousarray(face)


def _jitter_alignment(face, rng):
    """Flip half of the faces; turn by up to 6 degrees, zoom by 6 %, shift by 3 %."""
    if rng.random() < 0.5:
        face = face[:, ::-1]
    side = face.shape[0]
    angle, zoom = rng.normal(0, 3), np.exp(np.clip(rng.normal(0, 0.03), -0.06, 0.06))
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(np.clip(angle, -6, 6)), float(zoom))
    turn[:, 2] += np.clip(rng.normal(0, 0.015, 2), -0.03, 0.03) * side
    return cv2.warpAffine(
        np.ascontiguousarray(face), turn, (side, side), flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )


def _jitter_colours(face, rng):
    """Change gamma, contrast, saturation, white balance; a tenth becomes grey."""
    x = face.astype(np.float32) / 255
    x = x ** np.float32(np.exp(rng.normal(0, 0.25)))
    x *= np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
    grey = x.mean(2, keepdims=True)
    saturation = 0.0 if rng.random() < 0.1 else np.float32(np.exp(rng.normal(0, 0.2)))
    x = grey + saturation * (x - grey)
    middle = x.mean()
    x = middle + np.float32(np.exp(rng.normal(0, 0.15))) * (x - middle)
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)


def _degrade(face, rng):
    """Lose detail as photos do: resolution, sensor noise, compression."""
    side = face.shape[0]
    small = max(24, int(side * rng.uniform(0.4, 1.0)))
    face = cv2.resize(face, (small, small), interpolation=cv2.INTER_AREA)
    face = cv2.resize(face, (side, side), interpolation=cv2.INTER_LINEAR)
    noisy = face + rng.normal(0, rng.uniform(0, 6), face.shape)
    face = (np.clip(noisy, 0, 255) + 0.5).astype(np.uint8)
    quality = int(rng.integers(40, 95))
    _, encoded = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)
