"""Releases are charged before anything is drawn of them, and remembered."""

import base64
import pathlib

import numpy as np
import pytest
from fakes import picture, records, save
from PIL import Image

from identitydp_jax import cli
from identitydp_jax.anonymize import faces
from identitydp_jax.privacy import keys, ledger
from identitydp_jax.privacy.setting import PrivacySetting

FACE, OTHER = (20, 20, 60, 75), (90, 30, 130, 85)


@pytest.fixture(autouse=True)
def _setting(fake_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)


def _run(*arguments, output="out"):
    arguments = map(str, arguments)
    return cli.main(["anonymize", "in", "--output", output, "--key-file", "my.key", *arguments])


def _entries():
    key = keys.ledger_key(keys.load("my.key"))
    return [entry for entry in ledger.read("my.key.ledger", key=key) if entry.is_release]


def _faces(output="out"):
    return [face for record in records(output) for face in record.get("faces", [])]


def _colour(path, box):
    pixels = np.asarray(Image.open(path))
    return tuple(pixels[(box[1] + box[3]) // 2, (box[0] + box[2]) // 2].tolist())


@pytest.fixture
def photo():
    return save(pathlib.Path("in/photo.png"), picture(FACE))


def test_every_face_is_charged_once_and_the_receipt_names_the_entry(photo):
    save(photo, picture(FACE, OTHER))
    assert _run() == 0
    entries, found = _entries(), _faces()
    assert [face["charged"]["head"] for face in found] == [entry.head for entry in entries]
    assert [face["charged"]["number"] for face in found] == [1, 2]
    assert len({entry.record["subject"] for entry in entries}) == 2
    loss = PrivacySetting().loss
    assert all(entry.loss == loss for entry in entries)
    assert found[0]["rho"] == loss.rho and found[0]["delta"] == 1e-6
    # The same photo into another folder: nothing new is released or charged.
    assert _run(output="again") == 0
    assert len(_entries()) == 2 and all(face["charged"]["reused"] for face in _faces("again"))
    first, again = (pathlib.Path(folder, "photo.png") for folder in ("out", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_a_subject_has_one_face_and_one_charge(photo):
    save(pathlib.Path("in/second.png"), picture(OTHER))
    assert _run("--subject", "Ada") == 0
    (entry,) = _entries()
    tag = ledger.subject_tag(keys.ledger_key(keys.load("my.key")), "Ada")
    assert entry.record["subject"] == tag
    assert _colour("out/photo.png", FACE) == _colour("out/second.png", OTHER)
    # Another policy is another release.
    assert _run("--subject", "Ada", "--epsilon", "7", output="other") == 0
    assert len(_entries()) == 2


def test_a_remembered_code_serves_whatever_is_preserved(photo):
    assert _run("--subject", "Ada") == 0
    assert _run("--subject", "Ada", "--preserve", "none", output="bare") == 0
    assert len(_entries()) == 1 and _faces("bare")[0]["charged"]["reused"]
    # But it is another picture, and not taken for the one that was made before.
    assert _colour("out/photo.png", FACE) != _colour("bare/photo.png", FACE)
    assert _run("--subject", "Ada", "--preserve", "none") == 1
    assert _run("--subject", "Ada") == 0


def test_several_faces_are_no_subject(photo, capsys):
    save(photo, picture(FACE, OTHER))
    assert _run("--subject", "Ada") == 1
    assert "2 faces, so nobody knows which is the subject" in capsys.readouterr().err
    assert _entries() == [] and not pathlib.Path("out/photo.png").exists()


def test_a_budget_stops_the_release_before_anything_is_written(photo, capsys):
    assert _run("--subject", "Ada", "--budget-epsilon", "10") == 0
    more = ("--subject", "Ada", "--budget-epsilon", "10", "--epsilon", "5")
    assert _run(*more, output="more") == 1
    assert "epsilon would be 11, above 10" in capsys.readouterr().err
    assert len(_entries()) == 1 and not pathlib.Path("more/photo.png").exists()
    forgetful = ("--subject", "Ada", "--epsilon", "5")
    assert _run(*forgetful, output="more") == 1  # the limit is the ledger's now
    assert "epsilon would be 11, above 10" in capsys.readouterr().err
    assert _run(*forgetful, "--budget-epsilon", "11", output="more") == 0


def test_a_ledger_that_was_deleted_stops_the_run(photo, capsys):
    assert _run() == 0
    pathlib.Path("my.key.ledger").unlink()
    assert _run(output="again") == 2
    assert "my.key.ledger is gone" in capsys.readouterr().err
    assert not pathlib.Path("again/photo.png").exists()


def test_the_ledger_is_closed_at_the_end(photo, monkeypatch):
    closed, close = [], ledger.Ledger.close
    monkeypatch.setattr(ledger.Ledger, "close", lambda self: (closed.append(self), close(self)))
    assert _run() == 0 and len(closed) == 1


def test_a_run_that_dies_after_the_charge_is_not_charged_again(photo, monkeypatch):
    drawing = faces.draw_faces

    def dies(*_, **__):
        raise RuntimeError("power cut")

    monkeypatch.setattr(faces, "draw_faces", dies)
    assert _run() == 1 and len(_entries()) == 1
    monkeypatch.setattr(faces, "draw_faces", drawing)
    assert _run() == 0
    (entry,) = _entries()
    assert _faces()[0]["charged"] == {"number": 1, "head": entry.head, "reused": True}


@pytest.mark.parametrize("damage", ["changed entry", "cut"])
def test_a_damaged_ledger_stops_everything(photo, damage, capsys):
    assert _run() == 0
    path = pathlib.Path("my.key.ledger")
    data = path.read_bytes()
    changed = data.replace(b"laplace", b"Laplace")
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else changed)
    assert _run(output="again") == 2
    assert "ledger" in capsys.readouterr().err and not pathlib.Path("again/photo.png").exists()


def test_audits_and_baselines_charge_nothing_and_say_so(photo, capsys):
    common = ["anonymize", "in", "--output", "audit", "--audit-seed", "1"]
    assert cli.main(common) == 0
    assert _faces("audit")[0]["charged"] is None
    assert cli.main([*common, "--subject", "Ada"]) == 2
    assert "--subject does not go with --audit-seed" in capsys.readouterr().err
    assert _run("--method", "mask", "--budget-rho", "1") == 2
    assert "--budget-rho does not go with --method mask" in capsys.readouterr().err
    assert not pathlib.Path("my.key.ledger").exists()


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        (["--privacy", "anonymous"], PrivacySetting("random")),
        (["--privacy", "strong"], "strong"),
        (["--privacy", "similar"], "similar"),
        (["--target-similarity", "0.3"], 0.3),
        (["--target-similarity", "0.3", "--mechanism", "laplace"], 0.3),
        (["--mechanism", "gaussian", "--epsilon", "3"], PrivacySetting("gaussian", 3.0)),
        (["--method", "identitydp:privunit:7"], PrivacySetting("privunit", 7.0)),
    ],
)
def test_levels_in_words(photo, options, setting):
    assert _run(*options) == 0
    (record,) = records("out")
    used = PrivacySetting(record["mechanism"], record["faces"][0]["epsilon"])
    if isinstance(setting, str):
        from identitydp_jax.privacy.setting import LEVELS

        setting = LEVELS[setting]
    if isinstance(setting, float):
        assert used.expected_cosine == pytest.approx(setting, abs=0.005)
    else:
        assert used == setting


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--privacy", "strong", "--epsilon", "3"], "--privacy chooses the setting"),
        (["--target-similarity", "0.3", "--epsilon", "3"], "--target-similarity chooses"),
        (["--target-similarity", "2"], "similarity is 2"),
        (["--method", "mask", "--privacy", "strong"], "--privacy does not go with --method mask"),
        (["--mechanism", "privunit", "--calibration", "paper"], "mechanism laplace alone"),
    ],
)
def test_options_that_clash_are_refused(photo, options, said, capsys):
    assert _run(*options) == 2
    assert said in capsys.readouterr().err


