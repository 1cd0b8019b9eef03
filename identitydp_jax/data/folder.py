"""Folders of image files, as random access to their encoded bytes."""

import pathlib

from identitydp_jax import storage
from identitydp_jax.checks import UserError, given_path

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")


class FolderSource:
    """The image files of a folder, at any depth, in the order of their names."""

    def __init__(self, folder):
        """List the images under `folder`; raise `UserError` if there are none."""
        self._folder = given_path(folder)
        if not self._folder.is_dir():
            raise UserError(f"{folder}: not a folder; give one that holds images of faces")
        self._files = sorted(path for path in self._folder.rglob("*") if is_image(path.name))
        if not self._files:
            raise UserError(f"{folder}: holds no image ({', '.join(SUFFIXES)})")

    def __len__(self):
        """Return the number of images."""
        return len(self._files)

    def name(self, index) -> str:
        """Return the path of one image below the folder, with "/"."""
        return self._files[index].relative_to(self._folder).as_posix()

    def __getitem__(self, index) -> bytes:
        """Return the content of one image file; raise `UserError` if it cannot be read."""
        path = self._files[index]
        try:
            return storage.read(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None

    def __repr__(self):
        """Name the folder; grain shows this in its errors."""
        return f"FolderSource({str(self._folder)!r})"


def is_image(name: str) -> bool:
    """Return whether a file's name, without its folder, is that of an image and not hidden."""
    return pathlib.PurePath(name).suffix.lower() in SUFFIXES and not name.startswith(".")
