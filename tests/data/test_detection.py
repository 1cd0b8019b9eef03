import cv2
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
    merged = detection.surest([_found(whole, part), _found(again, neighbour)])
    np.testing.assert_allclose(merged.scores, [0.9, 0.7])


@pytest.mark.parametrize("place", [(0, 0), (60, 70), (10, 30), (25, 40)])
@pytest.mark.parametrize("side", [20, 45])
def test_a_face_within_the_box_of_a_larger_one_is_another(place, side):
    x, y = place
    large, small = (0, 0, 100, 130, 0.8), (x, y, x + side, y + side, 0.9)
    assert len(detection.surest([_found(large), _found(small)])) == 2


def test_boxes_without_area_are_dropped():
    broken = (5, 5, 5, 9, 0.9), (8, 8, 4, 12, 0.9), (np.nan, 0, 9, 9, 0.9)
    assert len(detection.surest([_found(*broken)])) == 0


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("shape", [(70, 90), (1500, 40)])
def test_what_a_turned_tile_shows_comes_back_to_its_place(turn, shape):
    image = np.zeros((*shape, 3), np.uint8)
    y, x = shape[0] - 21, 18
    cv2.circle(image, (x, y), 3, (255, 255, 255), -1)
    found = []
    for matrix, tile in detection.tiles(image, 2 * np.pi * turn / 8):
        if tile.max() > 200:
            rows, columns = np.nonzero(tile[..., 0] > 200)
            found.append(matrix @ [columns.mean(), rows.mean(), 1])
    assert found
    np.testing.assert_allclose(found, np.broadcast_to([x, y], (len(found), 2)), atol=0.5)


def test_no_part_of_a_turned_image_is_left_out():
    image = np.full((900, 1400, 3), 255, np.uint8)
    seen = np.zeros((900, 1400), bool)
    for matrix, tile in detection.tiles(image, np.pi / 4):
        back = cv2.warpAffine(tile, matrix, (1400, 900))
        seen |= back[..., 0] > 250
    assert seen[2:-2, 2:-2].all()


def test_a_turned_box_is_that_of_the_ellipse_in_it():
    found = _found((10, 20, 50, 80, 0.9))
    quarter = detection.mapped(found, np.array([[0, -1, 100], [1, 0, 0]], np.float64))
    np.testing.assert_allclose(quarter.boxes[0], [20, 10, 80, 50], atol=1e-4)
    c = np.cos(np.pi / 4)
    eighth = detection.mapped(found, np.array([[c, -c, 0], [c, c, 0]])).boxes[0]
    np.testing.assert_allclose(eighth[2:] - eighth[:2], 2 * np.hypot(20, 30) * c, rtol=1e-5)


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
    close_up = cv2.resize(astronaut[40:230, 130:320], (side, side), interpolation=cv2.INTER_AREA)
    assert len(detector.detect(close_up)) == 1


@pytest.mark.network
def test_sixty_faces(detector, astronaut):
    face = astronaut[30:230, 120:320]
    found = detector.detect(np.tile(face, (6, 10, 1)))
    sure = found[found.scores > 0.7]  # seams between the copies may look like faces
    cells = {(int(x // 200), int(y // 200)) for x, y in sure.points[:, 2]}
    assert len(sure) == 60 and len(cells) == 60


def _scene(astronaut, side, tilt, shape=(480, 640), step=90):
    """A grey picture with turned copies of one face, and the places of their noses."""
    face, centre = astronaut[10:230, 110:330], np.array([116.0, 110.0])
    scene, noses = np.full((*shape, 3), 110, np.uint8), []
    scale = side / 125  # her face is 125 px high
    matrix = cv2.getRotationMatrix2D(centre.tolist(), tilt, scale)
    small = cv2.GaussianBlur(face, (0, 0), max(0.01, 0.4 / scale))
    mask = cv2.circle(np.zeros(face.shape[:2], np.uint8), (116, 110), 95, 1, -1)
    for y in range(step // 2, shape[0] - step // 2 + 1, step):
        for x in range(step // 2, shape[1] - step // 2 + 1, step):
            placed = matrix.copy()
            placed[:, 2] += [x, y] - centre
            inside = cv2.warpAffine(mask, placed, shape[::-1]) > 0
            scene[inside] = cv2.warpAffine(small, placed, shape[::-1])[inside]
            noses.append((x, y))
    return scene, np.array(noses)


def _missed(found, noses):
    boxes = found.boxes[:, None]
    inside = (boxes[..., :2] <= noses) & (noses <= boxes[..., 2:])
    return int((~inside.all(axis=2).any(axis=0)).sum())


@pytest.mark.network
@pytest.mark.parametrize("tilt", [0, 45, 75, 105, 180, 290])
def test_small_faces_are_found_in_every_turn(detector, astronaut, tilt):
    scene, noses = _scene(astronaut, 40, tilt)
    found = detector.detect(scene)
    assert _missed(found, noses) == 0 and len(found) == len(noses)


@pytest.mark.network
@pytest.mark.parametrize("width", [900, 2000, 4032])
def test_small_faces_are_found_at_every_width(detector, astronaut, width):
    scene, noses = _scene(astronaut, 26, 0, shape=(200, width), step=100)
    assert _missed(detector.detect(scene), noses) == 0


@pytest.mark.network
@pytest.mark.parametrize("place", [(30, 30), (260, 190), (250, 60)])
def test_a_face_in_front_of_a_larger_one_hides_neither(detector, astronaut, place):
    x, y = place
    photo = cv2.resize(astronaut[20:240, 110:330], (440, 440))
    photo[y : y + 90, x : x + 90] = cv2.resize(
        astronaut[30:230, 120:320], (90, 90), interpolation=cv2.INTER_AREA
    )
    sides = (lambda boxes: boxes[:, 3] - boxes[:, 1])(detector.detect(photo).boxes)
    assert sorted(sides > 150) == [False, True]


@pytest.mark.network
@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket"])
def test_there_is_no_face_in_a_cup_a_cat_or_a_rocket(detector, name):
    import skimage.data

    assert len(detector.detect(getattr(skimage.data, name)())) == 0


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
