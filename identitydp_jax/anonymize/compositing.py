"""Putting anonymized faces back into a photo, and blotting out what cannot be anonymized."""

import functools

import cv2
import numpy as np

from identitydp_jax.data import alignment
from identitydp_jax.models import face_region

_CONTEST = 0.15  # of a face's depth: how gradually one face takes over from its neighbour
_STRIP = 1 << 20  # pixels of a photo that are blended at once

_BLOCKS = 4  # blocks across a pixelated face: 16 colours, no features
_PHOTO_BLOCKS = 8  # along the long side of a pixelated photo, so that even a close-up is unreadable
_MARGIN = 0.25  # of the box, pixelated on each side of it


def paste(photo: np.ndarray, faces: np.ndarray, matrices: np.ndarray) -> None:
    """Paste faces back into a photo, in place, each in its `models.face_region`.

    Faces whose frames overlap: every pixel shows the face whose centre is nearer, measured in the
    face's own size. So the rendering of a neighbour in the background of one frame, which nobody
    anonymized, never covers the anonymized neighbour. Needs memory for a strip, not for a photo.

    Args:
      photo: uint8 (H, W, 3), written to.
      faces: uint8 (N, size, size, 3), or with an alpha channel (N, size, size, 4): the share of
        the face in what is seen within the region, of 255.
      matrices: (N, 2, 3) of `alignment.similarity` at that size.
    """
    size = faces.shape[1] if len(faces) else 0
    boxes = [alignment.bounds(matrix, size, photo.shape) for matrix in matrices]
    for index, box in enumerate(boxes):
        left, top, right, bottom = box
        if left >= right or top >= bottom:
            continue
        earlier = [matrices[j] for j in range(index) if _intersect(box, boxes[j])]
        source, matrix = _at_scale_of_photo(faces[index], matrices[index])
        rows = max(1, _STRIP // (right - left))
        for start in range(top, bottom, rows):
            window = left, start, right, min(start + rows, bottom)
            alpha = _mask(matrices[index], earlier, size, window)
            face = _warp(source, matrix, window, cv2.INTER_CUBIC, cv2.BORDER_REPLICATE)
            if face.shape[-1] == 4:
                alpha = alpha * (face[..., 3] / np.float32(255))
                face = face[..., :3]
            strip = photo[start : window[3], left:right]
            blended = strip + alpha[..., None] * (face.astype(np.float32) - strip)
            strip[...] = np.rint(blended).astype(np.uint8)


def covers(matrix: np.ndarray, box: np.ndarray, size: int) -> bool:
    """Return whether the region, to half its strength, covers the features in a detector's box.

    The box reaches from the hairline to the chin; the features are taken to lie in the inner 70 %
    of the ellipse in it. Points that fail this do not belong to the face in the box: 0.6 % of 1,481
    faces did, in photos of one and of many people.

    Args:
      matrix: (2, 3) of `alignment.similarity`.
      box: (4,) left, top, right, bottom in pixels of the photo.
      size: side of the frame that `matrix` maps to.
    """
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    centre, radii = (box[:2] + box[2:]) / 2, 0.7 * (box[2:] - box[:2]) / 2
    outline = centre + radii * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    inside = (outline @ matrix[:, :2].T + matrix[:, 2]) / size
    return bool(np.all(face_region.depth(inside[:, 0], inside[:, 1]) >= face_region.FEATHER / 2))


def pixelate(photo: np.ndarray, box: np.ndarray) -> None:
    """Replace a box and a margin around it by a few flat blocks, in place.

    Args:
      photo: uint8 (H, W, 3), written to.
      box: (4,) left, top, right, bottom in pixels; may reach beyond the photo.
    """
    region = photo[_pixelated(box, photo.shape)]
    if region.size:
        region[...] = _blocks(region, (_BLOCKS, _BLOCKS), cv2.INTER_NEAREST)


def level_alpha(alpha: np.ndarray, boxes, matrices, size: int) -> None:
    """Make alpha one and the same in all that `pixelate` and `paste` replace, in place.

    It becomes the greatest that it is there, and stays as it is if it is the same already.

    Args:
      alpha: uint8 (H, W), written to.
      boxes: of the faces that are pixelated, (4,) each.
      matrices: of the faces that are pasted, (2, 3) each.
      size: side of the frame that the matrices map to.
    """
    regions = [(_pixelated(box, alpha.shape), ...) for box in boxes]
    for matrix in matrices:
        left, top, right, bottom = window = alignment.bounds(matrix, size, alpha.shape)
        if left < right and top < bottom:
            depth = _warp(_depth(size), matrix, window, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
            regions.append(((slice(top, bottom), slice(left, right)), depth > 0))
    level = max((alpha[window][inside].max(initial=0) for window, inside in regions), default=0)
    for window, inside in regions:
        alpha[window][inside] = level


def blur_photo(photo: np.ndarray) -> np.ndarray:
    """Return a photo of the same size that keeps only the colours of about 8 x 8 areas.

    Args:
      photo: uint8 (H, W, 3).
    """
    height, width = photo.shape[:2]
    shrink = _PHOTO_BLOCKS / max(height, width)
    blocks = max(1, round(width * shrink)), max(1, round(height * shrink))
    return _blocks(photo, blocks, cv2.INTER_LINEAR)


def _pixelated(box, shape) -> tuple[slice, slice]:
    """Return the rows and columns of a photo that are pixelated for a box."""
    margin = _MARGIN * (box[2:] - box[:2])
    limit = np.array([shape[1], shape[0]])
    left, top = np.clip(np.floor(box[:2] - margin), 0, limit).astype(int)
    right, bottom = np.clip(np.ceil(box[2:] + margin) + 1, 0, limit).astype(int)
    return slice(top, bottom), slice(left, right)


def _blocks(image, blocks: tuple[int, int], how: int):
    few = cv2.resize(image, blocks, interpolation=cv2.INTER_AREA)
    return cv2.resize(few, image.shape[1::-1], interpolation=how)


def _mask(matrix, earlier, size: int, window):
    """Return one face's share of the pixels in a window, float32 (h, w) in [0, 1].

    Over an earlier face it yields as far as that one is deeper inside its own frame.
    """
    depth = _warp(_depth(size), matrix, window, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
    alpha = face_region.smooth(depth / face_region.FEATHER)
    for other in earlier:
        theirs = _warp(_depth(size), other, window, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
        won = face_region.smooth(0.5 + (depth - theirs) / (2 * _CONTEST))
        alpha *= 1 - face_region.smooth(theirs / face_region.FEATHER) * (1 - won)
    return alpha


@functools.cache
def _depth(size: int):
    """Return how deep each pixel of the frame lies inside it, float32 (size, size) in [0, 1]."""
    along = (np.arange(size) + 0.5) / size
    depth = face_region.depth(along[None, :], along[:, None]).astype(np.float32)
    depth.flags.writeable = False
    return depth


def _at_scale_of_photo(face, matrix):
    """Reduce a face that is denser than the photo, so that it does not alias when pasted."""
    density = np.hypot(matrix[0, 0], matrix[1, 0])  # pixels of the crop per pixel of the photo
    reduced, shrink = alignment.resize(face, min(1.0, 1 / density))
    return reduced, (shrink @ np.concatenate([matrix, [[0.0, 0.0, 1.0]]]))[:2]


def _warp(image, matrix, window, interpolation: int, border: int):
    """Return an image of the model frame as it lies in a window of the photo."""
    left, top, right, bottom = window
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([left, top], np.float64)
    return cv2.warpAffine(
        image,
        shifted,
        (right - left, bottom - top),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=border,
    )


def _intersect(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
