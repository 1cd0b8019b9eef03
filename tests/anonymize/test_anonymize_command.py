"""The command with a fake network: bad input, resuming, statuses, the manifest."""

import hashlib
import io
import json
import os
import pathlib
import sys

import numpy as np
import pytest
from fakes import MAGENTA, FixedDetector, picture, records, save
from PIL import Image

from identitydp_jax import cli, storage
from identitydp_jax.anonymize import batch, faces, manifest
from identitydp_jax.checks import UserError

FACE = (20, 20, 60, 75)


@pytest.fixture(autouse=True)
def _setting(fake_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)


def _run(*arguments, seed=1):
    key = [] if seed is None else ["--audit-seed", str(seed)]
    return cli.main(["anonymize", "--output", "out", *key, *map(str, arguments)])


def _manifest(folder="out"):
    return records(folder)


def _shows_marker(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return (np.abs(pixels - MAGENTA).sum(-1) < 60).any()


@pytest.fixture
def photo():
    return save(pathlib.Path("in/photo.png"), picture(FACE))


def test_a_photo_and_its_record(photo, capsys):
    assert _run("in") == 0
    assert not _shows_marker("out/photo.png")
    (record,) = _manifest()
    (face,) = record["faces"]
    assert face["box"] == list(FACE) and face["handled"] == "anonymized"
    assert face["epsilon"] == 6.0 == pytest.approx(face["certified_epsilon"], abs=1e-6)
    assert face["calibration"] == "certified-l2" and 3 < face["paper_epsilon"] < 5
    assert record["key"] == "audit-seed:1" and record["model_sha256"] == "00" * 32
    assert record["status"] == "anonymized" and record["size"] == [160, 120]
    assert record["method"] == "identitydp:6" and record["mechanism"] == "laplace"
    assert record["preserve"] == ["gender", "glasses"]  # all that this model can
    data = pathlib.Path("out/photo.png").read_bytes()
    assert record["output_sha256"] == hashlib.sha256(data).hexdigest()
    assert "anybody can repeat" in capsys.readouterr().err


def test_formats_names_and_folders_stay():
    save(pathlib.Path("in/a.jpg"), picture(FACE))
    save(pathlib.Path("in/größe/日本 b.webp"), picture(FACE))
    save(pathlib.Path(os.fsdecode(b"in/bad\xff.png")), picture(FACE))
    assert _run("in", "--recursive") == 0
    for name, kind in (("a.jpg", "JPEG"), ("größe/日本 b.webp", "WEBP"), ("bad\udcff.png", "PNG")):
        with Image.open(pathlib.Path("out", name)) as image:
            assert image.format == kind and image.size == (160, 120)
    names = [path for path in pathlib.Path("out").rglob("*") if path.is_file()]
    assert len(names) == 4  # three photos and the manifest


def test_bad_files_get_a_line_each_and_the_rest_is_done(photo, capsys):
    good = photo.read_bytes()
    pathlib.Path("in/empty.jpg").write_bytes(b"")
    pathlib.Path("in/text.jpg").write_text("hello")
    pathlib.Path("in/truncated.png").write_bytes(good[: len(good) // 2])
    save(pathlib.Path("in/one-pixel.png"), np.full((1, 1, 3), 9, np.uint8))
    save(pathlib.Path("in/no-face.png"), picture())
    assert _run("in", "missing.jpg", "in/*.gif") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if " error: " in line]
    stems = "empty.", "text.", "truncated.", "one-pixel.", "no-face.", "missing.", ".gif"
    for name in stems:
        assert sum(name in line for line in errors) == 1, (name, errors)
    assert len(errors) == 7
    assert {path.name for path in pathlib.Path("out").iterdir()} == {"photo.png", "manifest.jsonl"}
    assert {record["status"] for record in _manifest()} == {"anonymized", "failed"}


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_kinds_of_image(mode, monkeypatch):
    monkeypatch.setattr(batch, "Detector", lambda: FixedDetector([FACE]))
    colour = Image.fromarray(picture(FACE))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257)
    else:
        image = colour.convert(mode)
    name = "photo.jpg" if mode == "CMYK" else "photo.png"
    pathlib.Path("in").mkdir()
    image.save(f"in/{name}")
    assert _run("in") == 0
    before, after = (np.asarray(Image.open(f"{folder}/{name}")) for folder in ("in", "out"))
    assert before.shape[:2] == after.shape[:2]
    face = after[30:70, 30:50].astype(float)
    assert face.std(axis=(0, 1)).max() < 3  # the one colour that the fake model paints
    with Image.open(f"out/{name}") as written:
        assert written.mode == {"P": "RGB", "CMYK": "RGB", "I;16": "L"}.get(mode, mode)
    assert _manifest()[0]["faces"][0]["handled"] == "anonymized"


def test_every_unexpected_error_fails_closed(photo, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("XLA\nran out of memory")

    monkeypatch.setattr(faces, "draw_faces", broken)
    assert _run("in") == 1
    assert not pathlib.Path("out/photo.png").exists()
    assert "photo.png: RuntimeError: XLA ran out of memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "status", "said"),
    [("fail", 1, "failed"), ("blur", 0, "blurred"), ("copy", 0, "copied")],
)
def test_photos_without_a_face(option, status, said, capsys):
    pixels = picture()
    pixels[::2] += 40
    save(pathlib.Path("in/photo.png"), pixels)
    assert _run("in", "--on-no-face", option) == status
    assert _manifest()[0]["status"] == said and f"1 {said}" in capsys.readouterr().err
    if option == "fail":
        assert not pathlib.Path("out/photo.png").exists()
        return
    written = np.asarray(Image.open("out/photo.png"))
    assert written.shape == pixels.shape
    if option == "copy":
        np.testing.assert_array_equal(written, pixels)
    else:
        assert np.abs(np.diff(written.astype(int), axis=0)).max() <= 2


def test_small_faces_are_recorded_as_pixelated(photo, capsys):
    save(pathlib.Path("in/both.png"), picture(FACE, (70, 5, 150, 115)))
    assert _run("in", "--min-face", 100) == 0
    assert "1 anonymized, 1 pixelated in out" in capsys.readouterr().err
    both, one = sorted(_manifest(), key=lambda record: record["output"])
    assert (both["status"], one["status"]) == ("anonymized", "pixelated")
    (face,) = one["faces"]
    assert face["handled"] == "pixelated" and "epsilon" not in face


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o400])
def test_a_result_is_open_to_nobody_to_whom_its_input_is_not(photo, mode):
    photo.chmod(mode)
    assert _run("in", "--method", "mask") == 0
    written = pathlib.Path("out/photo.png").stat().st_mode & 0o777
    assert written & ~0o600 == mode & 0o077 & ~_umask() and written & 0o600 == 0o600


