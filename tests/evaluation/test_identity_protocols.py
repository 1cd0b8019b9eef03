"""Protocols on made-up people, whom a verifier tells by their colours."""

import dataclasses

import benches
import numpy as np
import pytest
import scipy.stats

from identitydp_jax.anonymize.methods import Baseline
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import celeba, face_analysis, measures, verifiers
from identitydp_jax.evaluation.protocols import (
    averaging,
    groups,
    kept,
    lfw,
    linkage,
    parrot,
    quality,
    reid,
    reversal,
    table1,
)

COLUMN = "benches:colours"


def test_table1_tells_the_untouched_from_the_hidden(tmp_path):
    bench = benches.bench(
        tmp_path, [benches.Untouched(), benches.Blind()], verifiers=[COLUMN, "benches:cloud"]
    )
    rows = table1.run(bench).rows
    same, hidden = rows["untouched"], rows["blind"]
    assert same[f"distance {COLUMN}"].value == 0 and same["SSIM"].value == pytest.approx(1)
    assert hidden[f"distance {COLUMN}"].value > 0.8 and hidden["PSNR"].value < 20
    for column in (
        f"PSR {COLUMN} at 0.2",
        f"PSR {COLUMN} at FAR 0.001",
        "PSR benches:cloud at 0.2",
    ):
        assert same[column].value == 0
        assert hidden[column].value > 0.9
    assert hidden[f"distance {COLUMN}"].value == pytest.approx(
        hidden["distance benches:cloud"].value, abs=1e-5
    )
    assert bench.missing == {}


def test_a_measure_that_cannot_be_had_leaves_the_others(tmp_path):
    bench = benches.bench(tmp_path, [benches.Blind()], verifiers=[COLUMN, "nobody"])
    rows = table1.run(bench).rows
    assert f"distance {COLUMN}" in rows["blind"] and "nobody" in bench.missing
    with pytest.raises(UserError, match="no verifier can be had"):
        table1.run(benches.bench(tmp_path, [benches.Blind()], verifiers=["nobody"]))


def test_lfw_accepts_the_untouched_alone(tmp_path):
    faces = benches.face_set(people=24, photos=3)
    methods = [benches.Untouched(), benches.Blind()]
    rows = lfw.run(benches.bench(tmp_path, methods, faces=faces)).rows
    assert rows["original"][f"TAR {COLUMN}"].value == 1
    assert rows["untouched"] == rows["original"]
    assert rows["blind"][f"TAR {COLUMN}"].value < 0.2
    assert 0.3 < rows["blind"][f"accuracy {COLUMN}"].value < 0.7


def test_parrot_learns_a_fixed_disguise_and_no_blind_one(tmp_path):
    methods = [benches.Scrambled(), benches.Blind()]
    rows = parrot.run(benches.bench(tmp_path, methods)).rows
    rank = f"rank-1 {COLUMN}"
    assert rows["original"][rank].value == rows["scrambled"][rank].value == 1
    assert rows["blind"][rank].value <= 0.5 and rows["chance"][rank].value == 1 / 8


def test_reversal_undoes_a_fixed_disguise_and_no_blind_one(tmp_path):
    faces = benches.face_set(people=64, photos=2)
    methods = [benches.Scrambled(), benches.Blind()]
    rows = reversal.run(benches.bench(tmp_path, methods, faces=faces)).rows
    assert rows["original"]["rank-1"].value == 1
    assert rows["scrambled, plain"]["rank-1"].value < 0.3
    assert rows["scrambled, reversed"]["rank-1"].value > 0.9
    assert rows["blind, reversed"]["rank-1"].value < 0.2


def test_averaging_gains_by_noise_and_not_by_blindness(tmp_path):
    bench = benches.bench(tmp_path, [Baseline("noise", 255), benches.Blind()], releases=8)
    report = averaging.run(bench)
    points = dict(report.curves[0].lines["noise:255"])
    assert list(points) == [1, 2, 4, 8]
    assert report.rows[points[8]]["rank-1"].value == 1
    assert report.rows["blind, k=8"]["rank-1"].value <= 0.5
    assert report.rows["chance"]["rank-1"].value == 1 / 8


