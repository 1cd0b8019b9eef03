"""Crops of a demo face, and what TensorFlow Lite finds in them with MediaPipe's networks.

To make the numbers anew, with ai-edge-litert and pillow installed:
python tests/models/golden/mediapipe.py face_landmark.tflite iris_landmark.tflite
"""

import pathlib
import sys

import numpy as np
from PIL import Image

FILE = pathlib.Path(__file__).with_suffix(".npz")
_FACE = FILE.parents[3] / "identitydp_jax" / "demo_faces" / "000006.jpg"


def face():
    """A demo face, uint8 (192, 192, 3)."""
    return _crop((0.03, 0.06, 0.97, 1.0), 192)


def eye():
    """The eye of it at the left of the picture, uint8 (64, 64, 3)."""
    return _crop((0.26, 0.37, 0.46, 0.57), 64)


def _crop(shares, side):
    image = Image.open(_FACE).convert("RGB")
    box = tuple(share * image.width for share in shares)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box))


def _run(path, crop):
    """Return the network's outputs by name, in pixels of the crop."""
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(path)
    network.allocate_tensors()
    network.set_tensor(network.get_input_details()[0]["index"], np.float32(crop[None] / 255))
    network.invoke()
    return {o["name"]: network.get_tensor(o["index"]) for o in network.get_output_details()}


if __name__ == "__main__":
    mesh, iris = _run(sys.argv[1], face()), _run(sys.argv[2], eye())
    np.savez_compressed(
        FILE,
        mesh=mesh["conv2d_21"].reshape(-1, 3) / 192,
        contour=iris["output_eyes_contours_and_brows"].reshape(-1, 3) / 64,
        iris=iris["output_iris"].reshape(-1, 3) / 64,
    )
