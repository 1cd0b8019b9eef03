"""Anonymizing every face of a photo: detect, align, anonymize, paste back."""

import dataclasses
import hashlib

import numpy as np

from identitydp_jax import checks
from identitydp_jax.anonymize import compositing, transparency
from identitydp_jax.anonymize.methods import IdentityDP, Method
from identitydp_jax.checks import UserError
from identitydp_jax.data import alignment
from identitydp_jax.privacy import chacha, keys
from identitydp_jax.privacy.ledger import Ledger

MIN_FACE = 20
_GRID = 64  # parts of a pixel in which the points of a face are told


class NoFaceFound(UserError):
    """There is no face in the photo that the detector sees, so nothing was anonymized."""


@dataclasses.dataclass(frozen=True)
class FaceRecord:
    """What was done to one face.

    Attributes:
      box: left, top, right, bottom in whole pixels of the photo.
      handled: ``anonymized``, or ``pixelated`` where that could not be done.
      reason: why a face was pixelated, else "".
      charged: of a face that an `Account` has: `number` and `head` of the ledger's entry, and
        whether its code was `reused`. None without a ledger.
    """

    box: tuple[int, int, int, int]
    handled: str
    reason: str = ""
    charged: dict | None = None


@dataclasses.dataclass(frozen=True)
class Account:
    """Where the releases of photos are charged.

    Attributes:
      ledger: remembers them, and stops what would pass its budget.
      subject: the person or track that all the photos are of; None makes every face a subject of
        its own, named by the photo's content and its box.
    """

    ledger: Ledger
    subject: str | None = None


def anonymize_photo(
    method: Method,
    photo: np.ndarray,
    *,
    master: keys.MasterKey,
    detector,
    min_face: int = MIN_FACE,
    account: Account | None = None,
) -> tuple[np.ndarray, list[FaceRecord]]:
    """Return a photo in which every face that the detector finds is replaced.

    A face that is too small, or whose points fit no frame, is pixelated: none is left as it was.
    The guarantee is the method's, for each anonymized face: with `IdentityDP` that of
    `privacy.mechanism`, given what is published as it is: the attribute maps, the alignment that
    places the face, the detector's boxes, whether a face was pixelated and why, and the photo
    around the region that is replaced, which shows through at its rim. The result is a function of
    the pixels, the master key, the method, `min_face` and what the ledger remembers.

    Args:
      method: what replaces the faces, from `methods`.
      photo: uint8 (H, W, 3) sRGB, upright, or (H, W, 4) with alpha; not changed. Alpha comes back
        constant in all that is replaced, and opaque where it alone showed a face.
      master: from `privacy.keys`. Each face gets its own key from it, the photo's pixels, those
        of the aligned face, the method's policy and the face's box.
      detector: `detector.detect(photo)` gives `data.detection.Detections`.
      min_face: faces whose box is shorter than this on its longer side, in pixels, are pixelated.
      account: where an `IdentityDP` charges what it releases, before anything is drawn of it.
        Without one nothing is charged or remembered, and several releases of a person under
        several keys average out unnoticed.

    Returns:
      uint8 of the photo's shape, and one record per face from the smallest to the largest.

    Raises:
      NoFaceFound: the detector finds no face.
      UserError: the account has a subject and the photo several faces, the ledger's budget forbids
        it, the ledger can't be written, or the photo is one of those that the method's calibration
        was measured on, or no such array.
    """
    _check_photo(photo)
    photo, alpha, found = transparency.look(np.asarray(photo), detector)
    digest = content_digest(photo)
    if isinstance(method, IdentityDP):
        method.setting.check_disjoint(digest)
    if len(found) == 0:
        raise NoFaceFound("no face found")
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1)
    found, sides = found[np.argsort(sides, kind="stable")], np.sort(sides)
    size = method.resolution
    frames = [_frame(found, i, size, sides[i] < min_face) for i in range(len(found))]

    result = photo.copy()
    # First, so that no crop of a neighbour shows them.
    aligned = [i for i, frame in enumerate(frames) if not isinstance(frame, str)]
    blotted = [found.boxes[i] for i in range(len(frames)) if i not in aligned]
    for box in blotted:
        compositing.pixelate(result, box)
    charged, pasted, side = {}, [], size
    if aligned:
        matrices = np.stack([frames[i] for i in aligned])
        crops = np.stack([alignment.crop(result, m, size) for m in matrices])
        boxes = found.boxes[aligned]
        if account is None or not isinstance(method, IdentityDP):
            face_keys = _face_keys(master, digest, crops, boxes, method.policy)
            drawn = method.draw(crops, keys=face_keys)
        else:
            drawn, entries = _draw_charged(method, crops, account, master, digest, boxes)
            charged = dict(zip(aligned, entries, strict=True))
        pasted, side = matrices * (drawn.shape[1] / size), drawn.shape[1]
        compositing.paste(result, drawn, pasted)
    if alpha is not None:
        compositing.level_alpha(alpha, blotted, pasted, side)
        result = np.dstack([result, alpha])
    return result, [_record(found, i, frame, charged.get(i)) for i, frame in enumerate(frames)]


