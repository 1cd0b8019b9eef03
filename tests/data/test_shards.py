import os

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.data import shards
from identitydp_jax.data.shards import ShardSource

RECORDS = [np.random.default_rng(i).bytes(3000 + i) for i in range(5)]


@pytest.fixture
def folder(tmp_path):
    """Two files, and a manifest that promises them."""
    entries = {}
    for number, part in enumerate((RECORDS[:3], RECORDS[3:])):
        name = f"faces-{number:05d}.array_record"
        entries[name] = {**shards.write_shard(tmp_path / name, part), "left_out": {}}
    shards.write_manifest(tmp_path, {"recipe": {"shards": 2}, "shards": entries})
    return tmp_path


def _spoil(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def test_records_come_back_in_order(folder):
    source = ShardSource(folder)
    assert [source[i] for i in range(len(source))] == RECORDS
    assert sorted(path.name for path in folder.iterdir()) == [
        "faces-00000.array_record", "faces-00001.array_record", "manifest.json"
    ]  # fmt: skip


def test_shards_of_other_tools_need_no_manifest(folder):
    (folder / "manifest.json").unlink()
    assert len(ShardSource(folder)) == 5


def test_an_entry_tells_a_whole_file_from_a_damaged_one(folder):
    path = folder / "faces-00000.array_record"
    entry = shards.read_manifest(folder)["shards"][path.name]
    assert entry["faces"] == 3 and shards.is_whole(path, entry)
    _spoil(path, lambda data: data.__setitem__(500, data[500] ^ 1))
    assert not shards.is_whole(path, entry)
    assert not shards.is_whole(folder / "none", entry)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "faces-00001.array_record").unlink(), "00001.array_record: missing or"),
        (
            lambda f: _spoil(f / "faces-00001.array_record", lambda data: data.__delitem__(-1)),
            "00001.array_record: missing or of another size",
        ),
        (
            lambda f: _spoil(
                f / "faces-00001.array_record", lambda d: d.__setitem__(65540, d[65540] ^ 1)
            ),
            r"00001.array_record: damaged \(.*data prepare` again",
        ),
        (lambda f: (f / "manifest.json").write_text("{"), "not a manifest"),
        (lambda f: (f / "manifest.json").write_text("[" * 100_000), "not a manifest"),
        (lambda f: (os.mkfifo(f / "pipe"), (f / "pipe").rename(f / "manifest.json")), "not a man"),
        (
            lambda f: shards.write_manifest(f, {"recipe": {"shards": 2}, "shards": {}}),
            "only 0 of 2 files are prepared; run the same",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        ShardSource(folder)
    assert "\n" not in str(error.value)


def test_a_damaged_record_is_named(folder):
    _spoil(folder / "faces-00000.array_record", lambda data: data.__setitem__(500, data[500] ^ 1))
    source = ShardSource(folder)
    with pytest.raises(UserError, match=r"record 0: damaged \("):
        source[0]
    assert source[4] == RECORDS[4]


def test_folders_without_shards_are_named(tmp_path):
    with pytest.raises(UserError, match=r"array_record:.*: holds no \.array_record file"):
        ShardSource(tmp_path)
    with pytest.raises(UserError, match="none: no such folder"):
        ShardSource(tmp_path / "none")
    shards.write_shard(tmp_path / "a.array_record", [])
    with pytest.raises(UserError, match="holds no face"):
        ShardSource(tmp_path)


def test_a_shard_that_cannot_be_written_leaves_nothing(tmp_path):
    def records():
        yield b"one"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        shards.write_shard(tmp_path / "a.array_record", records())
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        shards.write_shard(tmp_path / "file" / "a.array_record", [b""])
