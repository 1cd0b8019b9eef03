"""Where the photos of an evaluation come from, and whom they show."""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from identitydp_jax import storage
from identitydp_jax.anonymize import formats, images
from identitydp_jax.checks import UserError, given_path
from identitydp_jax.data.tfds_source import TfdsSource

IDENTITIES = "identities.csv"
# Taken for photos too, so that they are counted as unreadable instead of overlooked.
_OTHER_SUFFIXES = (".jp2", ".ppm")
_USAGE = (
    "give one SOURCE, or original=SOURCE with one or more of anonymized=FOLDER or"
    " anonymized=NAME:FOLDER"
)


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo that was not read yet.

    Attributes:
      name: unique in its source: the path below the folder, with "/".
      identity: whom it shows, or None where the source does not say.
      read: returns uint8 (H, W, 3) sRGB, upright; raises `UserError` or `OSError` if it cannot.
    """

    name: str
    identity: str | None
    read: Callable[[], np.ndarray]


class Source(Sequence[Photo]):
    """Photos in a fixed order; several threads may take them out.

    Attributes:
      spec: what it was opened with.
    """

    spec: str


def open_source(spec: str) -> Source:
    """Open a folder or a data set of TensorFlow Datasets.

    * A folder whose photos all lie one level down: each subfolder is a person.
    * A folder with `identities.csv`, columns `file` (path below the folder) and `identity`. A photo
      that it does not list, or lists without identity, shows nobody known; one that it lists and
      that is not there is unreadable.
    * A flat folder of photos: nobody is known.
    * `tfds:NAME[:SPLIT]`, with `NAME` as `tfds.builder` takes it (``lfw``, ``celeb_a:2.1.0``) and
      `SPLIT` as ``test`` or ``train[:10%]``, needed if there are several. The identity is the
      feature `identity` or `label`. The data set lies in `TFDS_DATA_DIR` (default
      ``~/tensorflow_datasets``) as array_record, which `tfds build NAME
      --file_format=array_record` makes; only that needs TensorFlow.

    Photos of folders come person by person, then by name.

    Raises:
      UserError: there is no such folder or data set, it holds no photo, photos lie at different
        depths, or `identities.csv` is no such table.
    """
    if spec.startswith("tfds:"):
        return _TfdsSource(spec)
    return _FolderSource(spec)


def open_data(specs: list[str]) -> tuple[Source, dict[str, pathlib.Path]]:
    """Open what `--data` names: a source, and folders with its photos anonymized by other tools.

    Args:
      specs: one SOURCE; or `original=SOURCE` and, once or more, `anonymized=FOLDER` or
        `anonymized=NAME:FOLDER`, in any order.

    Returns:
      The source, and the folders by name. A folder without a NAME has its own.

    Raises:
      UserError: the words are others, a folder is missing, or two have one name.
    """
    if len(specs) == 1 and not specs[0].startswith(("original=", "anonymized=")):
        return open_source(specs[0]), {}
    originals, folders = [], {}
    for spec in specs:
        role, _, value = spec.partition("=")
        if role == "original" and value:
            originals.append(value)
        elif role == "anonymized" and value:
            name, folder = _named_folder(value)
            if name in folders:
                raise UserError(
                    f"{folders[name]} and {folder} are both called {name}: give"
                    " anonymized=NAME:FOLDER"
                )
            folders[name] = folder
        else:
            raise UserError(f"--data {spec}: {_USAGE}")
    if len(originals) != 1 or not folders:
        raise UserError(f"--data {' '.join(specs)}: {_USAGE}")
    return open_source(originals[0]), folders


def photo_names(folder: pathlib.Path) -> list[str]:
    """Return the sorted paths, with "/", of the photos at any depth below a folder.

    Raises:
      UserError: the folder is missing or cannot be listed.
    """

    def refuse(error):
        raise UserError(f"{error.filename}: {error.strerror}") from error

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that holds photos")
    names = []
    for root, folders, inside in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = pathlib.Path(root).relative_to(folder)
        names += [
            (below / name).as_posix()
            for name in inside
            if not name.startswith(".")
            and pathlib.Path(name).suffix.lower() in (*formats.SUFFIXES, *_OTHER_SUFFIXES)
        ]
    return sorted(names)


def read_photo(path: pathlib.Path) -> np.ndarray:
    """Return a photo as uint8 (H, W, 3) sRGB, upright; raise `UserError` or `OSError`."""
    if not path.is_file():
        raise UserError("no such file")
    return images.decode(storage.read(path)).pixels


class _FolderSource(Source):
    def __init__(self, spec: str):
        self.spec = spec
        self._folder = given_path(spec)
        names = photo_names(self._folder)
        if (self._folder / IDENTITIES).is_file():
            listed = _read_identities(self._folder / IDENTITIES)
            identities = dict.fromkeys(names) | listed
        else:
            identities = _identities_by_folder(names, self._folder)
        if not identities:
            raise UserError(f"{spec}: holds no photo ({', '.join(formats.SUFFIXES)})")
        self._identities = sorted(
            identities.items(), key=lambda item: (item[1] is None, item[1] or "", item[0])
        )

    def __len__(self) -> int:
        return len(self._identities)

    def __getitem__(self, index: int) -> Photo:
        name, identity = self._identities[index]
        return Photo(name, identity, lambda: read_photo(self._folder / name))


class _TfdsSource(Source):
    def __init__(self, spec: str):
        self.spec = spec
        self._records = TfdsSource(spec)
        features = self._records.features
        self._label = next((name for name in ("identity", "label") if name in features), None)
        names = getattr(features.get(self._label), "names", None)
        self._people = dict(enumerate(names or ()))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Photo:
        if not 0 <= index < len(self):
            raise IndexError(index)
        record = self._records.record(index)
        data = record[self._records.image]
        name = self._records.name(index)
        return Photo(name, self._identity(record), lambda: images.decode(data).pixels)

    def _identity(self, record: Mapping) -> str | None:
        if self._label is None:
            return None
        label = record[self._label]
        if isinstance(label, bytes):
            return label.decode(errors="replace") or None
        return self._people.get(int(label), str(int(label)))


def _named_folder(value: str) -> tuple[str, pathlib.Path]:
    """Return name and path of `FOLDER` or `NAME:FOLDER`."""
    folder, name = given_path(value), ""
    if not folder.is_dir() and ":" in value:
        name, _, rest = value.partition(":")
        folder = given_path(rest)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {_USAGE}")
    return name or folder.resolve().name, folder


def _identities_by_folder(names: list[str], folder: pathlib.Path) -> dict[str, str | None]:
    """Return whom each photo shows: the subfolder's name, or None in a flat folder."""
    depths = {name.count("/"): name for name in names}
    if len(depths) > 1 or max(depths, default=0) > 1:
        raise UserError(
            f"{folder}: photos lie at other depths than one subfolder per person, as"
            f" {depths[max(depths)]}: give a folder of such subfolders, or add {IDENTITIES}"
        )
    return {name: name.rpartition("/")[0] or None for name in names}


def _read_identities(path: pathlib.Path) -> dict[str, str | None]:
    """Return the identity by file; None where the table leaves it open."""
    identities = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"file", "identity"} <= set(rows.fieldnames or ()):
                raise UserError(f"{path}: its first line has to name the columns file,identity")
            for row in rows:
                name = pathlib.PurePosixPath((row["file"] or "").strip()).as_posix()
                identity = (row["identity"] or "").strip() or None
                if name == ".":
                    raise UserError(f"{path}, line {rows.line_num}: names no file")
                if identities.setdefault(name, identity) != identity:
                    raise UserError(
                        f"{path}, line {rows.line_num}: {name} has a second identity, {identity};"
                        " keep one"
                    )
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table of comma-separated values in UTF-8") from error
    return identities