def test_no_output_holds_key_material(photo, monkeypatch, capsys):
    """Neither the master key nor a face's key is in any file or line, in any usual writing."""
    derived, derive = [], keys._derive

    def remember(master, purpose, *parts):
        made = derive(master, purpose, *parts)
        if purpose not in (b"tag", b"seal"):  # which are made to be shown
            derived.append(made)
        return made

    monkeypatch.setattr(keys, "_derive", remember)
    save(pathlib.Path("in/two.png"), picture(FACE, OTHER))
    assert _run() == 0 and _run("--subject", "Ada", output="ada") == 1
    monkeypatch.setattr(faces, "draw_faces", lambda *_, **__: 1 / 0)
    assert _run("--epsilon", "2", output="broken") == 1
    assert cli.main(["ledger", "show", "--key-file", "my.key"]) == 0
    assert cli.main(["keys", "verify", "my.key", keys.commitment(keys.load("my.key"))]) == 0
    written = [path.read_bytes() for path in pathlib.Path().rglob("*") if path.is_file()]
    everything = b"\n".join([*written, *(text.encode() for text in capsys.readouterr())])
    secrets = [*derived, pathlib.Path("my.key").read_bytes()]
    assert len(secrets) > 8 and everything.count(secrets[-1]) == 1  # the key file itself
    everything = everything.replace(secrets[-1], b"")
    for secret in secrets:
        words = np.frombuffer(secret, "<u4")[:2]
        writings = [secret, secret.hex().encode(), base64.b64encode(secret)[:40]]
        writings += [repr(secret)[2:-1].encode(), b"%d, %d" % tuple(words), b"%d %d" % tuple(words)]
        assert not any(writing in everything for writing in writings)
