import io
import os
import tarfile
import tracemalloc
import zipfile

import pytest

from identitydp_jax import storage
from identitydp_jax.checks import UserError
from identitydp_jax.data.archive import ArchiveSource

FILES = {"z/b.png": b"bbb" * 500, "z/notes.txt": b"", "a.JPG": b"a", "__MACOSX/._a.JPG": b"x"}


def _write(path, files=FILES):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("z")
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, {".tar": "w", ".tgz": "w:gz", ".xz": "w:xz"}[path.suffix]) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz", ".tar.xz"])
def test_images_are_read_in_the_order_of_the_archive(tmp_path, suffix):
    source = ArchiveSource(_write(tmp_path / f"photos{suffix}"))
    assert [source.name(i) for i in range(len(source))] == ["z/b.png", "a.JPG"]
    assert [source[i] for i in (1, 0, 1)] == [b"a", FILES["z/b.png"], b"a"]


def test_a_file_that_is_no_archive(tmp_path):
    path = tmp_path / "photos.zip"
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"photos\.zip: not a whole zip or tar file"):
        ArchiveSource(path)


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_an_archive_that_is_cut_short(tmp_path, suffix):
    path = _write(tmp_path / f"photos{suffix}")
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match="not a whole zip or tar file"):
        ArchiveSource(path)


def test_an_archive_without_images(tmp_path):
    with pytest.raises(UserError, match=r"empty\.zip: holds no image"):
        ArchiveSource(_write(tmp_path / "empty.zip", {"notes.txt": b""}))


def test_a_damaged_member_is_named(tmp_path):
    path = _write(tmp_path / "photos.zip")
    data = bytearray(path.read_bytes())
    place = data.index(b"b.png") + 6
    data[place] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"photos\.zip: z/b\.png cannot be read"):
        ArchiveSource(path)[0]


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_a_member_is_read_up_to_a_bound(tmp_path, monkeypatch, suffix):
    path = _write(tmp_path / f"photos{suffix}", {"a.jpg": bytes(1 << 25), "b.jpg": b"b"})
    assert path.stat().st_size < 1 << 17
    monkeypatch.setattr(storage, "MAX_BYTES", 1 << 20)
    source = ArchiveSource(path)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"a\.jpg cannot be read \(larger than 1 MiB\)"):
        source[0]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 23 and source[1] == b"b"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photos.zip")
    with pytest.raises(UserError, match="not a whole zip or tar file"):
        ArchiveSource(tmp_path / "photos.zip")
