import concurrent.futures
import copy
import hashlib
import hmac
import logging
import os
import pathlib
import pickle
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import chacha, keys

DIGEST = hashlib.sha256(b"a photo").digest()
CROP = hashlib.sha256(b"a face of it").digest()
OTHER = hashlib.sha256(b"another photo").digest()
POLICY = "laplace;epsilon=6.0;model=m"
SECRET = bytes(range(32))


def bits(key):
    """The 256 bits of a typed key, in the order of the hash that they come from."""
    return np.asarray(jax.random.key_data(key)).astype("<u4").tobytes()


def hashed(*parts, secret=SECRET):
    parts = (b"identitydp key v2", *parts)
    message = b"".join(struct.pack(">Q", len(part)) + part for part in parts)
    return hmac.new(secret, message, hashlib.sha256).digest()


def shows(text, secret=SECRET):
    """Whether a text or bytes gives away a secret: raw, in hexadecimal, as Python or JAX does."""
    text = text.encode() if isinstance(text, str) else text
    word = str(int.from_bytes(secret[:4], "little"))
    forms = (secret[:8], secret[8:16], secret.hex()[:16].encode(), secret.hex()[16:32].encode())
    written = (repr(secret)[2:20].encode(), str(list(secret[:6]))[1:-1].encode(), word.encode())
    return any(form.lower() in text.lower() for form in forms + written)


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


def test_a_new_key_never_replaces_anything(tmp_path, key_file):
    new = tmp_path / "new" / "own.key"
    made = keys.create(new)
    assert new.stat().st_mode & 0o777 == 0o600
    assert keys.commitment(keys.load(new)) == keys.commitment(made)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for taken in (new, key_file, link, tmp_path):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match=rf"{taken.name} exists: name a new file"):
            keys.create(taken)
        assert sorted(tmp_path.rglob("*")) == before
    assert key_file.read_bytes() == SECRET and not (tmp_path / "nowhere").exists()
    assert keys.commitment(keys.load(new)) == keys.commitment(made)


def test_loading_makes_nothing(tmp_path):
    with pytest.raises(UserError, match=r"none\.key: No such file"):
        keys.load(tmp_path / "below" / "none.key")
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("byte", [0, 255, 7])
def test_a_key_that_anybody_guesses_is_refused(key_file, byte):
    key_file.write_bytes(bytes([byte]) * 32)
    for read in (keys.load, keys.load_or_create):
        with pytest.raises(UserError, match=r"master\.key holds one and the same byte"):
            read(key_file)


def test_a_key_of_another_user_is_refused(key_file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: key_file.stat().st_uid + 1)
    for read in (keys.load, keys.load_or_create):
        with pytest.raises(UserError, match=r"master\.key is another user's"):
            read(key_file)


def test_folders_made_for_a_key_are_closed_to_others_whatever_the_umask(tmp_path):
    before = os.umask(0o000)
    try:
        keys.create(tmp_path / "a/b/master.key")
    finally:
        os.umask(before)
    for made in (tmp_path / "a", tmp_path / "a/b"):
        assert made.stat().st_mode & 0o777 == 0o700


def test_no_core_is_dumped_of_a_process_that_holds_a_key(key_file):
    program = """
import resource, sys
from identitydp_jax.privacy import keys
_, most = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (most, most))
keys.load(sys.argv[1])
few, same = resource.getrlimit(resource.RLIMIT_CORE)
sys.exit(0 if few in (0, 1) and same == most else 1)
"""
    assert subprocess.run([sys.executable, "-c", program, str(key_file)]).returncode == 0


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o700, 0o666])
def test_wider_permissions_are_refused(key_file, mode):
    key_file.chmod(mode)
    for read in (keys.load, keys.load_or_create):
        with pytest.raises(UserError, match=r"master\.key.*chmod 600") as caught:
            read(key_file)
        assert not shows(str(caught.value))
    key_file.chmod(0o400)
    keys.load_or_create(key_file)


@pytest.mark.parametrize("content", [b"", SECRET[:31], SECRET + b"\n", SECRET.hex().encode()])
def test_a_wrong_size_is_refused_and_the_file_left_alone(key_file, content):
    key_file.write_bytes(content)
    for act in (keys.load, keys.load_or_create, keys.destroy):
        with pytest.raises(UserError, match=rf"master\.key has {len(content)} bytes") as caught:
            act(key_file)
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
        with pytest.raises(UserError, match=f"key file .*{path.name}"):
            keys.destroy(path)
    assert not (tmp_path / "nowhere").exists() and key_file.read_bytes() == SECRET


