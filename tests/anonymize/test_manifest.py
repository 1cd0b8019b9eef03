import json
import os

import pytest

from identitydp_jax.anonymize.manifest import INTENDED, NAME, Manifest, read, written_by_us
from identitydp_jax.checks import UserError


def _record(output, digest="aa"):
    return {"identitydp": "1", "output": output, "output_sha256": digest}


def test_records_are_found_again(tmp_path):
    folder = tmp_path / "new" / "out"
    with Manifest(folder) as manifest:
        manifest.append(_record("a.jpg", "old"))
        manifest.append(_record("a.jpg", "new"))
        manifest.append({"identitydp": "1", "output": "b.jpg", "status": "failed"})
    with Manifest(folder) as manifest:
        assert manifest.find("a.jpg")["output_sha256"] == "new"
        assert manifest.find("b.jpg") is None
    assert written_by_us(folder) == {"a.jpg": "new"}


def test_names_that_are_no_text_survive(tmp_path):
    name = os.fsdecode(b"caf\xe9 \xc3\xa9\n.jpg")
    with Manifest(tmp_path) as manifest:
        manifest.append(_record(name))
    with Manifest(tmp_path) as manifest:
        assert manifest.find(name)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_loses_that_line_only(tmp_path, cut):
    with Manifest(tmp_path) as manifest:
        manifest.append(_record("a.jpg"))
        manifest.append(_record("b.jpg"))
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-cut])
    with Manifest(tmp_path) as manifest:
        assert manifest.find("a.jpg")
        manifest.append(_record("c.jpg"))
    assert set(written_by_us(tmp_path)) >= {"a.jpg", "c.jpg"}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[-1]["output"] == "c.jpg"


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_plain_file_is_no_manifest(tmp_path, kind):
    path = tmp_path / NAME
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "other").write_text("")
        path.symlink_to("other")
    with pytest.raises(UserError, match="cannot write to"):
        Manifest(tmp_path)
    if kind != "link":
        assert written_by_us(tmp_path) == {}


def test_deep_lines_count_for_nothing(tmp_path):
    (tmp_path / NAME).write_text("[" * 100_000 + "\n" + '{"a":' * 100_000 + "\n")
    assert written_by_us(tmp_path) == {}


def test_what_is_intended_is_not_done(tmp_path):
    with Manifest(tmp_path) as manifest:
        manifest.append(_record("a.jpg") | {"status": INTENDED})
    assert read(tmp_path) == {} and written_by_us(tmp_path) == {"a.jpg": "aa"}
    with Manifest(tmp_path) as manifest:
        assert manifest.find("a.jpg")["status"] == INTENDED
        manifest.append(_record("a.jpg") | {"status": "anonymized"})
    assert set(read(tmp_path)) == {"a.jpg"}


def test_foreign_lines_count_for_nothing(tmp_path):
    (tmp_path / NAME).write_bytes(b'{"output": "a.jpg"}\n[1]\n"x"\n\xff\xfe\nnull\n')
    assert written_by_us(tmp_path) == {}
    with Manifest(tmp_path) as manifest:
        assert manifest.find("a.jpg") is None


def test_a_full_disk_leaves_the_manifest_as_it_was(tmp_path, monkeypatch):
    with Manifest(tmp_path) as manifest:
        manifest.append(_record("a.jpg"))
        before = (tmp_path / NAME).read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(os, "fsync", full)
            manifest.append(_record("b.jpg"))
        assert (tmp_path / NAME).read_bytes() == before
        manifest.append(_record("c.jpg"))
    assert set(written_by_us(tmp_path)) == {"a.jpg", "c.jpg"}


def test_two_runs_at_once_are_refused(tmp_path):
    with Manifest(tmp_path), pytest.raises(UserError, match="another run"):
        Manifest(tmp_path)
    with Manifest(tmp_path):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UserError, match="cannot write to"):
            Manifest(folder)
