"""The loop, on the shipped configuration shrunk to a network that compiles in seconds."""

import csv
import errno
import os
import re
import shutil
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax import sharding
from identitydp_jax.checks import UserError
from identitydp_jax.models import face_source
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.models.population import measure
from identitydp_jax.training import loop, step
from identitydp_jax.training import state as states
from identitydp_jax.training.checkpoint import Checkpoints
from identitydp_jax.training.processes import Preempted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_faces(tmp_path_factory.mktemp("faces"), 11)


_stock_lower_step = loop.lower_step
_programs = {}


def _lower_step(config, encode, mesh, encoder_params, *, frozen):
    """Compile every program once for all runs, which differ in how long they are at most."""

    def program():
        key = (str(config.network), config.fsdp, frozen, config.mixture.twin > 0)
        if key not in _programs:
            lowered = _stock_lower_step(config, encode, mesh, encoder_params, frozen=frozen)
            _programs[key] = lowered.compile()
        return _programs[key]

    return types.SimpleNamespace(compile=program)


@pytest.fixture(scope="module", autouse=True)
def _quick_parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "lower_step", _lower_step)
        patch.setattr(loop, "step_flops", lambda *_: 1e9)
        patch.setattr(loop, "load_encoder", lambda _: (tiny.encode, tiny.encoder_params()))
        # The stock one takes long to compile.
        patch.setattr(step, "augment", lambda faces, *, key: to_float(faces))
        patch.setattr(loop, "_STATISTICS_BATCH", 8)
        patch.setattr(loop, "_STATISTICS_BATCHES", 2)
        yield


def _config(folder, *overrides):
    """Six steps, checkpoints after three and six, statistics frozen before the fifth."""
    settings = f"data={folder}", "mixture.twin=0", "freeze_statistics_at=4"
    return tiny.training_config(*settings, *overrides)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run that nothing stops: its folder and last state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(_config(folder), workdir, profile=True)


def _rows(workdir):
    """Metrics by step, without those of the pace."""
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row.pop("images_per_second")) > 0
        assert 0 <= float(row.pop("input_wait")) <= 1
        assert 0 < float(row.pop("mfu")) < 1
    return rows