def test_a_link_that_is_swapped_in_late_is_not_followed(tmp_path, key_file, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(key_file)
    monkeypatch.setattr(pathlib.Path, "is_symlink", lambda _: False)  # as it was, a moment ago
    for act in (keys.load, keys.load_or_create, keys.destroy):
        with pytest.raises(UserError, match="link: Too many levels of symbolic links"):
            act(link)
    assert key_file.read_bytes() == SECRET


def test_a_destroyed_key_is_overwritten_cut_and_gone(key_file, monkeypatch):
    other_name = key_file.with_name("hard link")
    other_name.hardlink_to(key_file)
    key_file.chmod(0o644)  # no reason to keep it
    steps, sync, unlink = [], os.fsync, os.unlink
    monkeypatch.setattr(os, "fsync", lambda d: (sync(d), steps.append(other_name.read_bytes())))
    monkeypatch.setattr(os, "unlink", lambda p: (unlink(p), steps.append("unlinked")))
    assert keys.destroy(key_file) == keys.commitment(keys.MasterKey(SECRET))
    overwritten, cut, unlinked, folder = steps
    assert len(overwritten) == 32 and overwritten != SECRET
    assert len(set(overwritten)) > 16  # zeros, left by a crash, would be a key
    assert cut == b"" and unlinked == "unlinked" and folder == b""
    assert not key_file.exists() and other_name.read_bytes() == b""


@pytest.mark.parametrize("survived", [1, 2])
def test_a_key_whose_destruction_was_cut_short_is_no_known_key(key_file, monkeypatch, survived):
    calls = iter(range(1, 9))

    def fail(_):
        if next(calls) == survived:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"master\.key: Input/output error") as caught:
        keys.destroy(key_file)
    left = key_file.read_bytes()
    assert not shows(left) and not shows(str(caught.value))
    assert left == b"" or (len(left) == 32 and len(set(left)) > 16)


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


