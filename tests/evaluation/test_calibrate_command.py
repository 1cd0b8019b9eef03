"""`identitydp calibrate` from photos to a file, with a detector and an encoder for tests."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tiny
from PIL import Image

from identitydp_jax import cli
from identitydp_jax.anonymize import faces, methods, photos
from identitydp_jax.evaluation import sources
from identitydp_jax.privacy import calibration, sensitivity


class WholeFrame:
    """Finds one face that fills the photo as it fills the model frame; none in a black photo."""

    def detect(self, photo):
        from identitydp_jax.data import alignment
        from identitydp_jax.data.detection import Detections

        count = int(photo.any())
        points = np.tile(alignment.TEMPLATE[None], (count, 1, 1)).astype(np.float32)
        boxes = np.tile(np.array([60, 46, 196, 234], np.float32), (count, 1))
        return Detections(boxes, np.ones(count, np.float32), points)


@pytest.fixture(scope="module")
def model():
    params = {"network": tiny.variables(), "encoder": tiny.encoder_params()}
    return faces.Model("tiny", tiny.CONFIG, params, tiny.encode, "0" * 64, "1" * 64)


@pytest.fixture
def folder(tmp_path, monkeypatch, model):
    """Five faces, one of them twice, a photo without a face and a file that is no photo."""
    monkeypatch.setattr("identitydp_jax.data.detection.Detector", WholeFrame)
    monkeypatch.setattr(faces, "load_model", lambda: model)
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
    tiny.write_faces(tmp_path / "photos", 5, 256)
    (tmp_path / "photos/twin.png").write_bytes((tmp_path / "photos/000.png").read_bytes())
    Image.fromarray(np.zeros((256, 256, 3), np.uint8)).save(tmp_path / "photos/black.png")
    (tmp_path / "photos/broken.jpg").write_bytes(b"no photo")
    return tmp_path / "photos"


def calibrate(*words):
    return cli.main(["calibrate", *map(str, words)])


def test_a_calibration_is_the_largest_distance_of_its_photos(folder, model, tmp_path, capsys):
    output = tmp_path / "out" / "own.json"
    assert calibrate("--data", folder, "--output", output) == 0
    record = sensitivity.read(output)

    names = [f"{i:03d}.png" for i in range(5)]
    frames = np.stack([sources.read_photo(folder / name) for name in names])
    rows = faces.embed_faces(model, methods.fit(frames, 64)).astype(np.float64)
    largest = max(abs(a - b).sum() for a in rows for b in rows)
    assert largest <= record.value < largest + 1.1e-6
    assert (record.faces, record.pairs, record.left_out) == (5, 10, 3)
    assert all(record.contains(photos.content_digest(frame)) for frame in frames)
    assert record.command == f"identitydp calibrate --data {folder} --output {output}"

    out, err = capsys.readouterr()
    for word in (str(record.value), record.name, str(output), "10 L1 distances", "3 photos left"):
        assert word in out
    assert "5 faces are few" in err
    assert calibration.parse(f"paper:{output}").measured == record


def test_the_file_holds_no_photo_and_no_name(folder, tmp_path):
    calibrate("--data", folder, "-o", tmp_path / "own.json")
    content = json.loads((tmp_path / "own.json").read_text())
    assert "000.png" not in json.dumps(content)


def test_the_same_photos_under_other_names_are_the_same_set(folder, tmp_path):
    calibrate("--data", folder, "-o", tmp_path / "a.json")
    for i in range(5):
        (folder / f"{i:03d}.png").rename(folder / f"z{9 - i}.png")
    calibrate("--data", folder, "-o", tmp_path / "b.json")
    first, second = (sensitivity.read(tmp_path / name) for name in ("a.json", "b.json"))
    assert first.members == second.members and first.value == second.value


def test_a_limit_takes_the_first_photos(folder, tmp_path):
    calibrate("--data", folder, "-o", tmp_path / "own.json", "--limit", 3)
    assert sensitivity.read(tmp_path / "own.json").faces == 3


def test_what_is_no_calibration_is_refused_before_the_work(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "notes.json").write_text("mine")
    monkeypatch.setattr("identitydp_jax.data.detection.Detector", None)
    assert calibrate("--data", folder, "-o", tmp_path / "notes.json") == 2
    assert "no intact calibration" in capsys.readouterr().err
    assert (tmp_path / "notes.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("kept", "words", "message"),
    [
        (("000.png",), (), "shows one face"),
        (("black.png",), (), "no photo shows a face"),
        ((), (), "holds no photo"),
        (("000.png", "001.png"), ("--limit", 1), "from 2"),
    ],
)
def test_what_gives_no_distance_is_refused(folder, tmp_path, capsys, kept, words, message):
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    assert calibrate("--data", folder, "-o", tmp_path / "own.json", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "own.json").exists()


def test_help_says_that_it_is_not_private(capsys):
    with pytest.raises(SystemExit):
        calibrate("--help")
    assert "not private" in " ".join(capsys.readouterr().out.split())


def test_the_parser_imports_nothing_slow():
    code = (
        "import sys; import identitydp_jax.evaluation.calibrate_commands;"
        " assert not {'jax', 'PIL', 'scipy', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
