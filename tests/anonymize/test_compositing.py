import numpy as np
import pytest

from identitydp_jax.anonymize import compositing
from identitydp_jax.data import alignment
from identitydp_jax.models import face_region

SIZE = 128


def _frame(left, top, side, angle=0.0):
    """The similarity of a crop whose corner and side are given in pixels of the photo."""
    scale = SIZE / side
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    return np.column_stack([turn, -turn @ [left, top]])


def _flat(*colours):
    return np.stack([np.full((SIZE, SIZE, 3), colour, np.uint8) for colour in colours])


@pytest.mark.parametrize("side", [40, 128, 500])
@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_pasting_the_crop_back_changes_little(side, angle):
    y, x = np.mgrid[:600, :700]
    photo = np.stack([x * 0.3, y * 0.4, (x + y) * 0.15], -1).astype(np.uint8)
    frame = _frame(90, 40, side, angle)
    pasted = photo.copy()
    compositing.paste(pasted, alignment.crop(photo, frame, SIZE)[None], frame[None])
    difference = np.abs(pasted.astype(int) - photo)
    assert difference.max() <= 4 and difference.mean() < 0.3


def test_the_face_is_replaced_in_its_region_alone():
    before = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    photo, green = before.copy(), np.array((0, 255, 0), np.uint8)
    compositing.paste(photo, _flat(green), _frame(60, 70, SIZE)[None])
    region = np.zeros((300, 300))
    region[70:198, 60:188] = face_region.face_region(SIZE)[..., 0]
    assert (photo[region == 1] == green).all()
    np.testing.assert_array_equal(photo[region == 0], before[region == 0])
    share = region[..., None]
    assert np.abs(photo - (share * green + (1 - share) * before)).max() < 1.5


@pytest.mark.parametrize("side", [40, 128, 500])
@pytest.mark.parametrize("angle", [0.0, -0.4])
def test_outside_the_region_every_pixel_stays_to_the_last_bit(side, angle):
    rng = np.random.default_rng(1)
    before = rng.integers(0, 256, (600, 700, 3), np.uint8)
    frame, photo = _frame(90, 140, side, angle), before.copy()
    compositing.paste(photo, rng.integers(0, 256, (1, SIZE, SIZE, 3), np.uint8), frame[None])
    x, y = np.meshgrid(np.arange(700) + 0.5, np.arange(600) + 0.5)
    places = (np.stack([x, y], -1) @ frame[:, :2].T + frame[:, 2]) / SIZE
    # Depth is known at the pixels of the frame and read between them.
    nearest = [
        face_region.depth(places[..., 0] + right / SIZE, places[..., 1] + down / SIZE)
        for right in (-1.5, 0, 1.5) for down in (-1.5, 0, 1.5)
    ]  # fmt: skip
    np.testing.assert_array_equal(
        photo[np.max(nearest, axis=0) == 0], before[np.max(nearest, axis=0) == 0]
    )
    inside = np.min(nearest, axis=0) > face_region.FEATHER
    assert (photo[inside] != before[inside]).any(-1).mean() > 0.98
    assert inside.sum() > 0.2 * side**2


def _with_alpha(faces, alpha):
    alpha = np.broadcast_to(np.asarray(alpha, np.uint8), faces.shape[:3])[..., None]
    return np.concatenate([faces, alpha], axis=-1)


