import concurrent.futures
import copy
import hashlib
import hmac
import logging
import os
import pickle
import struct

import jax
import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import keys

DIGEST = hashlib.sha256(b"a photo").digest()
OTHER = hashlib.sha256(b"another photo").digest()
POLICY = "laplace;epsilon=6.0;model=m"
SECRET = bytes(range(32))


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def shows(text):
    """Whether a text or bytes gives away the secret, raw, as hexadecimal or as Python writes it."""
    text = text.encode() if isinstance(text, str) else text
    forms = (SECRET, SECRET[:8], SECRET.hex().encode(), SECRET.hex()[:16].encode())
    return any(form in text for form in forms) or repr(SECRET)[2:20].encode() in text


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "master.key"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def test_a_missing_file_is_made_for_its_owner_alone_and_then_kept(tmp_path):
    path = tmp_path / "new" / "clé.key"
    before = os.umask(0o000)
    try:
        first = keys.load_or_create(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_size == 32
    assert keys.commitment(keys.load_or_create(path)) == keys.commitment(first)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    other = keys.load_or_create(tmp_path / "other.key")
    assert keys.commitment(other) != keys.commitment(first)


def test_processes_that_start_together_share_one_key(tmp_path):
    path = tmp_path / "master.key"
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: keys.commitment(keys.load_or_create(path)), range(64)))
    assert len(found) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["master.key"]


def test_a_key_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"master\.key.*No space left"):
        keys.load_or_create(tmp_path / "master.key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o700, 0o666])
def test_wider_permissions_are_refused(key_file, mode):
    key_file.chmod(mode)
    with pytest.raises(UserError, match=r"master\.key.*chmod 600") as caught:
        keys.load_or_create(key_file)
    assert not shows(str(caught.value))
    key_file.chmod(0o400)
    keys.load_or_create(key_file)


@pytest.mark.parametrize("content", [b"", SECRET[:31], SECRET + b"\n", SECRET.hex().encode()])
def test_a_wrong_size_is_refused_and_the_file_left_alone(key_file, content):
    key_file.write_bytes(content)
    with pytest.raises(UserError, match=rf"master\.key has {len(content)} bytes") as caught:
        keys.load_or_create(key_file)
    assert not shows(str(caught.value))
    assert key_file.read_bytes() == content


def test_what_is_no_regular_file_is_refused(tmp_path, key_file):
    link, dangling, pipe = (tmp_path / name for name in ("link", "dangling", "pipe"))
    link.symlink_to(key_file)
    dangling.symlink_to(tmp_path / "nowhere")
    os.mkfifo(pipe, 0o600)
    for path, message in [
        (link, "is a symbolic link"),
        (dangling, "is a symbolic link"),
        (pipe, "not a regular file"),
        (tmp_path, "not a regular file"),
        (key_file / "below", "key file .*below"),
    ]:
        with pytest.raises(UserError, match=message):
            keys.load_or_create(path)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes everywhere")
def test_unreadable_and_unwritable_places_are_named(tmp_path, key_file):
    key_file.chmod(0o000)
    with pytest.raises(UserError, match=r"master\.key: Permission denied"):
        keys.load_or_create(key_file)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"new\.key: Permission denied"):
        keys.load_or_create(closed / "new.key")


def test_a_refused_open_becomes_one_clear_line(key_file, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"master\.key: Permission denied: name a file"):
        keys.load_or_create(key_file)


def test_the_secret_is_never_shown(key_file, caplog):
    caplog.set_level(logging.DEBUG)
    master = keys.load_or_create(key_file)
    with jax.log_compiles():
        derived = keys.image_key(master, digest=DIGEST, policy=POLICY)
    logging.getLogger("test").warning("%s %r %s", master, master, {"key": master})
    texts = [repr(master), str(master), f"{master}", str([master]), caplog.text]
    texts += [keys.commitment(master), repr(dir(master))]
    with pytest.raises(ValueError) as wrong_digest:
        keys.image_key(master, digest=DIGEST[:8], policy=POLICY)
    with pytest.raises(ValueError) as wrong_length:
        keys.MasterKey(SECRET + b"x")
    texts += [str(wrong_digest.value), str(wrong_length.value)]
    assert not any(shows(text) for text in texts)
    assert shows(repr(SECRET)) and shows(SECRET.hex())  # the check itself can find it
    assert bits(derived) != tuple(struct.unpack(">2I", SECRET[:8]))
    assert not hasattr(master, "__dict__")


