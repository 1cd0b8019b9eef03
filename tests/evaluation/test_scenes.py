import numpy as np
import pytest

from identitydp_jax.data.detection import Detections
from identitydp_jax.evaluation import scenes
from identitydp_jax.evaluation.protocols import detection

FACES = np.full((3, 256, 256, 3), (0, 255, 0), np.uint8)


def _green(photo):
    return (photo[..., 1] > 200) & (photo[..., 0] < 60)


@pytest.mark.parametrize("size", [12, 40, 200])
@pytest.mark.parametrize("tilt", [0, 45, 180])
def test_faces_lie_where_the_truth_says_and_in_its_size(size, tilt):
    kind = scenes.Kind(size, tilt, width=640)
    photo, truth = scenes.scene(kind, FACES, 3, rng=np.random.default_rng(0))
    assert photo.shape[1] == 640 and len(truth) == 3 if size < 200 else len(truth) > 0
    for x, y, long in truth:
        assert long == size
        assert _green(photo)[int(y), int(x)]
    area = _green(photo).sum() / len(truth)
    assert area == pytest.approx(np.pi * 93 * 113 * (size / (0.72 * 256)) ** 2, rel=0.15)


def test_a_face_on_the_border_has_lost_a_quarter():
    kind = scenes.Kind(40, border=True)
    photo, truth = scenes.scene(kind, FACES, 3, rng=np.random.default_rng(0))
    assert sorted({y for _, y, _ in truth}) == [10, photo.shape[0] - 10]


def test_a_face_in_front_of_another_has_a_truth_of_its_own():
    photo, truth = scenes.nested(30, FACES, 2, rng=np.random.default_rng(0))
    assert truth[:, 2].tolist() == [120, 120, 30, 30]
    inside = np.abs(truth[2:, :2] - truth[:2, :2])
    assert (inside < 60).all() and _green(photo)[int(truth[2, 1]), int(truth[2, 0])]


@pytest.mark.parametrize("what", ["mask", "sunglasses", "hat", "scarf", "hand"])
def test_a_cover_hides_a_part_of_the_face_alone(what):
    covered = (scenes.cover(FACES[0], what) != FACES[0]).any(axis=2)
    assert 0.01 < covered.mean() < 0.5
    assert (FACES[0] == (0, 255, 0)).all()


def test_a_face_counts_as_found_by_a_box_around_it_of_its_size():
    truth = np.array([[50.0, 50, 20]])
    right, far, large, none = [40, 40, 60, 60], [70, 40, 90, 60], [0, 0, 100, 100], []
    boxes = [np.array(each, np.float32).reshape(-1, 4) for each in (right, far, large, none)]
    assert [bool(scenes.found(each, truth)[0]) for each in boxes] == [True, False, False, False]


def test_the_report_has_every_kind_of_scene_for_every_detector(monkeypatch, tmp_path):
    import benches

    class Blind:
        def detect(self, photo):
            return Detections(*(np.zeros((0, *end), np.float32) for end in ((4,), (), (5, 2))))

    monkeypatch.setattr(detection, "_DETECTORS", {"blind": (Blind, "yunet")})
    report = detection.run(benches.bench(tmp_path, [], faces=benches.face_set(people=1, photos=1)))
    recall = dict(list(report.rows.items())[:-2])
    assert set(recall) > set(detection._KINDS)
    assert {row["blind"].value for row in recall.values()} == {0.0}
    assert report.rows["false faces"]["blind"].value == 0.0
