"""Expression, gaze and pose of a face from its mesh, differentiably, for losses and measures.

Points are those of `face_mesh.find` and `iris.find`, x to the right and y down, in one unit for
both axes. "Left" and "right" are those of the picture. Gradients are finite everywhere, where
points coincide too.
"""

import jax.numpy as jnp
import numpy as np

# Points of MediaPipe's mesh, those of the left half of the picture before those of the right.
BROWS = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55)
BROWS += (300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
# Of each eye the lower lid from the outer to the inner corner, then the upper lid between them.
LIDS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398),
)
NOSE = (45, 220, 115, 48, 64, 98, 97, 275, 440, 344, 278, 294, 327, 326)
NOSE += (168, 6, 197, 195, 5, 4, 1, 19, 94, 2)
OUTER_LIPS = (61, 146, 91, 181, 84, 185, 40, 39, 37, 291, 375, 321, 405, 314, 409, 270, 269, 267)
OUTER_LIPS += (0, 17)
INNER_LIPS = (78, 95, 88, 178, 87, 191, 80, 81, 82, 308, 324, 318, 402, 317, 415, 310, 311, 312)
INNER_LIPS += (13, 14)
# What an expression moves: without cheeks, forehead, jaw and silhouette, which are the identity's.
FEATURES = (*BROWS, *LIDS[0], *LIDS[1], *NOSE, *OUTER_LIPS, *INNER_LIPS)

_OUTER_CORNERS = (33, 263)
_INNER_LIP_PAIRS = ((82, 87), (13, 14), (312, 317))
_MOUTH_CORNERS = (78, 308)
_LID_PAIRS = ((11, 3), (12, 4), (13, 5))  # places in `LIDS`, upper and lower
_OUTER, _INNER = 0, 8  # corners, places in `LIDS`
# From an eye's centre of rotation to its iris, over the distance of the corners: 10.5 mm of about
# 27 mm, which is 11.7 mm of iris over the share .44 that it has of generated faces' eyes.
_ROTATION_RADIUS = 0.39

# Points that expressions hardly move, in the mean mesh of 512 generated faces brought over each
# other and made symmetrical: x, y and z in units of the distance between the eyes' outer corners.
_RIGID = {
    168: (0.0, 0.0, 0.0),
    6: (0.0, 0.085, -0.046),
    197: (0.0, 0.165, -0.099),
    195: (0.0, 0.238, -0.157),
    5: (0.0, 0.317, -0.217),
    4: (0.0, 0.412, -0.241),
    33: (-0.5, 0.039, 0.254),
    133: (-0.191, 0.059, 0.192),
    362: (0.191, 0.059, 0.192),
    263: (0.5, 0.039, 0.254),
    98: (-0.191, 0.518, 0.055),
    327: (0.191, 0.518, 0.055),
    127: (-0.776, 0.079, 0.808),
    356: (0.776, 0.079, 0.808),
}
_NEWTON_STEPS = 6


def eye_distance(points):
    """Return the distance between the outer corners of the eyes in the picture, (N,).

    Args:
      points: (N, 468, 2 or 3).
    """
    left, right = _OUTER_CORNERS
    return _length(points[:, left, :2] - points[:, right, :2])


def drift(points_a, points_b, part=FEATURES):
    """Return the mean distance in the picture that points moved, (N,), in eye distances of `a`.

    Args:
      points_a: (N, 468, 2 or 3) of the original.
      points_b: (N, 468, 2 or 3) of another face in the same frame.
      part: which points.
    """
    part = np.array(part)
    moved = _length(points_a[:, part, :2] - points_b[:, part, :2])
    return moved.mean(1) / eye_distance(points_a)


def lids(points):
    """Return the lids (N, 2, 16, 2) in the mesh (N, 468, 2 or 3), as `iris.Eyes` has them."""
    return points[:, np.array(LIDS), :2]


