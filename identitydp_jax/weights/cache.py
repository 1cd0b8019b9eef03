"""The per-user cache of pretrained files, each checked against its pinned hash before use."""

import hashlib
import os
import pathlib
import tempfile
import zipfile

import platformdirs

from identitydp_jax.checks import UserError
from identitydp_jax.weights.registry import WEIGHTS, WeightFile

_CHUNK = 1 << 20


def directory() -> pathlib.Path:
    """Return the cache folder: `IDENTITYDP_CACHE` if set, else the user's cache folder."""
    chosen = os.environ.get("IDENTITYDP_CACHE")
    return pathlib.Path(chosen or platformdirs.user_cache_dir("identitydp"))


def path(name: str) -> pathlib.Path:
    """Return the verified cached file, fetching it first if it is absent."""
    file = WEIGHTS[name]
    cached = directory() / pathlib.PurePosixPath(file.member).name
    if not cached.exists():
        raise UserError(f"{name}: not cached; run identitydp weights fetch {name} --from-file FILE")
    if _sha256(cached) != file.sha256:
        raise UserError(f"{cached}: wrong SHA-256; remove it and fetch it again")
    return cached


def fetch(name: str, *, from_file=None) -> pathlib.Path:
    file = WEIGHTS[name]
    with zipfile.ZipFile(from_file) as archive:
        data = archive.read(file.member)
    cached = directory() / pathlib.PurePosixPath(file.member).name
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as out:
        out.write(data)
    os.replace(out.name, cached)
    return path(name)


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