def _assert_same_state(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


class _Batches:
    """The loop's batches, but `act` is called before the one after `count`."""

    def __init__(self, stock, count, act):
        self._stock, self._count, self._act = stock, count, act
        self.get_state, self.held_out = stock.get_state, stock.held_out
        self.set_state = stock.set_state

    def __iter__(self):
        return self

    def __next__(self):
        if self.get_state()["next_index"] == self._count:
            self._act()
        return next(self._stock)


def _stop_after(monkeypatch, count, act=None):
    """Kill the next run, or do what `act` does, when it asks for the batch after `count`.

    The first goes into the population, two into the statistics before step 5.
    """
    stock = loop.open_stream

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(
        loop,
        "open_stream",
        lambda *args, **how: _Batches(stock(*args, **how), count, act or interrupt),
    )


def test_a_run_leaves_metrics_pictures_and_checkpoints(whole):
    workdir, state = whole
    assert int(state.step) == 6
    assert [row["step"] for row in _rows(workdir)] == ["1", "2", "3", "4", "5", "6"]
    assert [p.name for p in sorted((workdir / "pictures").iterdir())] == [
        "00000003.png", "00000006.png",
    ]  # fmt: skip
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["3", "6"]
    assert list((workdir / "events").iterdir())
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    with (workdir / "held_out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"]
    assert {"loss", "cosine_target_epsilon_100", "cosine_original_random"} <= rows[0].keys()


def test_identities_are_measured_on_the_first_faces_and_training_goes_on_from_there(whole, folder):
    workdir, state = whole
    config = _config(folder)
    stream = loop.open_stream(config, workdir, sharding.make_mesh())
    faces = np.asarray(next(stream))
    expected = measure(tiny.encode(tiny.encoder_params(), identity_crop(to_float(faces))))
    for name in ("mean", "deviation"):
        np.testing.assert_allclose(state.population[name], expected[name], atol=1e-3)
    with Checkpoints(workdir / "checkpoints", keep=2, config=config) as checkpoints:
        saved, seen = checkpoints.restore(states.create(config))
    _assert_same_state(saved.population, state.population)
    assert seen == {"next_index": 1 + 6 + 2}  # population, six steps, statistics


def test_a_killed_run_continues_as_if_nothing_had_happened(whole, folder, tmp_path, monkeypatch):
    config = _config(folder)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _stop_after(patch, 1 + 5 + 2)
        loop.train(config, tmp_path)
    assert [row["step"] for row in _rows(tmp_path)] == ["1", "2", "3", "4", "5"]
    state = loop.train(config, tmp_path)
    assert _rows(tmp_path) == _rows(whole[0])
    _assert_same_state(state, whole[1])
    # A run that has ended does nothing more.
    before = (tmp_path / "metrics.csv").read_bytes()
    _assert_same_state(loop.train(config, tmp_path), state)
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_a_run_asked_to_stop_saves_and_continues_as_if_nothing_had_happened(
    whole, folder, tmp_path, monkeypatch
):
    config = _config(folder)
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(Preempted, match="saved step 5"):
        _stop_after(patch, 1 + 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        loop.train(config, tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    assert (tmp_path / "checkpoints" / "5").is_dir()
    state = loop.train(config, tmp_path)
    assert _rows(tmp_path) == _rows(whole[0])
    _assert_same_state(state, whole[1])


@pytest.mark.slow
def test_a_run_continues_with_its_state_split_over_the_devices(
    whole, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharding, "_SMALL_LEAF", 64)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _stop_after(patch, 1 + 4)
        loop.train(_config(folder), tmp_path)
    state = loop.train(_config(folder, "fsdp=true"), tmp_path)
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    for a, b in zip(_rows(tmp_path), _rows(whole[0]), strict=True):
        assert float(a["total"]) == pytest.approx(float(b["total"]), rel=1e-3)


def test_one_line_tells_how_it_goes(whole, folder, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    loop.train(_config(folder, "steps=8", "log_every=2"), workdir)
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"step 8/8  loss \d+\.\d{3}  \d+\.\d images/s  MFU \d+\.\d %  input wait \d+\.\d %  "
        r"ETA 0:00:00",
        line,
    )


def test_a_full_disk_is_named(whole, folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    monkeypatch.setattr(loop.Recorder, "scalars", full)
    with pytest.raises(UserError, match=r"run: cannot be written \(No space left on device\)"):
        loop.train(_config(folder, "steps=8"), workdir)


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
    with Checkpoints(workdir / "checkpoints", keep=2, config=config) as checkpoints:
        state, _ = checkpoints.restore(states.create(config))
    _assert_same_state(state, whole[1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))


def test_a_run_of_other_networks_is_refused(whole, folder):
    config = _config(folder, "network.width=0.0625")
    with pytest.raises(UserError, match=r"a run with network.width=0.03125, not 0.0625") as caught:
        loop.train(config, whole[0])
    assert "\n" not in str(caught.value)


def test_a_batch_must_split_over_the_devices(folder, tmp_path):
    config = _config(folder, "batch_size=12")
    with pytest.raises(UserError, match="batch_size is 12: make it a multiple of 8"):
        loop.train(config, tmp_path)


def test_photos_have_no_twins(folder, tmp_path):
    with pytest.raises(UserError, match=r"mixture\.twin is 0\.5, .* set mixture\.twin=0") as caught:
        loop.train(_config(folder, "mixture.twin=0.5"), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_on_twins_learns_from_them(tmp_path, monkeypatch):
    def face(params, *, key, resolution):
        return jax.random.bits(key, (resolution, resolution, 3), np.uint8)

    def twins(params, *, key, resolution):
        own = face(params, key=key, resolution=resolution)
        return jnp.concatenate([own, own[::-1]], axis=1)

    monkeypatch.setattr(face_source, "load", lambda: {"nothing": np.zeros(1, np.float32)})
    monkeypatch.setattr(face_source, "twins", twins)
    config = tiny.training_config("data=synthetic", "pool=16", "steps=3", "freeze_statistics_at=2")
    state = loop.train(config, tmp_path)
    assert int(state.step) == 3 and np.abs(state.population["mean"]).max() > 0
    assert any(abs(float(row["cosine_twin"])) > 0 for row in _rows(tmp_path))


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "holds no image"), ("none", "not a folder")):
        config = _config(tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: {message}"):
            loop.train(config, tmp_path / "run")


def test_a_file_that_is_no_image_is_named(tmp_path):
    folder = tiny.write_faces(tmp_path / "faces", 12)
    for path in folder.iterdir():
        path.write_text("no image")
    config = _config(folder)
    with pytest.raises(UserError, match=r"\d.png: cannot be read as an image"):
        loop.train(config, tmp_path / "run")


def test_a_workdir_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    config = _config(folder)
    # Not even an administrator may make files in /proc.
    for workdir in (tmp_path / "file", tmp_path / "file" / "run", "/proc"):
        with pytest.raises(
            UserError, match=r"cannot be written .*give another --workdir"
        ) as caught:
            loop.train(config, workdir)
        assert str(workdir) in str(caught.value)


def test_values_are_checked_before_anything_is_made(folder, tmp_path):
    with pytest.raises(UserError, match=r"loss\.kind"):
        loop.train(_config(folder, "loss.kind=none"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
