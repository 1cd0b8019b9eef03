"""Anonymizing every face of a photo: detect, align, anonymize, paste back."""

import dataclasses
import hashlib

import numpy as np

from identitydp_jax.anonymize import compositing, second_opinion
from identitydp_jax.anonymize.methods import IdentityDP, Method
from identitydp_jax.checks import UserError
from identitydp_jax.data import alignment
from identitydp_jax.privacy import chacha, keys
from identitydp_jax.privacy.ledger import Ledger

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
      charged: of a face that an `Account` has: `number` and `head` of the ledger's entry, and
        whether its code was `reused`. None without a ledger.
    """

    box: tuple[int, int, int, int]
    score: float
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
    second=None,
) -> tuple[np.ndarray, list[FaceRecord]]:
    """Return a photo in which every face that the detector finds is replaced.

    A face that is too small, or whose points fit no frame, is pixelated: none is left as it was.
    The guarantee is the method's, for each anonymized face: with `IdentityDP` that of
    `privacy.mechanism`. The result is a function of the pixels, the master key, the method,
    `min_face` and what the ledger remembers.

    Args:
      method: what replaces the faces, from `methods`.
      photo: uint8 (H, W, 3) sRGB, upright; not changed.
      master: from `privacy.keys`. Each face gets its own key from it, the photo's pixels, the
        method's policy and the face's box.
      detector: `detector.detect(photo)` gives `data.detection.Detections`.
      min_face: faces whose box is shorter than this on its longer side, in pixels, are pixelated.
      account: where an `IdentityDP` charges what it releases, before anything is drawn of it.
        Without one nothing is charged or remembered, and several releases of a person under
        several keys average out unnoticed.
      second: `data.second_detector.SecondDetector`, with which the result is looked at again;
        None leaves that out.

    Returns:
      uint8 (H, W, 3), and one record per face from the smallest to the largest.

    Raises:
      NoFaceFound: the detector finds no face.
      FaceLeft: a look at the result finds a face that may be as it was, see `second_opinion`.
      UserError: the account has a subject and the photo several faces, the ledger's budget forbids
        it, the ledger can't be written, or the photo is one of those that the method's calibration
        was measured on.
    """
    digest = content_digest(photo)
    if isinstance(method, IdentityDP):
        method.setting.check_disjoint(digest)
    found = detector.detect(photo)
    if len(found) == 0:
        raise NoFaceFound("no face found")
    # Keys, subjects and records name a face by whole pixels: rounded once, they agree.
    found = dataclasses.replace(found, boxes=np.rint(found.boxes))
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
    charged = {}
    if aligned:
        matrices = np.stack([frames[i] for i in aligned])
        crops = np.stack([alignment.crop(result, m, size) for m in matrices])
        boxes = found.boxes[aligned]
        if account is None or not isinstance(method, IdentityDP):
            drawn = method.draw(crops, keys=_face_keys(master, digest, boxes, method.policy))
        else:
            drawn, entries = _draw_charged(method, crops, account, master, digest, boxes)
            charged = dict(zip(aligned, entries, strict=True))
        compositing.paste(result, drawn, matrices)
        if second is not None:
            after = np.stack([alignment.crop(result, m, size) for m in matrices])
            second_opinion.check_changed(method, crops, after)
    if second is not None:
        second_opinion.check_covered(result, found.boxes, second)
    return result, [_record(found, i, frame, charged.get(i)) for i, frame in enumerate(frames)]


def content_digest(photo: np.ndarray) -> bytes:
    """Return SHA-256 of a photo's shape and pixels, uint8 (H, W, 3): what it shows, 32 bytes."""
    content = hashlib.sha256(repr(photo.shape).encode())
    content.update(np.ascontiguousarray(photo).data)
    return content.digest()


def _frame(found, index: int, size: int, too_small: bool) -> np.ndarray | str:
    """Return the similarity (2, 3) into the model frame, or why there is none."""
    if too_small:
        return "smaller than min_face"
    try:
        matrix = alignment.similarity(found.points[index], size)
    except UserError as error:
        return str(error)
    frame = compositing.cover(matrix, found.boxes[index], size)
    return "the five points do not fit the box of the face" if frame is None else frame


def _face_keys(master, digest: bytes, boxes, policy: str):
    """Return one typed key per face, (N,), bound to the photo's content and the face's box."""
    each = [keys.face_key(master, digest=digest, policy=policy, box=box) for box in boxes]
    return chacha.stack(each)


def _draw_charged(method: IdentityDP, crops, account: Account, master, digest: bytes, boxes):
    """Return the faces drawn, and the entries of the ledger that they are charged by."""
    if account.subject is None:
        corners = boxes.astype(">i8")
        subjects = [hashlib.sha256(digest + box.tobytes()).digest() for box in corners]
        face_keys = _face_keys(master, digest, boxes, method.policy)
    elif len(crops) == 1:
        subjects, face = [account.subject], hashlib.sha256(crops[0].tobytes()).digest()
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
    box = tuple(int(side) for side in found.boxes[index])
    score = round(float(found.scores[index]), 3)
    if isinstance(frame, str):
        return FaceRecord(box, score, "pixelated", frame)
    return FaceRecord(box, score, "anonymized", charged=charged)
