import dataclasses
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from identitydp_jax.checks import UserError
from identitydp_jax.data import alignment
from identitydp_jax.data.detection import Detections
from identitydp_jax.evaluation import aligned, sources

# Where the five points lie in a box of this detector, of side 1.
POINTS = (alignment.TEMPLATE - alignment.TEMPLATE.min(0)) / np.ptp(alignment.TEMPLATE, axis=0).max()


class MarkerDetector:
    """Finds red squares as faces, the redder the surer; black ones have points that fit no face."""

    def detect(self, photo):
        red = (photo[..., 0] > 150) & (photo[..., 1] < 20)
        _, _, stats, _ = cv2.connectedComponentsWithStats(red.astype(np.uint8))
        boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:]], np.float32)
        boxes = boxes.reshape(-1, 4)
        sides = boxes[:, 2:] - boxes[:, :2]
        points = boxes[:, None, :2] + POINTS * sides[:, None]
        points[sides[:, 0] > 2 * sides[:, 1]] = 0  # flat things
        scores = photo[boxes[:, 1].astype(int), boxes[:, 0].astype(int), 0] / np.float32(255)
        order = np.argsort(-scores)
        return Detections(boxes, scores, points.astype(np.float32))[order]


def _picture(*squares, size=(90, 120), tint=0):
    """A gradient with squares (left, top, side, redness)."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[..., 1] = np.linspace(60, 200, size[1])
    pixels[..., 2] = np.linspace(tint, 200, size[0])[:, None]
    for left, top, side, red in squares:
        pixels[top : top + side, left : left + side] = (red, 0, 0)
    return pixels


def _save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two photos each of ann and bob, and what is no use, of which nothing may get lost."""
    photos = tmp_path / "photos"
    _save(photos / "ann/1.png", _picture((30, 20, 30, 250)))
    _save(photos / "ann/2.png", _picture((40, 25, 20, 250), size=(200, 110)))
    _save(photos / "bob/1.png", _picture((50, 30, 25, 240)))
    _save(photos / "bob/2.png", _picture((60, 30, 24, 240), tint=30))
    _save(photos / "bob/3.png", _picture((30, 20, 30, 250)))  # is ann/1.png
    _save(photos / "bob/empty.png", _picture())
    flat = _picture()
    flat[40:44, 20:80] = (250, 0, 0)
    _save(photos / "bob/flat.png", flat)
    (photos / "bob/text.png").write_text("no image")
    return photos


@pytest.fixture
def face_set(folder):
    return aligned.align(sources.open_source(str(folder)), detector=MarkerDetector())


def test_every_photo_is_in_one_place(face_set):
    assert face_set.names == ("ann/1.png", "ann/2.png", "bob/1.png", "bob/2.png")
    assert face_set.identities.tolist() == ["ann", "ann", "bob", "bob"]
    assert face_set.known.all()
    ((name, reason),) = face_set.unreadable
    assert name == "bob/text.png" and reason.startswith("not a JPEG")
    assert face_set.not_found == (
        ("bob/empty.png", "no face found"),
        ("bob/flat.png", "the five points of the face coincide"),
    )
    assert face_set.duplicates == (("bob/3.png", "ann/1.png"),)
    assert face_set.rows == {
        "ann/1.png": 0,
        "ann/2.png": 1,
        "bob/1.png": 2,
        "bob/2.png": 3,
        "bob/3.png": 0,
        "bob/empty.png": -1,
        "bob/flat.png": -1,
        "bob/text.png": -1,
    }


def test_faces_are_in_the_frame(face_set, folder):
    assert face_set.faces.shape == (4, 256, 256, 3) and face_set.faces.dtype == np.uint8
    assert face_set.sizes.tolist() == [[90, 120], [200, 110], [90, 120], [90, 120]]
    square = np.array([30, 20]) + POINTS * 30
    placed = square @ face_set.matrices[0][:, :2].T + face_set.matrices[0][:, 2]
    np.testing.assert_allclose(placed, alignment.TEMPLATE, atol=1e-3)
    photo = np.asarray(Image.open(folder / "ann/1.png"))
    expected = alignment.crop(photo, face_set.matrices[0], 256)
    np.testing.assert_array_equal(face_set.faces[0], expected)


def test_limit_takes_the_first_photos(folder):
    source = sources.open_source(str(folder))
    few = aligned.align(source, detector=MarkerDetector(), limit=5)
    assert len(few) == 4 and few.duplicates and not few.unreadable
    assert len(aligned.align(source, detector=MarkerDetector(), limit=99)) == 4


def test_unknown_people_are_people_of_their_own(tmp_path):
    for shade, name in enumerate(("x.png", "y.png")):
        _save(tmp_path / name, _picture((30, 20, 30, 250), tint=shade))
    found = aligned.align(sources.open_source(str(tmp_path)), detector=MarkerDetector())
    assert found.identities.tolist() == ["x.png", "y.png"] and not found.known.any()


