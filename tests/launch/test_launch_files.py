"""The launch files pass the linters of their languages and agree with themselves."""

import math
import os
import pathlib
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = [
    *LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch", *(ROOT / "tests" / "launch").glob("*.sh"),
]  # fmt: skip


def lint(tool, *arguments):
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which(tool, path=path)
    assert found, f"{tool} is not installed, see the extra `test`"
    done = subprocess.run([found, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts(script):
    lint("shellcheck", script)
    assert os.access(script, os.X_OK) or script.suffix == ".sbatch"


def test_dockerfile():
    lint("hadolint", LAUNCH / "Dockerfile")


def test_yaml():
    rules = "{extends: default, rules: {line-length: {max: 100}, document-start: disable}}"
    lint("yamllint", "--strict", "--config-data", rules, LAUNCH / "gke_jobset.yaml")


@pytest.fixture(params=["tpu", "gpu"])
def jobset(request):
    sets = {
        found["metadata"]["labels"]["accelerator"]: found
        for found in yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text())
    }
    return sets[request.param]


def hosts(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return replicated, job, container


def test_jobs_fit_the_schema_of_kubernetes(jobset):
    replicated, _, _ = hosts(jobset)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {}, **replicated["template"]}
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def test_preemption_restarts_without_end(jobset):
    _, job, _ = hosts(jobset)
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job["podFailurePolicy"]["rules"][-1]["onExitCodes"]["values"] == [143]
    assert job["backoffLimit"] == 0


def test_every_host_is_counted(jobset):
    replicated, job, container = hosts(jobset)
    assert job["completions"] == job["parallelism"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    if jobset["metadata"]["labels"]["accelerator"] == "tpu":
        topology = job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
        chips = math.prod(map(int, topology.split("x")))
        assert chips == job["completions"] * container["resources"]["limits"]["google.com/tpu"]
        assert environment == {"IDENTITYDP_DISTRIBUTED": "1"}
    else:
        name = jobset["metadata"]["name"]
        address, _, port = environment["IDENTITYDP_COORDINATOR"].partition(":")
        assert address == f"{name}-{replicated['name']}-0-0.{name}" and port.isdigit()
        assert int(environment["IDENTITYDP_PROCESSES"]) == job["completions"]
        assert "IDENTITYDP_PROCESS" in environment


def test_tpu_hosts_run_the_command_as_given(tmp_path):
    log = tmp_path / "log"
    for name, script in {
        "gcloud": f'printf "%s\\n" "$@" >{log}; last=${{@: -1}}; bash -c "${{last#--command=}}"',
        "sudo": 'printf "%s\\n" "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [LAUNCH / "tpu_vm.sh", "slice", "zone", "image", "identitydp", "--set", "a b=$c"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    called = log.read_text().splitlines()
    assert called[:5] == ["compute", "tpus", "tpu-vm", "ssh", "slice"]
    assert {"--zone=zone", "--worker=all"} <= set(called)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["docker", "run"]
    assert lines[-4:] == ["image", "identitydp", "--set", "a b=$c"]
    assert "--env=IDENTITYDP_DISTRIBUTED=1" in lines


def test_tpu_script_says_what_it_needs():
    done = subprocess.run([LAUNCH / "tpu_vm.sh", "slice"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")
