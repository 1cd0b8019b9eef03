import csv
import time

import numpy as np
from PIL import Image

from identitydp_jax.training.recorder import Recorder


def _rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def _record(folder, start, steps):
    with Recorder(folder, start=start, writes=True) as recorder:
        for step in steps:
            recorder.scalars("metrics", step, {"loss": step / 8, "cosine": 0.5})


def test_table_has_one_header_and_a_row_per_step(tmp_path):
    _record(tmp_path, 0, (1, 2))
    _record(tmp_path, 2, (3,))
    assert _rows(tmp_path) == [
        ["step", "loss", "cosine"],
        ["1", "0.125", "0.5"],
        ["2", "0.25", "0.5"],
        ["3", "0.375", "0.5"],
    ]


def test_rows_beyond_the_checkpoint_are_dropped_when_a_run_continues(tmp_path):
    _record(tmp_path, 0, (1, 2, 3, 4, 5))
    _record(tmp_path, 3, (4,))
    assert [row[0] for row in _rows(tmp_path)] == ["step", "1", "2", "3", "4"]
    assert not list(tmp_path.glob("*.part"))


def test_nothing_stays_of_a_run_that_saved_no_checkpoint(tmp_path):
    _record(tmp_path, 0, (1, 2))
    _record(tmp_path, 0, (1,))
    assert [row[0] for row in _rows(tmp_path)] == ["step", "1"]


def test_a_row_that_a_kill_cut_short_is_dropped(tmp_path):
    _record(tmp_path, 0, (1, 2))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("3,0.3")
    _record(tmp_path, 2, (3,))
    assert [row[0] for row in _rows(tmp_path)] == ["step", "1", "2", "3"]


def test_an_empty_table_or_one_with_half_a_header_begins_anew(tmp_path):
    for torn in ("", "step,lo"):
        (tmp_path / "metrics.csv").write_text(torn)
        _record(tmp_path, 0, (1,))
        assert _rows(tmp_path) == [["step", "loss", "cosine"], ["1", "0.125", "0.5"]]


def test_tensorboard_forgets_what_is_done_again(tmp_path, monkeypatch):
    _record(tmp_path, 0, (1,))
    files = set((tmp_path / "events").iterdir())
    # Event files are named by the second.
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10)
    _record(tmp_path, 3, (4,))
    (new,) = set((tmp_path / "events").iterdir()) - files
    assert _session_starts(new) == [4]


def _session_starts(path):
    """Steps from which TensorBoard drops what older event files of the folder say."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    data, steps, at = path.read_bytes(), [], 0
    while at < len(data):
        # TFRecord: length, its checksum, the record, its checksum.
        length = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + length])
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            steps.append(event.step)
        at += 12 + length + 4
    return steps


def test_pictures_are_rows_of_faces(tmp_path):
    faces = np.zeros((3, 8, 8, 3), np.uint8)
    faces[1] = (255, 0, 0)
    with Recorder(tmp_path, start=0, writes=True) as recorder:
        recorder.pictures(250, np.stack([faces, faces[::-1], faces]))
    grid = np.asarray(Image.open(tmp_path / "pictures" / "00000250.png"))
    assert grid.shape == (24, 24, 3)
    assert tuple(grid[4, 12]) == (255, 0, 0)
    assert tuple(grid[4, 4]) == (0, 0, 0)


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    with Recorder(tmp_path, start=0, writes=False) as recorder:
        recorder.scalars("metrics", 1, {"loss": 1.0})
        recorder.pictures(1, np.zeros((1, 1, 8, 8, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_tables_are_cut_one_by_one(tmp_path):
    with Recorder(tmp_path, start=0, writes=True) as recorder:
        for step in (1, 2, 3):
            recorder.scalars("metrics", step, {"loss": 1.0})
        recorder.scalars("held_out", 2, {"leak": 0.5})
    with Recorder(tmp_path, start=1, writes=True):
        pass
    assert [row[0] for row in _rows(tmp_path)] == ["step", "1"]
    assert not (tmp_path / "held_out.csv").exists()
