import argparse

import jax
import numpy as np
import pytest
from PIL import Image

from identitydp_jax.checks import UserError
from identitydp_jax.data import prepare
from identitydp_jax.models import face_source
from identitydp_jax.training import data_commands
from identitydp_jax.weights import cache


@pytest.fixture(autouse=True)
def quick_faces(monkeypatch):
    def face(params, *, key, resolution):
        return jax.random.bits(key, (resolution, resolution, 3), np.uint8)

    monkeypatch.setattr(face_source, "load", lambda: {})
    monkeypatch.setattr(face_source, "face", face)


def run(*words, action="synthetic"):
    parser = argparse.ArgumentParser()
    data_commands.add_parser(parser.add_subparsers())
    return data_commands.run(parser.parse_args(["data", action, *map(str, words)]))


def test_heads_are_fitted_to_the_encoder_that_is_named(tmp_path, capsys, monkeypatch):
    from identitydp_jax.training import declared_heads

    written = []
    monkeypatch.setattr(declared_heads, "write", lambda *names: written.append(names))
    assert run("--output", tmp_path / "a", action="heads") == 0
    assert run("--encoder", "sface", "--output", tmp_path / "b", action="heads") == 0
    assert written == [("w600k_mbf", f"{tmp_path / 'a'}"), ("sface", f"{tmp_path / 'b'}")]
    assert capsys.readouterr().out.splitlines()[1].endswith("b: heads for sface")


def test_writes_a_folder_and_goes_on(tmp_path, capsys):
    words = ("--resolution", 64, "--output", tmp_path, "--seed", 5)
    assert run("--count", 2, *words) == 0
    before = np.asarray(Image.open(tmp_path / "000001.png"))
    assert run("--count", 3, *words) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("3 faces, 1 of them written now")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "000001.png")), before)
    expected = face_source.face({}, key=jax.random.fold_in(jax.random.key(5), 2), resolution=64)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "000002.png")), expected)


def test_seeds_differ(tmp_path):
    for seed in (1, 2**32 - 1):
        run("--count", 1, "--resolution", 64, "--output", tmp_path / str(seed), "--seed", seed)
    one, other = (
        np.asarray(Image.open(tmp_path / str(seed) / "000000.png")) for seed in (1, 2**32 - 1)
    )
    assert np.any(one != other)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--count", 0, "--count is 0: give 1 or more"),
        ("--seed", 2**32 + 5, "--seed is 4294967301"),
        ("--seed", -1, "--seed is -1"),
        ("--resolution", 100, "--resolution is 100: choose one of"),
    ],
)
def test_bad_settings_are_named(tmp_path, option, value, message):
    words = {"--count": 1, "--output": tmp_path / "out", option: value}
    with pytest.raises(UserError, match=message):
        run(*(word for pair in words.items() for word in pair))
    assert not (tmp_path / "out").exists()


def test_prepare_says_what_it_made_and_left_out(tmp_path, monkeypatch, capsys):
    def made(source, output, *, resolution, workers):
        assert (source, output, resolution, workers) == ("photos.zip", str(tmp_path), 128, 3)
        return prepare.Prepared(9, 7, {"too small": 2, "no face": 1}, 1)

    monkeypatch.setattr(prepare, "prepare", made)
    monkeypatch.setattr(cache, "path", lambda name: None)
    words = ("--source", "photos.zip", "--resolution", 128, "--workers", 3)
    assert run(*words, "--output", tmp_path, action="prepare") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: 7 faces of 9 photos, 1 shards written now; train on them with"
        f" --set data=array_record:{tmp_path} --set mixture.twin=0",
        "left out: 1 photos, no face; manifest.json names them",
        "left out: 2 photos, too small; manifest.json names them",
    ]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--workers", 0, "--workers is 0: give 1 or more"),
        ("--resolution", 8, "--resolution is 8: give 16 to 2048 px"),
        ("--source", "nowhere", "nowhere: no such folder or archive"),
    ],
)
def test_bad_settings_of_prepare_are_named(tmp_path, monkeypatch, option, value, message):
    monkeypatch.setattr(cache, "path", lambda name: None)
    words = {"--source": tmp_path, "--output": tmp_path / "out", option: value}
    with pytest.raises(UserError, match=message):
        run(*(word for pair in words.items() for word in pair), action="prepare")
    assert not (tmp_path / "out").exists()
