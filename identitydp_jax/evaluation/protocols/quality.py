"""How much an anonymized face keeps besides the identity: perception, distribution, landmarks."""

import numpy as np

from identitydp_jax.evaluation import frechet, landmarks
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.candidates import ORIGINAL
from identitydp_jax.evaluation.report import Figure, Report

_NOTES = (
    "LPIPS: learned perceptual distance with VGG16 (Zhang et al., 2018), aligned faces of 256 px.",
    "FID: Fréchet distance between Inception features of the originals and of the results, N"
    " pictures each; it is biased upwards for small N, so compare it only within one table.",
    "Landmark drift: mean distance that dlib's points of brows, eyes, nose and mouth moved, over"
    " the distance between the outer corners of the eyes; jaw drift: that of the jaw line."
    " Pose: change of the head pose fitted to the points, in degrees. Expression: mean change of"
    " the openings of mouth and eyes, the width of the mouth and the height of the brows, over the"
    " same distance.",
    "Fine detail: what 64 px don't show of the 256 in the region of the face, for each unit that"
    " the original has; noise and specks count as detail. Rim: by how much the step of colour"
    " across the region's rim differs from the original's, of 255.",
    "Points are placed by dlib in the known frame whether or not a detector finds the face.",
)


def run(bench: Bench) -> Report:
    """Compare every candidate with the originals."""
    wanted = bench.load(("lpips", "inception", "detail", "rim", "points68"))
    before = bench.measure(bench.original, wanted)
    rows, sheet, examples = {}, {}, bench.examples()
    for candidate in (bench.original, *bench.candidates()):
        after = before if candidate.name == ORIGINAL else bench.measure(candidate, wanted)
        rows[candidate.name] = _row(before, after, bench.people)
        sheet[candidate.name] = candidate.draw(examples, 0)
    return Report("quality", "Perceptual quality and attributes kept", rows, list(_NOTES), sheet)


def _row(before, after, people) -> dict[str, Figure]:
    row = {}
    if "lpips" in after:
        row["LPIPS"] = Figure.mean(after["lpips"], people)
    if "inception" in after:
        distance = frechet.frechet_distance(before["inception"], after["inception"])
        row[f"FID (N={len(people)})"] = Figure(distance, len(people))
    if "detail" in after:
        row["fine detail"] = Figure.mean(after["detail"], people)
        row["rim"] = Figure.mean(after["rim"], people)
    if "points68" in after:
        a, b = before["points68"], after["points68"]
        row["landmark drift"] = Figure.mean(landmarks.drift(a, b), people)
        row["jaw drift"] = Figure.mean(landmarks.jaw_drift(a, b), people)
        turned = landmarks.pose_drift(a, b)
        row |= {
            f"{name} °": Figure.mean(angles, people)
            for name, angles in zip(("yaw", "pitch", "roll"), turned.T, strict=True)
        }
        changed = landmarks.expression_drift(a, b)
        row["expression"] = Figure.mean(np.mean(changed, axis=0), people)
    return row
