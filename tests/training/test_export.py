import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.models import declared, pretrained
from identitydp_jax.training import export_commands
from identitydp_jax.training import state as states
from identitydp_jax.training.checkpoint import Checkpoints


def _run(workdir, output, *more):
    parser = argparse.ArgumentParser()
    export_commands.add_parser(parser.add_subparsers())
    words = ["export", "--workdir", str(workdir), "--output", str(output), *more]
    args = parser.parse_args(words)
    args.line = "identitydp export the rest"
    return export_commands.run(args)


def _trained(workdir, *overrides):
    """Leave a run of seven steps; returns what draws faces after it."""
    config = tiny.training_config(*overrides)
    state = states.create(config).replace(step=jnp.int32(7))
    # Other values than those of the parameters that are not averaged.
    population = jax.tree.map(lambda x: x + 0.25, state.population)
    average = jax.tree.map(lambda x: x + 0.5, state.average)
    state = state.replace(average=average, population=population)
    with Checkpoints(workdir / "checkpoints", keep=1, config=config) as checkpoints:
        checkpoints.save(7, state, {"next_index": 7})
    return config, state.variables


def test_the_averaged_network_and_its_card_are_written(tmp_path, capsys):
    config, variables = _trained(
        tmp_path / "run", "data=synthetic", "learning_rate=0.125", "loss.landmarks=1"
    )
    file = tmp_path / "out" / "model.safetensors"
    assert _run(tmp_path / "run", file) == 0
    assert capsys.readouterr().out == f"{file}\n"
    model = pretrained.load(file)
    assert model.config == states.network_config(config)
    wanted = {**variables, "declared": declared.load("w600k_mbf")}
    for a, b in zip(jax.tree.leaves(model.variables), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    card = file.with_suffix(".md").read_text()
    for words in (
        "identitydp export the rest", "7 steps of 8 faces", "MobileStyleGAN", "Apache-2.0",
        "`landmarks68`", "MIT",
        "non-commercial research only", "**Measured:** nothing yet", '"learning_rate": 0.125',
    ):  # fmt: skip
        assert words in card
    told = json.loads(card.partition("```json")[2].partition("```")[0])
    assert told["network"] == config.network.to_dict()


def test_own_data_are_named_in_the_card(tmp_path):
    _trained(tmp_path / "run", "data=my faces", "encoder=own.onnx")
    file = tmp_path / "model.safetensors"
    assert _run(tmp_path / "run", file) == 0
    card = file.with_suffix(".md").read_text()
    assert "`my faces`; say here who is on it" in card
    assert "`own.onnx`: licence not known" in card
    assert "declared" not in pretrained.load(file).variables  # no heads fit that encoder
    assert "MobileStyleGAN" not in card and "landmarks68" not in card


def test_the_best_checkpoint_is_written_on_request(tmp_path):
    config = tiny.training_config()
    state = states.create(config)
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=1, config=config) as checkpoints:
        for step, loss in enumerate((3.0, 1.0, 2.0), 1):
            checkpoints.save(step, state.replace(step=jnp.int32(step)), {}, {"loss": loss})
    file = tmp_path / "model.safetensors"
    for more, step in (((), 3), (("--best",), 2)):
        assert _run(tmp_path / "run", file, *more) == 0
        assert f"{step} steps of 8 faces" in file.with_suffix(".md").read_text()


def test_a_run_that_was_never_measured_has_no_best(tmp_path):
    _trained(tmp_path / "run")
    with pytest.raises(UserError, match=r"no checkpoint has been measured .* leave out --best"):
        _run(tmp_path / "run", tmp_path / "model.safetensors", "--best")


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        _run(tmp_path, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_model_does_not_take_the_place_of_its_card(tmp_path):
    _trained(tmp_path / "run")
    with pytest.raises(UserError, match="is the name of the model card"):
        _run(tmp_path / "run", tmp_path / "model.md")