def _check_photo(photo) -> None:
    kind, shape = checks.shaped("photo", photo).dtype, photo.shape
    if kind != np.uint8 or len(shape) != 3 or shape[2] not in (3, 4) or 0 in shape:
        raise UserError(f"photo is {kind} {shape}: give uint8 (H, W, 3) or (H, W, 4)")


def content_digest(photo: np.ndarray) -> bytes:
    """Return SHA-256 of a photo's shape and pixels, uint8 (H, W, 3): what it shows, 32 bytes."""
    content = hashlib.sha256(repr(photo.shape).encode())
    content.update(np.ascontiguousarray(photo).data)
    return content.digest()


def _frame(found, index: int, size: int, too_small: bool) -> np.ndarray | str:
    """Return the similarity (2, 3) into the model frame, or why there is none."""
    if too_small:
        return "smaller than min_face"
    # On a grid: the last bits of another processor's detector make no other crop, nor key.
    points = np.rint(found.points[index] * _GRID) / _GRID
    try:
        matrix = alignment.similarity(points, size)
    except UserError as error:
        return str(error)
    if not compositing.covers(matrix, found.boxes[index], size):
        return "the five points do not fit the box of the face"
    return matrix


def _face_keys(master, digest: bytes, crops, boxes, policy: str):
    """Return one typed key per face, (N,), bound to the photo's content, the crop and the box."""
    return chacha.stack(
        [
            keys.face_key(master, digest=digest, crop=content_digest(crop), policy=policy, box=box)
            for crop, box in zip(crops, boxes, strict=True)
        ]
    )


def _draw_charged(method: IdentityDP, crops, account: Account, master, digest: bytes, boxes):
    """Return the faces drawn, and the entries of the ledger that they are charged by."""
    if account.subject is None:
        corners = np.rint(np.asarray(boxes, np.float64)).astype(">i8")
        subjects = [hashlib.sha256(digest + box.tobytes()).digest() for box in corners]
        face_keys = _face_keys(master, digest, crops, boxes, method.policy)
    elif len(crops) == 1:
        subjects, face = [account.subject], content_digest(crops[0])
        policy = method.policy
        face_keys = chacha.stack(
            [keys.subject_key(master, subject=account.subject, digest=face, policy=policy)]
        )
    else:
        raise UserError(
            f"{len(crops)} faces, so nobody knows which is the subject: crop the photo to one"
        )

    def draw(places):
        return method.release(crops[places], keys=face_keys[np.array(places)])

    releases = account.ledger.release(subjects, method.charge(keys.commitment(master)), draw)
    drawn = method.draw_codes(crops, np.stack([release.code for release in releases]))
    entries = [
        {"number": each.number, "head": each.head, "reused": each.reused} for each in releases
    ]
    return drawn, entries


def _record(found, index: int, frame, charged: dict | None) -> FaceRecord:
    box = tuple(int(side) for side in np.rint(found.boxes[index]))
    if isinstance(frame, str):
        return FaceRecord(box, "pixelated", frame)
    return FaceRecord(box, "anonymized", charged=charged)