def _umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


class _Pipe(io.TextIOWrapper):
    def __init__(self, data=b""):
        super().__init__(io.BytesIO(data))


@pytest.mark.parametrize("source", ["-", "in/photo.png"])
def test_one_photo_goes_through_a_pipe(photo, source, monkeypatch, capsys):
    assert _run("in") == 0
    expected = pathlib.Path("out/photo.png").read_bytes()
    out = _Pipe()
    monkeypatch.setattr(sys, "stdin", _Pipe(photo.read_bytes()))
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["anonymize", source, "-o", "-", "--audit-seed", "1"]) == 0
    assert out.buffer.getvalue() == expected
    assert "1 anonymized, without a manifest" in capsys.readouterr().err
    assert {path.name for path in pathlib.Path().iterdir()} == {"in", "out"}


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["-", "-o", "out"], 2), (["-", "in", "-o", "-"], 2), (["none.png", "-o", "-"], 1)],
)
def test_what_goes_through_no_pipe(photo, arguments, status, monkeypatch, capsys):
    out = _Pipe()
    monkeypatch.setattr(sys, "stdin", _Pipe(photo.read_bytes()))
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["anonymize", *arguments, "--audit-seed", "1"]) == status
    assert out.buffer.getvalue() == b"" and not pathlib.Path("out").exists()
    assert "identitydp: error: " in capsys.readouterr().err


