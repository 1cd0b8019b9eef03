import cv2
import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.data import alignment

SIZE = 64


def _similarity(angle, scale, shift):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def _inverse(matrix):
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]


def _apply(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize("angle", [0, 0.4, np.pi / 2, np.pi, -2.5])
def test_similarity_recovers_the_frame(angle):
    frame = _similarity(angle, 0.3, (11, -7))
    points = _apply(_inverse(frame), alignment.TEMPLATE * (SIZE / 256))
    np.testing.assert_allclose(alignment.similarity(points, SIZE), frame, atol=1e-9)


def test_similarity_is_the_least_squares_solution():
    points = alignment.TEMPLATE + np.random.default_rng(0).normal(0, 9, (5, 2))
    # x' = a x - b y + c, y' = b x + a y + d, as one linear system
    rows = [([x, -y, 1, 0], [y, x, 0, 1]) for x, y in points]
    a, b, c, d = np.linalg.lstsq(
        np.array(rows).reshape(10, 4), alignment.TEMPLATE.reshape(10), rcond=None
    )[0]
    np.testing.assert_allclose(
        alignment.similarity(points, 256), [[a, -b, c], [b, a, d]], atol=1e-8
    )


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((5, 2)),
        np.full((5, 2), np.nan),
        np.full((5, 2), np.inf),
        alignment.TEMPLATE * 1e-3,
        alignment.TEMPLATE[[2, 0, 1, 4, 3]],  # shuffled
        alignment.TEMPLATE * [-1, 1],  # mirrored
    ],
)
def test_points_without_a_frame_are_refused(points):
    with pytest.raises(UserError, match="five points"):
        alignment.similarity(points, SIZE)


@pytest.mark.parametrize("scale", [0.1, 0.45, 1.0, 3.0])
@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_crop_shows_the_right_places(scale, angle):
    """A ramp has to be read off where the inverse frame points, to a fraction of a pixel."""
    photo = np.zeros((900, 900, 3), np.uint8)
    x, y = np.meshgrid(np.arange(900), np.arange(900))
    photo[..., 0], photo[..., 1] = np.rint(x * 255 / 899), np.rint(y * 255 / 899)
    frame = _similarity(angle, scale, (0, 0))
    frame[:, 2] = SIZE / 2 - _apply(frame, np.array([450, 450]))
    cropped = alignment.crop(photo, frame, SIZE)
    u, v = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    expected = _apply(_inverse(frame), np.stack([u, v], -1)) * 255 / 899
    inner = slice(8, -8)
    difference = cropped[inner, inner, :2] - expected[inner, inner]
    assert np.abs(difference).max() < 1.6 and np.abs(difference.mean()) < 0.5


def test_an_unscaled_crop_is_exact():
    photo = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    cropped = alignment.crop(photo, _similarity(0, 1, (-20, -30)), SIZE)
    np.testing.assert_array_equal(cropped, photo[30:94, 20:84])


@pytest.mark.parametrize("step", [2, 3, 5, 7.3])
def test_fine_texture_does_not_alias(step):
    board = (np.indices((700, 700)).sum(0) % 2 * 255).astype(np.uint8)
    photo = np.repeat(board[..., None], 3, 2)
    cropped = alignment.crop(photo, _similarity(0.3, 1 / step, (20, -20)), SIZE)
    inner = cropped[20:-20, 20:-20].astype(float)
    assert inner.std() < 12 and abs(inner.mean() - 127.5) < 3


def test_outside_of_the_photo_its_border_continues():
    photo = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    cropped = alignment.crop(photo, _similarity(0, 1, (10, 0)), SIZE)
    np.testing.assert_array_equal(cropped[:, :10], np.repeat(cropped[:, 10:11], 10, 1))


def test_a_face_outside_the_photo_is_refused():
    with pytest.raises(UserError, match="outside"):
        alignment.crop(np.zeros((50, 50, 3), np.uint8), _similarity(0, 1, (500, 0)), SIZE)


def test_resize_maps_pixel_centres():
    image = np.zeros((90, 60), np.float32)
    image[30:33, 42:45] = 1
    reduced, matrix = alignment.resize(image, 1 / 3)
    x, y = matrix[:2] @ [43, 31, 1]
    assert reduced[round(y), round(x)] == pytest.approx(1)
    np.testing.assert_allclose(_apply(matrix[:2], np.array([43, 31])), [14, 10])


@pytest.mark.network
def test_a_real_face_is_upright_in_the_frame():
    from skimage import data

    from identitydp_jax.data.detection import Detector

    detector, photo = Detector(), data.astronaut()
    turned = cv2.warpAffine(photo, cv2.getRotationMatrix2D((256, 256), 35, 0.8), (512, 512))
    found = detector.detect(turned)
    cropped = alignment.crop(turned, alignment.similarity(found.points[0], 256), 256)
    again = detector.detect(cropped)
    np.testing.assert_allclose(again.points[0], alignment.TEMPLATE, atol=14)
