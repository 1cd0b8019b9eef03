"""The newest head of a ledger, kept beside the key: it shows a ledger that is gone or was cut."""

import hashlib
import os
import pathlib
import re

from identitydp_jax.checks import UserError

_HEAD = re.compile(rb"[0-9a-f]{64}\n")


def path_beside(key_file: str | os.PathLike, ledger: str | os.PathLike) -> pathlib.Path:
    """Return where the head of a ledger is, beside the key that it is of."""
    key_file, full = pathlib.Path(key_file), os.fsencode(pathlib.Path(ledger).absolute())
    return key_file.with_name(f"{key_file.name}.{hashlib.sha256(full).hexdigest()[:12]}.head")


def read(path: pathlib.Path) -> str | None:
    """Return the hexadecimal head, None if there is no file.

    Raises:
      UserError: the file can't be read, or holds something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error.strerror) from None
    try:
        content = os.read(descriptor, 66)
    except OSError as error:
        raise _unusable(path, error.strerror) from None
    finally:
        os.close(descriptor)
    if not _HEAD.fullmatch(content):
        raise _unusable(path, "it holds something else")
    return content[:-1].decode()


def write(path: pathlib.Path, head: str) -> None:
    """Write a head over the one before; once this returns it survives a power cut.

    It is written in place, within one block of the disk: an older head would do as well.

    Raises:
      UserError: it can't be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
        try:
            os.pwrite(descriptor, head.encode() + b"\n", 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unusable(path, error.strerror) from None


def _unusable(path: pathlib.Path, reason: str | None) -> UserError:
    return UserError(
        f"{path}, which attests the newest entry of a ledger, can't be used ({reason}): check the"
        " ledger with `identitydp ledger verify`, then remove that file"
    )
