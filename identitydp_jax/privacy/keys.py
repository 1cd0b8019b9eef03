"""The secret behind the noise: master keys, and the random keys derived from them.

Who holds the master key and an anonymized photo can undo the noise, so the master key is 256 bits
of operating-system entropy in a file that only its owner reads, and never appears in a log, a
`repr` or an error. Each face of each photo gets a key of its own by HMAC-SHA-256, so the same
photo and master key give the same pixels, and no two faces share noise.
"""

import contextlib
import hashlib
import hmac
import os
import pathlib
import secrets
import stat
import tempfile

import jax
import numpy as np

from identitydp_jax.checks import UserError

_BYTES = 32


class MasterKey:
    """256 secret bits; shows its commitment only, and cannot be pickled or copied."""

    __slots__ = ("_audit_seed", "_secret")

    def __init__(self, secret: bytes, *, audit_seed: int | None = None):
        if len(secret) != _BYTES:
            raise ValueError(f"a master key has {_BYTES} bytes, not {len(secret)}")
        self._secret = bytes(secret)
        self._audit_seed = audit_seed

    def __repr__(self) -> str:
        """Name the key by its public commitment."""
        return f"MasterKey({commitment(self)})"

    def __reduce_ex__(self, protocol):
        """Refuse: a pickled key would be a second copy outside the key file."""
        raise TypeError("a MasterKey cannot be pickled or copied")


def load_or_create(path: str | os.PathLike) -> MasterKey:
    """Return the master key in the file `path`, making the file (mode 0600) if there is none.

    Of several processes that start together, one makes the file and all read it; a crash leaves
    the whole key or no key. Missing folders are made, readable by the owner alone.

    Raises:
      UserError: the file is not a regular file of 32 bytes (nor is a symbolic link), has
        permissions wider than 0600, or cannot be read or made.
    """
    path = pathlib.Path(path)
    try:
        if not os.path.lexists(path):
            _create(path)
        return MasterKey(_read(path))
    except OSError as error:
        raise UserError(
            f"key file {path}: {error.strerror or type(error).__name__}: "
            "name a file in a folder that you can read and write"
        ) from None


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
    """Return the random key of one face image: a typed threefry key of shape ().

    Args:
      master: see `load_or_create` and `audit_master`.
      digest: SHA-256 of the image's content, 32 bytes.
      policy: `PrivacySetting.policy(model_sha256)`. Another setting or model gets another key, as
        one key for two of them would reveal the difference between what they hide.

    The 64 key bits are the head of HMAC-SHA-256(master, (digest, policy)), unambiguously encoded;
    among n keys two collide with probability n^2 / 2^65. `jax.random.key` would have kept 32.

    For a photo with several faces, use `face_key`: not this key folded with a face's index, since
    an index names another face once a setting of the detector changes.
    """
    return _derive(master, b"image", digest, policy)


def face_key(master: MasterKey, *, digest: bytes, policy: str, box):
    """Return the random key of one face in a photo: like `image_key`, and bound to the face's box.

    Args:
      master: see `load_or_create` and `audit_master`.
      digest: SHA-256 of the photo's content, 32 bytes.
      policy: see `image_key`.
      box: 4 finite numbers, the detector's (left, top, right, bottom) in pixels of the photo;
        rounded to whole pixels, so small differences between machines seldom matter.

    Raises:
      ValueError: the box is not 4 finite numbers.
    """
    corners = np.asarray(box, np.float64)
    if corners.shape != (4,) or not np.isfinite(corners).all():
        raise ValueError("box: give 4 finite numbers (left, top, right, bottom)")
    return _derive(master, b"face", digest, policy, np.rint(corners).astype(">i8").tobytes())


def _derive(master: MasterKey, purpose: bytes, digest: bytes, policy: str, *rest: bytes):
    """Return the typed key HMAC-SHA-256(master, message)[:8], message = length-prefixed parts."""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"digest has {len(digest)} bytes: give a SHA-256 of 32 bytes")
    parts = (b"identitydp random key v1", purpose, bytes(digest), policy.encode(), *rest)
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    derived = hmac.digest(master._secret, message, "sha256")
    words = np.frombuffer(derived[:8], ">u4").astype(np.uint32)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def _create(path: pathlib.Path) -> None:
    """Write a fresh key beside `path` and link it there, unless somebody was faster."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:  # mkstemp opens with O_EXCL and 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # fails where a rename would overwrite
    finally:
        os.unlink(temporary)
    _sync_folder(path.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    """Make the new name in `folder` survive a power cut: a lost key cannot be made again."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: pathlib.Path) -> bytes:
    """Read the 32 bytes, judging the opened file itself so that no swap goes unseen."""
    if path.is_symlink():
        raise UserError(f"key file {path} is a symbolic link: name the file itself")
    # O_NONBLOCK: a named pipe would wait for its writer forever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"key file {path} is not a regular file: name another file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & ~0o600:
            raise UserError(f"key file {path} has mode {mode:04o}, wider than 0600: chmod 600 it")
        secret = os.read(descriptor, _BYTES + 1)
    finally:
        os.close(descriptor)
    if len(secret) != _BYTES:
        raise UserError(
            f"key file {path} has {status.st_size} bytes, not {_BYTES}: "
            "move it away to have a new one made, or name another file"
        )
    return secret
