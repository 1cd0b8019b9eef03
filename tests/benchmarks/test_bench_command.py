"""`identitydp bench`: what it prints and keeps, and what it refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax import cli
from identitydp_jax.anonymize.faces import Model
from identitydp_jax.benchmarks import anonymize, mechanism, timing
from identitydp_jax.benchmarks.report import Report
from identitydp_jax.data import alignment
from identitydp_jax.data.detection import Detections
from identitydp_jax.privacy import calibration
from identitydp_jax.privacy.discrete_laplace import decode
from identitydp_jax.privacy.setting import PrivacySetting


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(timing, "_SECONDS", 0.0)
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)


class OneFace:
    """Finds the astronaut's face, or thereabouts."""

    def detect(self, photo):
        scale, corner = 0.8, np.array([130, 20], np.float32)
        points = (corner + scale * alignment.TEMPLATE).astype(np.float32)
        box = np.array([[*(corner + scale * 47), *(corner + scale * 215)]], np.float32)
        return Detections(box, np.ones(1, np.float32), points[None])


def test_anonymizing_is_measured_in_batches_and_photos(monkeypatch, tmp_path, capsys):
    params = {"network": tiny.variables(), "encoder": tiny.encoder_params()}
    encoder = calibration.shipped().measured.encoder_sha256
    model = Model("tiny", tiny.CONFIG, params, tiny.encode, "00" * 32, encoder)
    monkeypatch.setattr(anonymize, "load_model", lambda name: model)
    monkeypatch.setattr(anonymize, "Detector", OneFace)
    assert (
        cli.main(["bench", "anonymize", "--batch-size", "1", "2", "1", "--output", str(tmp_path)])
        == 0
    )
    kept = json.loads((tmp_path / "anonymize.json").read_text())
    rows = {row["what"]: row for row in kept["rows"]}
    assert list(rows) == ["batch of 1", "batch of 2", "detection in a photo", "a photo"]
    for name, count in (("batch of 1", 1), ("batch of 2", 2), ("a photo", 1)):
        assert rows[name]["ms"] * rows[name]["per second"] == pytest.approx(1000 * count)
    assert "| batch of 2 |" in capsys.readouterr().out


def test_every_mechanism_is_measured_at_every_size(monkeypatch, capsys):
    settings = dict(list(mechanism._SETTINGS.items())[-1:])
    monkeypatch.setattr(mechanism, "_SETTINGS", settings)
    assert cli.main(["bench", "mechanism", "--batch-size", "1", "3"]) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("| discrete")]
    assert [line.split(" | ")[1] for line in lines] == ["1", "3"]


def test_rows_take_their_part_of_a_batch(monkeypatch):
    monkeypatch.setattr(mechanism, "releasing", lambda setting, count: (setting, count))
    monkeypatch.setattr(
        mechanism.timing, "take_turns", lambda runs: {x: [1.0, 2.0, 9.0] for x in runs}
    )
    row = mechanism.bench([4]).rows[0]
    assert row["values/s"] == 4 * 512 / 2 and row["microseconds per row"] == 5e5


def test_what_is_timed_is_the_release_under_new_keys():
    run = mechanism.releasing(PrivacySetting("laplace", 10_000.0), 3)
    first, second = run(), run()
    assert first.shape == (3, 512) and first.dtype == jnp.int32
    assert (first != second).any(axis=1).all()
    embedding = np.random.default_rng(0).normal(size=(3, 512))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    assert ((np.asarray(decode(first)) * embedding).sum(1) > 0.8).all()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["mechanism", "--batch-size", "8", "0"], "--batch-size is 0: give whole numbers from 1"),
        (["anonymize", "--batch-size", "-1"], "--batch-size is -1: give whole numbers from 1"),
        (["anonymize", "--model", "nowhere"], "nowhere"),
        (["train", "--config", "nowhere.py"], "nowhere.py: no such configuration"),
        (["train", "--config", "x", "--steps", "0"], "--steps is 0: give a whole number from 1"),
        (["mechanism", "--output", "FILE/below"], "cannot be written"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, line, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    given = [x.replace("FILE", str(tmp_path / "file")) for x in arguments]
    assert cli.main(["bench", *given]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


def test_a_report_shows_what_was_not_measured_as_a_dash(tmp_path):
    rows = [{"part": "one", "ms": 0.01234}, {"part": "two", "ms": 123456.7}]
    report = Report("name", {"peak": None, "count": 3}, rows, ("A note.",))
    assert report.markdown() == (
        "| name |  |\n|---|---|\n| peak | - |\n| count | 3 |\n\n"
        "| part | ms |\n|---|---|\n| one | 0.0123 |\n| two | 123,457 |\n\nA note."
    )
    report.write(tmp_path)
    assert json.loads((tmp_path / "name.json").read_text())["facts"] == {"peak": None, "count": 3}


def test_runs_take_turns_after_one_that_is_not_counted():
    calls = []
    taken = timing.take_turns({x: lambda x=x: calls.append(x) for x in "ab"})
    assert calls == list("abababab")
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_memory_is_read_and_written_and_shared_by_cpu_devices(monkeypatch):
    monkeypatch.setattr(timing, "take_turns", lambda runs, seconds: {x: [4.0, 2.0] for x in runs})
    assert timing.memory_rate.__wrapped__() == 2 * 2**28 / 2.0 / jax.device_count()