def test_attacks_need_people_with_several_photos(tmp_path):
    faces = benches.face_set(people=8, photos=1)
    for protocol in (parrot, averaging, reversal, linkage):
        with pytest.raises(UserError, match="0 of 8 people have"):
            protocol.run(benches.bench(tmp_path, [benches.Blind()], faces=faces))


def test_ridge_regression_finds_a_linear_map():
    rng = np.random.default_rng(0)
    x, map_ = rng.normal(size=(300, 5)), rng.normal(size=(5, 3))
    undo = reversal.learn(x, x @ map_ + 1, np.repeat(np.arange(30), 10))
    np.testing.assert_allclose(undo(x[:7]), x[:7] @ map_ + 1, atol=1e-3)


def test_without_dlib_the_rest_is_measured(tmp_path, monkeypatch):
    def absent():
        raise UserError("dlib is not installed: pip install 'identitydp-jax[evaluation]'")

    monkeypatch.setattr(face_analysis, "_dlib", absent)
    monkeypatch.setattr(verifiers, "_load", verifiers._load.__wrapped__)  # dlib may be loaded
    bench = benches.bench(tmp_path, [benches.Blind()], verifiers=[COLUMN, "dlib"])
    row = table1.run(bench).rows["blind"]
    assert {"PSNR", "SSIM", f"distance {COLUMN}"} <= set(row)
    assert "FDR HOG" not in row and "distance dlib" not in row
    assert all("pip install" in bench.missing[name] for name in ("hog", "dlib"))


def test_quality_tells_a_blur_and_what_stops_at_the_rim(tmp_path, monkeypatch):
    def absent():
        raise UserError("not fetched")

    for name in ("lpips", "inception", "points68"):
        monkeypatch.setitem(measures._LOADERS, name, absent)
    faces = benches.face_set()
    grain = np.random.default_rng(0).integers(-9, 10, faces.faces.shape)
    grainy = np.clip(faces.faces + grain, 0, 255).astype(np.uint8)
    bench = benches.bench(
        tmp_path,
        [Baseline("blur", 8), Baseline("mask"), benches.Untouched()],
        faces=dataclasses.replace(faces, faces=grainy),
    )
    report = quality.run(bench)
    rows = report.rows
    assert rows["untouched"] == rows["original"]
    assert rows["original"]["fine detail"].value == 1 and rows["original"]["rim"].value == 0
    assert rows["blur:8"]["fine detail"].value < 0.9
    assert rows["blur:8"]["rim"].value < 0.5 * rows["mask"]["rim"].value
    assert set(report.sheet) == set(rows) and set(bench.missing) == {
        "lpips",
        "inception",
        "points68",
    }


def test_reid_finds_the_untouched_and_no_blind_face(tmp_path):
    methods = [benches.Untouched(), benches.Scrambled(), benches.Blind()]
    report = reid.run(benches.bench(tmp_path, methods))
    photo, person = (f"own {what} {COLUMN}" for what in ("photo", "person"))
    rows = report.rows
    assert rows["original"][photo].value == rows["untouched"][photo].value == 1
    assert rows["original"][person].value == 1
    assert rows["blind"][photo].value < 0.2 and rows["blind"][person].value < 0.5
    assert rows["chance"][photo].value == 1 / 32 and rows["chance"][person].value == 1 / 8
    np.testing.assert_array_equal(report.sheet["untouched: nearest"], report.sheet["original"])


def test_reid_names_the_person_where_the_photo_is_another(tmp_path):
    # Each face is replaced by another photo of the same person: never the photo, always the person.
    faces = benches.face_set()
    others = np.roll(faces.faces.reshape(8, 4, 256, 256, 3), 1, axis=1).reshape(faces.faces.shape)
    pictures = {"swapped": dataclasses.replace(faces, faces=others)}
    row = reid.run(benches.bench(tmp_path, pictures=pictures)).rows["swapped"]
    assert row[f"own photo {COLUMN}"].value == 0 and row[f"own person {COLUMN}"].value == 1


