"""Faces of photos, cropped to the model frame and written as ArrayRecord shards."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import multiprocessing
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from tqdm import tqdm

from identitydp_jax import storage
from identitydp_jax.checks import UserError
from identitydp_jax.data import alignment, shards
from identitydp_jax.data.detection import Detector
from identitydp_jax.data.sources import decode, open_photos

_PHOTOS_PER_SHARD = 256
# A face that would have to be enlarged more than this has no detail to learn from.
_MOST_ENLARGED = 2.0


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a folder of shards holds.

    Attributes:
      photos: number of photos in the source.
      faces: number of faces in the shards.
      left_out: number of photos that gave no face, by reason.
      written: number of shards written now.
    """

    photos: int
    faces: int
    left_out: dict[str, int]
    written: int


def prepare(
    source: str,
    output,
    *,
    resolution: int,
    workers: int,
    make_detector: Callable = Detector,
) -> Prepared:
    """Detect and align every face of a source's photos into a folder of ArrayRecord shards.

    Each shard holds the faces of 256 photos, as JPEG files in the order of the photos, and is made
    by one process; `manifest.json` gains its entry when it is whole. The same call does what is
    missing: a stop at any time costs the shards that were being made, and a damaged shard is made
    again. The shards depend on the source, the resolution and the detector alone.

    Args:
      source: what `sources.open_photos` takes.
      output: folder, made if absent.
      resolution: side of the faces in pixels.
      workers: number of processes.
      make_detector: picklable; `make_detector().detect(photo)` gives `detection.Detections`.

    Raises:
      UserError: the source can't be opened or shows no face, the folder can't be written or holds
        something else, or a process was killed.
    """
    photos, output = open_photos(source), pathlib.Path(output)
    try:
        manifest = _claim(output, _recipe(photos, resolution))
        missing = _missing(output, manifest)
        make = functools.partial(_make_shard, source, output, resolution, make_detector)
        _run(make, missing, output, manifest, workers)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error})") from None
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(
            "a process was killed, most likely for want of memory: run the same command with fewer"
            " --workers to go on"
        ) from None
    return _summary(source, manifest, len(missing))


def _run(make, missing: list[int], output: pathlib.Path, manifest: dict, workers: int) -> None:
    """Make the missing shards in parallel and note each in the manifest as it is done."""
    photos = manifest["recipe"]["photos"]
    left = sum(len(_part(photos, number)) for number in missing)
    # Processes that start afresh: a fork of one with threads may hang.
    context = multiprocessing.get_context("spawn")
    with (
        tqdm(desc="photos", total=photos, initial=photos - left, unit="photo") as progress,
        concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool,
    ):
        parts = {number: _part(photos, number) for number in missing}
        waiting = {pool.submit(make, _name(n), part): n for n, part in parts.items()}
        try:
            for future in concurrent.futures.as_completed(waiting):
                number = waiting[future]
                manifest["shards"][_name(number)] = future.result()
                shards.write_manifest(output, manifest)
                progress.update(len(parts[number]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _summary(source: str, manifest: dict, written: int) -> Prepared:
    left_out: dict[str, int] = {}
    for entry in manifest["shards"].values():
        for reason in entry["left_out"].values():
            left_out[reason] = left_out.get(reason, 0) + 1
    photos = manifest["recipe"]["photos"]
    faces = sum(entry["faces"] for entry in manifest["shards"].values())
    if not faces:
        raise UserError(f"{source}: {photos} photos, and no face to train on in any of them")
    return Prepared(photos, faces, left_out, written)


def _recipe(photos, resolution: int) -> dict:
    """Return what decides the content of the shards."""
    names = "\n".join(photos.name(index) for index in range(len(photos)))
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
    count = -(-len(photos) // _PHOTOS_PER_SHARD)
    return {"photos": len(photos), "names": digest, "resolution": resolution, "shards": count}


def _claim(output: pathlib.Path, recipe: dict) -> dict:
    """Return the manifest of a folder, which has to be empty or of the same recipe."""
    output.mkdir(parents=True, exist_ok=True)
    manifest = shards.read_manifest(output)
    if manifest is None:
        if not all(path.name.startswith(".") for path in output.iterdir()):
            raise UserError(f"{output}: not empty and not made here; choose another --output")
        manifest = {"recipe": recipe, "shards": {}}
        shards.write_manifest(output, manifest)
    for name, value in recipe.items():
        if manifest["recipe"].get(name) != value:
            raise UserError(
                f"{output}: was made with {name}={manifest['recipe'].get(name)}, not {value};"
                " give the same source and settings or another --output"
            )
    storage.sweep(output)
    return manifest


def _name(number: int) -> str:
    return f"faces-{number:05d}{shards.SUFFIX}"


def _part(photos: int, number: int) -> range:
    """Return the numbers of the photos of one shard."""
    return range(photos)[number * _PHOTOS_PER_SHARD :][:_PHOTOS_PER_SHARD]


def _missing(output: pathlib.Path, manifest: dict) -> list[int]:
    """Return the numbers of the shards that are not there whole, and forget their entries."""
    numbers = range(manifest["recipe"]["shards"])
    done = manifest["shards"]
    missing = [
        number
        for number in numbers
        if _name(number) not in done
        or not shards.is_whole(output / _name(number), done[_name(number)])
    ]
    for number in missing:
        done.pop(_name(number), None)
    return missing


@functools.cache
def _opened(source: str, make_detector):
    """Open source and detector once per process."""
    return open_photos(source), make_detector()


def _make_shard(source: str, output: pathlib.Path, resolution: int, make_detector, name, part):
    """Write the faces of some photos as one shard and return its entry in the manifest."""
    photos, detector = _opened(source, make_detector)
    left_out, records = {}, []
    for index in part:
        try:
            faces = cut_faces(photos, index, detector, resolution)
        except UserError as error:
            left_out[photos.name(index)] = str(error)
        else:
            records += map(_encoded, faces)
    entry = shards.write_shard(output / name, records)
    return {**entry, "left_out": left_out}


def cut_faces(photos, index: int, detector, resolution: int) -> list[np.ndarray]:
    """Return the faces of one photo in the model frame, uint8 (R, R, 3), the surest first.

    Raises:
      UserError: there is none: "unreadable", "no face" or "too small".
    """
    try:
        photo = decode(photos[index], photos.name(index))
    except UserError:
        raise UserError("unreadable") from None
    found = detector.detect(photo)
    if not len(found):
        raise UserError("no face")
    faces = []
    for points in found.points:
        try:
            frame = alignment.similarity(points, resolution)
            if np.hypot(frame[0, 0], frame[1, 0]) <= _MOST_ENLARGED:
                faces.append(alignment.crop(photo, frame, resolution))
        except UserError:  # the points fit no frame
            continue
    if not faces:
        raise UserError("too small")
    return faces


def _encoded(face: np.ndarray) -> bytes:
    file = io.BytesIO()
    # Without chroma subsampling, whose bleeding would be learned as skin.
    Image.fromarray(face).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()
