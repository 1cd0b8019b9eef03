"""The secret behind the noise: master keys, and what is derived from them.

Who holds the master key and an anonymized photo can undo the noise, so the master key is 256 bits
of operating-system entropy in a file that only its owner reads, and never appears in a log, a
`repr` or an error. Each face of each photo gets a key of its own, the 256 bits of HMAC-SHA-256
under the master key, so the same photo and master key give the same noise, and no two faces share
noise.

**One key, one embedding.** Noise that is added to two embeddings shows their difference. So every
random key is bound to the very pixels of the aligned face that is noised, besides model and setting
(the policy): what changes the crop, as a pixelated neighbour, another detector or another version
does, changes the key. What is left are the last bits of floating point: two kinds of processors may
embed the same pixels a little differently, and their two results show these roundings, no more.

**One rule for audits.** Every random key made here is a ChaCha20 key (`privacy.chacha`), whatever
the master; an audit has another master, which anybody can make from a public integer, and its
commitment says so wherever it is written. There is no other way from an integer to noise.

**What is guaranteed.** If HMAC-SHA-256 is a pseudorandom function, derived keys of different
purposes or arguments are independent uniform bits to whoever lacks the master key, and tell
nothing about it: among n of them two are equal with probability below n^2 / 2^257. Arguments are
encoded with their lengths, so different ones never make one message. A derived key is an array of
JAX, whose `repr` shows it: pass it on, never print it.
"""

import hashlib
import hmac
import os
import pathlib

import numpy as np
import platformdirs

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import chacha, key_file


class MasterKey:
    """256 secret bits; shows its commitment only, and cannot be pickled or copied."""

    __slots__ = ("_audit_seed", "_secret")

    def __init__(self, secret: bytes, *, audit_seed: int | None = None):
        if len(secret) != key_file.BYTES:
            raise ValueError(f"a master key has {key_file.BYTES} bytes, not {len(secret)}")
        self._secret = bytes(secret)
        self._audit_seed = audit_seed

    def __repr__(self) -> str:
        """Name the key by its public commitment."""
        return f"MasterKey({commitment(self)})"

    def __reduce_ex__(self, protocol):
        """Refuse: a pickled key would be a second copy outside the key file."""
        raise TypeError("a MasterKey cannot be pickled or copied")


def default_path() -> pathlib.Path:
    """Return where the user's master key is unless another file is named."""
    return platformdirs.user_data_path("identitydp") / "master.key"


def create(path: str | os.PathLike) -> MasterKey:
    """Make a new master key in a new file `path` (mode 0600) and return it.

    A crash leaves the whole key or no key. Missing folders are made, readable by the owner alone.

    Raises:
      UserError: something of that name exists, a symbolic link too, or the file cannot be made.
    """
    return MasterKey(key_file.create(path))


def load(path: str | os.PathLike) -> MasterKey:
    """Return the master key in the file `path`.

    Raises:
      UserError: the file is not a regular file of 32 bytes (nor is a symbolic link), has
        permissions wider than 0600, or cannot be read.
    """
    return MasterKey(key_file.read(path))


def load_or_create(path: str | os.PathLike) -> MasterKey:
    """Return the master key in the file `path`, making it as `create` does if there is none.

    Of several processes that start together, one makes the file and all read it.

    Raises:
      UserError: the file cannot be made, or `load` refuses it.
    """
    return MasterKey(key_file.read_or_create(path))


def destroy(path: str | os.PathLike) -> str:
    """Overwrite the key in the file `path`, remove the file, and return the key's commitment.

    The bytes are replaced by random ones, which reach the disk before the file is cut to nothing
    and its name removed: a crash leaves the file as it was, or one that `load` refuses, or one
    with other secret bits, or none. *Not* guaranteed: that no copy is left where storage keeps old
    blocks (SSDs, snapshots, journals, copy-on-write file systems), in backups or in memory.

    Raises:
      UserError: the file is not a regular file of 32 bytes (nor is a symbolic link), or cannot be
        read, written and removed; in this last case its content may be gone already.
    """
    return commitment(MasterKey(key_file.destroy(path)))


