"""`launch/slurm.sbatch` on a real Slurm cluster of one node, two tasks."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
import runs
import tiny

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 600  # seconds
STEPS = 16

pytestmark = pytest.mark.slurm


def until(found):
    """Return what `found()` finds, once it finds something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.5)
    raise AssertionError("waited in vain")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Run a cluster; returns the environment in which Slurm's commands find it."""
    missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        pytest.skip("needs root and Debian's slurmctld, slurmd, slurm-client and munge")
    folder = tmp_path_factory.mktemp("cluster")
    with (folder / "output").open("w") as output:
        script = ROOT / "tests" / "launch" / "slurm_cluster.sh"
        process = subprocess.Popen([script, folder], stdout=output, stderr=output)
    try:
        until((folder / "ready").exists)
        yield runs.environment(
            folder / "compiled",
            SLURM_CONF=str(folder / "slurm.conf"),
            XLA_FLAGS="",  # one device for each task
            JAX_DISABLE_MOST_OPTIMIZATIONS="1",
        )
    finally:
        process.terminate()
        process.wait(60)


class Job:
    """A job of two tasks."""

    def __init__(self, cluster, folder, *words):
        self.cluster, self.folder = cluster, folder
        said = self.slurm("sbatch", "--ntasks=2", ROOT / "launch" / "slurm.sbatch", *words)
        self.number = said.split()[-1]

    def slurm(self, *command):
        done = subprocess.run(
            list(map(str, command)), cwd=self.folder, env=self.cluster, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def states(self):
        """Return the job's properties, such as JobState and Restarts."""
        said = self.slurm("scontrol", "show", "job", self.number)
        return dict(pair.split("=", 1) for pair in said.split() if "=" in pair)

    def state(self):
        return self.states()["JobState"]

    def has_ended(self):
        return self.state() not in ("PENDING", "RUNNING", "COMPLETING")

    def log(self):
        path = self.folder / f"identitydp-{self.number}.log"
        return path.read_text() if path.exists() else ""


def train(cluster, folder, workdir):
    """Start the program, on a small configuration and with the real encoder."""
    config = ROOT / "configs" / "smoke_cpu.py"
    settings = (
        f"data={folder / 'faces'}", "mixture.twin=0", "held_out=3", f"steps={STEPS}",
        "freeze_statistics_at=5", "log_every=1", "checkpoint_every=1000", "network.width=0.03125",
    )  # fmt: skip
    words = ("--config", config, "--workdir", workdir)
    words += tuple(word for setting in settings for word in ("--set", setting))
    return Job(cluster, folder, sys.executable, "-m", "identitydp_jax.cli", "train", *words)


@pytest.fixture(scope="module")
def trained(cluster, tmp_path_factory):
    """A run that nothing stops: its folder and its job."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.write_faces(folder / "faces", 21)
    job = train(cluster, folder, folder / "run")
    until(job.has_ended)
    return folder, job


@pytest.mark.network
def test_two_tasks_train_as_one_run(trained):
    folder, job = trained
    print(job.log())
    assert job.state() == "COMPLETED", job.log()
    # One of them writes.
    lines = [line for line in job.log().splitlines() if line.startswith("step")]
    assert [line.split("/")[0] for line in lines] == [f"step {i + 1}" for i in range(STEPS)]
    (saved,) = (folder / "run" / "checkpoints").iterdir()
    assert saved.name == str(STEPS)


@pytest.mark.network
def test_a_preempted_job_saves_goes_on_and_ends_as_if_nothing_had_been(cluster, trained):
    folder, _ = trained
    job = train(cluster, folder, folder / "preempted")
    until(lambda: "step 2/" in job.log())
    job.slurm("scancel", "--signal=TERM", job.number)
    until(lambda: job.state() == "PENDING")
    assert job.states()["Restarts"] == "1"
    saved = int(re.search(r"saved step (\d+), the same command continues", job.log())[1])
    assert 2 <= saved < STEPS
    assert [path.name for path in (folder / "preempted" / "checkpoints").iterdir()] == [str(saved)]
    # Slurm lets a job that is queued again wait for two minutes.
    job.slurm("scontrol", "update", f"JobId={job.number}", "StartTime=now")
    until(job.has_ended)
    print(job.log())
    assert job.state() == "COMPLETED", job.log()
    assert len(re.findall(rf"^step {saved + 1}/", job.log(), re.MULTILINE)) == 1
    runs.assert_same(folder / "preempted", folder / "run")


def test_a_job_that_fails_is_not_queued_again(cluster, tmp_path):
    job = Job(cluster, tmp_path, "bash", "-c", "exit $((SLURM_PROCID == 1 ? 5 : 0))")
    until(job.has_ended)
    assert job.state() == "FAILED"
    assert job.states()["ExitCode"] == "5:0"
    assert job.states()["Restarts"] == "0"
