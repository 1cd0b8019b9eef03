"""The manifest: lines of JSON in the output folder for each photo, without any secret.

A record has the name of the input as it was given, the name and SHA-256 of the output, what
was done, the method with its setting and its model's hash, the commitment to the key, and every
face. `tag` is a keyed hash of the input and all settings: whoever lacks the master key cannot tell
from it which photo went in, and a run recognises with it what is already done. `seal` is a keyed
hash of the record itself: a line that was changed, or written by somebody else, is not believed.

Every result has two records: one that says "writing", before it gets its name, and one after that.
"""

import errno
import hashlib
import hmac
import json
import os
import pathlib

from identitydp_jax import storage
from identitydp_jax.checks import UserError, parse_json
from identitydp_jax.privacy import keys

NAME = "manifest.jsonl"
INTENDED = "writing"  # status of a result that may not be there yet


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
                f"cannot write to {folder / NAME} ({error.strerror}): name another folder with"
                " --output"
            ) from None
        if not _lock(self._file):
            self._file.close()
            raise UserError(f"another run is writing to {folder}: wait for it to end")
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._outputs = _outputs(whole)
        if whole != content:
            self._file.truncate(len(whole))  # of the line that a killed run left half written

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
        records = _outputs(storage.read(folder / NAME))
    except OSError:
        return {}
    return {name: record["output_sha256"] for name, record in records.items()}


def read(folder: pathlib.Path) -> dict[str, dict]:
    """Return the last record of each output that the manifest in a folder calls done.

    Raises:
      OSError: there is no manifest, or what has its name is no plain file.
    """
    return _outputs(storage.read(folder / NAME), intended=False)


def sealed(record: dict, master: keys.MasterKey) -> dict:
    """Return a record with its `seal`, under the key of the run."""
    return record | {"seal": _seal(record, master)}


def is_sealed(record: dict, master: keys.MasterKey) -> bool:
    """Return whether a record is as a run with the same key wrote it."""
    return hmac.compare_digest(str(record.get("seal")).encode(), _seal(record, master).encode())


def sha256(data: bytes) -> str:
    """Return the hexadecimal digest that records hold."""
    return hashlib.sha256(data).hexdigest()


def _seal(record: dict, master: keys.MasterKey) -> str:
    content = {name: value for name, value in record.items() if name != "seal"}
    return keys.seal(master, json.dumps(content, sort_keys=True).encode())


def _outputs(content: bytes, *, intended: bool = True) -> dict[str, dict]:
    """Return the last record of each output; torn or foreign lines count for nothing.

    With `intended` also of those that may not be there.
    """
    outputs = {}
    for line in content.splitlines():
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or "identitydp" not in record:
            continue
        if "output_sha256" in record and (intended or record.get("status") != INTENDED):
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
