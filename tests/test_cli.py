import os
import subprocess
import sys
import types

import pytest

import identitydp_jax
from identitydp_jax import cli
from identitydp_jax.checks import UserError


@pytest.fixture
def command(monkeypatch):
    """A subcommand `play` whose `run` a test sets."""
    module = types.SimpleNamespace(add_parser=lambda subparsers: subparsers.add_parser("play"))
    monkeypatch.setattr(cli, "_COMMANDS", {"play": "play"})
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
    return module


def test_the_status_of_a_command_is_that_of_the_program(command):
    command.run = lambda args: 3
    assert cli.main(["play"]) == 3


def test_user_errors_are_one_line(command, capsys):
    def fail(args):
        raise UserError("photo.jpg: too small: give a larger one")

    command.run = fail
    assert cli.main(["play"]) == 2
    assert capsys.readouterr().err == "identitydp: error: photo.jpg: too small: give a larger one\n"


def test_names_cannot_write_on_the_screen(command, capsys):
    def fail(args):
        raise UserError("\x1b[2Ja\nb\u202egpj.é\udcff.jpg: no such file")

    command.run = fail
    assert cli.main(["play"]) == 2
    line = "identitydp: error: \\x1b[2Ja\\nb\\u202egpj.é\\udcff.jpg: no such file\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "arguments",
    [
        ["anonymize", "in", "-o", ""],
        ["anonymize", "", "-o", "out"],
        ["anonymize", "in", "-o", "out", "--key-file", ""],
        ["anonymize", "in", "-o", "out", "--ledger", ""],
        ["anonymize", "in", "-o", "out", "--model", ""],
        ["keys", "new", ""],
        ["demo", "--output", ""],
        ["evaluate", "lfw", "--data", "", "--output", "x"],
    ],
)
def test_an_empty_text_is_no_name(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
    assert cli.main(arguments) == 2
    assert " is empty: give a name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_devices_that_are_not_there_are_one_line():
    code = (
        "import sys; from identitydp_jax import cli\n"
        "import types, jax\n"
        "module = types.SimpleNamespace(add_parser=lambda s: s.add_parser('play'),"
        " run=lambda args: jax.devices())\n"
        "cli._COMMANDS = {'play': 'play'}; cli.importlib.import_module = lambda name: module\n"
        "sys.exit(cli.main(['play']))"
    )
    environment = os.environ | {"JAX_PLATFORMS": "nonsense", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "identitydp: error: JAX_PLATFORMS=nonsense: there "
    )
    assert "Traceback" not in done.stderr


def test_links_that_lead_in_a_circle_are_one_line(command, tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    command.run = lambda args: len((tmp_path / "loop").resolve().parts) and 2
    assert cli.main(["play"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "identitydp_jax", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"identitydp {identitydp_jax.__version__}\n"


def test_interrupting_is_no_traceback(command, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    command.run = interrupt
    assert cli.main(["play"]) == 130
    assert capsys.readouterr().err == "identitydp: interrupted\n"


def test_errors_of_the_program_are_not_hidden(command):
    def fail(args):
        raise RuntimeError("a bug")

    command.run = fail
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["play"])


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["--nothing"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2 and "usage: identitydp" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"identitydp {identitydp_jax.__version__}\n"


def test_help_is_quick_because_it_imports_nothing_slow():
    program = (
        "import sys\n"
        "from identitydp_jax import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'jax', 'flax', 'cv2', 'PIL', 'numpy', 'onnxruntime', 'orbax', 'tqdm'}\n"
        "sys.exit(', '.join(slow & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in cli._COMMANDS:
        assert name in done.stdout
