"""A second opinion on where faces are: YuNet (Wu et al., 2023) through OpenCV."""

import math

import cv2
import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.data import detection
from identitydp_jax.weights import cache

_SMALLEST = 192  # long side at which halving ends
_SCORE = 0.8  # what has less is often no face
_SAME_FACE, _MOST = 0.3, 5000


class SecondDetector:
    """YuNet, another network than `detection.Detector`'s, trained by others; for upright faces.

    Raises:
      UserError: its file cannot be had, or is no such network.
    """

    def __init__(self):
        path = str(cache.path("yunet"))
        logging = cv2.utils.logging
        level = logging.setLogLevel(logging.LOG_LEVEL_ERROR)  # a warning about targets that aren't
        try:
            self._network = cv2.FaceDetectorYN.create(path, "", (320, 320), _SCORE, _SAME_FACE)
        except cv2.error as error:
            raise UserError(f"{path} is not a usable ONNX file of YuNet: fetch it again") from error
        finally:
            logging.setLogLevel(level)
        self._network.setTopK(_MOST)

    def detect(self, photo: np.ndarray) -> detection.Detections:
        """Return the upright faces of a photo, uint8 (H, W, 3) RGB, of about 16 px or more."""
        found, side, image = [], max(photo.shape[:2]), photo
        while image is photo or side >= _SMALLEST:
            image = detection.resize(image, side)
            grow = detection.growth(photo, image)
            for place, tile in detection.tiles(image, 0.0):
                seen = detection.mapped(self._run(tile), place)
                found.append(detection.mapped(seen, grow))
            side = math.ceil(side / 2)
        return detection.surest(found)

    def _run(self, image: np.ndarray) -> detection.Detections:
        self._network.setInputSize(image.shape[1::-1])
        _, rows = self._network.detect(np.ascontiguousarray(image[..., ::-1]))
        rows = np.zeros((0, 15), np.float32) if rows is None else rows
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return detection.Detections(boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2))
