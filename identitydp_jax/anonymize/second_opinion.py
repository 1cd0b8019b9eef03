"""Looking at a result again: what may still be somebody's face withholds the photo."""

import numpy as np

from identitydp_jax.anonymize import faces, transparency
from identitydp_jax.anonymize.methods import IdentityDP, Method
from identitydp_jax.checks import UserError


class FaceLeft(UserError):
    """A face may have been left as it was, so the result is not to be given out."""


def check_covered(result: np.ndarray, boxes: np.ndarray, second) -> None:
    """Raise unless every face that a second detector sees is one that was handled.

    Args:
      result: uint8 (H, W, 3), or (H, W, 4) with alpha, what would be written; it is looked at as
        `transparency.views` shows it.
      boxes: (N, 4) of the faces that were replaced or pixelated.
      second: `data.second_detector.SecondDetector`.

    Raises:
      FaceLeft: it sees another one; the message says where.
    """
    seen = [box for view in transparency.views(result) for box in second.detect(view).boxes]
    for box in seen:
        centre = (box[:2] + box[2:]) / 2
        if not ((boxes[:, :2] <= centre) & (centre <= boxes[:, 2:])).all(axis=1).any():
            where = ", ".join(str(round(float(side))) for side in box)
            raise FaceLeft(
                f"a second detector sees another face at {where} (left, top, right, bottom), so"
                " the photo is withheld (--check off writes it)"
            )


def check_changed(method: Method, before: np.ndarray, after: np.ndarray) -> None:
    """Raise if a face is still who it was.

    The embeddings of the originals are read to decide this one thing, whether the photo is
    withheld: no pixel of a result depends on them.

    Args:
      method: what replaced the faces; only an `IdentityDP` has embeddings to compare.
      before: aligned faces of the photo, uint8 (N, R, R, 3).
      after: the same places of the result.

    Raises:
      FaceLeft: it is so.
    """
    if isinstance(method, IdentityDP):
        old, new = (faces.embed_faces(method.model, crops) for crops in (before, after))
        if ((old * new).sum(axis=1) > limit(method.setting.expected_cosine)).any():
            raise FaceLeft(
                "a face is still like the original one, so the photo is withheld (--check off"
                " writes it)"
            )


def limit(expected: float) -> float:
    """Return the cosine with the original above which a face counts as left as it was.

    Half-way between what the mechanism is expected to leave and 1, an untouched face. The drawn
    face keeps less than the mechanism at small noise (0.66 of 0.99 at epsilon 10,000), so this
    is for faces that weren't replaced, and hardly ever met by a face that was.
    """
    return (1.0 + expected) / 2