def test_a_photo_without_a_face_goes_through_no_pipe(monkeypatch):
    out = _Pipe()
    save(pathlib.Path("in/none.png"), picture())
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["anonymize", "in/none.png", "-o", "-", "--audit-seed", "1"]) == 1
    assert out.buffer.getvalue() == b""


def test_names_are_shown_escaped(capsys):
    save(pathlib.Path("in/a\x1b[31m\nb.png"), picture())
    assert _run("in") == 1
    error = capsys.readouterr().err
    assert "in/a\\x1b[31m\\nb.png: no face found" in error and "\x1b" not in error


@pytest.mark.parametrize("other", ["png", "jpeg"])
def test_formats_that_cannot_be_written_become_another(other, monkeypatch, capsys):
    save(pathlib.Path("in/photo.webp"), picture(FACE), lossless=True)
    monkeypatch.setattr(batch.formats, "can_write", lambda kind: kind != "WEBP")
    options = ["in", "--method", "mask", "--other-format", other]
    assert _run(*options) == 0
    name = "photo.webp." + {"png": "png", "jpeg": "jpg"}[other]
    with Image.open(f"out/{name}") as image:
        assert image.format == other.upper()
    (record,) = _manifest()
    assert record["output"] == name and "cannot be written here" in record["notes"][0]
    assert _run(*options) == 0 and "1 already done" in capsys.readouterr().err


def test_a_file_called_wrong_is_told_what_it_is(photo, capsys):
    photo.rename("in/photo.jpg")
    pathlib.Path("in/letter.jpg").write_bytes(b"%PDF-1.7")
    assert _run("in", "--method", "mask") == 1
    assert "image but a PDF document" in capsys.readouterr().err
    failed, done = sorted(_manifest(), key=lambda record: "output" in record)
    assert failed["status"] == "failed" and done["notes"] == ["called .jpg, and is PNG"]


@pytest.mark.parametrize("method", ["pixelate:8", "noise:49", "blur:19", "mask", "k-same:10"])
def test_baselines_are_written_as_such(photo, method, capsys):
    assert _run("in", "--method", method) == 0
    (record,) = _manifest()
    assert record["method"] == method and record["faces"][0]["handled"] == "anonymized"
    text = json.dumps(record)
    assert not [word for word in ("epsilon", "mechanism", "model", "private") if word in text]
    assert "without any privacy guarantee" in capsys.readouterr().err
    before, after = (np.asarray(Image.open(f"{name}/photo.png")) for name in ("in", "out"))
    changed = (before != after).any(2)
    assert changed[20:75, 20:60].any() and not changed[:, 100:].any()


def test_baselines_fail_closed_too(photo, capsys):
    save(pathlib.Path("in/no-face.png"), picture())
    assert _run("in", "--method", "mask", "--min-face", 100) == 1
    assert not pathlib.Path("out/no-face.png").exists()
    failed, done = sorted(_manifest(), key=lambda record: "output" in record)
    assert failed["status"] == "failed" and done["faces"][0]["handled"] == "pixelated"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["pixelate:8", "--epsilon", "6"], "--epsilon"),
        (
            ["mask", "--mechanism", "laplace", "--calibration", "paper"],
            "--mechanism, --calibration",
        ),
        (["k-same:10", "--model", "default"], "--model"),
        (["mask", "--preserve", "none"], "--preserve"),
        (["identitydp:100", "--epsilon", "100"], "--epsilon"),
        (["identitydp:random", "--mechanism", "random"], "--mechanism"),
    ],
)
def test_options_that_say_nothing_to_the_method_are_refused(photo, options, named, capsys):
    assert _run("in", "--method", *options) == 2
    line = f"identitydp: error: {named} does not go with --method {options[0]}: "
    assert capsys.readouterr().err.startswith(line)
    assert not pathlib.Path("out").exists()


