"""The aligned faces on which everything is measured, and other tools' versions of them."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from identitydp_jax.anonymize.photos import content_digest
from identitydp_jax.checks import UserError
from identitydp_jax.data import alignment
from identitydp_jax.data.detection import Detections
from identitydp_jax.evaluation.sources import Source, photo_names, read_photo

SIZE = alignment.FRAME
_THREADS = 2  # one photo is decoded while the detector, itself parallel, looks at another
_NEARLY_AS_SURE = 0.8  # of the surest face's score
_ASPECT = 0.01  # by which a resized photo's proportions may differ


@dataclasses.dataclass(frozen=True, eq=False)
class FaceSet:
    """One face of each photo, in the model frame at 256 px.

    Attributes:
      names: N names of photos, unique.
      identities: (N,) str, whom each shows; its own name where that is not known.
      known: (N,) bool, whether the source says whom a photo shows.
      faces: uint8 (N, 256, 256, 3) sRGB.
      matrices: float64 (N, 2, 3), photo to frame.
      sizes: int64 (N, 2), height and width of the photos.
      contents: N digests of the photos, of `photos.content_digest`.
      unreadable: (name, reason) of photos that are no images.
      not_found: (name, reason) of photos without a usable face.
      duplicates: (name, name of the photo kept) of photos with the same pixels as an earlier one.
    """

    names: tuple[str, ...]
    identities: np.ndarray
    known: np.ndarray
    faces: np.ndarray
    matrices: np.ndarray
    sizes: np.ndarray
    contents: tuple[bytes, ...]
    unreadable: tuple[tuple[str, str], ...]
    not_found: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        """Return N."""
        return len(self.names)

    @functools.cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of all of it."""
        digest = hashlib.sha256()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                digest.update(f"{field.name} {value.dtype} {value.shape}\0".encode())
                digest.update(np.ascontiguousarray(value).data)
            else:
                digest.update(f"{field.name} {value!r}\0".encode())
        return digest.hexdigest()

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """Row of every photo by name: a duplicate has its twin's, one without a face -1."""
        rows = {name: row for row, name in enumerate(self.names)}
        rows |= {name: -1 for name, _ in self.unreadable + self.not_found}
        return rows | {name: rows[kept] for name, kept in self.duplicates}


def align(source: Source, *, detector, limit: int | None = None) -> FaceSet:
    """Find one face in each photo and bring it into the model frame.

    The face is the one nearest to the photo's centre among those whose score is at least 0.8 of the
    surest one's: people in the background are smaller or turned away and score lower, or stand at
    the border. Photos are read one by one; only the faces stay in memory.

    Args:
      source: from `open_source`.
      detector: `detector.detect(photo)` gives `data.detection.Detections`; called by two threads.
      limit: take the first so many photos; None takes all.

    Raises:
      UserError: no photo shows a face.
    """
    count = len(source) if limit is None else min(limit, len(source))
    faces = np.empty((count, SIZE, SIZE, 3), np.uint8)
    kept: list[_Aligned] = []
    failed = {"unreadable": [], "not_found": [], "duplicates": []}
    first_with: dict[bytes, str] = {}
    align_one = functools.partial(_align_one, source, detector)
    for result in _in_threads(align_one, range(count), "aligning"):
        if isinstance(result, _Failed):
            failed[result.kind].append((result.name, result.reason))
            continue
        twin = first_with.setdefault(result.content, result.name)
        if twin != result.name:
            failed["duplicates"].append((result.name, twin))
            continue
        faces[len(kept)] = result.face
        kept.append(dataclasses.replace(result, face=None))
    if not kept:
        raise UserError(_nothing_found(source, failed))
    return FaceSet(
        names=tuple(each.name for each in kept),
        identities=np.array([each.identity or each.name for each in kept]),
        known=np.array([each.identity is not None for each in kept]),
        faces=faces[: len(kept)],
        matrices=np.stack([each.matrix for each in kept]),
        sizes=np.array([each.size for each in kept], np.int64),
        contents=tuple(each.content for each in kept),
        **{kind: tuple(photos) for kind, photos in failed.items()},
    )


