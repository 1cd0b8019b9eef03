import hashlib
import json
import os
import pathlib

import pytest

from identitydp_jax.anonymize import files, formats, manifest
from identitydp_jax.checks import UserError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """photos/{a.jpg, b.PNG, notes.txt, .hidden.jpg, sub/c.webp, .cache/d.jpg}, as the folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.PNG", "notes.txt", ".hidden.jpg", "sub/c.webp", ".cache/d.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def _names(*inputs, output="out", recursive=False):
    found = files.find([str(given) for given in inputs], pathlib.Path(output), recursive=recursive)
    return [job.name for job in found.jobs]


def _record(folder, *names):
    digest = hashlib.sha256(b"x").hexdigest()
    lines = [{"identitydp": "1", "output": name, "output_sha256": digest} for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / manifest.NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_folders(tree):
    assert _names("photos") == ["a.jpg", "b.PNG"]
    assert _names("photos", recursive=True) == ["a.jpg", "b.PNG", "sub/c.webp"]
    assert _names("photos/") == ["a.jpg", "b.PNG"]
    found = files.find(["photos"], pathlib.Path("out"), recursive=False)
    (line,) = found.skipped
    assert line.startswith("left out 1 .txt file: only .jpg, ")
    assert line.endswith(" are read from folders") and all(s in line for s in formats.SUFFIXES)
    assert found.problems == []


def test_files_are_taken_whatever_they_are_called(tree):
    assert _names("photos/a.jpg", "photos/notes.txt") == ["a.jpg", "notes.txt"]


def test_quoted_globs_keep_the_folders_after_their_fixed_part(tree):
    assert _names("photos/*.jpg") == ["a.jpg"]
    assert _names("photos/**/*.webp") == ["sub/c.webp"]
    assert _names("*/sub/*") == ["photos/sub/c.webp"]
    assert _names(tree / "photos" / "?.*") == ["a.jpg", "b.PNG"]


def test_names_that_look_like_globs_are_names_first(tree):
    (tree / "photos/x[1].jpg").write_bytes(b"x")
    assert _names("photos/x[1].jpg") == ["x[1].jpg"]


def test_an_input_given_twice_is_done_once(tree):
    assert _names("photos/a.jpg", "photos", tree / "photos/a.jpg") == ["a.jpg", "b.PNG"]


@pytest.mark.parametrize("given", ["missing.jpg", "photos/*.gif", "photos/a.jpg/x", "no\0name"])
def test_missing_inputs_are_problems_of_one_line(tree, given):
    found = files.find([given, "photos/a.jpg"], pathlib.Path("out"), recursive=False)
    assert len(found.jobs) == 1 and len(found.problems) == 1
    assert given in found.problems[0] and "\n" not in found.problems[0]


def test_pipes_are_not_waited_for(tree):
    os.mkfifo(tree / "photos" / "pipe.jpg")
    found = files.find(["photos"], pathlib.Path("out"), recursive=False)
    assert len(found.jobs) == 2 and "pipe.jpg: not a file" in found.problems[0]


def test_an_unreadable_folder_is_a_problem(tree, monkeypatch):
    real = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = files.find(["photos"], pathlib.Path("out"), recursive=True)
    assert len(found.jobs) == 2
    assert found.problems == ["photos/sub: Permission denied"]


@pytest.mark.parametrize("output", ["photos", "photos/../photos", "link"])
def test_results_never_replace_inputs(tree, output):
    (tree / "link").symlink_to("photos")
    with pytest.raises(UserError, match="over the input"):
        _names("photos", output=output)
    with pytest.raises(UserError, match="over the input"):
        _names("photos/a.jpg", output=output)
    with pytest.raises(UserError, match="over the input"):
        _names("photos/sub", "photos/sub/../a.jpg", output="photos/sub")


def test_two_photos_with_one_result_are_refused(tree):
    (tree / "photos/sub/a.jpg").write_bytes(b"y")
    with pytest.raises(UserError, match=r"photos/a\.jpg and photos/sub/a\.jpg would both become"):
        _names("photos/a.jpg", "photos/sub/a.jpg")
    assert _names("photos", recursive=True) == ["a.jpg", "b.PNG", "sub/a.jpg", "sub/c.webp"]


def test_the_output_folder_inside_the_input_is_left_out(tree):
    for name in ("a.jpg", "sub/c.webp", "own.jpg"):
        path = tree / "photos/out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    names = _names("photos", output="photos/out", recursive=True)
    assert names == ["a.jpg", "b.PNG", "sub/c.webp"]


def test_outputs_of_earlier_runs_are_left_out(tree):
    done = tree / "photos/done"
    for name in ("x.jpg", "deep/y.jpg", "mine.jpg"):
        (done / name).parent.mkdir(parents=True, exist_ok=True)
        (done / name).write_bytes(b"x")
    _record(done, "x.jpg", "deep/y.jpg")
    found = files.find(["photos"], pathlib.Path("out"), recursive=True)
    assert [job.name for job in found.jobs] == ["a.jpg", "b.PNG", "done/mine.jpg", "sub/c.webp"]
    assert found.skipped[-1] == "left out 2 photos that an earlier run wrote"
    assert _names("photos/done/deep/y.jpg") == ["y.jpg"]  # as asked
    assert _names("photos/done/**/*.jpg") == ["mine.jpg"]


def test_a_manifest_elsewhere_or_of_other_content_leaves_nothing_out(tree):
    _record(tree, "photos/a.jpg")  # above the folder given
    _record(tree / "photos", "b.PNG")
    (tree / "photos/b.PNG").write_bytes(b"another photo of that name")
    assert _names("photos") == ["a.jpg", "b.PNG"]
    (tree / "photos/b.PNG").write_bytes(b"x")
    assert _names("photos") == ["a.jpg"]


def test_linked_folders_are_followed_once_and_loops_are_named(tree):
    (tree / "real/deep").mkdir(parents=True)
    (tree / "real/deep/x.jpg").write_bytes(b"x")
    (tree / "photos/linked").symlink_to(tree / "real")
    (tree / "real/up").symlink_to(tree / "photos")
    (tree / "real/self").symlink_to("self")
    found = files.find(["photos"], pathlib.Path("out"), recursive=True)
    assert [job.name for job in found.jobs] == [
        "a.jpg", "b.PNG", "linked/deep/x.jpg", "sub/c.webp",
    ]  # fmt: skip
    assert any("linked/up: a link to" in line for line in found.skipped)
    assert _names("photos") == ["a.jpg", "b.PNG"]


def test_a_link_into_the_results_is_not_followed(tree):
    (tree / "out/deep").mkdir(parents=True)
    (tree / "out/deep/done.jpg").write_bytes(b"x")
    (tree / "photos/results").symlink_to(tree / "out/deep")
    (tree / "photos/all").symlink_to(tree / "out")
    assert _names("photos", recursive=True) == ["a.jpg", "b.PNG", "sub/c.webp"]


def test_an_output_folder_above_the_input_is_no_reason_to_leave_anything_out(tree):
    assert _names("photos", output=".", recursive=True) == ["a.jpg", "b.PNG", "sub/c.webp"]


@pytest.mark.parametrize("pattern", ["photos/*/../a.jpg", "photos/*/../../photos/a.jpg"])
def test_names_never_lead_out_of_the_output_folder(tree, pattern):
    (tree / "photos/.cache").rename(tree / "photos/cache")
    found = files.find([pattern], pathlib.Path("out"), recursive=False)
    assert all(".." not in pathlib.PurePath(job.name).parts for job in found.jobs)
    assert found.jobs or all("give its folder itself" in line for line in found.problems)


def test_a_tilde_is_a_home_only_where_there_is_one(tree):
    (tree / "~holiday.jpg").write_bytes(b"x")
    assert _names("~holiday.jpg") == ["~holiday.jpg"]
    found = files.find(["~nobody-of-this-name/x.jpg"], pathlib.Path("out"), recursive=False)
    assert found.problems == ["~nobody-of-this-name/x.jpg: no such file or folder"]


def test_an_output_whose_links_lead_in_a_circle_is_refused(tree):
    (tree / "loop").symlink_to("loop")
    for output in ("loop", "loop/deeper"):
        with pytest.raises(UserError, match="lead in a circle"):
            _names("photos", output=output)
    assert "loop" in files.find(["loop"], pathlib.Path("out"), recursive=True).problems[0]
