"""Styles first: regression on the styles that generated faces were drawn from."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tiny
from jax.sharding import AxisType

from identitydp_jax import sharding
from identitydp_jax.models import cut_source
from identitydp_jax.models.pixels import to_float, to_uint8
from identitydp_jax.training import coarse, styles
from identitydp_jax.training import state as states
from identitydp_jax.training.synthetic_source import write_folder

COUNT = 12


def _config(*overrides):
    few = ("network.coarse=64", "pool=9", "held_out=3", "styles_steps=12", "checkpoint_every=6")
    return tiny.training_config(*few, *overrides, name="prior128")


@pytest.fixture(scope="module", autouse=True)
def source():
    one = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.devices()[:1])
    with tiny.small_source() as params, pytest.MonkeyPatch.context() as patch:
        # What compiles long, and what eight devices would all compute.
        patch.setattr(styles, "recolour", lambda faces, *, key: to_float(faces))
        patch.setattr(styles, "_PAIRS", 8)
        patch.setattr(sharding, "make_mesh", lambda: one)
        yield params


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    """Generated faces and their twins, as a run makes them."""
    path, config = tmp_path_factory.mktemp("styles") / "faces", _config()
    write_folder(
        path, count=COUNT, resolution=64, seed=config.seed, image_format="png", twins=True, cut=True
    )
    return path


def _train(config, workdir, folder):
    return styles.train_styles(
        config, workdir, folder, encode=tiny.encode, encoder_params=tiny.encoder_params()
    )


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return _train(_config(), workdir, folder), workdir


def test_pairs_are_the_pictures_and_the_styles_that_drew_them(source, folder):
    pictures, codes = styles.read_pairs(_config(), folder)
    assert pictures.shape == (9, 64, 128, 3) and pictures.dtype == np.uint8
    assert codes.shape == (9, 2, 5, 512)
    net, kept = cut_source.CutSource(64), cut_source.pretrained(source, 64)
    drawn = jax.jit(lambda x: to_uint8(jnp.clip(net.apply({"params": kept}, x), -1, 1)))
    for row in (0, 8):
        face, twin = np.asarray(drawn(codes[row])).astype(int)
        for found, expected in ((pictures[row, :, :64], face), (pictures[row, :, 64:], twin)):
            assert np.abs(found.astype(int) - expected).max() <= 1
        assert (face != twin).any()


def test_the_ridge_reads_the_identity_as_far_as_it_is_linear(folder):
    config = _config()
    state = states.create(config)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(900, 2, 512)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    generator = state.params["generator"]
    mean, deviation = (np.asarray(generator[f"style_{x}"]) for x in ("mean", "deviation"))
    linear = 30 * rng.normal(size=(512, 512)) / 512**0.5
    codes = np.zeros((900, 2, 5, 512), np.float32)
    codes[:, :, 2] = mean + deviation * (embeddings @ linear + 0.7)
    state = styles._with_ridge(state, embeddings, codes)
    fitted = state.params["generator"]["styles"]["identity"]
    found = styles.IdentityStyle().apply({"params": fitted}, embeddings[:, 0])
    wanted = (codes[:, 0, 2] - mean) / deviation
    unexplained = ((found - wanted) ** 2).mean() / wanted.var()
    assert unexplained < 0.3  # a ridge shrinks


def test_the_stage_lowers_its_loss(whole):
    state, workdir = whole
    assert int(state.step) == 12
    total = np.array(runs.totals(workdir))
    assert len(total) == 12 and np.isfinite(total).all()
    assert total[-3:].mean() < 0.9 * total[:3].mean()
    before = states.create(_config()).params["generator"]
    for name in ("stem", "conv_0_a", "tail64", "style_mean"):
        jax.tree.map(np.testing.assert_array_equal, state.params["generator"][name], before[name])
    # The way down alone leads to the styles.
    moved = _moved(state.params["encoder"], states.create(_config()).params["encoder"])
    assert {name for name, x in moved.items() if x} == {name for name in moved if "down" in name}


def _moved(encoder, before):
    """Return for every layer with a kernel whether it was trained."""
    return {
        name: bool((np.asarray(layer["kernel"]) != np.asarray(before[name]["kernel"])).any())
        for name, layer in encoder.items()
        if "kernel" in layer
    }


def test_the_same_call_continues_a_stopped_stage(whole, folder, tmp_path, monkeypatch):
    state, workdir = whole
    stock = styles.Recorder.scalars

    def stops(self, name, step, values):
        if step == 8:
            raise InterruptedError
        stock(self, name, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(styles.Recorder, "scalars", stops)
        with pytest.raises(InterruptedError):
            _train(_config(), tmp_path, folder)
    continued = _train(_config(), tmp_path, folder)
    assert int(continued.step) == 12
    jax.tree.map(np.testing.assert_array_equal, continued.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, continued.average, state.average)
    assert runs.table(tmp_path) == runs.table(workdir)


def test_a_finished_stage_is_not_run_again(whole, monkeypatch):
    state, workdir = whole
    monkeypatch.setattr(styles, "read_pairs", None)
    again = _train(_config(), workdir, "no such folder")
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)


def test_stages_follow_each_other_and_their_files_are_used_again(tmp_path, monkeypatch):
    calls = []

    def train_styles(config, workdir, faces, *, encode, encoder_params):
        calls.append(("styles", config.network.finer, workdir, faces))
        return states.create(config)

    def train(config, workdir, *, profile=False, faces=None, start_from=None):
        finer = config.network.get("finer", True)
        calls.append(("coarse" if faces else "whole", finer, workdir, start_from))
        return states.create(config, start_from=start_from)

    monkeypatch.setattr(coarse, "train_styles", train_styles)
    monkeypatch.setattr(coarse, "train", train)
    monkeypatch.setattr(coarse, "open_stream", lambda config, workdir, mesh: None)
    monkeypatch.setattr(coarse, "load_encoder", lambda name: (tiny.encode, tiny.encoder_params()))
    config = _config("network.resolution=128", "coarse_steps=2")
    coarse.train_in_stages(config, tmp_path)
    file = tmp_path / "styles" / "styles.safetensors"
    before = file.read_bytes()
    expected = [
        ("styles", False, tmp_path / "styles", tmp_path / "faces"),
        ("coarse", False, tmp_path / "coarse", file),
        ("whole", True, tmp_path, tmp_path / "coarse" / "coarse.safetensors"),
    ]
    assert calls == expected
    calls.clear()
    coarse.train_in_stages(config, tmp_path)
    assert calls == expected[1:] and file.read_bytes() == before
    # Without coarse steps the whole network starts from the styles.
    calls.clear()
    coarse.train_in_stages(_config("coarse_steps=0"), tmp_path / "other")
    assert [(name, start) for name, *_, start in calls][1:] == [
        ("whole", tmp_path / "other" / "styles" / "styles.safetensors")
    ]


def test_cut_faces_are_described_as_such(folder):
    described = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    assert described and described[0]["cut"] == 1
