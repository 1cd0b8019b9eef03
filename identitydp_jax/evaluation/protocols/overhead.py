"""Time per image and per stage: section V-H of the paper."""

import statistics
import time

import jax
import numpy as np

from identitydp_jax.anonymize import compositing
from identitydp_jax.anonymize.faces import embed_faces, release_faces
from identitydp_jax.anonymize.methods import IdentityDP, fit
from identitydp_jax.data import alignment
from identitydp_jax.data.detection import Detector
from identitydp_jax.evaluation import candidates
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.report import Figure, Report

_PHOTOS, _BATCH = 32, 32

_NOTES = (
    "Milliseconds per image: the median over {photos} photos, one after the other, and per face in"
    " batches of {batch} where a stage takes batches. Everything was compiled before.",
    "Stages `embed and release` and `the whole network` are not added up: the network contains the"
    " former. Method rows are the drawing and pasting of aligned faces of 256 px.",
    "Device: {device}, {count} of them.",
)


def run(bench: Bench) -> Report:
    """Time the stages of anonymizing a photo, and every method on aligned faces."""
    faces = bench.faces.faces[:_PHOTOS]
    rows = _stages_of_photos(bench)
    for method in bench.methods:
        if isinstance(method, IdentityDP):
            rows |= _stages_of_network(method, faces, bench.seed)
    for method in bench.methods:
        draw = candidates.from_method(method, faces, seed=bench.seed).draw
        rows[method.name] = _row(lambda part, draw=draw: draw(part, 0), np.arange(len(faces)))
    facts = {"photos": len(faces), "batch": min(_BATCH, len(faces))}
    facts |= {"device": jax.devices()[0].device_kind, "count": jax.device_count()}
    notes = [note.format(**facts) for note in _NOTES]
    return Report("overhead", "Time per image", rows, notes)


def _stages_of_photos(bench: Bench) -> dict[str, dict[str, Figure]]:
    detector = Detector()
    found = set(bench.faces.names)
    photos = [photo.read() for photo in bench.source if photo.name in found][:_PHOTOS]
    photos = photos[: len(bench.faces.faces)]
    matrices = bench.faces.matrices[: len(photos)]
    faces = bench.faces.faces[: len(photos)]

    def paste(i):
        compositing.paste(photos[i].copy(), faces[i : i + 1], matrices[i : i + 1])

    stages = {
        "detect": lambda i: detector.detect(photos[i]),
        "align": lambda i: alignment.crop(photos[i], matrices[i], alignment.FRAME),
        "paste": paste,
    }
    return {name: {"one": _each(stage, range(len(photos)))} for name, stage in stages.items()}


def _stages_of_network(method: IdentityDP, faces, seed: int) -> dict[str, dict[str, Figure]]:
    model, setting = method.model, method.setting
    small = fit(faces, method.resolution)

    def keys(part):
        return candidates.release_keys(method, part, seed, 0)

    stages = {
        "embed": lambda part: embed_faces(model, part),
        "embed and release": lambda part: release_faces(
            model, part, keys=keys(part), setting=setting
        ),
        "the whole network": lambda part: method.draw(part, keys=keys(part)),
    }
    return {f"{method.name}: {name}": _row(stage, small) for name, stage in stages.items()}


def _row(stage, rows) -> dict[str, Figure]:
    """Time a stage on rows one by one, and all of them as a batch."""
    batch = rows[:_BATCH]
    whole = _each(lambda _: stage(batch), range(5))
    return {
        "one": _each(lambda i: stage(rows[i : i + 1]), range(len(rows))),
        "in a batch": Figure(whole.value / len(batch), len(batch)),
    }


def _each(stage, indices) -> Figure:
    """Return the median of milliseconds, after a first call that compiles."""
    stage(indices[0])
    times = []
    for index in indices:
        start = time.perf_counter()
        stage(index)
        times.append(1e3 * (time.perf_counter() - start))
    return Figure(statistics.median(times), len(times))
