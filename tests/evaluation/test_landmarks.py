import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import landmarks

# A face unlike the one in the module: other proportions, mm, x right, y down, z away.
FACE = {
    27: (0, 0, 23),
    28: (0, 10, 15),
    29: (0, 20, 8),
    30: (0, 31, 0),
    31: (-14, 43, 19),
    33: (0, 46, 13),
    35: (14, 43, 19),
    36: (-45, 4, 46),
    39: (-17, 5, 38),
    42: (17, 5, 38),
    45: (45, 4, 46),
}
TURNS = [(0, 0, 0), (25, 0, 0), (0, 18, 0), (0, 0, 40), (-30, 10, 15), (15, -20, -100)]
BROW = list(range(17, 27))


def _rotation(yaw, pitch, roll):
    """Pitch up, then yaw to the right, then roll clockwise, in degrees."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_x = [[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]]
    about_y = [[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]]
    about_z = [[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_y) @ np.array(about_x)


def _project(face, turn, distance=np.inf, scale=1.3):
    points = np.random.default_rng(0).normal(100, 30, (68, 2))  # those not of the face are ignored
    solid = np.array(list(face.values()), float) @ _rotation(*turn).T
    shrink = 1 / (1 + solid[:, 2:] / distance)
    points[list(face)] = scale * solid[:, :2] * shrink + (128, 90)
    return points


def _frontal():
    """68 points with brows, eyes and mouth where they can be measured by hand; unit 100."""
    points = np.random.default_rng(1).normal(0, 50, (68, 2))
    for eye, centre in ((36, -30), (42, 30)):
        x = centre + np.array([-20, -8, 8, 20, 8, -8])
        points[eye : eye + 6] = np.stack([x, [0, -5, -5, 0, 5, 5]], axis=1)
        brow = 17 if centre < 0 else 22
        points[brow : brow + 5] = np.stack([centre + np.arange(-20, 21, 10), [-30] * 5], axis=1)
    points[48], points[54] = (-25, 80), (25, 80)
    points[60:68] = np.stack([[-20, -8, 0, 8, 20, 8, 0, -8], [80, 78, 77, 78, 80, 82, 83, 82]], 1)
    return points


@pytest.mark.parametrize("turn", TURNS)
def test_pose_of_the_average_face_is_recovered(turn):
    found = landmarks.pose(_project(landmarks._RIGID, turn)[None])[0]
    np.testing.assert_allclose(found, turn, atol=1e-6)


@pytest.mark.parametrize("turn", TURNS)
def test_pose_of_another_face_is_recovered(turn):
    # A distance of 1.5 m makes the camera a little less than affine.
    for distance in (np.inf, 1500):
        found = landmarks.pose(_project(FACE, turn, distance)[None])[0]
        np.testing.assert_allclose(found, turn, atol=3)


def test_pose_withstands_noise():
    clean = np.stack([_project(FACE, (20, -10, 5))] * 200)
    noisy = clean + np.random.default_rng(0).normal(0, 1, clean.shape)
    error = landmarks.pose(noisy) - (20, -10, 5)
    assert (np.abs(error.mean(axis=0)) < 2).all() and (error.std(axis=0) < 2.5).all()


def test_signs_of_the_angles():
    face = _project(FACE, (0, 0, 0))
    face[30] += (6, 0)  # the nose moves to the picture's right
    assert landmarks.pose(face[None])[0, 0] > 2
    face = _project(FACE, (0, 0, 0))
    face[30] -= (0, 6)
    assert landmarks.pose(face[None])[0, 1] > 2
    face = _project(FACE, (0, 0, 0))
    face[45] += (0, 20)  # the eye on the right sinks
    assert landmarks.pose(face[None])[0, 2] > 2


def test_pose_drift_goes_the_short_way_round():
    a, b = _project(FACE, (10, 0, 170)), _project(FACE, (-10, 0, -170))
    np.testing.assert_allclose(landmarks.pose_drift(a[None], b[None])[0], (20, 0, 20), atol=2)


def test_drift_is_a_share_of_the_eye_distance():
    a = _frontal()[None]
    moved = a + np.array([3.0, 4.0])
    np.testing.assert_allclose(landmarks.drift(a, moved), 0.05)
    np.testing.assert_allclose(landmarks.jaw_drift(a, moved), 0.05)
    one = a.copy()
    one[0, 33] += (51, 0)
    np.testing.assert_allclose(landmarks.drift(a, one), 0.01)
    assert landmarks.jaw_drift(a, one) == 0
    np.testing.assert_allclose(landmarks.drift(2 * a, 2 * moved), 0.05)
    # the unit is the original's
    np.testing.assert_allclose(landmarks.drift(a, 2 * a), 2 * landmarks.drift(2 * a, a))


def test_the_jaw_is_apart():
    a = _frontal()[None]
    chin = a.copy()
    chin[0, :17] += (0, 17)
    assert landmarks.drift(a, chin) == 0
    np.testing.assert_allclose(landmarks.jaw_drift(a, chin), 0.17)


def test_expression_by_hand():
    found = landmarks.expression(_frontal()[None])
    assert found.mouth_opening == pytest.approx((4 + 6 + 4) / 3 / 100)
    assert found.mouth_width == pytest.approx(0.5)
    assert found.eye_opening == pytest.approx(0.1)
    assert found.brow_height == pytest.approx(0.3)


def test_expression_does_not_see_where_the_face_is():
    face = _frontal()
    moved = 0.4 * face @ _rotation(0, 0, 33)[:2, :2].T + (7, -70)
    difference = landmarks.expression_drift(face[None], moved[None])
    np.testing.assert_allclose(np.stack(difference), 0, atol=1e-12)


def test_expression_drift_names_what_changed():
    a, b = _frontal(), _frontal()
    b[BROW] -= (0, 5)
    b[[65, 66, 67]] += (0, 9)
    difference = landmarks.expression_drift(a[None], b[None])
    np.testing.assert_allclose(np.stack(difference)[:, 0], (0.09, 0, 0, 0.05), atol=1e-12)
    np.testing.assert_allclose(
        np.stack(landmarks.expression_drift(b[None], a[None])), np.stack(difference)
    )


def test_landmarks_that_cannot_be_measured():
    face = _frontal()[None]
    for wrong, said in (
        (face[0], "shape"),
        (face[:, :5], "shape"),
        (face * np.nan, "not finite"),
        (face * 0, "one place"),
    ):
        for measure in (landmarks.pose, landmarks.expression, lambda x: landmarks.drift(x, face)):
            with pytest.raises(UserError, match=said):
                measure(wrong)