def test_the_secret_is_never_shown(key_file, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    master = keys.load_or_create(key_file)
    with jax.log_compiles():
        derived = [
            keys.image_key(master, digest=DIGEST, policy=POLICY),
            keys.face_key(master, digest=DIGEST, crop=CROP, policy=POLICY, box=(1, 2, 3, 4)),
            keys.subject_key(master, subject="ann", digest=DIGEST, policy=POLICY),
        ]
    logging.getLogger("test").warning("%s %r %s", master, master, {"key": master})
    texts = [repr(master), str(master), f"{master}", str([master]), caplog.text]
    texts += [keys.commitment(master), repr(dir(master)), *capsys.readouterr()]
    with pytest.raises(ValueError) as wrong_digest:
        keys.image_key(master, digest=DIGEST[:8], policy=POLICY)
    with pytest.raises(ValueError) as wrong_crop:
        keys.face_key(master, digest=DIGEST, crop=SECRET[:8], policy=POLICY, box=(1, 2, 3, 4))
    with pytest.raises(ValueError) as wrong_length:
        keys.MasterKey(SECRET + b"x")
    with pytest.raises(UserError) as wrong_subject:
        keys.subject_key(master, subject="", digest=DIGEST, policy=POLICY)
    with pytest.raises(AttributeError) as wrong_name:
        master.secret  # noqa: B018
    wrongs = wrong_digest, wrong_crop, wrong_length, wrong_subject, wrong_name
    texts += [str(error.value) for error in wrongs]
    secrets = [SECRET, keys.ledger_key(master), *map(bits, derived)]
    assert not any(shows(text, secret) for text in texts for secret in secrets)
    assert shows(repr(SECRET)) and shows(SECRET.hex()) and shows(SECRET)  # it can find them
    assert shows(repr(derived[0]), bits(derived[0]))  # as JAX shows a key: print none
    assert not any(shows(bits(key)) for key in derived)
    assert not hasattr(master, "__dict__")


@pytest.mark.parametrize(
    "copying", [copy.copy, copy.deepcopy, *(lambda m, p=p: pickle.dumps(m, p) for p in range(6))]
)
def test_a_master_key_is_neither_pickled_nor_copied(copying):
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        copying(keys.MasterKey(SECRET))
    assert not shows(str(caught.value))


def test_a_derived_key_is_the_whole_keyed_hash():
    master, policy = keys.MasterKey(SECRET), POLICY.encode()
    box = b"".join(struct.pack(">q", corner) for corner in (-10, 20, 50, 60))
    for key, parts in [
        (keys.image_key(master, digest=DIGEST, policy=POLICY), (b"image", DIGEST, policy)),
        (
            keys.face_key(
                master, digest=DIGEST, crop=CROP, policy=POLICY, box=(-10.2, 20, 49.5, 60)
            ),
            (b"face", DIGEST, CROP, policy, box),
        ),
        (
            keys.subject_key(master, subject="Zoë\udcff", digest=DIGEST, policy=POLICY),
            (b"subject", DIGEST, policy, b"Zo\xc3\xab\xed\xb3\xbf"),
        ),
    ]:
        assert bits(key) == hashed(*parts)
        assert key.shape == () and jax.random.key_impl(key) == chacha.CHACHA20
    assert keys.ledger_key(master) == hashed(b"ledger")
    assert keys.tag(master, digest=DIGEST, text="a") == hashed(b"tag", DIGEST, b"a").hex()


def test_what_is_derived_differs_by_master_photo_policy_face_subject_and_purpose():
    masters = [keys.MasterKey(SECRET), keys.audit_master(0), keys.audit_master(1)]
    found = [
        derived
        for master in masters
        for digest in (DIGEST, OTHER)
        for policy in (POLICY, POLICY + "2")
        for given in [{"digest": digest, "policy": policy}]
        for derived in (
            bits(keys.image_key(master, **given)),
            bits(keys.face_key(master, **given, crop=CROP, box=(10.2, 20, 50, 60))),
            bits(keys.face_key(master, **given, crop=CROP, box=(11, 20, 50, 60))),
            bits(keys.face_key(master, **given, crop=OTHER, box=(11, 20, 50, 60))),
            bits(keys.subject_key(master, **given, subject="ann")),
            bits(keys.subject_key(master, **given, subject="Ann")),
            bytes.fromhex(keys.tag(master, digest=digest, text=policy)),
        )
    ]
    found += [keys.ledger_key(master) for master in masters]
    assert len(set(found)) == len(found) == 87
    words = np.array([np.frombuffer(derived, "<u4") for derived in found])
    # All 256 bits are in use: each word differs (by chance two are equal: 5e-6, and never change).
    assert all(len(set(column)) == 87 for column in words.T.tolist())


SUBJECTS = st.text(st.characters(exclude_categories=()), min_size=1, max_size=6)
POLICIES = st.text(max_size=6)


@given(one=st.tuples(SUBJECTS, POLICIES), two=st.tuples(SUBJECTS, POLICIES))
@example(("é", ""), ("\udcc3\udca9", ""))  # one file name, read with and without decoding
def test_other_subjects_and_policies_give_another_key(one, two):
    found = [
        bits(keys.subject_key(keys.MasterKey(SECRET), subject=s, digest=DIGEST, policy=p))
        for s, p in (one, two)
    ]
    assert (found[0] == found[1]) == (one == two)


@given(parts=st.lists(st.binary(max_size=3), max_size=3), cut=st.integers(0, 9))
def test_moving_a_border_between_arguments_gives_another_key(parts, cut):
    master, joined = keys.MasterKey(SECRET), b"".join(parts)
    moved = [joined[:cut], joined[cut:]]
    same = keys._derive(master, b"p", *parts) == keys._derive(master, b"p", *moved)
    assert same == (parts == moved)


def test_same_photo_and_face_give_the_same_key():
    master = keys.MasterKey(SECRET)
    given = {"digest": DIGEST, "crop": CROP, "policy": POLICY}
    one = keys.face_key(master, **given, box=(10.2, 20, 50, 60))
    two = keys.face_key(keys.MasterKey(SECRET), **given, box=np.float32([9.9, 20.1, 50, 60]))
    assert bits(one) == bits(two)


@pytest.mark.parametrize("box", [(1, 2, 3), (1, 2, 3, np.nan), (1, 2, 3, np.inf), ((1, 2, 3, 4),)])
def test_a_box_that_is_none_is_refused(box):
    with pytest.raises(ValueError, match="4 finite numbers"):
        keys.face_key(keys.MasterKey(SECRET), digest=DIGEST, crop=CROP, policy=POLICY, box=box)


def test_audit_seeds_keep_all_their_bits_and_say_what_they_are():
    seeds = (0, 5, 2**32, 2**32 + 5, 2**63 - 1)
    masters = [keys.audit_master(seed) for seed in seeds]
    found = {bits(keys.image_key(m, digest=DIGEST, policy=POLICY)) for m in masters}
    assert len(found) == len(seeds)
    assert [keys.commitment(m) for m in masters] == [f"audit-seed:{seed}" for seed in seeds]
    assert "audit-seed:5" in repr(masters[1])


def test_an_audit_seed_gives_the_same_numbers_everywhere():
    secret = hashlib.sha256(b"identitydp audit seed v1\0" + struct.pack(">Q", 7)).digest()
    key = keys.image_key(keys.audit_master(7), digest=DIGEST, policy=POLICY)
    assert bits(key) == hashed(b"image", DIGEST, POLICY.encode(), secret=secret)
    assert jax.random.bits(key, (3,), np.uint32).tolist() == [1733534351, 1120231261, 3413193924]


def test_an_audit_differs_from_a_release_in_the_master_alone():
    for master in (keys.audit_master(7), keys.MasterKey(SECRET)):
        key = keys.image_key(master, digest=DIGEST, policy=POLICY)
        assert jax.random.key_impl(key) == chacha.CHACHA20
    assert keys.commitment(keys.audit_master(7)) == "audit-seed:7"


@pytest.mark.parametrize("subject", ["", None])
def test_a_subject_without_a_name_is_refused(subject):
    with pytest.raises(UserError, match="subject is empty"):
        keys.subject_key(keys.MasterKey(SECRET), subject=subject, digest=DIGEST, policy=POLICY)


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
    assert one[7:] == hashlib.sha256(b"identitydp commitment v1\0" + SECRET).hexdigest()
