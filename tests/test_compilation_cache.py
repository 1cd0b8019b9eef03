"""Compiled programs are run, so nobody else may put them there."""

import os
import pathlib

import pytest

from identitydp_jax import compilation_cache
from identitydp_jax.checks import UserError

NAME = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("IDENTITYDP_CACHE", str(tmp_path / "shared"))
    for name in (NAME, "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")


def test_programs_are_kept_for_their_user_alone_apart_from_shared_weights(tmp_path):
    before = os.umask(0)
    try:
        compilation_cache.enable()
    finally:
        os.umask(before)
    folder = pathlib.Path(os.environ[NAME])
    assert folder.is_relative_to(tmp_path / "user")
    for made in (folder, tmp_path / "user"):
        assert made.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "shared").exists()
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7"  # as the user says
    compilation_cache.enable()  # a folder of one's own is taken again
    assert os.environ[NAME] == str(folder)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_can_write_is_refused(tmp_path, monkeypatch, mode, given):
    compilation_cache.enable()
    folder = pathlib.Path(os.environ[NAME])
    folder.chmod(mode)
    if not given:
        monkeypatch.delenv(NAME)
    with pytest.raises(UserError, match=rf"{folder} keeps .* written by others: remove it"):
        compilation_cache.enable()


def test_a_folder_of_another_user_is_refused(monkeypatch):
    compilation_cache.enable()
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(UserError, match="belongs to another user"):
        compilation_cache.enable()


def test_a_folder_that_anybody_can_replace_is_refused(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "open" / "mine")
    for path in (tmp_path / "open" / "mine", link):
        monkeypatch.setenv(NAME, str(path))
        with pytest.raises(UserError, match="everybody can write to"):
            compilation_cache.enable()
    (tmp_path / "open").chmod(0o1777)  # as /tmp, where nobody removes what is another's
    compilation_cache.enable()


@pytest.mark.parametrize("given", ["", "gs://bucket/programs"])
def test_what_is_no_folder_stays_as_the_user_says(monkeypatch, given):
    monkeypatch.setenv(NAME, given)
    compilation_cache.enable()
    assert os.environ[NAME] == given


def test_without_a_place_nothing_is_kept(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compilation_cache.enable()
    assert NAME not in os.environ