@pytest.mark.parametrize(
    ("preserve", "said"),
    [
        ("skin", "model default can't preserve skin: it knows gender,glasses (preserve)"),
        ("gender,hair", "preserve is 'gender,hair': there is no attribute 'hair'"),
    ],
)
def test_what_cannot_be_preserved_is_refused(photo, preserve, said, capsys):
    assert _run("in", "--preserve", preserve) == 2
    assert capsys.readouterr().err.startswith(f"identitydp: error: {said}")
    assert not pathlib.Path("out").exists()


def test_another_method_is_another_setting(photo, capsys):
    assert _run("in", "--method", "noise:9") == 0
    assert _run("in", "--method", "noise:9") == 0 and "1 already done" in capsys.readouterr().err
    assert _run("in", "--method", "noise:10") == 1
    assert "another photo, key or setting" in capsys.readouterr().err


def test_a_method_with_its_own_budget(photo):
    assert _run("in", "--method", "identitydp:100", "--calibration", "paper") == 0
    (face,) = _manifest()[0]["faces"]
    assert face["epsilon"] == 100.0 and face["calibration"].startswith("paper:")


def test_the_same_command_continues(photo, monkeypatch, capsys):
    save(pathlib.Path("in/second.png"), picture(FACE, size=(110, 150)))
    assert _run("in/photo.png") == 0
    before = pathlib.Path("out/photo.png").stat().st_mtime_ns
    assert _run("in") == 0
    assert "1 anonymized, 1 already done" in capsys.readouterr().err
    assert pathlib.Path("out/photo.png").stat().st_mtime_ns == before
    assert _run("in") == 0 and len(_manifest()) == 2


@pytest.mark.parametrize("when", ["before the intent", "before the file", "before the record"])
def test_a_killed_run_continues(photo, monkeypatch, when):
    class Killed(BaseException):
        pass

    append = manifest.Manifest.append

    def kill(self, record, **_):
        if when != "before the record" or record["status"] != "writing":
            raise Killed
        append(self, record)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        target = (storage, "write") if when.endswith("file") else (manifest.Manifest, "append")
        patch.setattr(*target, kill)
        _run("in")
    assert _manifest() == [] and manifest.read(pathlib.Path("out")) == {}
    assert pathlib.Path("out/photo.png").exists() == when.endswith("record")
    assert _run("in") == 0
    assert not _shows_marker("out/photo.png")
    assert [record["status"] for record in _manifest()] == ["anonymized"]
    assert _run("in") == 0 and len(_manifest()) == 1


def test_what_could_not_be_written_is_not_called_done(photo, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", full)
        assert _run("in") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert [record["status"] for record in _manifest()] == ["failed"]
    assert manifest.read(pathlib.Path("out")) == {}
    assert _run("in") == 0


@pytest.mark.parametrize("planted", ["manifest.jsonl", "photo.png", "sub"])
def test_links_in_the_output_folder_lead_nowhere(photo, tmp_path, planted, capsys):
    save(pathlib.Path("in/sub/x.png"), picture(FACE))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    pathlib.Path("out").mkdir()
    pathlib.Path("out", planted).symlink_to(outside / ("" if planted == "sub" else "file"))
    assert _run("in", "-r", "--overwrite", "--method", "mask") in (1, 2)
    assert planted in capsys.readouterr().err
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "precious"


def test_the_longest_name_is_written_and_remains_of_killed_runs_go(photo):
    name = "n" * 251 + ".png"
    photo.rename(photo.with_name(name))
    stale, other = pathlib.Path("out/.0123456789abcdef.part"), pathlib.Path("out/.film.part")
    stale.parent.mkdir()
    for path in (stale, other):
        path.write_bytes(b"half")
    assert _run("in", "--method", "mask") == 0
    names = {path.name for path in pathlib.Path("out").iterdir()}
    assert names == {name, "manifest.jsonl", other.name}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("setting", "another photo, key or setting"),
        ("seed", "another photo, key or setting"),
        ("input", "another photo, key or setting"),
        ("output", "was changed"),
        ("manifest", "not in the manifest"),
    ],
)
def test_other_results_are_only_replaced_if_asked(photo, change, line, capsys):
    assert _run("in") == 0
    options, seed = [], 1
    if change == "setting":
        options = ["--epsilon", "2"]
    elif change == "seed":
        seed = 2
    elif change == "input":
        save(photo, picture(FACE, size=(120, 161)))
    elif change == "output":
        with open("out/photo.png", "ab") as file:
            file.write(b"x")
    else:
        pathlib.Path("out/manifest.jsonl").write_text("")
    before = pathlib.Path("out/photo.png").read_bytes()
    assert _run("in", *options, seed=seed) == 1
    assert line in capsys.readouterr().err
    assert pathlib.Path("out/photo.png").read_bytes() == before
    assert _run("in", *options, "--overwrite", seed=seed) == 0
    assert pathlib.Path("out/photo.png").read_bytes() != before or change == "manifest"


