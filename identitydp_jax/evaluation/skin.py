"""The tone of a face's skin as dermatology measures it: the individual typology angle."""

import cv2
import numpy as np
from skimage import color

# MediaPipe's points around the middle of each cheek, clear of eyes, nose, mouth and jaw.
_CHEEKS = (
    (118, 101, 36, 205, 187, 123, 117),
    (347, 330, 266, 425, 411, 352, 346),
)
# Degrees between very light, light, intermediate, tan, brown and dark.
_EDGES = (-30, 10, 28, 41, 55)


def tone(faces: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the individual typology angle, arctan((L* - 50) / b*), of the cheeks.

    Chardon, Cretois, Hourseau, "Skin colour typology and suntanning pathways", 1991: larger is
    lighter. Of the median colour of both cheeks under D65. It depends on the light of a photo too,
    so that it compares two versions of one photo, not two photos.

    Args:
      faces: uint8 sRGB (N, R, R, 3).
      points: (N, 468, 3) of `models.face_mesh.find`, shares of the frame.

    Returns:
      float32 (N,) in degrees, -180 to 180.
    """
    places = points[..., :2] * faces.shape[1]
    angles = [_angle(face, found) for face, found in zip(faces, places, strict=True)]
    return np.array(angles, np.float32)


def groups(angles: np.ndarray) -> np.ndarray:
    """Return the skin colour group of each angle: int (N,), 0 dark, brown, tan, to 5 very light.

    Del Bino and Bernerd, "Variations in skin colour and the biological consequences of ultraviolet
    radiation exposure", British Journal of Dermatology 169, 2013.
    """
    return np.searchsorted(_EDGES, angles)


def _angle(face, points) -> float:
    mask = np.zeros(face.shape[:2], np.uint8)
    for cheek in _CHEEKS:
        cv2.fillPoly(mask, [np.rint(points[list(cheek)]).astype(np.int32)], 1)
    pixels = face[mask > 0]
    if not len(pixels):  # a face that is turned away shows none: take all of it
        pixels = face.reshape(-1, 3)
    lightness, _, yellow = np.median(color.rgb2lab(pixels / 255.0), axis=0)
    return float(np.degrees(np.arctan2(lightness - 50, yellow)))
