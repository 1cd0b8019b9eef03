import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType
from ml_collections import ConfigDict
from PIL import Image

from identitydp_jax import sharding
from identitydp_jax.checks import UserError
from identitydp_jax.models import face_source
from identitydp_jax.training import face_stream
from identitydp_jax.training.face_pool import FacePool
from identitydp_jax.training.synthetic_source import write_folder

SIDE = 64


@pytest.fixture(autouse=True)
def quick_faces(monkeypatch):
    """Flat faces, whose shade tells their key."""

    def draw(params, keys, *, resolution):
        shades = jax.vmap(lambda key: jax.random.uniform(key, (3,), minval=-1.0))(keys)
        return jnp.broadcast_to(shades[:, None, None], (len(keys), resolution, resolution, 3))

    def draw_twins(params, keys, *, resolution):
        own = draw(params, keys, resolution=resolution)
        return jnp.stack([own, 0.5 * own], axis=1)

    monkeypatch.setattr(face_source, "load", lambda: {"nothing": np.zeros(1, np.float32)})
    monkeypatch.setattr(face_source, "draw", draw)
    monkeypatch.setattr(face_source, "draw_twins", draw_twins)


def _config(**changes):
    values = {"data": "synthetic", "batch_size": 8, "pool": 24, "refresh": 4, "seed": 0,
              "held_out": 3, "mixture": {"twin": 0.0}}  # fmt: skip
    return ConfigDict({**values, **changes, "network": {"resolution": SIDE}})


TWINS = {"mixture": {"twin": 0.5}}


def _mesh(devices=8):
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def _take(pool, count):
    """Return the shades (count, N, 3) of the next batches."""
    return np.stack([np.asarray(next(pool))[:, 0, 0] for _ in range(count)])


def _faces(batches):
    """Return the different faces that each row has shown."""
    return [{tuple(shade) for shade in row} for row in np.moveaxis(batches, 1, 0)]


def test_batches_lie_split_over_the_devices():
    batch = next(FacePool(_config(), _mesh()))
    assert batch.shape == (8, SIDE, SIDE, 3) and batch.dtype == jnp.uint8
    assert batch.sharding == sharding.over_batch(_mesh())
    assert {shard.data.shape[0] for shard in batch.addressable_shards} == {1}


@pytest.mark.parametrize("devices", [1, 2])
def test_batches_do_not_depend_on_the_number_of_devices(devices):
    few, many = (FacePool(_config(), _mesh(n)) for n in (devices, 8))
    np.testing.assert_array_equal(_take(few, 9), _take(many, 9))


@pytest.mark.parametrize("start", [1, 5, 12])
def test_a_pool_that_resumes_gives_the_batches_that_it_would_have_given(start):
    whole = _take(FacePool(_config(), _mesh()), 20)
    pool = FacePool(_config(), _mesh(2))
    pool.set_state({"next_index": start})
    np.testing.assert_array_equal(_take(pool, 3), whole[start : start + 3])
    state = pool.get_state()
    assert state == {"next_index": start + 3}
    _take(pool, 4)
    for other in (pool, FacePool(_config(), _mesh())):
        other.set_state(state)
        np.testing.assert_array_equal(_take(other, 1)[0], whole[start + 3])


def test_without_refresh_each_row_shows_its_share_of_the_pool():
    batches = _take(FacePool(_config(refresh=0), _mesh()), 40)
    rows = _faces(batches)
    assert [len(row) for row in rows] == [3] * 8
    assert len(set.union(*rows)) == 24


def test_faces_are_replaced_at_the_rate_asked_for():
    batches = _take(FacePool(_config(refresh=4), _mesh()), 60)
    # 4 of 8 rows a step: every second step a face of each row, so 3 + 29 rounds in all
    rounds = 3 + 59 * 4 // 8
    shown = len(set.union(*_faces(batches)))
    assert 0.5 * 8 * rounds < shown <= 8 * rounds
    early, late = _faces(batches[:10]), _faces(batches[-10:])
    assert not any(a & b for a, b in zip(early, late, strict=True))


def test_seeds_and_purposes_have_faces_of_their_own():
    one, other = (_take(FacePool(_config(seed=s), _mesh()), 4) for s in (0, 1))
    assert not set.union(*_faces(one)) & set.union(*_faces(other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": 20}, "pool is 20: make it a multiple of batch_size=8, as 16"),
        ({"pool": 3}, "pool is 3: make it a multiple of batch_size=8, as 8"),
    ],
)
def test_a_pool_that_rows_cannot_share_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        FacePool(_config(**changes), _mesh())


def test_a_resolution_that_the_generator_lacks_is_refused():
    config = _config()
    config.network.resolution = 96
    with pytest.raises(UserError, match=r"network\.resolution is 96: choose one of"):
        FacePool(config, _mesh())


