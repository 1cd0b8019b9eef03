"""Folders of ArrayRecord files that hold one image file of a square face per record.

`manifest.json` says what a folder that `data.prepare` fills shall hold, and of every file its size,
hash and the photos that gave no face.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterable

from array_record.python import array_record_module
from array_record.python.array_record_data_source import ArrayRecordDataSource

from identitydp_jax import storage
from identitydp_jax.checks import UserError, given_path, parse_json

MANIFEST = "manifest.json"
SUFFIX = ".array_record"


class ShardSource:
    """The image files in the ArrayRecord files of a folder; several threads may read."""

    def __init__(self, folder):
        """Open every `*.array_record` of `folder`, in the order of their names.

        Raises:
          UserError: it is no such folder, its preparation has not ended, or a file is damaged.
        """
        self._folder = given_path(folder)
        paths = sorted(self._folder.glob(f"*{SUFFIX}"))
        _check_whole(self._folder)
        if not paths:
            raise UserError(f"array_record:{folder}: holds no {SUFFIX} file; see data prepare")
        for path in paths:
            try:
                array_record_module.ArrayRecordReader(str(path)).close()
            except (RuntimeError, ValueError) as error:
                raise UserError(_damaged(path, error)) from None
        self._records = ArrayRecordDataSource([str(path) for path in paths])
        if not len(self._records):
            raise UserError(f"array_record:{folder}: holds no face")

    def __len__(self):
        """Return the number of records."""
        return len(self._records)

    def name(self, index) -> str:
        """Return the number of one record."""
        return f"record {index}"

    def __getitem__(self, index) -> bytes:
        """Return the image file of one record; raise `UserError` if it is damaged."""
        try:
            return self._records[index]
        except (RuntimeError, ValueError) as error:
            raise UserError(_damaged(f"{self._folder}: {self.name(index)}", error)) from None

    def __repr__(self):
        """Name the folder; grain shows this in its errors."""
        return f"ShardSource({str(self._folder)!r})"


def write_shard(path: pathlib.Path, records: Iterable[bytes]) -> dict:
    """Write an ArrayRecord file whole or not at all.

    Returns:
      Its `bytes`, `sha256` and number of `faces`, for the manifest.

    Raises:
      OSError: the folder cannot be written or is full.
    """
    try:
        with storage.beside(path) as (file, unfinished):
            # Readers that jump about want every record in a group of its own.
            writer = array_record_module.ArrayRecordWriter(str(unfinished), "group_size:1")
            count = 0
            for record in records:
                writer.write(record)
                count += 1
            writer.close()
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"bytes": file.tell(), "sha256": digest, "faces": count}
    except RuntimeError as error:
        raise OSError(None, str(error)) from None


def is_whole(path: pathlib.Path, entry: dict) -> bool:
    """Return whether a file is the one that its entry in the manifest describes."""
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]


def read_manifest(folder: pathlib.Path) -> dict | None:
    """Return the manifest of a folder, None without one; raise `UserError` if it is damaged."""
    path = folder / MANIFEST
    try:
        manifest = parse_json(storage.read(path))
        return {"recipe": dict(manifest["recipe"]), "shards": dict(manifest["shards"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a manifest of `identitydp data prepare`") from None


def write_manifest(folder: pathlib.Path, manifest: dict) -> None:
    """Replace the manifest of a folder; raise `OSError` if it cannot be written."""
    storage.write(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def _check_whole(folder: pathlib.Path) -> None:
    """Raise `UserError` unless every file that the manifest promises is there in its full size."""
    if not folder.is_dir():
        raise UserError(f"array_record:{folder}: no such folder; see identitydp data prepare")
    manifest = read_manifest(folder)
    if manifest is None:  # shards made by other tools
        return
    again = "run the same `identitydp data prepare` again"
    promised = manifest["recipe"]["shards"]
    if len(manifest["shards"]) < promised:
        raise UserError(
            f"array_record:{folder}: only {len(manifest['shards'])} of {promised} files are"
            f" prepared; {again}"
        )
    for name, entry in manifest["shards"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise UserError(f"{path}: missing or of another size than it was written; {again}")


def _damaged(what, error: Exception) -> str:
    reason = " ".join(str(error).split())[:120] or "cut short"
    return f"{what}: damaged ({reason}); run the same `identitydp data prepare` again"