def test_linkage_sorts_a_fixed_disguise_and_no_blind_one(tmp_path):
    methods = [benches.Untouched(), benches.Scrambled(), benches.Blind()]
    report = linkage.run(benches.bench(tmp_path, methods, releases=2))
    auc, error = f"AUC {COLUMN}", f"EER {COLUMN}"
    for name in ("original", "untouched", "scrambled"):
        assert report.rows[name][auc].value > 0.99 and report.rows[name][error].value < 0.05
    assert report.rows["original"][auc].count == 32 * 31 / 2
    for kind in ("", "learned "):
        assert 0.3 < report.rows["blind"][kind + auc].value < 0.7
        assert 0.3 < report.rows["blind"][kind + error].value < 0.7
    assert report.rows["original"][f"learned {auc}"].count == 2 * 16 * 15 / 2
    assert len(report.sheet["blind"]) == 8


def test_linkage_learns_what_distances_alone_do_not_show():
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(40), 5).astype(str)
    person = np.repeat(rng.normal(size=(40, 4)), 5, axis=0)
    vectors = np.concatenate([person, 5 * rng.normal(size=(200, 6))], axis=1)
    figures = linkage._link([vectors], names, np.arange(200), one_key=False)
    assert figures["AUC"].value < 0.7 and figures["learned AUC"].value > 0.9
    assert figures["learned AUC"].low < figures["learned AUC"].value < figures["learned AUC"].high


def _pairs(seed=0):
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(6), 3)
    vectors = rng.normal(size=(6, 8))[names] + rng.normal(size=(18, 8))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), names


def test_auc_is_the_statistic_of_mann_and_whitney():
    vectors, names = _pairs()
    pairs = linkage.Pairs.of(vectors, names)
    i, j = np.triu_indices(18, 1)
    distances, same = np.linalg.norm(vectors[i] - vectors[j], axis=1), names[i] == names[j]
    expected = scipy.stats.mannwhitneyu(distances[~same], distances[same]).statistic
    assert pairs.auc(np.ones(6, int)) == pytest.approx(expected / same.sum() / (~same).sum())
    threshold = np.sort(distances)
    rates = [((distances[same] > t).mean(), (distances[~same] <= t).mean()) for t in threshold]
    missed, taken = min(rates, key=lambda rate: abs(rate[0] - rate[1]))
    assert pairs.eer(np.ones(6, int)) == pytest.approx((missed + taken) / 2)


def test_people_drawn_twice_are_two_people_and_no_pair():
    vectors, names = _pairs()
    pairs = linkage.Pairs.of(vectors, names)
    times = np.array([2, 0, 1, 1, 3, 0])
    chosen = np.concatenate([np.flatnonzero(names == p) for p in np.repeat(np.arange(6), times)])
    copy = np.repeat(np.arange(7), 3)
    i, j = np.triu_indices(len(chosen), 1)
    real = (copy[i] == copy[j]) | (names[chosen][i] != names[chosen][j])
    distances = np.linalg.norm(vectors[chosen[i]] - vectors[chosen[j]], axis=1)[real]
    same = (copy[i] == copy[j])[real]
    expected = scipy.stats.mannwhitneyu(distances[~same], distances[same]).statistic
    assert pairs.auc(times) == pytest.approx(expected / same.sum() / (~same).sum())


def test_pictures_that_are_all_alike_link_nothing():
    pairs = linkage.Pairs.of(np.ones((8, 2)), np.repeat(np.arange(4), 2))
    assert pairs.auc(np.ones(4, int)) == 0.5


@pytest.fixture
def looks(monkeypatch):
    """Let a face be described by how bright six fields of it are."""

    def scores(_, others):
        fields = others[:, 64:192, 64:160].reshape(-1, 2, 64, 3, 32, 3).mean((2, 4, 5))
        return fields.reshape(-1, 6) - 127.5

    def tone(_, others):
        return others[:, 64:192, 64:192].mean((1, 2, 3)) - 110.0

    def eyes(_, others):
        bright = others[:, 64:192, 96:160].mean((1, 2, 3)) / 127.5
        each = np.stack([bright * kept._OPEN, bright, 0 * bright], axis=1)
        return np.stack([each, each], axis=1)

    def pose(_, others):
        return np.tile(others[:, 64:192, 96:160].mean((1, 2, 3))[:, None] / 255, (1, 3))

    named = {"attributes": scores, "skin": tone, "eyes": eyes, "pose": pose}
    for name, rows in named.items():
        monkeypatch.setitem(measures._LOADERS, name, lambda rows=rows: (rows, {}))


