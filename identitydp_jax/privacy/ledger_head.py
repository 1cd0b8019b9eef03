"""The newest head of a ledger, kept beside the key: it shows a ledger that is gone or was cut."""

import hashlib
import os
import pathlib
import re

from identitydp_jax import storage
from identitydp_jax.checks import UserError

_HEAD = re.compile(rb"[0-9a-f]{64}\n")


def path_beside(key_file: str | os.PathLike, ledger: str | os.PathLike) -> pathlib.Path:
    """Return where the head of a ledger is, beside the key; the same if both are moved together."""
    key_file = pathlib.Path(key_file)
    place = os.path.relpath(pathlib.Path(ledger).absolute(), key_file.absolute().parent)
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()
    return key_file.with_name(f"{key_file.name}.{digest[:12]}.head")


def read(path: pathlib.Path) -> str | None:
    """Return the hexadecimal head, None if there is no file.

    Raises:
      UserError: the file can't be read, or holds something else.
    """
    try:
        content = storage.read(path, follow=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error.strerror) from None
    if not _HEAD.fullmatch(content):
        raise _unusable(path, "it holds something else")
    return content[:-1].decode()


def write(path: pathlib.Path, head: str) -> None:
    """Write a head over the one before; once this returns it survives a power cut.

    Raises:
      UserError: it can't be written.
    """
    try:
        storage.write(path, head.encode() + b"\n", mode=0o600)
    except OSError as error:
        raise _unusable(path, error.strerror) from None


def _unusable(path: pathlib.Path, reason: str | None) -> UserError:
    return UserError(
        f"{path}, which attests the newest entry of a ledger, can't be used ({reason}): check the"
        " ledger with `identitydp ledger verify`, then remove that file"
    )
