import dataclasses
import hashlib
import json
import math
import os
import stat

import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import sensitivity

DIGESTS = [hashlib.sha256(bytes([i])).digest() for i in range(6)]


def record(digests=DIGESTS[:5], **changes):
    facts = {
        "value": 29.5,
        "mean": 24.25,
        "encoder_sha256": "e" * 64,
        "description": "where from",
        "left_out": 2,
        "command": "identitydp calibrate",
        "version": "1",
    }
    return sensitivity.measured(digests, **facts | changes)


@pytest.fixture
def path(tmp_path):
    sensitivity.write(tmp_path / "set.json", record())
    return tmp_path / "set.json"


def forge(path, **changes):
    """Edit a file as somebody does who sets the checksum anew."""
    content = json.loads(path.read_text()) | changes
    del content["sha256"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(content))


def test_a_set_knows_its_photos_and_no_others():
    assert all(record().contains(digest) for digest in DIGESTS[:5])
    assert not record().contains(DIGESTS[5])


@pytest.mark.parametrize("digest", [DIGESTS[0][:8], DIGESTS[0].hex(), b"", DIGESTS[0] * 2])
def test_what_is_no_digest_is_not_taken_for_a_stranger(digest):
    with pytest.raises(ValueError, match="32 bytes"):
        record().contains(digest)


def test_the_hash_names_the_set_in_any_order():
    assert record(DIGESTS[4::-1]).set_sha256 == record().set_sha256
    assert record(DIGESTS[:4]).set_sha256 != record().set_sha256
    joined = b"".join(sorted(digest[:8] for digest in DIGESTS[:5]))
    assert record().set_sha256 == hashlib.sha256(joined).hexdigest()


def test_pairs_are_counted():
    assert (record().faces, record().pairs) == (5, 10)


def test_members_stay_out_of_the_repr():
    assert "members" not in repr(record()) and repr(DIGESTS[0][:8])[2:-1] not in repr(record())


def test_a_file_is_read_as_it_was_written(path):
    assert sensitivity.read(path) == record()
    assert sensitivity.read(path).contains(DIGESTS[3])
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["set.json"]


def test_a_file_tells_its_readers_what_they_would_count(path):
    content = json.loads(path.read_text())
    assert (content["faces"], content["pairs"], content["value"]) == (5, 10, 29.5)
    assert content["set_sha256"] == record().set_sha256 and content["name"] == record().name


def test_any_changed_byte_is_found(path):
    """But for layout: what stands for the same values is the same."""
    whole = path.read_bytes()
    for place in range(len(whole)):
        if chr(whole[place]).isspace():
            continue
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"not a calibration|damaged"):
            sensitivity.read(path)


def test_a_torn_file_is_found(path):
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="not a calibration"):
            sensitivity.read(path)


@pytest.mark.parametrize(
    "changes",
    [
        *({"value": value} for value in (0, -1.0, 45.26, math.inf, math.nan, "29", None, 24.0)),
        *({"mean": mean} for mean in (0.0, 29.6, math.nan)),
        *({"faces": 6}, {"pairs": 11}, {"name": "paper:1"}, {"set_sha256": "0" * 64}),
        *({"members": text} for text in ("", "AAAA", "*", 5, None, "AAAAAAAAAAA=")),
        *({"encoder_sha256": 5}, {"description": []}, {"left_out": -1}, {"more": 1}),
    ],
)
def test_what_can_not_be_is_refused_even_with_its_checksum(path, changes):
    forge(path, **changes)
    with pytest.raises(UserError, match="states what no calibration can"):
        sensitivity.read(path)


def test_one_face_is_no_set(path):
    with pytest.raises(UserError, match="states what"):
        sensitivity.write(path, record(DIGESTS[:1]))
        sensitivity.read(path)


def test_half_a_member_is_none(path):
    members = frozenset([b"a" * 8, b"b" * 8, b"c" * 3])
    sensitivity.write(path, dataclasses.replace(record(), members=members))
    with pytest.raises(UserError, match="states what"):
        sensitivity.read(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"5", b"{}", b"\xff", b"[" * 100_000, b'{"a":1}'])
def test_other_files_are_refused_and_never_replaced(tmp_path, content):
    path = tmp_path / "notes.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a calibration"):
        sensitivity.read(path)
    for replace in (sensitivity.check_writable, lambda path: sensitivity.write(path, record())):
        with pytest.raises(UserError, match="no intact calibration"):
            replace(path)
    assert path.read_bytes() == content


def test_a_calibration_is_replaced(path):
    sensitivity.write(path, record(value=30.0))
    assert sensitivity.read(path) == record(value=30.0)


def test_folders_and_dead_links_are_not_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, tmp_path / "link"):
        with pytest.raises(UserError, match="no intact calibration"):
            sensitivity.check_writable(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        sensitivity.read(tmp_path / "pipe")


def test_a_missing_folder_is_made_and_a_file_is_no_folder(path):
    sensitivity.write(path.parent / "a" / "b.json", record())
    assert sensitivity.read(path.parent / "a" / "b.json") == record()
    with pytest.raises(UserError, match=r"set.json.b.json: the calibration can't be written"):
        sensitivity.check_writable(path / "b.json")


def test_a_failed_write_leaves_what_was_there(path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left"):
        sensitivity.write(path, record(value=30.0))
    assert sensitivity.read(path) == record() and os.listdir(path.parent) == ["set.json"]


def test_a_record_is_hashable_and_frozen():
    assert hash(record()) == hash(record())
    with pytest.raises(dataclasses.FrozenInstanceError):
        record().value = 1.0
