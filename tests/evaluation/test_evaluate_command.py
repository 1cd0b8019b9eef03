"""`identitydp evaluate` from folders of photos to a report, with a detector that needs no file."""

import json
import pathlib
import subprocess
import sys
import types

import benches
import numpy as np
import pytest
from PIL import Image

from identitydp_jax import cli
from identitydp_jax.anonymize.methods import Baseline, IdentityDP
from identitydp_jax.evaluation import commands, protocols
from identitydp_jax.privacy.setting import PrivacySetting
from identitydp_jax.weights.registry import WEIGHTS

_METHODS = ("--method", "pixelate:16", "--method", "noise:49")
_VERIFIER = ("--verifier", benches.COLOURS)
_FOUND = "identitydp_jax.data.detection.Detector"


class WholeFrame:
    """Finds one face that fills the photo as it fills the model frame; none in a black photo."""

    def detect(self, photo):
        from identitydp_jax.data import alignment
        from identitydp_jax.data.detection import Detections

        count = int(photo.any())
        points = np.tile(alignment.TEMPLATE[None], (count, 1, 1)).astype(np.float32)
        boxes = np.tile(np.array([60, 46, 196, 234], np.float32), (count, 1))
        return Detections(boxes, np.ones(count, np.float32), points)


@pytest.fixture
def people(tmp_path, monkeypatch):
    """A folder with photos of people, one of them black and one of them no photo."""
    monkeypatch.setattr(_FOUND, WholeFrame)
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
    made = benches.face_set(people=4, photos=2)
    for name, face in zip(made.names, made.faces, strict=True):
        (tmp_path / "people" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face).save(tmp_path / "people" / name)
    Image.fromarray(np.zeros((256, 256, 3), np.uint8)).save(tmp_path / "people/p0/black.png")
    (tmp_path / "people/p1/broken.jpg").write_bytes(b"no photo")
    return tmp_path / "people"


def evaluate(*words):
    return cli.main(["evaluate", *map(str, words)])


def report(folder, protocol="table1"):
    return json.loads((folder / f"{protocol}.json").read_text())


def test_a_report_says_what_was_measured_on_what(people, tmp_path, capsys):
    output = tmp_path / "out"
    words = ("table1", "--data", people, "--output", output, *_METHODS, *_VERIFIER)
    assert evaluate(*words) == 0
    written = capsys.readouterr().out.split()
    names = ["table1.json", "table1.md", "table1-sheet.png"]
    assert [pathlib.Path(path).name for path in written] == names
    content = report(output)
    assert content["command"].startswith("identitydp evaluate table1 --data")
    data = content["data"]
    assert (data["photos"], data["faces"], data["people"]) == (10, 8, 4)
    assert data["no_face_found"] == [["p0/black.png", "no face found"]]
    assert data["unreadable"][0][0] == "p1/broken.jpg"
    assert list(content["rows"]) == ["original", "pixelate:16", "noise:49"]
    psnr = content["rows"]["noise:49"]["PSNR"]
    assert psnr["count"] == 8 and psnr["low"] < psnr["value"] < psnr["high"]
    assert set(content["weights"]) >= {"scrfd_500m"}
    assert content["methods"]["pixelate:16"] == "baseline;pixelate:16"


def test_a_stopped_run_is_continued_to_the_same_report(people, tmp_path, monkeypatch):
    words = ("--data", people, *_METHODS, *_VERIFIER, "--output")
    evaluate("table1", *words, tmp_path / "whole")
    embed, calls = benches.Colours.embed, []

    def stop(self, faces):
        calls.append(len(faces))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return embed(self, faces)

    monkeypatch.setattr(benches.Colours, "embed", stop)
    assert evaluate("table1", *words, tmp_path / "out") == 130
    assert not (tmp_path / "out" / "table1.json").exists()
    assert evaluate("table1", *words, tmp_path / "out") == 0
    assert calls == [8, 8, 8, 8]  # the original's are not measured again
    assert report(tmp_path / "out")["rows"] == report(tmp_path / "whole")["rows"]


def test_results_of_another_tool_are_a_row(people, tmp_path):
    for path in people.glob("*/*.png"):
        target = tmp_path / "tool" / path.relative_to(people).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((128, 128, 3), 90, np.uint8)).save(target)
    data = (f"original={people}", f"anonymized=grey:{tmp_path / 'tool'}")
    output = tmp_path / "out"
    assert evaluate("table1", "--data", *data, "--output", output, *_VERIFIER) == 0
    rows = report(output)["rows"]
    assert list(rows) == ["original", "grey"]
    assert rows["grey"]["PSNR"]["value"] < 20


