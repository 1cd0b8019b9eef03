import pathlib
import sys

import cv2
import numpy as np
import pytest

import identitydp_jax
from identitydp_jax.checks import UserError
from identitydp_jax.data.alignment import TEMPLATE
from identitydp_jax.evaluation import face_analysis

CALLS = [
    face_analysis.hog_found,
    face_analysis.scrfd_found,
    face_analysis.points68,
    face_analysis.chips,
]


@pytest.fixture(scope="module")
def faces():
    folder = pathlib.Path(identitydp_jax.__file__).parent / "demo_faces"
    pictures = [cv2.imread(str(path))[..., ::-1] for path in sorted(folder.glob("*.jpg"))]
    return np.stack([cv2.resize(p, (256, 256), interpolation=cv2.INTER_AREA) for p in pictures])


@pytest.fixture(scope="module")
def nobody():
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (256, 256, 3), np.uint8)
    return np.stack([noise, np.full_like(noise, 127)])


@pytest.mark.network
@pytest.mark.parametrize("found", [face_analysis.hog_found, face_analysis.scrfd_found])
def test_detectors_tell_faces_from_nothing(found, faces, nobody):
    answers = found(np.concatenate([faces, nobody]))
    assert answers.dtype == bool
    assert answers.tolist() == [True] * len(faces) + [False] * len(nobody)


@pytest.mark.network
def test_a_face_elsewhere_in_the_frame_does_not_count(faces):
    small = cv2.resize(faces[0], (86, 86), interpolation=cv2.INTER_AREA)
    corner, middle = np.full((2, 256, 256, 3), 127, np.uint8)
    corner[170:, 170:] = small
    middle[90:176, 85:171] = small
    assert face_analysis.scrfd_found(np.stack([corner, middle])).tolist() == [False, True]


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(64, 74, 192, 202)], True),
        ([(200, 200, 250, 250), (100, 100, 160, 160)], True),
        ([(170, 100, 240, 170)], False),
        ([(90, 0, 160, 70)], False),
        ([], False),
    ],
)
def test_the_centre_of_a_box_decides(boxes, expected):
    assert face_analysis._on_face(np.reshape(boxes, (-1, 4))) is expected


@pytest.mark.network
def test_points_lie_on_the_face(faces):
    points = face_analysis.points68(faces)
    assert (points.shape, points.dtype) == ((len(faces), 68, 2), np.float32)
    eyes = np.stack([points[:, 36:42].mean(1), points[:, 42:48].mean(1)], 1)
    np.testing.assert_allclose(eyes.mean(0), TEMPLATE[:2], atol=8)
    mouth = points[:, [48, 54]]
    np.testing.assert_allclose(mouth.mean(0), TEMPLATE[3:], atol=8)


@pytest.mark.network
def test_chips_are_upright_faces_of_their_own_size(faces):
    chips = face_analysis.chips(faces)
    assert (chips.shape, chips.dtype) == ((len(faces), 150, 150, 3), np.uint8)
    turn = cv2.getRotationMatrix2D((128, 140), 12, 1)
    turned = [cv2.warpAffine(f, turn, (256, 256), borderMode=cv2.BORDER_REPLICATE) for f in faces]
    again = face_analysis.chips(np.stack(turned)).astype(float)
    inner = (slice(None), slice(35, 115), slice(35, 115))
    apart = np.abs(again - chips)[inner].mean()
    others = np.abs(np.roll(again, 1, axis=0) - chips)[inner].mean()
    assert apart < 0.5 * others


@pytest.mark.network
@pytest.mark.parametrize("call", CALLS)
def test_a_face_does_not_depend_on_the_others(call, faces):
    whole = call(faces)
    np.testing.assert_array_equal(call(faces[3:4])[0], whole[3])
    assert call(faces[:0]).shape == (0, *whole.shape[1:])
    assert call(faces[:0]).dtype == whole.dtype


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "faces", [np.zeros((2, 128, 128, 3), np.uint8), np.zeros((2, 256, 256, 3), np.float32)]
)
def test_other_arrays_are_refused(call, faces):
    with pytest.raises(UserError, match=r"faces are .*: give uint8 \(N, 256, 256, 3\)"):
        call(faces)


@pytest.mark.parametrize("call", [face_analysis.hog_found, face_analysis.points68])
def test_without_dlib_one_line_says_what_to_install(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    face_analysis._predictor.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'identitydp-jax\[evaluation\]'"):
        call(np.zeros((1, 256, 256, 3), np.uint8))
