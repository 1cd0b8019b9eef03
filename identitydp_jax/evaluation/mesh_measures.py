"""What MediaPipe's points tell of a face: how far its eyes are open, how it turned, where it looks.

Points are (N, 468, 3) of `models.face_mesh.find`: x to the right, y down, z away from the viewer.
"""

import numpy as np

# Of each eye, that at the left of the picture first: its corners, and three pairs of points of the
# upper and the lower lid.
EYES = (
    ((33, 133), ((159, 145), (160, 144), (158, 153))),
    ((362, 263), ((386, 374), (385, 380), (387, 373))),
)
# Forehead, temples, bridge of the nose and corners of the eyes: what no expression moves.
_RIGID = (
    *(10, 151, 9, 8, 168, 6, 197, 195, 5, 67, 297, 103, 332, 127, 356, 234, 454),
    *(33, 133, 362, 263),
)
# Radius at which an iris turns over the width of an eye between its corners: 12 of 30 mm.
_EYEBALL = 0.4


def openness(points: np.ndarray) -> np.ndarray:
    """Return how far lids are apart for each width of an eye, mean of both: float (N,)."""
    eyes = [
        np.mean([_length(points, pair) for pair in lids], axis=0) / _length(points, corners)
        for corners, lids in EYES
    ]
    return np.mean(eyes, axis=0)


def turn(points_a: np.ndarray, points_b: np.ndarray) -> np.ndarray:
    """Return the angle by which heads b are turned against heads a, radians in 0..pi, float (N,).

    That of the rotation which, with a shift and a scale, brings points that no expression moves
    nearest to each other: Kabsch, "A solution for the best rotation to relate two sets of vectors",
    Acta Crystallographica A32, 1976.
    """
    a, b = (_centred(points[:, list(_RIGID)]) for points in (points_a, points_b))
    u, _, v = np.linalg.svd(np.swapaxes(a, 1, 2) @ b)
    mirrored = np.linalg.det(u @ v)  # -1 where the nearest is a reflection
    trace = np.einsum("nij,nji->ni", v, u)
    trace = trace[:, 0] + trace[:, 1] + mirrored * trace[:, 2]
    return np.arccos(np.clip((trace - 1) / 2, -1, 1))


def gaze(points: np.ndarray, irises: np.ndarray) -> np.ndarray:
    """Return how far eyes are turned in their head, to the right and down: radians, float (N, 2).

    From where the iris lies between the corners of its eye; of both eyes, the wider one counting
    for more. A middle of the corners that is not where an eye looks straight ahead adds the same to
    every gaze of a face: compare two of one face.

    Args:
      points: (N, 468, 2 or 3).
      irises: (N, 2, 2), the centres in the same unit, that at the left of the picture first.
    """
    total, weight = 0.0, 0.0
    for (corners, _), centre in zip(EYES, np.moveaxis(irises, 1, 0), strict=True):
        width = _length(points[..., :2], corners)[:, None]
        offset = centre - points[:, list(corners), :2].mean(axis=1)
        total = total + width * np.arcsin(np.clip(offset / (_EYEBALL * width), -1, 1))
        weight = weight + width
    return total / weight


def _centred(points):
    points = np.asarray(points, np.float64)
    return points - points.mean(axis=1, keepdims=True)


def _length(points, pair):
    return np.linalg.norm(points[:, pair[0]] - points[:, pair[1]], axis=1)
