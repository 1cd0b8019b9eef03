import concurrent.futures
import dataclasses
import io
import json
import os
import pathlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from identitydp_jax.checks import UserError
from identitydp_jax.data import alignment, detection, prepare, shards
from identitydp_jax.data.shards import ShardSource
from identitydp_jax.data.sources import decode

SIDE = 64
_PROCESSES = concurrent.futures.ProcessPoolExecutor


@dataclasses.dataclass(frozen=True)
class Dots:
    """Stands for the detector: a face lies where a photo is not black, scaled to its width.

    Every photo seen is noted in a folder; a photo whose name comes up in `deadly` kills.
    """

    seen: str
    deadly: int = -1

    def __call__(self):
        return self

    def detect(self, photo):
        shade = int(photo.max())
        (pathlib.Path(self.seen) / f"{shade}").touch()
        if shade == self.deadly:
            os._exit(9)
        size = {30: 0, 40: 3.0}.get(shade, SIDE)  # 30 shows nobody, 40 a face of three pixels
        points = alignment.TEMPLATE[None] * (size / alignment.FRAME)
        count = 2 if shade == 50 else min(1, int(size))
        return detection.Detections(
            np.zeros((count, 4), np.float32),
            np.ones(count, np.float32),
            np.repeat(points, count, 0).astype(np.float32),
        )


def _photo(shade):
    file = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE + 9, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Seven photos: one unreadable, one of nobody, one of somebody far away, one of two faces."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for shade in (10, 20, 30, 40, 50, 60):
        (folder / f"{shade}.png").write_bytes(_photo(shade))
    (folder / "00.jpg").write_bytes(b"no photo")
    (tmp_path / "seen").mkdir()
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(prepare, "_PHOTOS_PER_SHARD", 3)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Work in threads of this process."""
    monkeypatch.setattr(
        concurrent.futures, "ProcessPoolExecutor",
        lambda workers, mp_context: concurrent.futures.ThreadPoolExecutor(workers),
    )  # fmt: skip
    prepare._opened.cache_clear()


def _prepare(source, output, *, workers=2, resolution=SIDE, **detector):
    seen = str(output.parent / "seen")
    return prepare.prepare(
        str(source), output, resolution=resolution, workers=workers,
        make_detector=Dots(seen, **detector),
    )  # fmt: skip


def _shades(output):
    source = ShardSource(output)
    return [int(decode(source[i], "").mean().round()) for i in range(len(source))]


def _seen(output):
    return sorted(int(path.name) for path in (output.parent / "seen").iterdir())


def test_faces_are_cut_and_what_is_left_out_is_listed(photos, tmp_path):
    output = tmp_path / "out"
    made = _prepare(photos, output)
    assert made == prepare.Prepared(7, 5, {"unreadable": 1, "no face": 1, "too small": 1}, 3)
    assert _shades(output) == [10, 20, 50, 50, 60]
    manifest = json.loads((output / "manifest.json").read_text())
    left_out = {k: v for entry in manifest["shards"].values() for k, v in entry["left_out"].items()}
    assert left_out == {"00.jpg": "unreadable", "30.png": "no face", "40.png": "too small"}
    for name, entry in manifest["shards"].items():
        assert shards.is_whole(output / name, entry)
    face = decode(ShardSource(output)[0], "")
    assert face.shape == (SIDE, SIDE, 3) and face.dtype == np.uint8


def test_an_archive_gives_the_same_faces(photos, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.iterdir()):
            archive.write(path, path.name)
    _prepare(photos, tmp_path / "a")
    _prepare(tmp_path / "photos.zip", tmp_path / "b", workers=1)
    for path in sorted((tmp_path / "a").glob("*.array_record")):
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()


def test_what_is_whole_is_not_made_again_and_what_is_damaged_is(photos, tmp_path):
    output = tmp_path / "out"
    _prepare(photos, output)
    for path in (tmp_path / "seen").iterdir():
        path.unlink()
    assert _prepare(photos, output).written == 0
    assert _seen(output) == []
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    shard = output / "faces-00001.array_record"
    shard.write_bytes(shard.read_bytes()[:-1])
    (output / ".0123456789abcdef.part").write_bytes(b"half")
    assert _prepare(photos, output).written == 1
    assert _seen(output) == [30, 40, 50]
    assert {path.name for path in output.iterdir()} == set(before)
    assert shard.read_bytes() == before[shard.name]


def test_a_killed_process_is_said_and_the_same_call_goes_on(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", _PROCESSES)
    output = tmp_path / "out"
    with pytest.raises(UserError, match=r"a process was killed.*fewer --workers"):
        _prepare(photos, output, workers=1, deadly=60)
    with pytest.raises(UserError, match=r"only \d of 3 files are prepared; run the same"):
        ShardSource(output)
    assert _prepare(photos, output, workers=2).faces == 5


@pytest.mark.parametrize("change", ["photos", "resolution"])
def test_another_source_or_resolution_is_not_mixed_in(photos, tmp_path, change):
    output = tmp_path / "out"
    _prepare(photos, output)
    if change == "photos":
        (photos / "70.png").write_bytes(_photo(70))
    with pytest.raises(UserError, match=f"was made with {change}=.* or another --output"):
        _prepare(photos, output, resolution=SIDE if change == "photos" else 32)


def test_sources_without_any_face_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="photos: holds no image"):
        _prepare(tmp_path / "photos", tmp_path / "out")
    (tmp_path / "seen").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(_photo(30))
    with pytest.raises(UserError, match="photos: 1 photos, and no face"):
        _prepare(tmp_path / "photos", tmp_path / "out")


def test_folders_that_cannot_be_written_or_hold_other_things(photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file: cannot be written \(File exists\)"):
        _prepare(photos, tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg").write_bytes(b"somebody's photo")
    with pytest.raises(UserError, match="other: not empty and not made here"):
        _prepare(photos, tmp_path / "other")

    def full(path, records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "write_shard", full)
    with pytest.raises(UserError, match=r"out: cannot be written \(No space left on device\)"):
        _prepare(photos, tmp_path / "out")


@pytest.mark.network
def test_a_real_face_lies_in_the_model_frame():
    from skimage import data

    class Photo(list):
        name = staticmethod(str)

    file = io.BytesIO()
    Image.fromarray(data.astronaut()).save(file, "PNG")
    detector = detection.Detector()
    (face,) = prepare.cut_faces(Photo([file.getvalue()]), 0, detector, 128)
    found = detector.detect(face)
    np.testing.assert_allclose(2 * found.points[0], alignment.TEMPLATE, atol=14)