def align_other(face_set: FaceSet, folder: pathlib.Path) -> FaceSet:
    """Return the same faces as another tool left them, where the originals' faces were.

    Args:
      face_set: of the originals.
      folder: the tool's results under the originals' paths; the suffix may differ, and so may the
        size if the proportions agree to 1 %.

    Returns:
      `face_set` with other `faces`. The photos of which it has none are not looked for.

    Raises:
      UserError: a photo is missing, is there twice, cannot be read or has other proportions.
    """
    found: dict[str, list[str]] = {}
    for name in photo_names(folder):
        found.setdefault(_without_suffix(name), []).append(name)
    paths = [_match(name, found.get(_without_suffix(name), [])) for name in face_set.names]
    missing = [name for name, path in zip(face_set.names, paths, strict=True) if path is None]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(paths)} photos are missing, the first is"
            f" {missing[0]}: give every original's result the original's path, whatever the suffix"
        )
    ambiguous = [path for path in paths if isinstance(path, list)]
    if ambiguous:
        raise UserError(f"{folder}: holds {' and '.join(ambiguous[0])}: keep one of them")

    def crop(row: int) -> np.ndarray:
        return _crop_other(folder / paths[row], face_set.matrices[row], face_set.sizes[row])

    faces = np.empty_like(face_set.faces)
    for row, face in enumerate(_in_threads(crop, range(len(paths)), f"aligning {folder.name}")):
        faces[row] = face
    return dataclasses.replace(face_set, faces=faces)


@dataclasses.dataclass(frozen=True, eq=False)
class _Aligned:
    name: str
    identity: str | None
    face: np.ndarray | None
    matrix: np.ndarray
    size: tuple[int, int]
    content: bytes  # digest of the pixels


@dataclasses.dataclass(frozen=True)
class _Failed:
    kind: str
    name: str
    reason: str


def _align_one(source: Source, detector, index: int) -> _Aligned | _Failed:
    photo = source[index]
    try:
        pixels = photo.read()
    except UserError as error:
        return _Failed("unreadable", photo.name, str(error))
    except OSError as error:
        return _Failed("unreadable", photo.name, error.strerror or str(error))
    found = detector.detect(pixels)
    if len(found) == 0:
        return _Failed("not_found", photo.name, "no face found")
    try:
        matrix = alignment.similarity(found.points[_main_face(found, pixels.shape)], SIZE)
        face = alignment.crop(pixels, matrix, SIZE)
    except UserError as error:
        return _Failed("not_found", photo.name, str(error))
    size = pixels.shape[0], pixels.shape[1]
    return _Aligned(photo.name, photo.identity, face, matrix, size, content_digest(pixels))


def _main_face(found: Detections, shape: tuple[int, ...]) -> int:
    """Return the row of the face that the photo is about, by the rule of `align`."""
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    x, y = (centres - np.array([shape[1], shape[0]]) / 2).T
    sure = found.scores >= _NEARLY_AS_SURE * found.scores.max()
    return int(np.where(sure, np.hypot(x, y), np.inf).argmin())


def _in_threads(function: Callable, items, label: str) -> Iterator:
    """Yield `function` of each item in order, with a progress bar; an exception ends it at once."""
    pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
    try:
        yield from tqdm(
            pool.map(function, items), desc=label, total=len(items), unit="photo", disable=None
        )
    finally:
        pool.shutdown(cancel_futures=True)


def _nothing_found(source: Source, failed: dict) -> str:
    first = (failed["unreadable"] + failed["not_found"])[0]
    return (
        f"{source.spec}: no photo shows a face ({len(failed['unreadable'])} unreadable,"
        f" {len(failed['not_found'])} without a face; {first[0]}: {first[1]}): give photos of"
        " people"
    )


def _without_suffix(name: str) -> str:
    return pathlib.PurePosixPath(name).with_suffix("").as_posix()


def _match(name: str, candidates: list[str]) -> str | list[str] | None:
    """Return the only candidate or the one of the same name; all if that is open; None of none."""
    if name in candidates:
        return name
    if len(candidates) > 1:
        return candidates
    return candidates[0] if candidates else None


def _crop_other(path: pathlib.Path, matrix: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the face that `matrix` shows of the original, which had (height, width) `size`."""
    try:
        pixels = read_photo(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    growth_y, growth_x = size / pixels.shape[:2]
    if abs(growth_x / growth_y - 1) > _ASPECT:
        raise UserError(
            f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} and its original {size[1]}x{size[0]}:"
            " proportions have to agree"
        )
    # Pixel centres are whole numbers, so the corner at -0.5 is what stays.
    to_original = np.array(
        [[growth_x, 0, (growth_x - 1) / 2], [0, growth_y, (growth_y - 1) / 2], [0, 0, 1]]
    )
    return alignment.crop(pixels, matrix @ to_original, SIZE)
