"""The folder in which JAX keeps what it compiles: the user's own, as what lies there is run."""

import os
import pathlib
import stat

import platformdirs

from identitydp_jax.checks import UserError

_NAME = "JAX_COMPILATION_CACHE_DIR"
_WRITE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def enable() -> None:
    """Let JAX, which reads these variables when it is imported, keep compiled programs.

    The folder is that of `JAX_COMPILATION_CACHE_DIR`, or one of its own in the user's cache, apart
    from the pretrained files, whose folder may be shared. It is made with mode 0700; where it can't
    be made nothing is kept. An address such as gs://bucket, whose owner nobody can ask for here, is
    the business of who gave it.

    Raises:
      UserError: the folder is another user's, or others can write to it or replace it.
    """
    given = os.environ.get(_NAME)
    if given is None or (given and "://" not in given):
        folder = _private(pathlib.Path(given or platformdirs.user_cache_dir("identitydp-compiled")))
        if folder:
            os.environ[_NAME] = folder
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _private(path: pathlib.Path) -> str | None:
    """Make a folder that its user alone can write to, and return its full name; None if none is."""
    path = path.expanduser().resolve()
    try:
        for each in (*reversed(path.parents), path):  # all of them 0700, whatever the umask
            if not each.exists():
                each.mkdir(mode=0o700, exist_ok=True)
        status = path.stat()
        above = [parent.stat().st_mode for parent in path.parents]
    except OSError:
        return None
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        problem = "belongs to another user"
    elif status.st_mode & _WRITE_BY_OTHERS:
        problem = "can be written by others"
    elif any(mode & stat.S_IWOTH and not mode & stat.S_ISVTX for mode in above):
        problem = "lies in a folder that everybody can write to"
    else:
        return str(path)
    raise UserError(
        f"{path} keeps compiled programs, which are run, and {problem}: remove it with all that is"
        f" in it, or set {_NAME} to a folder of your own"
    )
