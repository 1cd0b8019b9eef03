"""Several processes as one run, on one machine and its loopback device; and runs cut short."""

import random
import re
import signal
import time

import pytest
import runs
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.training import processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_faces(tmp_path_factory.mktemp("faces"), 21)


@pytest.fixture(scope="module")
def start(folder, tmp_path_factory):
    """`start(count, devices, workdir, *words)`: the processes of one run, ended after the tests."""
    compiled = str(tmp_path_factory.mktemp("compiled"))
    started = []

    def start(count, devices, workdir, *words, **how):
        run = runs.Run(count, devices, (folder, workdir, *words), compiled, **how)
        started.append(run)
        return run

    yield start
    for process in (process for run in started for process in run.processes):
        process.kill()
        with process:  # closes its pipes
            process.wait()


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """One process with two devices, over the quick step."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    start(1, 2, workdir, *runs.QUICK).succeeded()
    return workdir


def _assert_one_wrote(workdir, outputs, rows, steps):
    for i, output in enumerate(outputs):
        lines = output.splitlines()
        assert {line for line in lines if line.startswith("rows")} == {f"rows {rows}"}
        assert len([line for line in lines if line.startswith("step")]) == (0 if i else steps)
    assert len(list((workdir / "events").iterdir())) == 1


def test_two_processes_do_what_one_does_bit_for_bit(alone, start, tmp_path):
    workdir = tmp_path / "run"
    outputs = start(2, 1, workdir, *runs.QUICK).succeeded()
    runs.assert_same(workdir, alone)
    _assert_one_wrote(workdir, outputs, 4, 6)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["4", "6"]


@pytest.mark.slow
def test_two_processes_train_the_networks_as_one_bit_for_bit(start, tmp_path):
    settings = ("steps=3", "checkpoint_every=3", "freeze_statistics_at=2")
    for count in (1, 2):
        start(count, 2 // count, tmp_path / str(count), *settings).succeeded()
    runs.assert_same(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_four_processes_with_a_split_state_train_the_networks_as_one(start, tmp_path):
    settings = ("steps=2", "checkpoint_every=2", "fsdp=True")
    for count in (1, 4):
        outputs = start(count, 4 // count, tmp_path / str(count), *settings).succeeded()
    _assert_one_wrote(tmp_path / "4", outputs, 2, 2)
    # They add up the gradients in another order: measured 2e-6 after the first update.
    assert runs.totals(tmp_path / "4") == pytest.approx(runs.totals(tmp_path / "1"), rel=1e-5)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_others_and_the_same_command_continues(
    victim, alone, start, tmp_path
):
    workdir = tmp_path / "run"
    run = start(2, 1, workdir, *runs.QUICK, kill=(victim, 6))
    run.processes[victim].wait(runs.PATIENCE)
    died = time.monotonic()
    run.processes[1 - victim].wait(runs.PATIENCE)
    assert time.monotonic() - died < 60
    ended = run.ended()
    assert ended[victim][0] == -signal.SIGKILL
    status, _, errors = ended[1 - victim]
    lines = [line for line in errors.splitlines() if line.startswith("identitydp: error:")]
    if status == -signal.SIGABRT and victim == 0:
        # What connected them died too, and JAX's runtime noticed it before the step did.
        assert "another task died" in errors
    else:
        assert status == 1, errors
        assert len(lines) == 1, errors
        assert f"process {1 - victim} of 2: another process has ended" in lines[0]
    # The one of step 2 was there before that of step 4 was begun.
    assert (workdir / "checkpoints" / "2").is_dir()
    output, _ = start(2, 1, workdir, *runs.QUICK).succeeded()
    assert re.search(r"^step (\d)/", output, re.MULTILINE)[1] in "35"
    runs.assert_same(workdir, alone)


@pytest.mark.parametrize(
    ("count", "reached"), [(2, [1]), pytest.param(4, [0, 1, 2, 3], marks=pytest.mark.slow)]
)
def test_sigterm_stops_all_processes_at_one_step(count, reached, alone, start, tmp_path):
    workdir = tmp_path / "run"
    settings = ("--quick", "steps=100000", "checkpoint_every=100000")
    run = start(count, 1, workdir, *settings)
    for line in run.processes[0].stdout:
        if line.startswith("step 4/"):
            break
    for i in reached:
        run.processes[i].send_signal(signal.SIGTERM)
    ended = run.ended()
    assert [status for status, *_ in ended] == [143] * count, ended
    (saved,) = (workdir / "checkpoints").iterdir()
    assert 4 < int(saved.name) < 100_000
    assert f"asked to stop: saved step {saved.name}, the same command continues" in ended[0][2]
    if count == 2:
        assert runs.totals(workdir)[:4] == runs.totals(alone)[:4]


@pytest.mark.slow
def test_a_process_that_compiles_much_longer_is_waited_for(start, tmp_path):
    """On CPUs, processes that have not met before find each other within 30 seconds or fail."""
    settings = ("--quick", "--compile-for", "40", "steps=2", "checkpoint_every=2")
    start(2, 2, tmp_path / "run", *settings).succeeded()


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing(start, tmp_path):
    settings = ("--quick", "steps=60", "checkpoint_every=1")
    start(1, 1, tmp_path / "whole", *settings).succeeded()
    workdir = tmp_path / "killed"
    saved, while_saving = 0, 0
    for _ in range(6):
        (process,) = start(1, 1, workdir, *settings).processes
        steps = (line for line in process.stdout if line.startswith("step"))
        assert next(steps).startswith(f"step {saved + 1}/")
        # By its fourth step a run has finished its second checkpoint.
        next(line for line in steps if line.startswith(f"step {saved + 4}/"))
        time.sleep(random.uniform(0, 1))
        process.kill()
        process.wait()
        names = [path.name for path in (workdir / "checkpoints").iterdir()]
        before, saved = saved, max(int(name) for name in names if name.isdigit())
        assert saved >= before + 2
        while_saving += any("tmp" in name for name in names)
    assert while_saving >= 2
    assert saved < 60
    start(1, 1, workdir, *settings).succeeded()
    runs.assert_same(workdir, tmp_path / "whole")


def test_a_disk_that_takes_no_checkpoint_stops_in_one_line(alone, start, tmp_path):
    workdir = tmp_path / "run"
    start(1, 2, workdir, *runs.QUICK, "steps=2").succeeded()
    limit = ("--file-limit", "100000")  # metrics and pictures fit, parameters don't
    ((status, _, errors),) = start(1, 2, workdir, *runs.QUICK, *limit).ended()
    assert status == 2, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("identitydp: error:")]
    assert "a checkpoint cannot be written (File too large): stopped" in line
    assert "Traceback" not in errors
    start(1, 2, workdir, *runs.QUICK).succeeded()
    runs.assert_same(workdir, alone)


def test_without_the_variables_a_process_is_alone(monkeypatch):
    monkeypatch.setattr(processes.jax.distributed, "initialize", pytest.fail)
    for name in (*runs.NAMES, "IDENTITYDP_DISTRIBUTED"):
        monkeypatch.delenv(name, raising=False)
    processes.start()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("host:1", "2", None), "IDENTITYDP_PROCESS is not set"),
        ((None, "2", "0"), "IDENTITYDP_COORDINATOR is not set"),
        (("host:1", "2", "2"), "IDENTITYDP_PROCESS is 2 and IDENTITYDP_PROCESSES is 2"),
        (("host:1", "two", "0"), "IDENTITYDP_PROCESSES is two"),
        (("host", "2", "0"), "IDENTITYDP_COORDINATOR is host: give HOST:PORT"),
    ],
)
def test_wrong_variables_are_named(values, words, monkeypatch):
    monkeypatch.setattr(processes.jax.distributed, "initialize", pytest.fail)
    for name, value in zip(runs.NAMES, values, strict=True):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        processes.start()


def test_jax_finds_the_processes_where_it_is_asked_to(monkeypatch):
    calls = []
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda **how: calls.append(how))
    for name in runs.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("IDENTITYDP_DISTRIBUTED", "1")
    processes.start()
    (how,) = calls
    assert "coordinator_address" not in how


def test_processes_that_do_not_find_each_other_are_named(monkeypatch):
    def initialize(**_):
        raise RuntimeError("DEADLINE_EXCEEDED: 1 of 2\nand more")

    monkeypatch.setattr(processes.jax.distributed, "initialize", initialize)
    for name, value in zip(runs.NAMES, ("host:1", "2", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"don't find each other: DEADLINE_EXCEEDED: 1 of 2$"):
        processes.start()


def test_alone_an_error_passes():
    with pytest.raises(KeyError), processes.ending_together():
        raise KeyError
