"""`launch/local.sh` starts, signals and ends the processes of one run."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import runs
import tiny

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "local.sh"


def start(*command, **environment):
    inherited = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS",)}
    return subprocess.Popen(
        [SCRIPT, *command], env={**inherited, **environment}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def run(*command, **environment):
    process = start(*command, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, sorted(out.split()), err


def test_every_process_learns_who_it_is():
    script = "echo $IDENTITYDP_PROCESS/$IDENTITYDP_PROCESSES@${IDENTITYDP_COORDINATOR%:*}"
    status, lines, _ = run("3", "bash", "-c", script)
    assert status == 0
    assert lines == ["0/3@localhost", "1/3@localhost", "2/3@localhost"]


def test_gpus_are_shared_out():
    show = "echo $IDENTITYDP_PROCESS:$CUDA_VISIBLE_DEVICES"
    _, lines, _ = run("2", "bash", "-c", show, CUDA_VISIBLE_DEVICES="4,5,6,7")
    assert lines == ["0:4,5", "1:6,7"]
    status, lines, err = run("2", "bash", "-c", show, CUDA_VISIBLE_DEVICES="0,1,2")
    assert status == 2 and not lines
    assert "3 GPUs do not split evenly over 2 processes" in err


@pytest.mark.parametrize("arguments", [(), ("2",), ("two", "true"), ("0", "true")])
def test_wrong_usage(arguments):
    status, _, err = run(*arguments)
    assert status == 2
    assert err.startswith("usage:")


def test_one_failure_ends_the_others_with_its_status():
    begun = time.monotonic()
    script = "((IDENTITYDP_PROCESS == 1)) && exit 7; exec sleep 100"
    status, _, err = run("3", "bash", "-c", script)
    assert status == 7
    assert "process 1 of 3 ended with status 7" in err
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_process_save(number):
    script = "trap 'sleep 0.5; echo saved; exit 143' TERM; echo ready; while :; do sleep 0.1; done"
    process = start("2", "bash", "-c", script)
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert out == "saved\nsaved\n"


def test_jax_joins_the_processes():
    program = """
import os, jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
names = ("IDENTITYDP_COORDINATOR", "IDENTITYDP_PROCESSES", "IDENTITYDP_PROCESS")
address, count, index = (os.environ[name] for name in names)
jax.distributed.initialize(address, int(count), int(index))
from jax.experimental.multihost_utils import process_allgather
total = process_allgather(jax.numpy.float32(jax.process_index())).sum()
os.write(2, b"%.1f " % total)  # whole; gloo writes to the other one, also in the midst of words
"""
    status, _, err = run("2", sys.executable, "-c", program)
    assert status == 0, err
    assert err.split().count("1.0") == 2


@pytest.mark.slow
def test_the_trainer_saves_on_a_signal_and_the_same_command_continues(tmp_path):
    faces = tiny.write_faces(tmp_path / "faces", 21)
    program = ROOT / "tests" / "training" / "run_process.py"
    command = ("2", sys.executable, program, "1", faces, tmp_path / "run", "--quick")
    environment = runs.environment(tmp_path / "compiled")
    process = start(*command, "steps=100000", "checkpoint_every=100000", **environment)
    for line in process.stdout:
        if line.startswith("step 2/"):
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    saved = int(re.search(r"saved step (\d+), the same command continues", err)[1])
    steps = saved + 2
    process = start(*command, f"steps={steps}", **environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert re.findall(r"^step (\d+)/", out, re.MULTILINE) == [str(saved + 1), str(steps)]
