"""What moved between a face and its anonymization: landmarks, pose and expression.

Points are the 68 of the iBUG 300-W annotation (Sagonas et al., 2013), as dlib finds them, float
(N, 68, 2), x to the right and y down in pixels. "Left" and "right" are those of the picture.
Lengths are in units of the distance between the outer corners of the eyes, 300-W's norm. Each
function raises `UserError` for points of another shape, that are not finite, or whose eyes
coincide.
"""

from typing import NamedTuple

import numpy as np

from identitydp_jax.checks import UserError

_JAW, _INNER = slice(0, 17), slice(17, 68)
_BROWS = (slice(17, 22), slice(22, 27))
_EYES = (slice(36, 42), slice(42, 48))
_OUTER_CORNERS = (36, 45)
_LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))
_INNER_LIPS = ((61, 67), (62, 66), (63, 65))
_MOUTH_CORNERS = ((48, 54),)

# The points that neither jaw, mouth nor brows move, in a face of average proportions: x and y in mm
# on a level frontal photograph, taking 88 mm between the outer corners of the eyes; z away from the
# viewer, behind the tip of the nose, fitted to the same points of turned faces.
_RIGID = {
    27: (0, 0, 25),
    28: (0, 11, 17),
    29: (0, 22, 9),
    30: (0, 34, 0),
    31: (-13, 45, 20),
    33: (0, 48, 14),
    35: (13, 45, 20),
    36: (-44, 5, 48),
    39: (-18.5, 5.5, 41),
    42: (18.5, 5.5, 41),
    45: (44, 5, 48),
}


class Expression(NamedTuple):
    """Measures of an expression, each (N,), in units of the distance between the eyes."""

    mouth_opening: np.ndarray  # between the inner lips
    mouth_width: np.ndarray  # between the corners, which a smile parts
    eye_opening: np.ndarray  # between the lids, mean of both eyes
    brow_height: np.ndarray  # centre of the brow to centre of the eye, mean of both sides


def drift(points_a: np.ndarray, points_b: np.ndarray) -> np.ndarray:
    """Return the mean distance that brows, eyes, nose and mouth moved, float64 (N,).

    Args:
      points_a: (N, 68, 2) of the original, whose eyes give the unit.
      points_b: (N, 68, 2) of the anonymization, in the same frame.
    """
    return _drift(points_a, points_b, _INNER)


def jaw_drift(points_a: np.ndarray, points_b: np.ndarray) -> np.ndarray:
    """Return the same of the jaw line alone, whose shape belongs to the identity, float64 (N,).

    Args:
      points_a: (N, 68, 2) of the original, whose eyes give the unit.
      points_b: (N, 68, 2) of the anonymization, in the same frame.
    """
    return _drift(points_a, points_b, _JAW)


def pose(points: np.ndarray) -> np.ndarray:
    """Return how a head is turned: yaw, pitch and roll in degrees, float64 (N, 3).

    Yaw is positive towards the right of the picture, pitch upwards, roll clockwise; turned in the
    order pitch, yaw, roll. The affine camera that takes an average face's rigid points to the
    given ones by least squares, brought to the nearest scaled rotation: the first step of POSIT
    (DeMenthon and Davis, IJCV 15, 1995) with a polar instead of a row-wise normalisation. As noses
    differ, a single face's pitch is known to about 5 degrees, its yaw to 3.

    Args:
      points: (N, 68, 2).
    """
    points = _check(points)
    face = np.array(list(_RIGID.values()), np.float64)
    face -= face.mean(axis=0)
    found = points[:, list(_RIGID)]
    found = found - found.mean(axis=1, keepdims=True)
    camera = np.swapaxes(found, 1, 2) @ np.linalg.pinv(face).T
    u, _, v = np.linalg.svd(camera, full_matrices=False)
    right, down = np.moveaxis(u @ v, 1, 0)
    away = np.cross(right, down)
    yaw = np.arcsin(np.clip(away[:, 0], -1, 1))
    pitch = -np.arctan2(away[:, 1], away[:, 2])
    roll = np.arctan2(down[:, 0], right[:, 0])
    return np.degrees(np.stack([yaw, pitch, roll], axis=1))


def pose_drift(points_a: np.ndarray, points_b: np.ndarray) -> np.ndarray:
    """Return by how much yaw, pitch and roll differ, degrees in 0..180, float64 (N, 3).

    Args:
      points_a: (N, 68, 2).
      points_b: (N, 68, 2).
    """
    turn = pose(points_a) - pose(points_b)
    return np.abs((turn + 180) % 360 - 180)


def expression(points: np.ndarray) -> Expression:
    """Return measures of an expression that scale, place and roll of the face do not change.

    Args:
      points: (N, 68, 2).
    """
    points = _check(points)
    unit = _eye_distance(points)
    sides = [
        np.linalg.norm(points[:, brow].mean(axis=1) - points[:, eye].mean(axis=1), axis=1)
        for brow, eye in zip(_BROWS, _EYES, strict=True)
    ]
    return Expression(
        _mean_length(points, _INNER_LIPS) / unit,
        _mean_length(points, _MOUTH_CORNERS) / unit,
        _mean_length(points, _LIDS) / unit,
        np.mean(sides, axis=0) / unit,
    )


def expression_drift(points_a: np.ndarray, points_b: np.ndarray) -> Expression:
    """Return by how much each measure of the expression differs, 0 or more.

    Args:
      points_a: (N, 68, 2).
      points_b: (N, 68, 2).
    """
    pairs = zip(expression(points_a), expression(points_b), strict=True)
    return Expression(*(np.abs(a - b) for a, b in pairs))


def _drift(points_a, points_b, part):
    a, b = _check(points_a), _check(points_b)
    moved = np.linalg.norm(a[:, part] - b[:, part], axis=2).mean(axis=1)
    return moved / _eye_distance(a)


def _eye_distance(points):
    left, right = _OUTER_CORNERS
    return np.linalg.norm(points[:, left] - points[:, right], axis=1)


def _mean_length(points, pairs):
    starts, ends = np.array(pairs).T
    return np.linalg.norm(points[:, starts] - points[:, ends], axis=2).mean(axis=1)


def _check(points):
    points = np.asarray(points, np.float64)
    if points.ndim != 3 or points.shape[1:] != (68, 2):
        raise UserError(f"landmarks of shape {points.shape}: give (N, 68, 2)")
    if not np.isfinite(points).all():
        raise UserError("some landmarks are not finite: leave out faces without")
    if (_eye_distance(points) == 0).any():
        raise UserError("some landmarks put both eyes in one place: leave out faces without")
    return points
