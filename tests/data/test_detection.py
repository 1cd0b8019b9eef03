import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.data import detection


@pytest.fixture(scope="module")
def detector():
    return detection.Detector()


@pytest.fixture(scope="module")
def astronaut():
    from skimage import data

    return data.astronaut()


def _found(*rows):
    """Detections from rows of (left, top, right, bottom, score)."""
    rows = np.array(rows, np.float32).reshape(-1, 5)
    points = np.zeros((len(rows), 5, 2), np.float32)
    return detection.Detections(rows[:, :4], rows[:, 4], points)


def test_one_face_found_twice_is_kept_once():
    whole, again, part = (10, 10, 50, 60, 0.8), (12, 11, 52, 61, 0.9), (30, 12, 50, 58, 0.5)
    neighbour = (48, 10, 90, 60, 0.7)
    merged = detection._merge([_found(whole, part), _found(again, neighbour)])
    np.testing.assert_allclose(merged.scores, [0.9, 0.7])


def test_boxes_without_area_are_dropped():
    broken = (5, 5, 5, 9, 0.9), (8, 8, 4, 12, 0.9), (np.nan, 0, 9, 9, 0.9)
    assert len(detection._merge([_found(*broken)])) == 0


@pytest.mark.parametrize("turns", range(4))
def test_turned_coordinates_come_back(turns):
    image = np.zeros((7, 11), np.uint8)
    image[2, 8] = 1
    y, x = np.argwhere(np.rot90(image, turns))[0]
    back = detection._turn_back(np.array([x, y], np.float32), turns, *image.shape)
    np.testing.assert_array_equal(back, [8, 2])


@pytest.mark.parametrize("length", [1, 1280, 1281, 2400, 5120])
def test_tiles_cover_and_overlap(length):
    starts = detection._tile_starts(length)
    ends = [min(start + detection._TILE, length) for start in starts]
    assert starts[0] == 0 and ends[-1] == length
    assert all(
        end - start >= detection._OVERLAP for end, start in zip(ends, starts[1:], strict=False)
    )


@pytest.mark.network
def test_astronaut(detector, astronaut):
    found = detector.detect(astronaut)
    assert len(found) == 1
    assert found.boxes.dtype == found.points.dtype == found.scores.dtype == np.float32
    left, top, right, bottom = found.boxes[0]
    eyes, mouth = found.points[0, :2], found.points[0, 3:]
    assert 160 < left < right < 290 and 50 < top < bottom < 210
    np.testing.assert_allclose(eyes, [(204, 101), (249, 102)], atol=6)
    assert (mouth[:, 1] > found.points[0, 2, 1]).all() and mouth[0, 0] < mouth[1, 0]


@pytest.mark.network
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_photo_on_its_side_gives_the_same_points(detector, astronaut, turns):
    upright = detector.detect(astronaut)
    turned = detector.detect(np.rot90(astronaut, turns))
    assert len(turned) == 1
    x, y = turned.points[..., 0], turned.points[..., 1]
    last = len(astronaut) - 1
    upright_again = [None, (last - y, x), (last - x, last - y), (y, last - x)][turns]
    np.testing.assert_allclose(np.stack(upright_again, -1), upright.points, atol=5)


@pytest.mark.network
@pytest.mark.parametrize("side", [48, 128, 2000])
def test_close_ups_and_thumbnails(detector, astronaut, side):
    import cv2

    close_up = cv2.resize(astronaut[40:230, 130:320], (side, side), interpolation=cv2.INTER_AREA)
    assert len(detector.detect(close_up)) == 1


@pytest.mark.network
def test_sixty_faces(detector, astronaut):
    face = astronaut[30:230, 120:320]
    found = detector.detect(np.tile(face, (6, 10, 1)))
    sure = found[found.scores > 0.5]  # seams between the copies may look like faces
    cells = {(int(x // 200), int(y // 200)) for x, y in sure.points[:, 2]}
    assert len(sure) == 60 and len(cells) == 60


@pytest.mark.network
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (40, 40)])
def test_no_face(detector, shape):
    assert len(detector.detect(np.full((*shape, 3), 90, np.uint8))) == 0


@pytest.mark.network
@pytest.mark.parametrize("photo", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_other_arrays_are_refused(detector, photo):
    with pytest.raises(ValueError, match="give uint8"):
        detector.detect(photo)


def test_a_file_that_is_no_network(tmp_path):
    path = tmp_path / "detector.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(UserError, match=r"detector\.onnx is not a usable"):
        detection.Detector(path)
