"""Replaying a manifest, with a fake network."""

import json
import pathlib

import pytest
from fakes import picture, save

from identitydp_jax.anonymize import replay as replaying
from identitydp_jax.anonymize.commands import add_parser, run
from identitydp_jax.checks import UserError

OUT = pathlib.Path("out")


@pytest.fixture(autouse=True)
def _folder(fake_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replaying._batch.cache_clear()
    save(pathlib.Path("in/a.png"), picture((20, 20, 60, 75)))
    save(pathlib.Path("in/deep/b.jpg"), picture((30, 20, 70, 75)))


def anonymize(*options):
    import argparse

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = ["anonymize", "in", "-r", "-o", "out", "--audit-seed", "7", *options]
    assert run(parser.parse_args(args)) == 0


def replay():
    return list(replaying.replay(OUT))


def edit(**changes):
    """Change the record of a.png."""
    path = OUT / "manifest.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record["output"] == "a.png":
            record.update(changes)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--epsilon", "2.5", "--calibration", "certified-l1:19"],
        ["--mechanism", "privunit"],
        ["--mechanism", "random"],
        ["--preserve", "none"],
        ["--preserve", "glasses"],
        ["--method", "pixelate:8"],
        ["--method", "noise:20", "--min-face", "60"],
    ],
)
def test_every_photo_comes_out_the_same(options):
    anonymize(*options)
    before = {path: path.read_bytes() for path in OUT.rglob("*.*")}
    findings = replay()
    assert [(f.subject, f.passed) for f in findings] == [("a.png", True), ("deep/b.jpg", True)]
    assert before == {path: path.read_bytes() for path in OUT.rglob("*.*")}


def failed():
    first, second = replay()
    assert not first.passed and second.passed
    assert "\n" not in first.figures
    return first.figures


def test_what_was_changed_or_is_missing_fails_alone():
    anonymize()
    source, output = pathlib.Path("in/a.png"), OUT / "a.png"
    kept = source.read_bytes()
    source.unlink()
    assert "the input in/a.png is missing" in failed()
    save(source, picture((21, 20, 60, 75)))
    assert "gives another file now" in failed()
    source.write_bytes(b"nonsense")
    assert "not a JPEG" in failed()
    source.write_bytes(kept)
    content = output.read_bytes()
    output.write_bytes(content + b"\0")
    assert "out/a.png was changed after it was written" in failed()
    output.unlink()
    assert "out/a.png is missing" in failed()
    output.write_bytes(content)
    assert all(finding.passed for finding in replay())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"key": "sha256:" + "0" * 64}, "made with a secret key"),
        ({"key": "audit-seed:8"}, "gives another file now"),
        ({"method": "identitydp:5"}, "gives another file now"),
        ({"model_sha256": "1" * 64}, "made with another model"),
        ({"method": "unheard:of"}, "method is 'unheard:of'"),
        ({"output_sha256": "0" * 64}, "was changed after"),
    ],
)
def test_records_that_do_not_hold(changes, said):
    anonymize()
    edit(**changes)
    assert said in failed()


def test_the_last_record_of_an_output_counts_and_torn_lines_do_not():
    anonymize()
    anonymize("--epsilon", "3", "--overwrite")
    with open(OUT / "manifest.jsonl", "a") as file:
        file.write('[1]\n{"output": "c.png", "outp')
    assert [finding.passed for finding in replay()] == [True, True]


def test_a_folder_without_outputs_is_refused():
    with pytest.raises(UserError, match=r"cannot read out/manifest\.jsonl"):
        replay()
    OUT.mkdir()
    (OUT / "manifest.jsonl").write_text('{"status": "failed"}\n')
    with pytest.raises(UserError, match="lists no output"):
        replay()