def test_twins_lie_beside_the_faces_that_there_would_be_without():
    alone, pairs = (FacePool(_config(**more), _mesh()) for more in ({}, TWINS))
    for _ in range(5):
        faces, pictures = np.asarray(next(alone)), np.asarray(next(pairs))
        assert pictures.shape == (8, SIDE, 2 * SIDE, 3) and pictures.dtype == np.uint8
        np.testing.assert_array_equal(pictures[:, :, :SIDE], faces)
        twins = 127.5 + (pictures[:, :, :SIDE].astype(float) - 127.5) / 2
        assert np.abs(pictures[:, :, SIDE:] - twins).max() <= 1
    held_out = pairs.held_out()
    assert held_out.shape == (3, SIDE, 2 * SIDE, 3)
    np.testing.assert_array_equal(held_out[:, :, :SIDE], alone.held_out())


@pytest.fixture
def noise(monkeypatch):
    """Generated faces that are noise; their twins are upside down."""

    def face(params, *, key, resolution):
        return jax.random.bits(key, (resolution, resolution, 3), np.uint8)

    def twins(params, *, key, resolution):
        own = face(params, key=key, resolution=resolution)
        return jnp.concatenate([own, own[::-1]], axis=1)

    monkeypatch.setattr(face_source, "face", face)
    monkeypatch.setattr(face_source, "twins", twins)


def _png(path):
    return np.asarray(Image.open(path))


def test_a_folder_of_twins_holds_the_faces_of_one_without_beside_them(noise, tmp_path):
    write = functools.partial(write_folder, resolution=SIDE, seed=3, image_format="png")
    assert write(tmp_path / "faces", count=3) == write(tmp_path / "twins", count=3, twins=True) == 3
    for i in range(3):
        face, pair = (_png(tmp_path / name / f"00000{i}.png") for name in ("faces", "twins"))
        assert pair.shape == (SIDE, 2 * SIDE, 3)
        np.testing.assert_array_equal(pair[:, :SIDE], face)
        np.testing.assert_array_equal(pair[:, SIDE:], face[::-1])
    # Neither is taken for the other.
    for name, twins in (("faces", True), ("twins", False)):
        with pytest.raises(UserError, match="holds faces made with"):
            write(tmp_path / name, count=3, twins=twins)


def test_a_fixed_set_of_twins_is_read_from_its_folder(noise, tmp_path):
    stream = face_stream.open_stream(_config(refresh=0, **TWINS), tmp_path, _mesh())
    for pictures in (np.asarray(next(stream)), stream.held_out()):
        assert pictures.shape == (len(pictures), SIDE, 2 * SIDE, 3)
        np.testing.assert_array_equal(pictures[:, :, SIDE:], pictures[:, ::-1, :SIDE])


def test_twins_of_faces_that_are_not_generated_are_refused(tmp_path):
    tiny.write_faces(tmp_path / "faces", 12)
    message = r"mixture\.twin is 0\.5, but only generated .* set mixture\.twin=0"
    for data in (tmp_path / "faces", f"array_record:{tmp_path}"):
        with pytest.raises(UserError, match=message) as caught:
            face_stream.open_stream(_config(data=str(data), **TWINS), tmp_path, _mesh())
        assert "\n" not in str(caught.value)


def test_streams_of_folders_and_of_fixed_faces_are_read_by_grain(noise, tmp_path):
    fixed = face_stream.open_stream(_config(refresh=0), tmp_path, _mesh())
    batches = [np.asarray(next(fixed)) for _ in range(4)]
    assert len(list((tmp_path / "faces").glob("*.png"))) == 24 + 3
    assert fixed.held_out().shape == (3, SIDE, SIDE, 3)
    assert next(fixed).sharding == sharding.over_batch(_mesh())
    assert fixed.get_state() == {"next_index": 5}
    folder = _config(data=str(tmp_path / "faces"))
    again = face_stream.open_stream(folder, tmp_path, _mesh())
    again.set_state({"next_index": 2})
    np.testing.assert_array_equal(np.asarray(next(again)), batches[2])
    again.set_state({"next_index": 1})
    np.testing.assert_array_equal(np.asarray(next(again)), batches[1])


def test_streams_of_replaced_faces_are_pools(tmp_path):
    assert isinstance(face_stream.open_stream(_config(), tmp_path, _mesh()), FacePool)


def test_held_out_faces_are_in_no_batch_and_the_same_on_any_devices():
    pool = FacePool(_config(), _mesh())
    held_out = pool.held_out()
    assert held_out.shape == (3, SIDE, SIDE, 3) and held_out.dtype == np.uint8
    other = FacePool(_config(), _mesh(2))
    other.set_state({"next_index": 7})
    np.testing.assert_array_equal(other.held_out(), held_out)
    shades = {tuple(shade) for shade in held_out[:, 0, 0]}
    assert len(shades) == 3 and not shades & set.union(*_faces(_take(pool, 20)))
