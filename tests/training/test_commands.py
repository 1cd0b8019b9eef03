import argparse

import jax
import pytest
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.models import pretrained
from identitydp_jax.training import commands, loop
from identitydp_jax.training import state as states


@pytest.fixture
def trained(monkeypatch):
    """Let `train` return a fresh tiny state at once; the list holds what it was called with."""
    calls = []

    def train(config, workdir):
        calls.append((config, workdir))
        return states.create(config)

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(commands, "read_config", lambda _, names: tiny.training_config(*names))
    return calls


def _run(*words):
    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers())
    return commands.run(parser.parse_args(["train", *map(str, words)]))


def test_train_with_overrides_and_export(trained, tmp_path):
    file = tmp_path / "model.safetensors"
    words = ("--config", "x.py", "--workdir", tmp_path, "--set", "steps=9", "--set", "seed=3")
    assert _run(*words, "--export", file) == 0
    (config, workdir), = trained
    assert (config.steps, config.seed, workdir) == (9, 3, str(tmp_path))
    model = pretrained.load(file)
    assert model.config == states.network_config(config)
    assert model.encoder == config.encoder
    expected = states.create(config).average
    assert jax.tree.map(lambda x: x.shape, model.variables) == jax.tree.map(
        lambda x: x.shape, expected
    )


def test_without_export_nothing_is_written(trained, tmp_path):
    assert _run("--config", "x.py", "--workdir", tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_config_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.py: no such configuration"):
        _run("--config", tmp_path / "none.py", "--workdir", tmp_path)


def test_config_and_workdir_are_required(capsys):
    for words in (("--config", "x.py"), ("--workdir", "y")):
        with pytest.raises(SystemExit) as caught:
            _run(*words)
        assert caught.value.code == 2


