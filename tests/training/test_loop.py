"""The loop, on the shipped configuration shrunk to a network that compiles in seconds."""

import csv
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.training import loop
from identitydp_jax.training import state as states
from identitydp_jax.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_faces(tmp_path_factory.mktemp("faces"), 11)


@pytest.fixture(scope="module", autouse=True)
def _quick_parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "load_encoder", lambda _: (tiny.encode, tiny.encoder_params()))
        patch.setattr(loop, "_STATISTICS_BATCH", 8)
        patch.setattr(loop, "_STATISTICS_BATCHES", 2)
        yield


def _config(folder, *overrides):
    """Six steps, checkpoints after three and six, statistics frozen before the fifth."""
    return tiny.training_config(f"data={folder}", "freeze_statistics_at=4", *overrides)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run that nothing stops: its folder and last state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(_config(folder), workdir)


def _rows(workdir):
    """Metrics by step, without the one that is a time."""
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row.pop("images_per_second")) > 0
    return rows


def _assert_same_state(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def _stop_after(monkeypatch, steps, stopped_by=KeyboardInterrupt):
    """Kill the next run when it asks for the batch after `steps`."""
    stock = loop.training_batches

    def batches(*args, start, **settings):
        for i, batch in enumerate(stock(*args, start=start, **settings), start):
            if i == steps:
                raise stopped_by
            yield batch

    monkeypatch.setattr(loop, "training_batches", batches)


def test_a_run_leaves_metrics_pictures_and_checkpoints(whole):
    workdir, state = whole
    assert int(state.step) == 6
    assert [row["step"] for row in _rows(workdir)] == ["1", "2", "3", "4", "5", "6"]
    assert [p.name for p in sorted((workdir / "pictures").iterdir())] == [
        "00000003.png", "00000006.png",
    ]  # fmt: skip
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["3", "6"]
    assert list((workdir / "events").iterdir())


def test_a_killed_run_continues_as_if_nothing_had_happened(whole, folder, tmp_path, monkeypatch):
    config = _config(folder)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _stop_after(patch, 5)
        loop.train(config, tmp_path)
    assert [row["step"] for row in _rows(tmp_path)] == ["1", "2", "3", "4", "5"]
    state = loop.train(config, tmp_path)
    assert _rows(tmp_path) == _rows(whole[0])
    _assert_same_state(state, whole[1])
    # A run that has ended does nothing more.
    before = (tmp_path / "metrics.csv").read_bytes()
    _assert_same_state(loop.train(config, tmp_path), state)
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_statistics_are_frozen_from_the_step_on_that_says_so(whole):
    state = whole[1]
    averaged, last = map(jax.tree.leaves, (state.average["batch_stats"], state.batch_stats))
    for a, b in zip(averaged, last, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # Running means of four steps would have moved by 8 % of the way from 1.
    variance = state.batch_stats["encoder"]["down0_norm"]["norm"]["var"]
    assert np.all(np.abs(variance - 1) > 0.2)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(
    whole, folder, tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    broken = {"kernel": jnp.full_like(tiny.encoder_params()["kernel"], jnp.nan)}
    monkeypatch.setattr(loop, "load_encoder", lambda _: (tiny.encode, broken))
    config = _config(folder, "steps=50", "log_every=100", "checkpoint_every=2")
    with pytest.raises(UserError, match="is nan at step 8: stopped; the last checkpoint") as caught:
        loop.train(config, workdir)
    assert "\n" not in str(caught.value)
    parts = {"network": dict(config.network), "discriminator": dict(config.discriminator)}
    with Checkpoints(workdir / "checkpoints", keep=2, network=parts) as checkpoints:
        state = checkpoints.restore(states.create(config))
    _assert_same_state(state, whole[1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))


def test_a_run_of_other_networks_is_refused(whole, folder):
    config = tiny.training_config(f"data={folder}", "network.width=0.0625")
    with pytest.raises(UserError, match="holds a run of other networks") as caught:
        loop.train(config, whole[0])
    assert "\n" not in str(caught.value)


def test_a_batch_must_split_over_the_devices(folder, tmp_path):
    config = tiny.training_config(f"data={folder}", "batch_size=12")
    with pytest.raises(UserError, match="batch_size is 12: make it a multiple of the 8 devices"):
        loop.train(config, tmp_path)


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "holds no image"), ("none", "not a folder")):
        config = tiny.training_config(f"data={tmp_path / name}")
        with pytest.raises(UserError, match=f"{name}: {message}"):
            loop.train(config, tmp_path / "run")


def test_a_file_that_is_no_image_is_named(tmp_path):
    folder = tiny.write_faces(tmp_path / "faces", 2)
    (folder / "000.png").write_text("no image")
    (folder / "001.png").write_text("no image")
    config = tiny.training_config(f"data={folder}")
    with pytest.raises(UserError, match=r"00[01].png: cannot be read as an image"):
        loop.train(config, tmp_path / "run")


def test_a_workdir_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    config = tiny.training_config(f"data={folder}")
    # Not even an administrator may make files in /proc.
    for workdir in (tmp_path / "file", tmp_path / "file" / "run", "/proc"):
        with pytest.raises(
            UserError, match=r"cannot be written .*give another --workdir"
        ) as caught:
            loop.train(config, workdir)
        assert str(workdir) in str(caught.value)


def test_values_are_checked_before_anything_is_made(folder, tmp_path):
    with pytest.raises(UserError, match=r"loss\.kind"):
        loop.train(tiny.training_config(f"data={folder}", "loss.kind=none"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_synthetic_faces_are_written_into_the_workdir_first(tmp_path, monkeypatch):
    def write_folder(directory, *, count, resolution, seed, image_format):
        assert (count, resolution, seed, image_format) == (5, 64, 0, "png")
        tiny.write_faces(directory, count)

    monkeypatch.setattr(loop, "write_folder", write_folder)
    _stop_after(monkeypatch, 0)
    config = tiny.training_config("data=synthetic", "synthetic_faces=5")
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path)
    assert len(list((tmp_path / "faces").glob("*.png"))) == 5
