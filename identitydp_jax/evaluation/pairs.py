"""Pairs of photos in folds, as LFW lists them (Huang et al. 2007, "Labeled Faces in the Wild")."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from identitydp_jax import storage
from identitydp_jax.checks import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of photos of the same person and of different people: in each fold the same first.

    Attributes:
      first: int64 (P,), rows of photos.
      second: int64 (P,).
      same: bool (P,), whether the two show one person.
      fold: int64 (P,), from 0.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray

    def __len__(self) -> int:
        """Return P."""
        return len(self.same)


def lfw_pairs(path: pathlib.Path, rows: Mapping[str, int]) -> Pairs:
    """Read a file in the layout of LFW's `pairs.txt`.

    The first line holds the number of folds and of pairs: so many lines `NAME i j` of the same
    person and as many `NAME i OTHER j` of different people in each fold. `NAME i` is the photo
    `NAME/NAME_000i`, of any suffix.

    Args:
      path: of the file.
      rows: row of each photo by name, as `FaceSet.rows`: -1 for one without a face, and then also
        in the result.

    Raises:
      UserError: the file is missing or laid out otherwise, or names a photo that `rows` lacks.
    """
    lines = _read_lines(path)
    header = lines[0].split() if lines else []
    if len(header) != 2 or not all(word.isdecimal() and int(word) for word in header):
        raise UserError(f"{path}, line 1: give the number of folds and of pairs, as `10 300`")
    folds, count = map(int, header)
    if len(lines) - 1 != 2 * folds * count:
        raise UserError(
            f"{path}: has {len(lines) - 1} pairs and announces {folds} folds of 2 x {count}"
        )
    by_stem = {pathlib.PurePosixPath(name).with_suffix("").as_posix(): rows[name] for name in rows}
    same = np.tile(np.arange(2 * count) < count, folds)
    pairs = np.empty((len(same), 2), np.int64)
    for index, line in enumerate(lines[1:]):
        for side, stem in enumerate(_stems(line, same[index], f"{path}, line {index + 2}")):
            if stem not in by_stem:
                raise UserError(
                    f"{path}, line {index + 2}: {stem} is not among the {len(rows)} photos: give"
                    " all photos that the pairs name"
                )
            pairs[index, side] = by_stem[stem]
    return Pairs(pairs[:, 0], pairs[:, 1], same, np.repeat(np.arange(folds), 2 * count))


def draw_pairs(
    identities: np.ndarray, *, folds: int = 10, per_fold: int = 300, seed: int = 0
) -> Pairs:
    """Draw pairs as LFW's were drawn: no person is in two folds, no pair is drawn twice.

    A person is drawn first and then the photos, so that people with many photos do not prevail.

    Args:
      identities: (N,) str, whom each row shows.
      folds: number of folds, of about as many photos each.
      per_fold: pairs of the same person in each fold, and as many of different people; fewer if
        some fold has no more, and then in all folds.
      seed: of the draw.

    Raises:
      UserError: some fold has no two people, or nobody with two photos.
    """
    rng = np.random.default_rng(seed)
    people = [np.flatnonzero(identities == name) for name in np.unique(identities)]
    several = sum(len(rows) > 1 for rows in people)
    if len(people) < 2 * folds or several < folds:
        raise UserError(
            f"{len(people)} people, {several} of them with two photos or more: {folds} folds need"
            f" {2 * folds} people, {folds} of them with two photos"
        )
    groups = _divide(people, folds, rng)
    count = min(per_fold, *(available for group in groups for available in _available(group)))
    pairs = [
        pair
        for group in groups
        for draw in (_draw_same, _draw_different)
        for pair in _distinct(draw, group, count, rng)
    ]
    first, second = np.array(pairs, np.int64).T
    same = np.tile(np.arange(2 * count) < count, folds)
    return Pairs(first, second, same, np.repeat(np.arange(folds), 2 * count))


def write_pairs(path: pathlib.Path, pairs: Pairs, names: Sequence[str]) -> None:
    """Write pairs in the layout that `lfw_pairs` reads.

    Args:
      path: of the file.
      pairs: with as many of the same person as of different people in each fold.
      names: of the rows, as `NAME/NAME_0001.jpg`.

    Raises:
      UserError: a photo has another name.
    """
    folds = int(pairs.fold[-1]) + 1
    lines = [f"{folds}\t{len(pairs) // (2 * folds)}"]
    for i, j, same in zip(pairs.first, pairs.second, pairs.same, strict=True):
        (name, number), (other, second) = _person_and_number(names[i]), _person_and_number(names[j])
        words = (name, number, second) if same else (name, number, other, second)
        lines.append("\t".join(words))
    storage.write(path, ("\n".join(lines) + "\n").encode())


def _read_lines(path: pathlib.Path) -> list[str]:
    try:
        text = storage.read(path).decode()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a file as LFW's pairs.txt") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8; give a file as LFW's pairs.txt") from error
    return text.rstrip().splitlines()


def _stems(line: str, same: bool, where: str) -> tuple[str, str]:
    """Return the two photos, without suffix, that a line names."""
    words = line.split()
    wanted = "NAME i j" if same else "NAME i OTHER j"
    if len(words) != len(wanted.split()):
        raise UserError(f"{where}: is {line!r}, and `{wanted}` is due there")
    (name, i), (other, j) = (words[:2], [words[0], words[-1]]) if same else (words[:2], words[2:])
    if not (i.isdecimal() and j.isdecimal()):
        raise UserError(f"{where}: is {line!r}, and i and j of `{wanted}` are numbers")
    return f"{name}/{name}_{int(i):04d}", f"{other}/{other}_{int(j):04d}"


def _person_and_number(name: str) -> tuple[str, str]:
    match = re.fullmatch(r"(\S+)/\1_(\d{4,})\.\w+", name)
    if not match:
        raise UserError(f"{name}: pairs in LFW's layout need photos called NAME/NAME_0001.jpg")
    return match[1], str(int(match[2]))


def _divide(people: list[np.ndarray], folds: int, rng) -> list[list[np.ndarray]]:
    """Deal people out to folds, those with most photos first, so that each fold gets of them."""
    shuffled = [people[i] for i in rng.permutation(len(people))]
    ordered = sorted(shuffled, key=len, reverse=True)
    return [ordered[fold::folds] for fold in range(folds)]


def _available(group: list[np.ndarray]) -> tuple[int, int]:
    """Return how many pairs of the same person and of different people there are in a fold."""
    sizes = np.array([len(rows) for rows in group])
    same = int((sizes * (sizes - 1) // 2).sum())
    return same, int(sizes.sum() * (sizes.sum() - 1) // 2) - same


def _distinct(draw: Callable, group: list[np.ndarray], count: int, rng) -> list[tuple[int, int]]:
    """Return `count` different pairs that `draw` gives."""
    pairs: dict[frozenset[int], tuple[int, int]] = {}
    while len(pairs) < count:
        pair = draw(group, rng)
        pairs.setdefault(frozenset(pair), pair)
    return list(pairs.values())


def _draw_same(group: list[np.ndarray], rng) -> tuple[int, int]:
    several = [rows for rows in group if len(rows) > 1]
    i, j = rng.choice(several[rng.integers(len(several))], 2, replace=False)
    return int(i), int(j)


def _draw_different(group: list[np.ndarray], rng) -> tuple[int, int]:
    a, b = rng.choice(len(group), 2, replace=False)
    return int(rng.choice(group[a])), int(rng.choice(group[b]))