def audit_master(seed: int) -> MasterKey:
    """Return the master key that *anybody* can make from `seed`, 0 <= seed < 2^63: no secret.

    For audits and examples that others are to repeat. Its commitment says so.

    Raises:
      UserError: `seed` is not an integer in that range.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"audit seed is {seed!r}: give an integer from 0 to 2^63 - 1")
    encoded = seed.to_bytes(8, "big")
    secret = hashlib.sha256(b"identitydp audit seed v1\0" + encoded).digest()
    return MasterKey(secret, audit_seed=seed)


def commitment(master: MasterKey) -> str:
    """Return the public text that binds to `master`: ``sha256:...`` or ``audit-seed:N``.

    SHA-256 over a fixed prefix and the key. It needs no salt to hide the key: that is 256 random
    bits, so guessing costs 2^256 hashes. The prefix differs from every other use of the key, so
    it says nothing about derived keys either. It does show which outputs share a master key.
    """
    if master._audit_seed is not None:
        return f"audit-seed:{master._audit_seed}"
    return "sha256:" + hashlib.sha256(b"identitydp commitment v1\0" + master._secret).hexdigest()


def image_key(master: MasterKey, *, digest: bytes, policy: str):
    """Return the random key of one face image: a typed ChaCha20 key of shape ().

    Args:
      master: see `load_or_create` and `audit_master`.
      digest: SHA-256 of exactly what is noised, the aligned face, 32 bytes; not of a file or photo
        that it is from.
      policy: `PrivacySetting.policy` with the model. Another setting or model gets another key, as
        one key for two of them would reveal the difference between what they hide.

    For a photo with several faces, use `face_key`: not this key folded with a face's index, since
    an index names another face once a setting of the detector changes.
    """
    return _random_key(master, b"image", _checked(digest), policy.encode())


def face_key(master: MasterKey, *, digest: bytes, crop: bytes, policy: str, box):
    """Return the random key of one face in a photo: like `image_key`, and bound to photo and box.

    Args:
      master: see `load_or_create` and `audit_master`.
      digest: SHA-256 of the photo's content, 32 bytes.
      crop: SHA-256 of exactly what is noised, the aligned face, 32 bytes. Photo and box don't say
        what that is: neighbours may have been pixelated in it or not.
      policy: see `image_key`.
      box: 4 finite numbers, the detector's (left, top, right, bottom) in pixels of the photo;
        rounded to whole pixels, so small differences between machines seldom matter.

    Raises:
      ValueError: the box is not 4 finite numbers.
    """
    corners = np.asarray(box, np.float64)
    if corners.shape != (4,) or not np.isfinite(corners).all():
        raise ValueError("box: give 4 finite numbers (left, top, right, bottom)")
    rounded = np.rint(corners).astype(">i8").tobytes()
    return _random_key(master, b"face", _checked(digest), _checked(crop), policy.encode(), rounded)


def subject_key(master: MasterKey, *, subject: str, digest: bytes, policy: str):
    """Return the random key of the one draw that a subject's releases share: like `image_key`.

    Args:
      master: see `load_or_create` and `audit_master`.
      subject: identifier of a person or a track, not empty; compared character by character.
      digest: SHA-256 of what is noised, 32 bytes (the aligned face, say), not of the photo it is
        from, where the subject may be found twice.
      policy: see `image_key`.

    The key is bound to what is noised, so a subject whose first draw was forgotten gets a second,
    independent one, which costs its epsilon again. One key for both would cost the difference of
    the two embeddings itself.

    Raises:
      UserError: `subject` is empty.
    """
    if not subject:
        raise UserError("subject is empty: give the identifier of a person or a track")
    name = subject.encode("utf-8", "surrogatepass")  # of a file's name, maybe
    return _random_key(master, b"subject", _checked(digest), policy.encode(), name)


def ledger_key(master: MasterKey) -> bytes:
    """Return the 32 secret bytes that seal the ledger of a master key, the same for its life."""
    return _derive(master, b"ledger")


def tag(master: MasterKey, *, digest: bytes, text: str) -> str:
    """Return a public keyed hash of a content's SHA-256 and a text, 64 hexadecimal digits.

    Nobody without the master key can make it, or learn from it what content it is of.
    """
    return _derive(master, b"tag", _checked(digest), text.encode()).hex()


def seal(master: MasterKey, content: bytes) -> str:
    """Return a public keyed hash of what is written under a master key, 64 hexadecimal digits.

    Nobody without the master key can make it, so it shows whether the content was changed since.
    """
    return _derive(master, b"seal", content).hex()


def _random_key(master: MasterKey, purpose: bytes, *parts: bytes):
    return chacha.key_from_bytes(_derive(master, purpose, *parts))


def _derive(master: MasterKey, purpose: bytes, *parts: bytes) -> bytes:
    """Return HMAC-SHA-256(master, version, purpose and parts, each after its length)."""
    message = b"".join(
        len(part).to_bytes(8, "big") + part for part in (b"identitydp key v2", purpose, *parts)
    )
    return hmac.digest(master._secret, message, "sha256")


def _checked(digest: bytes) -> bytes:
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"digest has {len(digest)} bytes: give a SHA-256 of 32 bytes")
    return bytes(digest)
