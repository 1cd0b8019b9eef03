"""Files that appear whole or not at all, and reading what may be no plain file.

Every name that a stranger could foresee is one that he could plant: what is written gets a random
name first, is opened so that no link is followed, and is then renamed. What the operating system
refuses is an `OSError` whose `strerror` fits into a sentence.
"""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO

MAX_BYTES = 1 << 30  # of any file that is read into memory whole

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.part")  # short: a name may be the longest there is
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write(path: str | os.PathLike, data: bytes, **options) -> None:
    """Write a file so that the name `path` only ever stands for whole content.

    Args:
      path: its folder is made if absent.
      data: the content.
      **options: see `beside`.

    Raises:
      OSError: the folder cannot be written or is full; nothing stays behind.
    """
    with beside(path, **options) as (file, _):
        file.write(data)


@contextlib.contextmanager
def beside(
    path: str | os.PathLike,
    *,
    within: str | os.PathLike | None = None,
    mode: int = 0o666,
    folder_mode: int = 0o777,
    replace: bool = True,
    sync: bool = True,
) -> Iterator[tuple[BinaryIO, pathlib.Path]]:
    """Open a new file in the folder of `path`, which gets that name after the block, or is removed.

    Args:
      path: its folder is made if absent.
      within: a folder above `path`: no link between the two is followed. None: links are.
      mode: permissions of the file, less the process's umask.
      folder_mode: of every folder that is made, less the umask.
      replace: whether a file that has the name gives way; else that is a `FileExistsError`.
      sync: whether content and name survive a power cut once the block has ended.

    Yields:
      the open file, and its path for what wants to open it by itself.

    Raises:
      OSError: see `write`.
    """
    path = pathlib.Path(path)
    folder = _open_folder(path.parent, within, folder_mode)
    try:
        name = f".{secrets.token_hex(8)}.part"
        descriptor = os.open(name, _NEW, mode, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file, path.parent / name
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            if replace:
                os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                os.link(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
                os.unlink(name, dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise
        if sync:
            os.fsync(folder)
    finally:
        os.close(folder)


def read(path: str | os.PathLike, *, follow: bool = True) -> bytes:
    """Return the content of a regular file of at most `MAX_BYTES`.

    Args:
      path: a pipe is not waited for, and a device not read.
      follow: whether `path` itself may be a symbolic link.

    Raises:
      OSError: it cannot be read, or is no such file.
    """
    with open_regular(path, os.O_RDONLY, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MAX_BYTES >> 30} GiB", os.fspath(path))
        return file.read(MAX_BYTES)


def open_regular(path: str | os.PathLike, access: int, *, follow: bool = True) -> BinaryIO:
    """Open a file unbuffered, judging the opened file itself so that no swap goes unseen.

    Args:
      path: the file.
      access: flags of `os.open`.
      follow: whether `path` itself may be a symbolic link.

    Raises:
      OSError: it is no regular file, or cannot be opened.
    """
    # O_NONBLOCK: a named pipe would wait for its other end forever.
    flags = access | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError(error.errno, "a symbolic link", os.fspath(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    writes = access & (os.O_WRONLY | os.O_RDWR)
    return os.fdopen(descriptor, "r+b" if writes else "rb", buffering=0)


def make_folders(path: str | os.PathLike, mode: int = 0o777) -> None:
    """Make a folder and those above it that are missing, each with `mode` less the umask."""
    path = pathlib.Path(path)
    if path.is_dir():
        return
    if path.parent != path:
        make_folders(path.parent, mode)
    try:
        path.mkdir(mode)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None


def sweep(folder: str | os.PathLike) -> None:
    """Remove what killed runs left unfinished in a folder to which nobody else writes now."""
    for path in pathlib.Path(folder).glob(".*.part"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _open_folder(path: pathlib.Path, within, mode: int) -> int:
    """Return a descriptor of a folder, made if it is absent."""
    if within is None:
        make_folders(path, mode)
        return os.open(path, _FOLDER)
    make_folders(within, mode)
    folder = os.open(within, _FOLDER)
    try:
        for part in path.relative_to(within).parts:
            folder, above = _open_inner(folder, part, path, mode), folder
            os.close(above)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _open_inner(folder: int, part: str, path: pathlib.Path, mode: int) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, mode, dir_fd=folder)
    try:
        if part == "..":
            raise NotADirectoryError
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError:
        raise OSError(
            errno.ENOTDIR, f"{part} in {path} is a link or no folder, so nothing is written there"
        ) from None
