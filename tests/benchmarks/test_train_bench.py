"""Steps are timed as the loop runs them, with and without their input."""

import itertools
import json
import time

import jax
import jax.numpy as jnp
import pytest
import tiny

from identitydp_jax import cli, sharding
from identitydp_jax.benchmarks import timing, train
from identitydp_jax.checks import UserError


def sleeping(seconds, seen=None):
    """A step that takes so long."""

    def step(state, encoder_params, faces, key):
        time.sleep(seconds)
        if seen is not None:
            seen.append((state, faces, key))
        return state + 1, {"total": jnp.zeros(())}

    return step


def test_every_step_goes_on_from_the_last_with_a_key_of_its_own():
    seen = []
    batches = itertools.count(100)
    args, seconds, _ = train._run(sleeping(0.02, seen), (0, {}, 7, jax.random.key(0)), batches, 3)
    assert args[0] == 5 and args[1:3] == ({}, 7)
    assert [state for state, _, _ in seen] == [0, 1, 2, 3, 4]
    assert [faces for _, faces, _ in seen] == [100, 101, 102, 103, 104]
    assert len({tuple(jax.random.key_data(key).tolist()) for _, _, key in seen}) == 5
    assert len(seconds) == 3 and min(seconds) > 0.01


def stream(seconds):
    while True:
        time.sleep(seconds)
        yield jnp.zeros(())


def found_input(monkeypatch, opened, *overrides):
    monkeypatch.setattr(train, "open_stream", opened)
    monkeypatch.setattr(train, "_READ_AHEAD", 1)
    monkeypatch.setattr(train, "_TAKEN", 4)
    config = tiny.training_config("data=somewhere", "mixture.twin=0", *overrides)
    args = (0, {}, 7, jax.random.key(0))
    return train._input(config, None, sleeping(0.02), args, [0.02, 0.01, 9.0])


def test_waiting_for_the_input_is_told(monkeypatch):
    args, facts = found_input(monkeypatch, lambda *_: stream(0.06))
    assert 40 < facts["images/s of the input alone"] <= 8 / 0.06
    assert 50 < facts["% of the time lost to the input"] <= 100
    assert args[0] == 5


def test_an_input_that_is_there_is_not_waited_for(monkeypatch):
    _, facts = found_input(monkeypatch, lambda *_: stream(0))
    assert facts["% of the time lost to the input"] < 10


def test_faces_made_between_the_steps_take_their_time(monkeypatch):
    overrides = "data=synthetic", "refresh=8", "pool=8"
    _, facts = found_input(monkeypatch, lambda *_: stream(0.06), *overrides)
    assert 70 < facts["% of the time lost to the input"] < 95


def test_data_that_cannot_be_had_are_not_measured(monkeypatch):
    def missing(*_):
        raise UserError("somewhere: no such folder")

    args, facts = found_input(monkeypatch, missing)
    assert args[0] == 0
    assert facts["images/s of the input alone"] is None
    assert facts["% of the time lost to the input"] == "not measured: somewhere: no such folder"


@pytest.mark.parametrize(
    ("batch", "refresh", "pool", "cycle"),
    [(8, 0, 8, 1), (8, 1, 8, 8), (8, 3, 8, 3), (8, 20, 24, 1)],
)
def test_few_faces_are_generated_and_whole_rounds_timed(batch, refresh, pool, cycle):
    config = tiny.training_config(
        "data=synthetic", f"batch_size={batch}", f"refresh={refresh}", "held_out=9"
    )
    few, found = train._little_data(config)
    assert (few.pool, few.held_out, found) == (pool, 0, cycle)
    assert config.held_out == 9


def test_speed_is_that_of_the_median_step(monkeypatch):
    monkeypatch.setattr(train, "utilization", lambda flops, seconds, dtype: flops / seconds)
    facts = train._speed(tiny.training_config(), [0.5, 4.0, 0.25], 16e9)
    assert facts["images/s"] == 16 and facts["GFLOP/s over all devices"] == 32
    assert facts["GFLOP per image"] == 2 and facts["MFU, %"] == 100 * 32e9
    assert facts["milliseconds of the slowest step"] == 4000


@pytest.mark.parametrize(("twin", "wide"), [(0.5, 128), (0.0, 64)])
def test_the_step_is_given_pictures_of_its_shape(twin, wide):
    config = tiny.training_config(f"mixture.twin={twin}")
    _, _, pictures, _ = train._arguments(config, sharding.make_mesh(), {"kernel": jnp.zeros(2)})
    assert pictures.shape == (8, 64, wide, 3) and pictures.dtype == jnp.uint8
    assert len(jnp.unique(pictures)) == 256


@pytest.mark.slow
def test_the_command_reports_a_real_step(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(timing, "_SECONDS", 0.1)
    monkeypatch.setattr(train, "load_encoder", lambda _: (tiny.encode, tiny.encoder_params()))
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
    monkeypatch.setattr(
        "identitydp_jax.benchmarks.commands.read_config",
        lambda path, overrides: tiny.training_config(*overrides),
    )
    faces = tiny.write_faces(tmp_path / "faces", 12)
    settings = f"data={faces}", "mixture.twin=0", "augmentation=False"
    options = [*(word for setting in settings for word in ("--set", setting)), "--steps", "2"]
    with jax.numpy_dtype_promotion("standard"), jax.debug_key_reuse(False):
        status = cli.main(["bench", "train", "--config", "x", "--output", str(tmp_path), *options])
    assert status == 0
    shown, kept = capsys.readouterr().out, json.loads((tmp_path / "train.json").read_text())
    assert "| MFU, % |" in shown and "| gradient of the discriminator |" in shown
    facts = kept["facts"]
    assert facts["devices"] == "8 x cpu" and facts["steps timed"] == 2
    assert 0 < facts["MFU, %"] < 110 and facts["images/s of the input alone"] > 0
    *parts, whole, _ = kept["rows"]
    assert sum(row["GFLOP"] for row in parts) == pytest.approx(whole["GFLOP"])
    assert whole["GFLOP"] == pytest.approx(8 * facts["GFLOP per image"])
