"""CelebA's labels (Liu et al., "Deep learning face attributes in the wild", ICCV 2015)."""

import dataclasses
import io
import zipfile
import zlib

import numpy as np

from identitydp_jax import storage
from identitydp_jax.checks import UserError, given_path


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """What photos show, by the photo's file name.

    Attributes:
      path: of the file, as it was given.
      attributes: A names, as CelebA has them: `Male`, `Young`, ...
      rows: row of every photo by file name.
      values: bool (photos, A), whether the photo shows it.
    """

    path: str
    attributes: tuple[str, ...]
    rows: dict[str, int]
    values: np.ndarray

    def of(self, photos, attribute: str) -> np.ndarray:
        """Return whether each of N photos, paths with "/", shows an attribute: bool (N,).

        Raises:
          UserError: there is no such attribute, or a photo without labels.
        """
        if attribute not in self.attributes:
            raise UserError(
                f"{self.path}: has no attribute {attribute}, only {', '.join(self.attributes)}"
            )
        names = [photo.rpartition("/")[2] for photo in photos]
        if missing := [name for name in names if name not in self.rows]:
            raise UserError(
                f"{self.path}: has no labels for {len(missing)} of {len(names)} photos, the first"
                f" is {missing[0]}: give labels by the photos' file names"
            )
        column = self.values[:, self.attributes.index(attribute)]
        return column[[self.rows[name] for name in names]]


def read_labels(path: str) -> Labels:
    """Read a file in the layout of CelebA's `list_attr_celeba.txt`, or a zip file of only that.

    The first line holds the number of photos, the second the names of the attributes, every other
    a file name and for each attribute 1 or -1.

    Raises:
      UserError: the file is missing or laid out otherwise.
    """
    count, names, *lines = _read(path) + [""] * 2
    lines, attributes = lines[:-2] if lines else [], tuple(names.split())
    if not count.strip().isdecimal() or not attributes or int(count) != len(lines):
        raise UserError(
            f"{path}: not in the layout of CelebA's list_attr_celeba.txt, which begins with the"
            " number of photos and a line of names"
        )
    rows, values = {}, np.empty((len(lines), len(attributes)), bool)
    for row, line in enumerate(lines):
        name, *marks = line.split() or [""]
        if len(marks) != len(attributes) or not set(marks) <= {"1", "-1"}:
            raise UserError(
                f"{path}, line {row + 3}: give a file name and {len(attributes)} times 1 or -1"
            )
        rows[name] = row
        values[row] = [mark == "1" for mark in marks]
    return Labels(path, attributes, rows, values)


def _read(path: str) -> list[str]:
    try:
        content = storage.read(given_path(path))
        if zipfile.is_zipfile(io.BytesIO(content)):
            archive = zipfile.ZipFile(io.BytesIO(content))
            with archive.open(archive.namelist()[0]) as file:
                content = file.read(storage.MAX_BYTES)  # a small archive may hold a huge file
        return content.decode().splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; give a file as CelebA's list_attr_celeba.txt"
        ) from error
    except (UnicodeDecodeError, zipfile.BadZipFile, zlib.error, IndexError, RuntimeError) as error:
        raise UserError(f"{path}: not a text in UTF-8, nor a zip file of one") from error
