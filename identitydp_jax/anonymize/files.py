"""Which photos a command means, and where their results go."""

import dataclasses
import glob
import os
import pathlib

from identitydp_jax import storage
from identitydp_jax.anonymize import formats, manifest
from identitydp_jax.checks import UserError, given_path


@dataclasses.dataclass(frozen=True)
class Job:
    """One photo to do: the path to read, and the name under the output folder, with "/"."""

    source: pathlib.Path
    name: str


@dataclasses.dataclass(frozen=True)
class Found:
    """What the inputs of a command come to.

    Attributes:
      jobs: the photos.
      problems: one line for each input or folder that cannot be read.
      skipped: one line for each kind of file that was left out.
    """

    jobs: list[Job]
    problems: list[str]
    skipped: list[str]


def find(inputs: list[str], output: pathlib.Path, *, recursive: bool) -> Found:
    """Find the photos that files, folders and quoted globs name.

    A folder stands for the photos in it, with `recursive` also for those in its subfolders, which
    may be links; the results lie in `output` as the photos do in the folder. Hidden files, the
    output folder and what an earlier run wrote are left out: what a manifest in the folder given,
    or below it, lists with the name and the SHA-256. A file that is named itself is always done.

    Raises:
      UserError: a result would replace an input, or two photos would have the same result.
    """
    walk = _Walk(output, recursive)
    for given in inputs:
        walk.add(given)
    jobs = list({(job.source.resolve(), job.name): job for job in walk.jobs}.values())
    _check_results(jobs, output)
    return Found(jobs, walk.problems, walk.skipped())


class _Walk:
    """Collects jobs, and what stood in the way, over several inputs."""

    def __init__(self, output: pathlib.Path, recursive: bool):
        self.jobs: list[Job] = []
        self.problems: list[str] = []
        self._output = _resolved(output)
        self._recursive = recursive
        self._written: dict[pathlib.Path, dict[str, str]] = {}
        self._ours = 0
        self._linked: list[str] = []
        self._others: dict[str, int] = {}

    def add(self, given: str) -> None:
        path = given_path(given)
        try:
            if path.is_dir():
                self._add_folder(path)
            elif path.exists():
                self._add_file(path, path.name)
            elif glob.has_magic(given):
                self._add_glob(given)
            else:
                self.problems.append(f"{given}: no such file or folder")
        except OSError as error:
            self.problems.append(f"{given}: {error.strerror}")

    def skipped(self) -> list[str]:
        """Return a line for each kind of file that was left out."""
        lines = [
            f"left out {count} {suffix or 'suffixless'} file{'s' * (count > 1)}"
            f": only {', '.join(formats.SUFFIXES)} are read from folders"
            for suffix, count in sorted(self._others.items())
        ]
        if self._ours:
            lines.append(f"left out {self._ours} photos that an earlier run wrote")
        return lines + self._linked

    def _add_folder(self, folder: pathlib.Path) -> None:
        def problem(error):
            self.problems.append(f"{error.filename}: {error.strerror}")

        entered = {folder.resolve()}
        for root, folders, names in os.walk(folder, onerror=problem, followlinks=True):
            here = pathlib.Path(root)
            folders[:] = sorted(
                name for name in folders if self._recursive and self._enters(here / name, entered)
            )
            for name in sorted(names):
                path = here / name
                if name.startswith(".") or name == manifest.NAME:
                    continue
                if path.suffix.lower() in formats.SUFFIXES:
                    self._add_file(path, path.relative_to(folder).as_posix(), folder)
                else:
                    suffix = path.suffix.lower()
                    self._others[suffix] = self._others.get(suffix, 0) + 1

    def _enters(self, folder: pathlib.Path, entered: set[pathlib.Path]) -> bool:
        """Return whether a subfolder is looked into, and note it; links are followed, once each."""
        real, parent = folder.resolve(), folder.parent.resolve()
        if folder.name.startswith(".") or real == self._output:
            return False
        if folder.is_symlink():
            if self._output in real.parents and self._output not in (parent, *parent.parents):
                return False  # a way round into the results
            if real in entered:
                self._linked.append(f"left out {folder}: a link to {real}, which is done already")
                return False
        entered.add(real)
        return True

    def _add_glob(self, pattern: str) -> None:
        pattern = os.path.expanduser(pattern)  # which leaves what is no home as it is
        parts = pathlib.PurePath(pattern).parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        base = pathlib.Path(*parts[:fixed])
        matches = [pathlib.Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
        files = [path for path in matches if path.is_file()]
        if not files:
            self.problems.append(f"{pattern}: no file matches")
        for path in files:
            name = os.path.normpath(path.relative_to(base))
            if name.startswith(".."):
                self.problems.append(f"{path}: above {base}: give its folder itself")
            else:
                self._add_file(path, pathlib.PurePath(name).as_posix(), base)

    def _add_file(self, path: pathlib.Path, name: str, root: pathlib.Path | None = None) -> None:
        if not path.is_file():  # a pipe would wait for its writer, a device never ends
            self.problems.append(f"{path}: not a file")
        elif root and self._is_ours(path.resolve(), root.resolve()):
            self._ours += 1
        else:
            self.jobs.append(Job(path, name))

    def _is_ours(self, path: pathlib.Path, root: pathlib.Path) -> bool:
        """Return whether a manifest between the folder given and the file lists its content."""
        for folder in path.parents:
            if not folder.is_relative_to(root):
                break
            if folder not in self._written:
                self._written[folder] = manifest.written_by_us(folder)
            expected = self._written[folder].get(path.relative_to(folder).as_posix())
            if expected and expected == manifest.sha256(storage.read(path)):
                return True
        return False


def _resolved(path: pathlib.Path) -> pathlib.Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # which of the two depends on Python's version
        raise UserError(f"{path}: its links lead in a circle: name another --output") from None


def _check_results(jobs: list[Job], output: pathlib.Path) -> None:
    sources = {job.source.resolve() for job in jobs}
    results: dict[str, Job] = {}
    for job in jobs:
        result = _resolved(output / job.name)
        if result in sources:
            raise UserError(
                f"{job.source} would be written over the input {result}: name another --output"
            )
        other = results.setdefault(os.path.normcase(result), job)
        if other is not job:
            raise UserError(
                f"{other.source} and {job.source} would both become {output / job.name}: "
                "give the folder that holds both, or run twice with different --output"
            )
