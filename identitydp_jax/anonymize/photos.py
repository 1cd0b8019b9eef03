"""Anonymizing every face of a photo: detect, align, anonymize, paste back."""

import dataclasses
import hashlib

import jax
import numpy as np

from identitydp_jax.anonymize import compositing
from identitydp_jax.anonymize.methods import Method
from identitydp_jax.checks import UserError
from identitydp_jax.data import alignment
from identitydp_jax.privacy import keys

MIN_FACE = 20


class NoFaceFound(UserError):
    """There is no face in the photo that the detector sees, so nothing was anonymized."""


@dataclasses.dataclass(frozen=True)
class FaceRecord:
    """What was done to one face.

    Attributes:
      box: left, top, right, bottom in whole pixels of the photo.
      score: of the detector, in [0, 1].
      handled: ``anonymized``, or ``pixelated`` where that could not be done.
      reason: why a face was pixelated, else "".
    """

    box: tuple[int, int, int, int]
    score: float
    handled: str
    reason: str = ""


def anonymize_photo(
    method: Method,
    photo: np.ndarray,
    *,
    master: keys.MasterKey,
    detector,
    min_face: int = MIN_FACE,
) -> tuple[np.ndarray, list[FaceRecord]]:
    """Return a photo in which every face that the detector finds is replaced.

    A face that is too small, or whose points fit no frame, is pixelated: none is left as it was.
    The guarantee is the method's, for each anonymized face: with `IdentityDP` that of
    `privacy.perturb`. The result is a function of the pixels, the master key, the method and
    `min_face`.

    Args:
      method: what replaces the faces, from `methods`.
      photo: uint8 (H, W, 3) sRGB, upright; not changed.
      master: from `privacy.keys`. Each face gets its own key from it, the photo's pixels, the
        method's policy and the face's box.
      detector: `detector.detect(photo)` gives `data.detection.Detections`.
      min_face: faces whose box is shorter than this on its longer side, in pixels, are pixelated.

    Returns:
      uint8 (H, W, 3), and one record per face from the smallest to the largest.

    Raises:
      NoFaceFound: the detector finds no face.
    """
    found = detector.detect(photo)
    if len(found) == 0:
        raise NoFaceFound("no face found")
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1)
    found, sides = found[np.argsort(sides, kind="stable")], np.sort(sides)
    size = method.resolution
    frames = [_frame(found, i, size, sides[i] < min_face) for i in range(len(found))]

    result = photo.copy()
    # First, so that no crop of a neighbour shows them.
    for box, frame in zip(found.boxes, frames, strict=True):
        if isinstance(frame, str):
            compositing.pixelate(result, box)
    aligned = [i for i, frame in enumerate(frames) if not isinstance(frame, str)]
    if aligned:
        matrices = np.stack([frames[i] for i in aligned])
        crops = np.stack([alignment.crop(result, m, size) for m in matrices])
        face_keys = _face_keys(master, photo, found.boxes[aligned], method.policy)
        drawn = method.draw(crops, keys=face_keys)
        compositing.paste(result, drawn, matrices)
    return result, [_record(found, i, frame) for i, frame in enumerate(frames)]


def _frame(found, index: int, size: int, too_small: bool) -> np.ndarray | str:
    """Return the similarity (2, 3) into the model frame, or why there is none."""
    if too_small:
        return "smaller than min_face"
    try:
        matrix = alignment.similarity(found.points[index], size)
    except UserError as error:
        return str(error)
    if not compositing.covers(matrix, found.boxes[index], size):
        return "the five points do not fit the box of the face"
    return matrix


def _face_keys(master, photo, boxes, policy: str):
    """Return one typed key per face, (N,), bound to the photo's pixels and the face's box."""
    content = hashlib.sha256(repr(photo.shape).encode())
    content.update(np.ascontiguousarray(photo).data)
    digest = content.digest()
    each = [keys.face_key(master, digest=digest, policy=policy, box=box) for box in boxes]
    # Through the bits: jnp.stack would compile for every count, and reads each key twice.
    bits = np.stack([jax.random.key_data(key) for key in each])
    return jax.random.wrap_key_data(bits, impl="threefry2x32")


def _record(found, index: int, frame) -> FaceRecord:
    box = tuple(int(side) for side in np.rint(found.boxes[index]))
    score = round(float(found.scores[index]), 3)
    if isinstance(frame, str):
        return FaceRecord(box, score, "pixelated", frame)
    return FaceRecord(box, score, "anonymized")