def test_own_outputs_are_never_done_again(photo, capsys):
    assert _run("in") == 0
    assert cli.main(["anonymize", ".", "-r", "--output", "again", "--audit-seed", "1"]) == 0
    assert [path.name for path in pathlib.Path("again").rglob("*.png")] == ["photo.png"]
    assert cli.main(["anonymize", "out", "--output", "more", "--audit-seed", "1"]) == 3


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["empty"], 3),
        (["missing"], 3),
        (["empty/*.jpg"], 3),
        (["in", "--epsilon", "0"], 2),
        (["in", "--epsilon", "nan"], 2),
        (["in", "--mechanism", "magic"], 2),
        (["in", "--method", "magic"], 2),
        (["in", "--calibration", "magic"], 2),
        (["in", "--min-face", "-1"], 2),
        (["in", "--audit-seed", "-1"], 2),
        (["in", "--output", "in"], 2),
        (["in", "--output", "in/photo.png"], 2),
    ],
)
def test_statuses(photo, arguments, status, capsys):
    pathlib.Path("empty").mkdir()
    assert _run(*arguments) == status
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("identitydp: error: ")


@pytest.mark.parametrize(
    "arguments", [[], ["in"], ["in", "--output", "o", "--key-file", "k", "--audit-seed", "1"]]
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["anonymize", *arguments])
    assert caught.value.code == 2


def test_the_key_file_is_made_and_its_content_shown_nowhere(photo, capsys):
    assert _run("in", "--key-file", "keys/k", seed=None) == 0
    key = pathlib.Path("keys/k")
    assert key.stat().st_mode & 0o777 == 0o600
    secret, shown = key.read_bytes(), capsys.readouterr().err
    shown += pathlib.Path("out/manifest.jsonl").read_text()
    assert secret.hex() not in shown and repr(secret) not in shown
    assert _manifest()[0]["key"].startswith("sha256:")
    assert _run("in", "--key-file", "keys/k", seed=None) == 0
    key.chmod(0o644)
    assert _run("in", "--key-file", "keys/k", seed=None) == 2


def test_the_default_key_is_the_users_own(photo, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert _run("in", seed=None) == 0
    assert (tmp_path / "data/identitydp/master.key").stat().st_size == 32


def test_the_manifest_does_not_hold_the_hash_of_the_input(photo):
    assert _run("in") == 0
    text = pathlib.Path("out/manifest.jsonl").read_text()
    assert hashlib.sha256(photo.read_bytes()).hexdigest() not in text
    tags = [_manifest()[0]["tag"]]
    assert _run("in", "--overwrite", seed=2) == 0
    tags.append(_manifest()[1]["tag"])
    assert len(set(tags)) == 2 and all(len(tag) == 64 for tag in tags)


def test_a_model_that_cannot_be_loaded_is_one_line(photo, monkeypatch, capsys):
    def missing(name):
        raise UserError(f"{name}: no such model")

    monkeypatch.setattr(faces, "load_model", missing)
    assert _run("in", "--model", "x") == 2
    assert capsys.readouterr().err == "identitydp: error: x: no such model\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root ignores permissions")
def test_folders_without_permission(photo, capsys):
    pathlib.Path("locked").mkdir(mode=0)
    assert _run("in", "locked") == 1
    assert _run("in", "--output", "locked/out") == 2
    assert "Traceback" not in capsys.readouterr().err