def test_one_device_and_eight_give_the_same_numbers(people, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import test_evaluate_command as t;"
        "import identitydp_jax.data.detection as d; d.Detector = t.WholeFrame;"
        "from identitydp_jax import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    here = str(pathlib.Path(__file__).parent)
    for count in (1, 8):
        words = ("evaluate", "table1", "--data", people, "--output", tmp_path / str(count))
        subprocess.run(
            [sys.executable, "-c", code, here, *words, *_METHODS, *_VERIFIER],
            env=_environment(tmp_path, f"--xla_force_host_platform_device_count={count}"),
            check=True,
            capture_output=True,
        )
    one, eight = (report(tmp_path / str(count)) for count in (1, 8))
    assert one["rows"] == eight["rows"]


def _environment(tmp_path, flags):
    import os

    path = os.pathsep.join([str(pathlib.Path(__file__).parent.parent), *sys.path])
    return {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": path}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--limit", "0"), "--limit is 0: give a number from 1"),
        (("--seed", "-1"), "--seed is -1: give a number from 0"),
        (("--method", "smear"), "method is 'smear': choose one of"),
        ((*_METHODS, "--method", "noise:49"), "two rows are called noise:49"),
        (("--labels", "nowhere.txt"), "nowhere.txt: No such file or directory; give a file as"),
        (("--method", "mask", "--verifier", "nobody"), "verifier is 'nobody': choose one of"),
    ],
)
def test_wrong_usage_is_one_line(people, tmp_path, capsys, words, line):
    assert evaluate("table1", "--data", people, "--output", tmp_path / "out", *words) == 2
    error = capsys.readouterr().err.strip()
    assert line in error.splitlines()[-1] and "Traceback" not in error


def test_a_missing_result_of_another_tool_is_named(people, tmp_path, capsys):
    (tmp_path / "tool").mkdir()
    data = (f"original={people}", f"anonymized={tmp_path / 'tool'}")
    assert evaluate("table1", "--data", *data, "--output", tmp_path / "out") == 2
    assert "8 of 8 photos are missing, the first is p0/0.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--epsilon", "3"], "--epsilon"),
        (["--calibration", "certified-l2"], "--calibration"),
        (["--model", "default"], "--model"),
        (["--preserve", "none"], "--preserve"),
    ],
)
def test_options_that_say_nothing_to_the_methods_are_refused(
    people, tmp_path, options, named, capsys
):
    words = ("table1", "--data", people, "--output", tmp_path / "out", *_METHODS, *options)
    assert evaluate(*words) == 2
    assert f"{named} says nothing to these methods" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("digest", "name"),
    [
        (WEIGHTS["w600k_mbf"].sha256, "w600k_mbf"),
        (WEIGHTS["sface"].sha256, "sface"),
        ("0" * 64, "encoder"),
    ],
)
def test_a_report_names_the_encoder_that_the_model_has(digest, name):
    model = types.SimpleNamespace(
        name="m", sha256="1" * 64, encoder_sha256=digest, dimension=128, attributes=()
    )
    methods = (IdentityDP(model, PrivacySetting(dimension=128)), Baseline("mask"))
    assert commands._weights(types.SimpleNamespace(methods=methods)) == {
        "scrfd_500m": WEIGHTS["scrfd_500m"].sha256,
        name: digest,
    }


def test_every_protocol_of_the_command_exists():
    import importlib

    for name in commands._PROTOCOLS:
        module = f"{protocols.__name__}.{name.replace('-', '_')}"
        assert callable(importlib.import_module(module).run)


@pytest.mark.network
def test_real_verifiers_on_the_demo_faces(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
    faces = pathlib.Path(cli.__file__).parent / "demo_faces"
    words = ("--method", "noise:9", "--method", "mask", "--verifier", "dlib")
    assert evaluate("table1", "--data", faces, "--output", tmp_path, *words, "--limit", 3) == 0
    rows = report(tmp_path)["rows"]
    assert rows["original"]["FDR HOG"]["value"] == rows["original"]["FDR SCRFD"]["value"] == 1
    assert rows["noise:9"]["PSR dlib at 0.6"]["value"] == 0
    assert rows["mask"]["PSR dlib at 0.6"]["value"] > 0.5  # hair and ears are left to compare
    assert rows["mask"]["FDR HOG"]["value"] == 0
    assert set(report(tmp_path)["weights"]) == {"scrfd_500m", "dlib_resnet", "dlib_points5"}
