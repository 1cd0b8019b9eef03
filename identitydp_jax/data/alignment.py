"""Cropping faces to the model frame: the square in which a face's five points have fixed places."""

import cv2
import numpy as np

from identitydp_jax.checks import UserError

FRAME = 256
# Where (left eye, right eye, nose, left mouth corner, right mouth corner) lie in a frame of 256 px:
# the medians over portraits framed like the FFHQ data set.
TEMPLATE = np.array(
    [(96.1, 120.9), (160.7, 121.0), (127.9, 158.0), (99.9, 185.8), (156.4, 185.9)], np.float64
)


def similarity(points: np.ndarray, size: int) -> np.ndarray:
    """Return the similarity that brings a face's points closest to the template.

    Least squares over rotation, scale and translation, without reflection (Umeyama, 1991); in the
    plane it is the complex line w = a z + b with a = sum(conj(z) w) / sum(|z|^2) for centred z, w.

    Args:
      points: (5, 2) x and y in pixels of the photo, in the order of `TEMPLATE`.
      size: side of the crop in pixels.

    Returns:
      float64 (2, 3), maps (x, y, 1) of the photo to the crop.

    Raises:
      UserError: the points are not finite, coincide, or lie so unlike the template that no frame
        follows from them.
    """
    if not np.isfinite(points).all():
        raise UserError("the five points of the face are not finite")
    z = np.asarray(points, np.float64) @ np.array([1, 1j])
    w = TEMPLATE @ np.array([1, 1j]) * (size / FRAME)
    spread = np.sum(np.abs(z - z.mean()) ** 2)
    if spread < 1.0:  # a face less than a pixel wide is no face
        raise UserError("the five points of the face coincide")
    a = _correlation(z, w) / spread
    if abs(a) ** 2 * spread < 0.1 * np.sum(np.abs(w - w.mean()) ** 2):
        raise UserError("the five points of the face do not lie like a face")
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def rotation(points: np.ndarray) -> np.ndarray:
    """Return the complex numbers (...) of modulus 1 that turn faces' points (..., 5, 2) upright."""
    a = _correlation(points @ np.array([1, 1j]), TEMPLATE @ np.array([1, 1j]))
    return np.exp(1j * np.angle(np.nan_to_num(a)))


def crop(photo: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Return a face in the model frame.

    Where the photo has more pixels than the crop it is reduced by area first, so that fine texture
    does not alias. What lies outside the photo continues its border; a mirror image would put a
    second pair of eyes above a face at the upper border.

    Args:
      photo: uint8 (H, W, 3).
      matrix: from `similarity`, for the same size.
      size: side of the crop in pixels.

    Returns:
      uint8 (size, size, 3).

    Raises:
      UserError: the crop lies outside the photo.
    """
    region, to_region = _region(photo, matrix, size)
    step = 1 / np.hypot(matrix[0, 0], matrix[1, 0])  # pixels of the photo per pixel of the crop
    # Sampling at twice the crop's density and averaging 2 x 2 keeps detail that one bilinear
    # sample per pixel would blur or alias.
    density = 2 if step > 1 else 1
    factor = min(1.0, density / step)
    reduced, resized = resize(region, factor)
    to_crop = _scaling(density) @ _square(matrix) @ np.linalg.inv(resized @ to_region)
    warped = cv2.warpAffine(
        reduced,
        to_crop[:2],
        (density * size, density * size),
        flags=cv2.INTER_LINEAR if density > 1 else cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA)


def bounds(matrix: np.ndarray, size: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the photo's pixels inside a crop; empty if none are.

    Args:
      matrix: photo to crop, (2, 3).
      size: side of the crop in pixels.
      shape: (H, W, ...) of the photo.
    """
    corners = np.array([[x, y, 1.0] for x in (0, size - 1) for y in (0, size - 1)])
    x, y = np.linalg.inv(_square(matrix))[:2] @ corners.T
    left, right = np.clip([np.floor(x.min()), np.ceil(x.max()) + 1], 0, shape[1]).astype(int)
    top, bottom = np.clip([np.floor(y.min()), np.ceil(y.max()) + 1], 0, shape[0]).astype(int)
    return int(left), int(top), int(right), int(bottom)


def resize(image: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return an image reduced by area, factor <= 1, and the (3, 3) map from its old pixels."""
    height, width = image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    fx, fy = size[0] / width, size[1] / height
    # Pixel centres are whole numbers, so the corner at -0.5 is what stays.
    matrix = np.array([[fx, 0, (fx - 1) / 2], [0, fy, (fy - 1) / 2], [0, 0, 1]])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), matrix


def _region(photo, matrix, size):
    """Return the part of the photo that a crop reads, and the (3, 3) map from photo to part."""
    left, top, right, bottom = bounds(matrix, size, photo.shape)
    if left >= right or top >= bottom:
        raise UserError("the face lies outside the photo")
    margin = 4 + int(4 / np.hypot(matrix[0, 0], matrix[1, 0]))  # what interpolation reads beyond
    left, top = max(0, left - margin), max(0, top - margin)
    region = photo[top : bottom + margin, left : right + margin]
    return region, np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]])


def _correlation(z: np.ndarray, w: np.ndarray) -> complex:
    return np.sum(np.conj(z - z.mean(axis=-1, keepdims=True)) * (w - w.mean()), axis=-1)


def _scaling(factor: int) -> np.ndarray:
    """Return the (3, 3) map to pixels `factor` times as dense."""
    return np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1.0]])


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.concatenate([matrix, [[0.0, 0.0, 1.0]]])