@pytest.mark.parametrize(
    ("squares", "chosen"),
    [
        ([(50, 35, 10, 250), (10, 10, 30, 255)], 0),  # of two sure ones the central one
        ([(55, 40, 10, 160), (10, 10, 30, 255)], 1),  # unless it is much less sure
        ([(5, 5, 10, 255), (100, 70, 12, 255), (40, 30, 20, 255)], 2),
    ],
)
def test_the_main_face(tmp_path, squares, chosen):
    _save(tmp_path / "x.png", _picture(*squares))
    found = aligned.align(sources.open_source(str(tmp_path)), detector=MarkerDetector())
    left, top, side, _ = squares[chosen]
    expected = alignment.similarity(np.array([left, top]) + POINTS * side, 256)
    np.testing.assert_allclose(found.matrices[0], expected, atol=1e-3)


def test_the_digest_is_of_everything(face_set):
    assert face_set.digest == dataclasses.replace(face_set).digest
    changes = {
        "names": (*face_set.names[:3], "z.png"),
        "identities": face_set.identities[::-1],
        "known": ~face_set.known,
        "faces": face_set.faces ^ 1,
        "matrices": face_set.matrices + 1,
        "sizes": face_set.sizes + 1,
        "contents": face_set.contents[::-1],
        "unreadable": (),
        "not_found": (),
        "duplicates": (),
    }
    assert set(changes) == {field.name for field in dataclasses.fields(face_set)}
    changed = [dataclasses.replace(face_set, **{name: new}) for name, new in changes.items()]
    digests = {each.digest for each in (face_set, *changed)}
    assert len(digests) == 11 and all(len(digest) == 64 for digest in digests)


def test_nothing_to_measure(tmp_path):
    _save(tmp_path / "a.png", _picture())
    (tmp_path / "b.png").write_text("no image")
    message = r"no photo shows a face \(1 unreadable, 1 without a face; b\.png: not a JPEG"
    with pytest.raises(UserError, match=message):
        aligned.align(sources.open_source(str(tmp_path)), detector=MarkerDetector())


def test_a_failing_detector_ends_the_run(folder):
    seen = []

    class Broken:
        def detect(self, photo):
            seen.append(threading.get_ident())
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        aligned.align(sources.open_source(str(folder)), detector=Broken())
    assert len(seen) < 8


@pytest.fixture
def other(folder, tmp_path):
    """The same photos as a tool could leave them: other suffix, half or twice the size."""
    result = tmp_path / "result"
    for name, factor in (("ann/1", 0.5), ("ann/2", 1), ("bob/1", 2), ("bob/2", 1)):
        photo = Image.open(folder / f"{name}.png")
        size = round(photo.width * factor), round(photo.height * factor)
        resized = photo.resize(
            size, Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
        )
        _save(result / f"{name}.webp", np.asarray(resized), lossless=True)
    return result


def test_other_results_are_cropped_where_the_originals_were(face_set, other):
    found = aligned.align_other(face_set, other)
    assert found.names == face_set.names and found.rows == face_set.rows
    assert found.digest != face_set.digest
    for face, original in zip(found.faces, face_set.faces, strict=True):
        assert np.abs(face.astype(int) - original).mean() < 4
        # One pixel of these photos is three or more of the frame.
        shift, _ = cv2.phaseCorrelate(np.float32(face[..., 0]), np.float32(original[..., 0]))
        assert np.abs(shift).max() < 0.6


def test_results_that_are_the_originals_give_the_same_faces(face_set, folder):
    np.testing.assert_array_equal(aligned.align_other(face_set, folder).faces, face_set.faces)


def test_missing_results_are_named(face_set, other):
    for name in ("ann/2", "bob/2"):
        (other / f"{name}.webp").unlink()
    with pytest.raises(UserError, match=r"result: 2 of 4 photos are missing, the first is ann/2\."):
        aligned.align_other(face_set, other)
    with pytest.raises(UserError, match="no such folder"):
        aligned.align_other(face_set, other / "none")


def test_results_that_cannot_be_compared_are_named(face_set, other):
    _save(other / "ann/2.webp", _picture(size=(200, 120)))
    with pytest.raises(UserError, match=r"ann/2\.webp: is 120x200 and its original 110x200: prop"):
        aligned.align_other(face_set, other)
    (other / "ann/2.webp").write_text("no image")
    with pytest.raises(UserError, match=r"ann/2\.webp: not a JPEG"):
        aligned.align_other(face_set, other)


def test_two_results_for_one_photo(face_set, other):
    _save(other / "ann/2.jpg", _picture(size=(200, 110)))
    with pytest.raises(UserError, match=r"holds ann/2\.jpg and ann/2\.webp: keep one"):
        aligned.align_other(face_set, other)
    _save(other / "ann/2.png", _picture(size=(200, 110)))  # called like the original
    aligned.align_other(face_set, other)
