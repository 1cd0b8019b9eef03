"""Libraries report nothing: a process leaves no trace in a home folder and asks for no host."""

import os
import shutil
import subprocess
import sys

import pytest

# Without a pause, what runs in the background might not have begun.
PROGRAM = """
import time
from identitydp_jax.data.detection import Detector
from onnxruntime.datasets import get_example
Detector(get_example("sigmoid.onnx"))
time.sleep(0.5)
"""
# Where telemetry goes to, and what turns it off on machines of developers.
REMOVED = {
    "CI",
    "ORT_DISABLE_TELEMETRY",
    "ORT_RUNNING_UNIT_TESTS",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
}


def _run(home, *before):
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in REMOVED}
    # As if the user had wanted it: the program decides.
    environment = kept | {"HOME": str(home), "ORT_DISABLE_TELEMETRY": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [*before, sys.executable, "-B", "-c", PROGRAM]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_fresh_home_stays_empty(tmp_path):
    _run(tmp_path / "home")
    assert list((tmp_path / "home").rglob("*")) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_no_socket_is_opened(tmp_path):
    trace = tmp_path / "trace"
    _run(tmp_path / "home", "strace", "-f", "-qq", "-e", "trace=%network", "-o", str(trace))
    assert "AF_INET" not in trace.read_text()
