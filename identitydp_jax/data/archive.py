"""Zip and tar archives of image files, as random access to their encoded bytes."""

import tarfile
import weakref
import zipfile

from identitydp_jax import storage
from identitydp_jax.checks import UserError, given_path
from identitydp_jax.data.folder import SUFFIXES, is_image


class ArchiveSource:
    """The image files in a zip or tar archive, compressed or not, in the archive's order.

    A compressed tar file is fast only in order. One thread at a time may read.
    """

    def __init__(self, path):
        """List the images in `path`; raise `UserError` if it is no archive or holds none."""
        self._path = given_path(path)
        if not self._path.is_file():  # a pipe would wait for its writer
            raise UserError(f"{path}: not a whole zip or tar file (no file)")
        try:
            kind = zipfile.ZipFile if zipfile.is_zipfile(self._path) else tarfile.open
            self._archive = kind(self._path)
            weakref.finalize(self, self._archive.close)
            if isinstance(self._archive, zipfile.ZipFile):
                files = {e.filename: e for e in self._archive.infolist() if not e.is_dir()}
            else:
                files = {e.name: e for e in self._archive if e.isfile()}
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a whole zip or tar file ({error})") from None
        self._members = [item for item in files.items() if is_image(item[0].rpartition("/")[2])]
        if not self._members:
            raise UserError(f"{path}: holds no image ({', '.join(SUFFIXES)})")

    def __len__(self):
        """Return the number of images."""
        return len(self._members)

    def name(self, index) -> str:
        """Return the name of one image inside the archive."""
        return self._members[index][0]

    def __getitem__(self, index) -> bytes:
        """Return the content of one image file; raise `UserError` if it cannot be read."""
        name, member = self._members[index]
        try:
            is_zip = isinstance(self._archive, zipfile.ZipFile)
            opening = self._archive.open if is_zip else self._archive.extractfile
            with opening(member) as file:
                # A member may hold more than its entry says, and a small archive a huge one.
                content = file.read(storage.MAX_BYTES + 1)
            if len(content) > storage.MAX_BYTES:
                raise ValueError(f"larger than {storage.MAX_BYTES >> 20} MiB")
            return content
        except Exception as error:  # zlib, lzma and encrypted members share no base class
            raise UserError(f"{self._path}: {name} cannot be read ({error})") from None
