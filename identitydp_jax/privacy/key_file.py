"""The file of a master key: 32 random bytes that only its owner reads; see `privacy.keys`.

Every function raises `UserError`, one line without any of those bytes, for what it refuses and for
what the operating system does.
"""

import contextlib
import os
import pathlib
import resource
import secrets
import stat

from identitydp_jax import storage
from identitydp_jax.checks import UserError

BYTES = 32


def create(path: str | os.PathLike) -> bytes:
    """Make a new key in a new file and return it; see `keys.create`."""
    with _clear_errors(path) as path:
        if not _make(path):
            raise UserError(f"key file {path} exists: name a new file, or destroy that one first")
        return _read(path)


def read(path: str | os.PathLike) -> bytes:
    """Return the key in a file; see `keys.load`."""
    with _clear_errors(path) as path:
        return _read(path)


def read_or_create(path: str | os.PathLike) -> bytes:
    """Return the key in a file, making it if there is none; see `keys.load_or_create`."""
    with _clear_errors(path) as path:
        if not os.path.lexists(path):
            _make(path)
        return _read(path)


def destroy(path: str | os.PathLike) -> bytes:
    """Overwrite, cut and remove a key's file, and return what it held; see `keys.destroy`."""
    with _clear_errors(path) as path:
        descriptor = _open(path, os.O_RDWR)
        try:
            secret = _content(path, descriptor)
            # By random bytes: zeros, left by a crash, would be a key that anybody knows.
            os.pwrite(descriptor, secrets.token_bytes(BYTES), 0)
            os.fsync(descriptor)
            os.ftruncate(descriptor, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.unlink(path)
        _sync_folder(path.parent)
    return secret


@contextlib.contextmanager
def _clear_errors(path: str | os.PathLike):
    """Give the path, and turn what the operating system refuses into one line."""
    path = pathlib.Path(path)
    try:
        yield path
    except OSError as error:
        raise UserError(
            f"key file {path}: {error.strerror or type(error).__name__}: "
            "name a file in a folder that you can read and write"
        ) from None


def _make(path: pathlib.Path) -> bool:
    """Write a fresh key; return False if something is there."""
    _forbid_core_dumps()
    secret = secrets.token_bytes(BYTES)
    try:
        storage.write(path, secret, mode=0o600, folder_mode=0o700, replace=False)
    except FileExistsError:
        return False
    return True


def _sync_folder(folder: pathlib.Path) -> None:
    """Make the names in `folder` survive a power cut: a lost key cannot be made again."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: pathlib.Path) -> bytes:
    """Return the bytes of a file that its owner alone can read."""
    descriptor = _open(path, os.O_RDONLY)
    try:
        status = os.fstat(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        if mode & ~0o600:
            raise UserError(f"key file {path} has mode {mode:04o}, wider than 0600: chmod 600 it")
        if status.st_uid != os.geteuid():
            raise UserError(f"key file {path} is another user's, who knows it: name your own")
        content = _content(path, descriptor)
        if len(set(content)) == 1:  # zeros, left by a crash; by chance one key in 2^248
            raise UserError(
                f"key file {path} holds one and the same byte, which anybody can guess: move it"
                " away to have a new one made"
            )
        return content
    finally:
        os.close(descriptor)


def _open(path: pathlib.Path, access: int) -> int:
    """Open a regular file, judging the opened file itself so that no swap goes unseen."""
    if path.is_symlink():
        raise UserError(f"key file {path} is a symbolic link: name the file itself")
    # O_NONBLOCK: a named pipe would wait for its writer forever.
    descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"key file {path} is not a regular file: name another file")
    return descriptor


def _content(path: pathlib.Path, descriptor: int) -> bytes:
    """Return the bytes of an opened file that has exactly as many as a key."""
    _forbid_core_dumps()
    content = os.read(descriptor, BYTES + 1)
    if len(content) != BYTES:
        raise UserError(
            f"key file {path} has {os.fstat(descriptor).st_size} bytes, not {BYTES}: "
            "move it away to have a new one made, or name another file"
        )
    return content


def _forbid_core_dumps() -> None:
    """Let no crash from now on write this process's memory, and the key in it, to the disk."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    # Linux pipes a core to a program whatever the limit, but for a limit of one byte.
    few = 1 if most == resource.RLIM_INFINITY else min(most, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (few, most))