@pytest.mark.parametrize(
    "copying", [copy.copy, copy.deepcopy, *(lambda m, p=p: pickle.dumps(m, p) for p in range(6))]
)
def test_a_master_key_is_neither_pickled_nor_copied(copying):
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        copying(keys.MasterKey(SECRET))
    assert not shows(str(caught.value))


def test_image_key_is_the_head_of_a_keyed_hash():
    parts = [b"identitydp random key v1", b"image", DIGEST, POLICY.encode()]
    message = b"".join(struct.pack(">Q", len(part)) + part for part in parts)
    head = hmac.new(SECRET, message, hashlib.sha256).digest()[:8]
    key = keys.image_key(keys.MasterKey(SECRET), digest=DIGEST, policy=POLICY)
    assert bits(key) == struct.unpack(">2I", head)
    assert key.shape == () and str(jax.random.key_impl(key)) == "threefry2x32"


def test_keys_differ_by_master_photo_policy_face_and_purpose():
    box = (10.2, 20.0, 50.0, 60.0)
    found = [
        bits(derive)
        for master in (keys.MasterKey(SECRET), keys.audit_master(0), keys.audit_master(1))
        for digest in (DIGEST, OTHER)
        for policy in (POLICY, POLICY + "2")
        for derive in (
            keys.image_key(master, digest=digest, policy=policy),
            keys.face_key(master, digest=digest, policy=policy, box=box),
            keys.face_key(master, digest=digest, policy=policy, box=(11, 20, 50, 60)),
        )
    ]
    assert len(set(found)) == len(found) == 36
    high, low = zip(*found, strict=True)
    assert len(set(high)) == len(set(low)) == 36  # all 64 bits are in use


def test_same_photo_and_face_give_the_same_key():
    master = keys.MasterKey(SECRET)
    one = keys.face_key(master, digest=DIGEST, policy=POLICY, box=(10.2, 20, 50, 60))
    two = keys.face_key(
        keys.MasterKey(SECRET), digest=DIGEST, policy=POLICY, box=np.float32([9.9, 20.1, 50, 60])
    )
    assert bits(one) == bits(two)


@pytest.mark.parametrize("box", [(1, 2, 3), (1, 2, 3, np.nan), (1, 2, 3, np.inf), ((1, 2, 3, 4),)])
def test_a_box_that_is_none_is_refused(box):
    with pytest.raises(ValueError, match="4 finite numbers"):
        keys.face_key(keys.MasterKey(SECRET), digest=DIGEST, policy=POLICY, box=box)


def test_audit_seeds_keep_all_their_bits_and_say_what_they_are():
    seeds = (0, 5, 2**32, 2**32 + 5, 2**63 - 1)
    masters = [keys.audit_master(seed) for seed in seeds]
    found = {bits(keys.image_key(m, digest=DIGEST, policy=POLICY)) for m in masters}
    assert len(found) == len(seeds)
    assert [keys.commitment(m) for m in masters] == [f"audit-seed:{seed}" for seed in seeds]
    assert "audit-seed:5" in repr(masters[1])


def test_an_audit_seed_gives_the_same_key_everywhere():
    key = keys.image_key(keys.audit_master(7), digest=DIGEST, policy=POLICY)
    assert bits(key) == (1778455392, 831711383)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "7", True, None])
def test_other_audit_seeds_are_refused(seed):
    with pytest.raises(UserError, match="audit seed is"):
        keys.audit_master(seed)


def test_commitment_binds_and_is_no_plain_or_derived_hash():
    one = keys.commitment(keys.MasterKey(SECRET))
    assert one == keys.commitment(keys.MasterKey(SECRET))
    assert one != keys.commitment(keys.MasterKey(SECRET[::-1]))
    assert one.startswith("sha256:") and len(one) == 7 + 64
    assert one[7:] != hashlib.sha256(SECRET).hexdigest()