def test_kept_tells_the_untouched_from_its_negative(tmp_path, looks):
    methods = [benches.Untouched(), benches.Scrambled(), benches.Blind()]
    report = kept.run(benches.bench(tmp_path, methods))
    rows = report.rows
    columns = [n for n in rows["untouched"] if "°" not in n and "rad" not in n]
    assert len(columns) == 15
    for name in columns:
        assert rows["untouched"][name].value == 1
        if name != "skin":
            assert rows["scrambled"][name].value < 0.1
            assert 0.2 < rows["blind"][name].value < 0.8
    # Brightness b becomes 1 - b in the middle: three angles turn by as much.
    bright = benches.face_set().faces[:, 64:192, 96:160].mean((1, 2, 3)) / 255
    turned = np.abs(1 - 2 * bright).mean()
    assert rows["scrambled"]["pose, rad"].value == pytest.approx(3**0.5 * turned, abs=1e-3)
    assert rows["scrambled"]["gaze, rad"].value == pytest.approx(2 * turned, abs=1e-3)
    for name in ("skin °", "pose, rad", "gaze, rad"):
        assert rows["untouched"][name].value == 0
    assert rows["chance"]["gender, balanced"].value == 0.5
    assert 0.5 <= rows["chance"]["gender"].value < 1
    assert set(report.sheet) == {"original", "untouched", "scrambled", "blind"}


def test_kept_balances_the_few_against_the_many(tmp_path):
    before = {"glasses": np.array([True] + [False] * 9), "skin": np.array([2] * 10)}
    after = {"glasses": np.zeros(10, bool), "skin": np.array([2, 1, 3, 4, 0, 5, 2, 2, 2, 2])}
    row = kept._row(before, after, np.arange(10).astype(str))
    assert row["glasses"].value == 0.9 and row["glasses, balanced"].value == 0.5
    assert row["skin"].value == 0.7  # a neighbouring group agrees
    chance = kept._chance(before)
    assert chance["glasses"].value == pytest.approx(0.82) and chance["skin"].value == 1


def _labels(names):
    """Every second person a man, the first four old."""
    person = np.array([int(name[1]) for name in names])
    values = np.stack([person % 2 == 1, person >= 4], axis=1)
    return celeba.Labels("labels", ("Male", "Young"), dict(_enumerated(names)), values)


def _enumerated(names):
    return ((name.rpartition("/")[2], row) for row, name in enumerate(names))


def test_groups_name_the_cell_that_is_served_worst(tmp_path, looks, monkeypatch):
    for name in ("hog", "scrfd"):
        found = lambda _, others: np.ones(len(others), bool)  # noqa: E731
        monkeypatch.setitem(measures._LOADERS, name, lambda found=found: (found, {}))
    faces = benches.face_set()
    names = tuple(name.replace("/", "-") for name in faces.names)
    faces = dataclasses.replace(faces, names=names)
    labels = _labels(names)
    # Men who are not young are left as they are, everybody else becomes another picture.
    left = labels.of(names, "Male") & ~labels.of(names, "Young")
    hidden = np.where(left[:, None, None, None], faces.faces, 255 - faces.faces)
    bench = benches.bench(
        tmp_path,
        faces=faces,
        labels=labels,
        pictures={"uneven": dataclasses.replace(faces, faces=hidden)},
    )
    report = groups.run(bench)
    psr = f"PSR {COLUMN} at 0.2"
    rates = [report.rows[f"uneven: {cell}"][psr].value for cell in groups._CELLS]
    assert rates == [1, 1, 0, 1] and report.rows["uneven: gap"][psr].value == 1
    assert report.rows["uneven: men, not young"]["gender"].value == 1
    assert report.rows["uneven: men, young"]["gender"].value < 0.1
    assert report.rows["original: gap"] == {
        name: report.rows["original: gap"][name] for name in ("FDR HOG", "FDR SCRFD")
    }
    assert f"{psr} men, not young 0.000, gap 1.000" in report.notes[-1]
    assert "men, not young 8 photos of 2 people" in report.notes[0]
    assert all(len(pictures) == 8 for pictures in report.sheet.values())


def test_groups_need_labels(tmp_path):
    with pytest.raises(UserError, match="--labels is needed"):
        groups.run(benches.bench(tmp_path, [benches.Blind()]))
