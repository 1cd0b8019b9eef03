"""Attacks on the guarantee from around the mechanism: each succeeded once."""

import hashlib
import json
import pathlib

import numpy as np
import pytest
from fakes import FakeModel, MarkerDetector, picture, save

from identitydp_jax import cli
from identitydp_jax.anonymize import batch, faces, photos
from identitydp_jax.anonymize import manifest as manifests
from identitydp_jax.anonymize.methods import IdentityDP
from identitydp_jax.checks import UserError
from identitydp_jax.privacy import discrete_laplace, keys, mechanism
from identitydp_jax.privacy.setting import PrivacySetting

FACE, NEIGHBOUR = (20, 20, 80, 102), (92, 40, 118, 66)  # within the crop of the face


@pytest.fixture
def photo(fake_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
    return save(pathlib.Path("in/a.png"), picture(FACE))


def _run(*options):
    return cli.main(["anonymize", "in", "-o", "out", "--key-file", "k", *options])


def _embed(crops):
    """Embed faces as an encoder would: what is in the crop decides."""
    rows = np.random.default_rng(0).normal(size=(crops[0].size, 512)) / crops[0].size
    return (crops.reshape(len(crops), -1) @ rows).astype(np.float32)


def test_a_pixelated_neighbour_does_not_get_two_embeddings_the_same_noise(fake_model, monkeypatch):
    setting, seen = PrivacySetting(epsilon=1.0), []

    def release(model, crops, *, keys, setting):
        rows = _embed(crops)
        codes = mechanism.release(rows, key=keys, mechanism="laplace", arrays=setting.arrays)
        seen.append((rows, np.asarray(codes)))
        return seen[-1][1]

    monkeypatch.setattr(faces, "release_faces", release)
    method, master = IdentityDP(FakeModel(), setting), keys.audit_master(1)
    for min_face in (20, 32):  # the same key file, but each time a ledger that knows nothing
        _, records = photos.anonymize_photo(
            method,
            picture(FACE, NEIGHBOUR),
            master=master,
            detector=MarkerDetector(),
            min_face=min_face,
        )
        assert records[-1].box == FACE and records[-1].handled == "anonymized"
    (first, before), (second, after) = ((rows[-1], codes[-1]) for rows, codes in seen)
    hidden = [discrete_laplace.quantize(row, lattice=setting.arrays) for row in (first, second)]
    assert (hidden[0] != hidden[1]).any()  # the neighbour is in the crop
    shown = before - after == np.asarray(hidden[0] - hidden[1])
    assert shown.mean() < 0.01


def test_a_mechanism_that_fails_its_check_stops_the_run_before_any_photo(
    photo, monkeypatch, capsys
):
    checked = []

    def fail(mechanism, dimension):
        checked.append((mechanism, dimension))
        raise UserError("the compiled mechanism gives other codes")

    monkeypatch.setattr(batch, "check_answers", fail)
    assert _run("--mechanism", "privunit") == 2
    said = "identitydp: error: the compiled mechanism gives other codes\n"
    assert capsys.readouterr().err == said
    assert checked == [("privunit", 512)] and not pathlib.Path("out").exists()


@pytest.mark.parametrize("seal", ["kept", "removed", "of another key"])
def test_an_original_put_in_place_of_its_result_is_not_taken_for_done(photo, seal, capsys):
    assert _run() == 0
    manifest = pathlib.Path("out/manifest.jsonl")
    record = json.loads(manifest.read_text().splitlines()[-1])
    original = photo.read_bytes()
    pathlib.Path("out/a.png").write_bytes(original)
    record["output_sha256"] = hashlib.sha256(original).hexdigest()
    if seal == "removed":
        del record["seal"]
    elif seal == "of another key":
        record = manifests.sealed(record, keys.audit_master(0))
    manifest.write_text(json.dumps(record) + "\n")
    capsys.readouterr()
    assert _run() == 1
    said = capsys.readouterr().err
    assert "already done" not in said and "was changed or is not of this program" in said
    assert _run("--overwrite") == 0
    assert pathlib.Path("out/a.png").read_bytes() != original
    capsys.readouterr()
    assert _run() == 0 and "1 already done" in capsys.readouterr().err


def test_a_manifest_says_of_a_face_what_somebody_needs_and_no_more(photo):
    assert _run() == 0
    text = pathlib.Path("out/manifest.jsonl").read_text().splitlines()[-1]
    (face,) = json.loads(text)["faces"]
    assert set(face) == {
        *("box", "handled", "reason", "charged", "epsilon", "calibration", "certified_epsilon"),
        *("paper_epsilon", "rho", "delta", "epsilon_at_delta"),
    }
    assert all(isinstance(side, int) for side in face["box"])
