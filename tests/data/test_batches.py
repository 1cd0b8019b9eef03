import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from PIL import Image

from identitydp_jax.checks import UserError
from identitydp_jax.data import shards
from identitydp_jax.data.batches import open_batches, read_held_out

COUNT = 7


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return tiny.write_faces(tmp_path_factory.mktemp("faces"), COUNT)


def _config(data, *, seed=0, size=4, held_out=0, twin=0.0):
    values = {"data": str(data), "batch_size": size, "seed": seed, "held_out": held_out}
    return ConfigDict({**values, "network": {"resolution": 64}, "mixture": {"twin": twin}})


def _open(data, *, start=0, process=(0, 1), **values):
    config = _config(data, **values)
    batches = open_batches(config, process_index=process[0], process_count=process[1])
    batches.set_state({"next_index": start})
    return batches


def _take(batches, count=6):
    return [next(batches) for _ in range(count)]


def test_batches_have_the_size_asked_for_across_epochs(faces):
    batches = _take(_open(faces))
    assert all(x.shape == (4, 64, 64, 3) and x.dtype == np.uint8 for x in batches)


def test_faces_beside_their_twins_are_twice_as_wide(tmp_path):
    pictures = tiny.pictures(5)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    held_out = read_held_out(_config(tmp_path, held_out=2, twin=0.5))
    np.testing.assert_array_equal(held_out, pictures[3:])
    (batch,) = _take(_open(tmp_path, twin=0.5, held_out=2, size=3), 1)
    assert batch.shape == (3, 64, 128, 3)
    assert {x.tobytes() for x in batch} == {x.tobytes() for x in pictures[:3]}
    with pytest.raises(UserError, match=r"\d\.png: is 128x64"):
        _take(_open(tmp_path), 1)


def test_a_batch_is_a_function_of_the_seed_and_its_number(faces):
    whole = _take(_open(faces))
    np.testing.assert_array_equal(_take(_open(faces)), whole)
    np.testing.assert_array_equal(_take(_open(faces, start=4), 2), whole[4:])
    assert np.any(np.stack(_take(_open(faces, seed=1))) != np.stack(whole))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batches_that_one_would_read(faces, processes):
    parts = [_take(_open(faces, process=(p, processes))) for p in range(processes)]
    joined = [np.concatenate(rows) for rows in zip(*parts, strict=True)]
    assert parts[0][0].shape[0] == 4 // processes
    np.testing.assert_array_equal(joined, _take(_open(faces)))


def test_a_state_is_restored_with_another_number_of_processes(faces):
    whole = _take(_open(faces), 9)
    batches = _open(faces, start=2, process=(1, 2))
    _take(batches, 3)
    state = batches.get_state()
    assert state == {"next_index": 5}
    for process in ((0, 1), (3, 4)):
        resumed = _open(faces, process=process)
        resumed.set_state(state)
        rows = slice(process[0], None) if process[1] == 4 else slice(None)
        np.testing.assert_array_equal(_take(resumed, 4), [x[rows] for x in whole[5:]])


def _indices(batches):
    known = {face.tobytes(): i for i, face in enumerate(tiny.faces(COUNT))}
    return [known[face.tobytes()] for batch in batches for face in batch]


def test_every_epoch_shows_each_face_once_in_an_order_of_its_own(faces):
    order = _indices(_take(_open(faces), COUNT))
    epochs = [order[i : i + COUNT] for i in range(0, 4 * COUNT, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_shards_give_the_same_batches_as_the_folder(faces, tmp_path):
    files = [path.read_bytes() for path in sorted(faces.iterdir())]
    for number, part in enumerate((files[:3], files[3:])):
        shards.write_shard(tmp_path / f"{number}.array_record", part)
    np.testing.assert_array_equal(_take(_open(f"array_record:{tmp_path}")), _take(_open(faces)))


def test_too_few_faces_are_refused(faces):
    message = r"holds 7 faces, too few for one batch of 5 and 3 held out; add faces or give a lower"
    with pytest.raises(UserError, match=message):
        _open(faces, size=5, held_out=3)
    assert len(_take(_open(faces, size=4, held_out=3), 2)) == 2
    with pytest.raises(UserError, match="holds 7 faces, fewer than held_out=8"):
        read_held_out(_config(faces, held_out=8))


def test_the_last_faces_are_held_out(faces):
    held_out = read_held_out(_config(faces, held_out=2))
    np.testing.assert_array_equal(held_out, tiny.faces(COUNT)[5:])
    seen = _indices(_take(_open(faces, held_out=2), 10))
    assert set(seen) == set(range(5))


def test_a_batch_that_processes_cannot_share_is_refused(faces):
    with pytest.raises(UserError, match="batch_size is 4: make it a multiple of the 3 processes"):
        _open(faces, process=(0, 3))


def test_a_face_that_cannot_be_read_stops_with_its_name(tmp_path):
    tiny.write_faces(tmp_path, 4)
    (tmp_path / "002.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"002\.png: cannot be read as an image"):
        _take(_open(tmp_path), 1)
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(tmp_path / "002.png")
    with pytest.raises(UserError, match=r"002\.png: is 80x64"):
        _take(_open(tmp_path), 1)