@pytest.mark.parametrize("frame", [_frame(60, 70, SIZE), _frame(31.3, 22.7, 190, 0.3)])
def test_an_alpha_channel_tells_how_much_of_a_face_is_seen(frame):
    rng = np.random.default_rng(2)
    before = rng.integers(0, 256, (300, 300, 3), np.uint8)
    faces = rng.integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)

    def pasted(faces):
        photo = before.copy()
        compositing.paste(photo, faces, frame[None])
        return photo

    plain = pasted(faces)
    np.testing.assert_array_equal(pasted(_with_alpha(faces, 255)), plain)
    np.testing.assert_array_equal(pasted(_with_alpha(faces, 0)), before)
    share = np.float32(51 / 255)
    mixed = before + share * (plain.astype(np.float32) - before)
    assert np.abs(pasted(_with_alpha(faces, 51)) - mixed).max() <= 1
    # Half of the frame hidden: there the photo stays, and the other half is as it was.
    half = pasted(_with_alpha(faces, np.where(np.arange(SIZE) < SIZE // 2, 0, 255)[None, None]))
    rows, columns = np.indices(before.shape[:2])
    places = (np.stack([columns, rows], -1) + 0.5) @ frame[:, :2].T + frame[:, 2]
    hidden, seen = places[..., 0] < SIZE / 2 - 3, places[..., 0] > SIZE / 2 + 3
    np.testing.assert_array_equal(half[hidden], before[hidden])
    np.testing.assert_array_equal(half[seen], plain[seen])


def test_frames_beyond_the_photo_are_cut():
    photo = np.full((90, 90, 3), 50, np.uint8)
    frames = np.stack([_frame(-60, -60, 128), _frame(40, 30, 128), _frame(500, 500, 128)])
    compositing.paste(photo, _flat((255, 0, 0), (0, 255, 0), (0, 0, 255)), frames)
    assert tuple(photo[5, 5]) == (255, 0, 0) and tuple(photo[85, 85]) == (0, 255, 0)
    assert photo[..., 2].max() == 50


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_neighbours_keep_their_own_half(order):
    """Each frame also shows the neighbour, un-anonymized: that must not be what is seen."""
    photo = np.full((200, 300, 3), 128, np.uint8)
    frames = np.stack([_frame(20, 30, 128), _frame(90, 30, 128)])[order]
    faces = _flat((255, 0, 0), (0, 0, 255))[order]
    compositing.paste(photo, faces, frames)
    row = photo[30 + 64]
    assert (row[50:105, 0] == 255).all() and (row[50:105, 2] == 0).all()
    assert (row[135:190, 2] == 255).all() and (row[135:190, 0] == 0).all()
    # In between the two mix, without the photo under them, which would show as green.
    assert row[50:190, 1].max() == 0


def test_strips_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    face = rng.integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    frame = _frame(13.3, 20.7, 200, 0.2)[None]
    whole = np.full((300, 300, 3), 50, np.uint8)
    compositing.paste(whole, face, frame)
    strips = np.full((300, 300, 3), 50, np.uint8)
    monkeypatch.setattr(compositing, "_STRIP", 2000)
    compositing.paste(strips, face, frame)
    assert np.abs(whole.astype(int) - strips).max() <= 1


def test_no_faces():
    photo = np.full((9, 9, 3), 7, np.uint8)
    compositing.paste(photo, np.zeros((0, SIZE, SIZE, 3), np.uint8), np.zeros((0, 2, 3)))
    assert (photo == 7).all()


def test_covers():
    frame = _frame(100, 100, 256)
    assert compositing.covers(frame, np.array([160, 147, 300, 335]), SIZE)
    # Boxes as the detector makes them: a little larger or smaller, higher or lower.
    for scale in (0.9, 1.0, 1.08):
        for shift in (-4, 0, 4):
            centre, half = np.array([228, 243 + shift]), scale * np.array([78, 90])
            assert compositing.covers(frame, np.concatenate([centre - half, centre + half]), SIZE)
    assert not compositing.covers(frame, np.array([230, 147, 370, 335]), SIZE)
    assert not compositing.covers(frame, np.array([60, 60, 400, 400]), SIZE)


@pytest.mark.parametrize("side", [-1, 1])
def test_a_frame_follows_a_head_turned_aside_but_not_a_profile(side):
    frame = _frame(100, 100, 256)
    box = np.array([160, 147, 300, 335], np.float64)
    np.testing.assert_array_equal(compositing.cover(frame, box, SIZE), frame)
    aside = box + side * np.array([38, 0, 38, 0])
    assert not compositing.covers(frame, aside, SIZE)
    moved = compositing.cover(frame, aside, SIZE)
    assert compositing.covers(moved, aside, SIZE)
    assert 0 < np.abs(moved - frame).max() <= 0.08 * SIZE
    assert compositing.cover(frame, box + side * np.array([70, 0, 70, 0]), SIZE) is None


@pytest.mark.parametrize("box", [(50, 40, 90, 100), (-20, -20, 30, 30), (50.2, 40.7, 52.1, 42.2)])
def test_pixelated_boxes_lose_their_content(box):
    box = np.array(box, np.float32)
    photo = np.random.default_rng(0).integers(0, 256, (120, 130, 3), np.uint8)
    before = photo.copy()
    compositing.pixelate(photo, box)
    left, top = np.maximum(0, np.floor(box[:2]).astype(int))
    right, bottom = np.ceil(box[2:]).astype(int)
    inside = photo[top:bottom, left:right].reshape(-1, 3)
    assert len(np.unique(inside, axis=0)) <= 16
    changed = np.argwhere((photo != before).any(-1))
    margin = 0.25 * (box[2:] - box[:2]) + 2
    assert (changed[:, ::-1] >= box[:2] - margin).all()
    assert (changed[:, ::-1] <= box[2:] + margin).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (300, 200)])
def test_a_blurred_photo_holds_no_detail(size):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    blurred = compositing.blur_photo(photo)
    assert blurred.shape == photo.shape and blurred.dtype == np.uint8
    if min(size) > 100:
        assert blurred.astype(float).std() < 0.1 * photo.astype(float).std()