def eye_opening(lids):
    """Return how far each eye is open, (N, 2): distance of the lids over that of the corners.

    Three distances across the middle (Soukupová and Čech, "Real-Time Eye Blink Detection using
    Facial Landmarks", CVWW 2016, has two).

    Args:
      lids: (N, 2, 16, 2).
    """
    upper, lower = np.array(_LID_PAIRS).T
    height = _length(lids[:, :, upper] - lids[:, :, lower]).mean(2)
    return height / _length(lids[:, :, _OUTER] - lids[:, :, _INNER])


def mouth_opening(points):
    """Return how far a mouth is open, (N,): distance of the inner lips over their corners'.

    Args:
      points: (N, 468, 2 or 3).
    """
    upper, lower = np.array(_INNER_LIP_PAIRS).T
    height = _length(points[:, upper, :2] - points[:, lower, :2]).mean(1)
    left, right = _MOUTH_CORNERS
    return height / _length(points[:, left, :2] - points[:, right, :2])


def gaze(iris, lids):
    """Return where each eye looks relative to the head, (N, 2, 2): yaw and pitch in radians.

    Yaw is positive towards the right of the picture, pitch upwards. The iris turns around a centre
    behind the middle between the corners of the eye. Of a head that is turned, and of eyes whose
    corners lie unlike the average, the angles are off by a constant: compare faces in one pose.

    Args:
      iris: (N, 2, K, 2), the centre first, of `iris.Eyes`.
      lids: (N, 2, 16, 2).
    """
    outer, inner = lids[:, :, _OUTER], lids[:, :, _INNER]
    left = jnp.stack([outer[:, 0], inner[:, 1]], axis=1)
    right = jnp.stack([inner[:, 0], outer[:, 1]], axis=1)
    along, width = right - left, _length(right - left)[..., None]
    down = jnp.stack([-along[..., 1], along[..., 0]], axis=-1)
    offset = (iris[:, :, 0] - (left + right) / 2) / width
    share = jnp.stack([(offset * along).sum(-1), -(offset * down).sum(-1)], axis=-1) / width
    return jnp.arcsin(jnp.clip(share / _ROTATION_RADIUS, -0.98, 0.98))


def pose(points):
    """Return how a head is turned: yaw, pitch and roll in radians, (N, 3).

    Yaw is positive towards the right of the picture, pitch upwards, roll clockwise; turned in the
    order pitch, yaw, roll. Pitch is relative to generated faces' mean. The affine map that takes
    the mean mesh's rigid points to the given ones by least squares, brought to the nearest scaled
    rotation by Newton's iteration (Higham, "Computing the Polar Decomposition", SIAM J. Sci. Stat.
    Comput. 7, 1986), whose gradient, unlike that of singular vectors, is finite.

    Args:
      points: (N, 468, 3), z away from the viewer.
    """
    face = np.array(list(_RIGID.values()))
    inverse = np.linalg.pinv(face - face.mean(0)).T  # (K, 3)
    found = points[:, np.array(list(_RIGID))]
    # Rows are the picture's axes, columns the face's. Adding up the rows of `inverse` gives zero,
    # so that the place of the face doesn't matter.
    turn = jnp.einsum("nkp,kf->npf", found, jnp.asarray(inverse, found.dtype))
    for _ in range(_NEWTON_STEPS):
        turn = _newton(turn)
    yaw = jnp.arcsin(jnp.clip(turn[:, 2, 0], -0.999, 0.999))
    pitch = -jnp.arctan2(turn[:, 2, 1], turn[:, 2, 2])
    roll = jnp.arctan2(turn[:, 1, 0], turn[:, 0, 0])
    return jnp.stack([yaw, pitch, roll], axis=1)


def _newton(matrix):
    """Return the mean of matrices (N, 3, 3) of determinant 1 and of their inverses, transposed."""
    cofactors = jnp.stack(
        [jnp.cross(matrix[:, i], matrix[:, (i + 1) % 3]) for i in (1, 2, 0)], axis=1
    )
    determinant = (matrix[:, 0] * cofactors[:, 0]).sum(-1)[:, None, None]
    scale = jnp.cbrt(determinant)
    return 0.5 * (matrix / scale + cofactors * scale / determinant)


def _length(vectors):
    """Return lengths along the last axis, with a finite gradient at zero."""
    return jnp.sqrt((vectors * vectors).sum(-1) + 1e-12)
