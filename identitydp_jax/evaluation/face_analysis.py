"""Detectors and landmarks on faces in the model frame, with dlib (King, JMLR 10, 2009) and SCRFD.

dlib works on the CPU, one face at a time; each face's result is the same whatever others there are.
"""

import concurrent.futures
import functools
import importlib
import os
import threading

import numpy as np

from identitydp_jax.checks import UserError, shaped
from identitydp_jax.data.alignment import FRAME
from identitydp_jax.data.detection import Detector
from identitydp_jax.weights import cache

# Left, top, right, bottom of SCRFD's and of dlib's HOG detector's mean box over unaltered CelebA
# photos in the model frame. On pairs of them dlib's network verified no better from boxes a tenth
# larger, smaller or shifted, and far worse without the five points that start from the box.
_FACE = np.array([60, 46, 196, 234])
_DLIB_FACE = (49, 74, 200, 225)
_CHIP, _CHIP_MARGIN = 150, 0.25  # what dlib's recognition network was trained on


def hog_found(faces: np.ndarray) -> np.ndarray:
    """Say whether dlib's frontal HOG detector finds each face: section V-C's detection rate.

    The frame is searched as it is: its faces are twice the 80 px that the detector needs. A find
    counts if its centre lies in the face region of the frame.

    Args:
      faces: uint8 (N, 256, 256, 3) in the model frame.

    Returns:
      bool (N,).

    Raises:
      UserError: the faces have another shape or dtype, or dlib is not installed.
    """
    check(faces)
    dlib = _dlib()

    local = threading.local()

    def found(face):
        if not hasattr(local, "detect"):  # one per thread: it keeps its pyramid inside
            local.detect = dlib.get_frontal_face_detector()
        boxes = [(box.left(), box.top(), box.right(), box.bottom()) for box in local.detect(face)]
        return _on_face(np.reshape(boxes, (-1, 4)))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.array(list(pool.map(found, faces)), np.bool_)


def scrfd_found(faces: np.ndarray) -> np.ndarray:
    """Say whether SCRFD finds each face, with its box's centre in the face region of the frame.

    The network runs once, upright, on the frame as it is.

    Args:
      faces: uint8 (N, 256, 256, 3) in the model frame.

    Returns:
      bool (N,).

    Raises:
      UserError: the faces have another shape or dtype, or the detector can't be had.
    """
    check(faces)
    detector = _scrfd()
    return np.array([_on_face(detector.detect_once(face).boxes) for face in faces], np.bool_)


def points68(faces: np.ndarray) -> np.ndarray:
    """Place dlib's 68 points (Kazemi and Sullivan, CVPR 2014; iBUG 300-W) in each face.

    They start from a fixed box of the frame, so that there are points in every face, also where no
    detector would find one.

    Args:
      faces: uint8 (N, 256, 256, 3) in the model frame.

    Returns:
      float32 (N, 68, 2), x and y in pixels of the frame.

    Raises:
      UserError: the faces have another shape or dtype, dlib is not installed or its weights can't
        be had.
    """
    check(faces)
    predict = _predictor("dlib_points68")
    shapes = (predict(face) for face in faces)
    points = [[(point.x, point.y) for point in shape.parts()] for shape in shapes]
    return np.array(points, np.float32).reshape(-1, 68, 2)


def chips(faces: np.ndarray) -> np.ndarray:
    """Cut faces as dlib's recognition network wants them: aligned by dlib's five points.

    Args:
      faces: uint8 (N, 256, 256, 3) in the model frame.

    Returns:
      uint8 (N, 150, 150, 3).

    Raises:
      UserError: the faces have another shape or dtype, dlib is not installed or its weights can't
        be had.
    """
    check(faces)
    dlib, predict = _dlib(), _predictor("dlib_points5")
    cut = [dlib.get_face_chip(face, predict(face), _CHIP, _CHIP_MARGIN) for face in faces]
    return np.array(cut, np.uint8).reshape(-1, _CHIP, _CHIP, 3)


def check(faces: np.ndarray) -> None:
    """Raise `UserError` unless faces are uint8 (N, 256, 256, 3)."""
    shaped("faces", faces)
    if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != (FRAME, FRAME, 3):
        raise UserError(
            f"faces are {faces.dtype} {faces.shape}: give uint8 (N, {FRAME}, {FRAME}, 3)"
        )


def _dlib():
    """Return the module, which is an extra of this package."""
    try:
        return importlib.import_module("dlib")
    except ImportError:
        raise UserError("dlib is not installed: pip install 'identitydp-jax[evaluation]'") from None


@functools.cache
def _scrfd() -> Detector:
    return Detector()


@functools.cache
def _predictor(name: str):
    """Return a function that places points of the weights `name` in a face."""
    dlib = _dlib()
    predict, face_box = dlib.shape_predictor(str(cache.path(name))), dlib.rectangle(*_DLIB_FACE)
    return lambda face: predict(np.ascontiguousarray(face), face_box)


def _on_face(boxes: np.ndarray) -> bool:
    """Say whether the centre of any of boxes (M, 4) lies in the face region."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return bool(((centres >= _FACE[:2]) & (centres <= _FACE[2:])).all(axis=1).any())
