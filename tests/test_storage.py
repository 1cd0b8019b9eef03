import errno
import os
import pathlib
import re
import threading

import pytest

import identitydp_jax
from identitydp_jax import storage


def test_write_is_whole_or_nothing(tmp_path, monkeypatch):
    target = tmp_path / "deep" / "photo.jpg"
    storage.write(target, b"old")
    assert target.read_bytes() == b"old"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        storage.write(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == ["photo.jpg"]


def test_a_killed_run_leaves_no_half_file(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(Killed):
        storage.write(tmp_path / "photo.jpg", b"new")
    assert os.listdir(tmp_path) == []


def test_temporary_names_are_short_and_never_the_same(tmp_path):
    target, names = tmp_path / ("n" * 255), set()
    for _ in range(20):
        with storage.beside(target) as (file, unfinished):
            file.write(b"new")
            assert unfinished.parent == tmp_path and len(unfinished.name) < 32
            names.add(unfinished.name)
    assert len(names) == 20 and os.listdir(tmp_path) == [target.name]


def test_a_link_of_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    monkeypatch.setattr(storage.secrets, "token_hex", lambda _: "guessed")
    (tmp_path / ".guessed.part").symlink_to(victim)
    with pytest.raises(FileExistsError):
        storage.write(tmp_path / "photo.jpg", b"new")
    assert victim.read_bytes() == b"precious"


def test_a_link_of_the_name_itself_is_replaced_not_followed(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "photo.jpg"
    victim.write_bytes(b"precious")
    link.symlink_to(victim)
    storage.write(link, b"new")
    assert victim.read_bytes() == b"precious"
    assert not link.is_symlink() and link.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["link/x", "a/link/x", "../x", "a/../../x"])
def test_nothing_is_written_outside_the_folder_given(tmp_path, name):
    output, outside = tmp_path / "out", tmp_path / "outside"
    (output / "a").mkdir(parents=True)
    outside.mkdir()
    for link in (output / "link", output / "a" / "link"):
        link.symlink_to(outside)
    with pytest.raises(OSError, match="is a link or no folder"):
        storage.write(output / name, b"new", within=output)
    assert os.listdir(outside) == [] and sorted(os.listdir(tmp_path)) == ["out", "outside"]


def test_the_folder_given_may_be_a_link_and_what_is_in_it_is_made(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    storage.write(tmp_path / "out/a/b/x", b"new", within=tmp_path / "out")
    assert (tmp_path / "real/a/b/x").read_bytes() == b"new"


def test_what_must_not_be_replaced_is_not(tmp_path):
    storage.write(tmp_path / "key", b"old", replace=False)
    with pytest.raises(FileExistsError):
        storage.write(tmp_path / "key", b"new", replace=False)
    assert (tmp_path / "key").read_bytes() == b"old" and os.listdir(tmp_path) == ["key"]


def test_every_folder_made_has_the_mode_asked_for(tmp_path):
    before = os.umask(0o022)
    try:
        storage.write(tmp_path / "a/b/key", b"x", mode=0o600, folder_mode=0o700)
        storage.write(tmp_path / "c/photo", b"x")
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/key")}
    assert modes == {"a": 0o700, "a/b": 0o700, "a/b/key": 0o600}
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "c/photo").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "large"])
def test_what_is_no_file_to_read_is_said_at_once(tmp_path, kind):
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = pathlib.Path("/dev/zero")
    else:
        with open(path, "wb") as file:
            file.truncate(storage.MAX_BYTES + 1)
    raised = []

    def read():
        try:
            storage.read(path)
        except OSError as error:
            raised.append(error.strerror)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(10)
    assert re.match("not a regular file|larger than 1 GiB|Is a directory", raised[0])


def test_links_are_refused_where_asked(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert storage.read(tmp_path / "link") == b"x"
    with pytest.raises(OSError, match="a symbolic link"):
        storage.read(tmp_path / "link", follow=False)


def test_there_is_one_writer_in_the_project():
    """Whoever writes, or renames, a file of a name that can be foreseen has a writer of their own.

    The index fetches into a private folder, and a run's tables are appended to.
    """
    root = pathlib.Path(identitydp_jax.__file__).parent
    own = r"os\.(replace|link)\(|mkstemp|\.part\"|\.write_(bytes|text)\(|imwrite\("
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(own, path.read_text())
    }
    assert found == {"storage.py", "weights/index.py"}
