"""The manifest: one line of JSON in the output folder for each photo, without any secret.

A record has the name of the input as it was given, the name and SHA-256 of the output, what
was done, the method with its setting and its model's hash, the commitment to the key, and every
face. `tag` is a keyed hash of the input and all settings: whoever lacks the master key cannot tell
from it which photo went in, and a run recognises with it what is already done.
"""

import errno
import hashlib
import json
import os
import pathlib

from identitydp_jax import storage
from identitydp_jax.checks import UserError

NAME = "manifest.jsonl"


class Manifest:
    """The manifest of one output folder, open for one run; a second run at once is refused.

    Args:
      folder: the output folder, made if it is absent.

    Raises:
      UserError: it cannot be written, or another run has it open.
    """

    def __init__(self, folder: pathlib.Path):
        try:
            storage.make_folders(folder)
            access = os.O_RDWR | os.O_CREAT | os.O_APPEND
            self._file = storage.open_regular(folder / NAME, access, follow=False)
        except OSError as error:
            raise UserError(
                f"cannot write to {folder} ({error.strerror}): name another folder with --output"
            ) from None
        if not _lock(self._file):
            self._file.close()
            raise UserError(f"another run is writing to {folder}: wait for it to end")
        self._file.seek(0)
        content = self._file.read()
        self._outputs = _outputs(content)
        if content and not content.endswith(b"\n"):
            self._file.write(b"\n")  # ends the line that a killed run left half written

    def __enter__(self) -> "Manifest":
        """Return itself."""
        return self

    def __exit__(self, *_):
        """Close the file, which lets other runs in."""
        self._file.close()

    def find(self, output: str) -> dict | None:
        """Return the last record of the output of that name, or None."""
        return self._outputs.get(output)

    def append(self, record: dict) -> None:
        """Add a record; once this returns it survives a power cut.

        Raises:
          OSError: it cannot be written, for example on a full disk; the manifest is as it was.
        """
        line = json.dumps(record).encode() + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(size)
            raise


def written_by_us(folder: pathlib.Path) -> dict[str, str]:
    """Return the outputs, name to SHA-256, that the manifest in a folder lists; none without it."""
    try:
        records = read(folder)
    except OSError:
        return {}
    return {name: record["output_sha256"] for name, record in records.items()}


def read(folder: pathlib.Path) -> dict[str, dict]:
    """Return the last record of each output that the manifest in a folder lists.

    Raises:
      OSError: there is no manifest, or what has its name is no plain file.
    """
    return _outputs(storage.read(folder / NAME))


def sha256(data: bytes) -> str:
    """Return the hexadecimal digest that records hold."""
    return hashlib.sha256(data).hexdigest()


def _outputs(content: bytes) -> dict[str, dict]:
    """Return the last record of each output; torn or foreign lines count for nothing."""
    outputs = {}
    for line in content.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "identitydp" in record and "output_sha256" in record:
            outputs[str(record.get("output"))] = record
    return outputs


def _lock(file) -> bool:
    """Keep other runs out until the file is closed; return False if one is in already."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass  # Windows, or a file system without locks
    return True
