import argparse
import sys

import jax
import pytest
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.models import declared, pretrained
from identitydp_jax.training import coarse, commands, processes
from identitydp_jax.training import state as states


@pytest.fixture(autouse=True)
def _stock_hook(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


@pytest.fixture
def trained(monkeypatch):
    """Let `train` return a fresh tiny state at once; the list holds what it was called with."""
    calls = []

    def train(config, workdir, *, profile, start_from):
        calls.append((config, workdir, profile))
        return states.create(config)

    monkeypatch.setattr(coarse, "train_in_stages", train)
    monkeypatch.setattr(commands, "read_config", lambda _, names: tiny.training_config(*names))
    return calls


def _run(*words):
    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers())
    args = parser.parse_args(["train", *map(str, words)])
    args.line = "identitydp train the rest"
    return commands.run(args)


def test_train_with_overrides_and_export(trained, tmp_path):
    file = tmp_path / "model.safetensors"
    words = ("--config", "x.py", "--workdir", tmp_path, "--set", "steps=9", "--set", "seed=3")
    assert _run(*words, "--export", file) == 0
    ((config, workdir, profile),) = trained
    assert (config.steps, config.seed, workdir, profile) == (9, 3, str(tmp_path), False)
    model = pretrained.load(file)
    assert model.config == states.network_config(config)
    assert model.encoder == config.encoder
    assert "identitydp train the rest" in (tmp_path / "model.md").read_text()
    expected = {**states.create(config).variables, "declared": declared.load(config.encoder)}
    assert jax.tree.map(lambda x: x.shape, model.variables) == jax.tree.map(
        lambda x: x.shape, expected
    )


def test_without_export_nothing_is_written(trained, tmp_path):
    assert _run("--config", "x.py", "--workdir", tmp_path, "--profile") == 0
    assert list(tmp_path.iterdir()) == []
    assert trained[0][-1] is True


def test_a_run_that_is_asked_to_stop_has_its_own_status(monkeypatch, tmp_path, capsys):
    def train(*_, **__):
        raise processes.Preempted("asked to stop: saved step 5")

    monkeypatch.setattr(coarse, "train_in_stages", train)
    monkeypatch.setattr(commands, "read_config", lambda *_: tiny.training_config())
    file = tmp_path / "model.safetensors"
    words = ("--config", "x.py", "--workdir", tmp_path, "--export", file)
    assert _run(*words) == 143
    assert capsys.readouterr().err == "identitydp: asked to stop: saved step 5\n"
    assert not file.exists()


def test_a_wrong_config_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.py: no such configuration"):
        _run("--config", tmp_path / "none.py", "--workdir", tmp_path)


def test_config_and_workdir_are_required(capsys):
    for words in (("--config", "x.py"), ("--workdir", "y")):
        with pytest.raises(SystemExit) as caught:
            _run(*words)
        assert caught.value.code == 2
