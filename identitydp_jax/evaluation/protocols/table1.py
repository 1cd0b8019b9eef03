"""Identity and utility of anonymized faces: Table I of the paper (section V-E)."""

import numpy as np

from identitydp_jax.evaluation import verification
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.candidates import ORIGINAL
from identitydp_jax.evaluation.report import Figure, Report
from identitydp_jax.evaluation.verifiers import load_verifier

VERIFIERS = ("facenet-casia", "facenet-vggface2", "dlib", "edgeface")
_FAR = 1e-3
_MOST = 4000  # faces whose pairs make a threshold: 16 million distances

_NOTES = (
    "Identity distance: Euclidean, between a verifier's embeddings of the original and of its"
    " anonymization. Rows are in the order asked for; higher distance and PSR protect better.",
    "PSR (protection success rate): share of faces that the verifier does not take for their"
    " original. At a published threshold, or at the one where the false accept rate among the"
    f" pairs of different people in this data is {_FAR:g}.",
    "Verifiers are told where the face is and compare what they find there, so a face that no"
    " detector sees still counts as an attempt, not as a protection.",
    "FDR (face detection rate): share of results in whose middle the detector finds a face;"
    " dlib's HOG detector is the paper's.",
    "PSNR and SSIM are those of the whole aligned picture of 256 px.",
    "Intervals are bootstrap 95 %, over people where identities are known.",
)


def run(bench: Bench) -> Report:
    """Compare every candidate with the originals."""
    verifiers = bench.load_verifiers(VERIFIERS)
    wanted = verifiers + bench.load(("psnr", "ssim", "hog", "scrfd"))
    before = bench.measure(bench.original, wanted)
    limits = {
        verifier.name: thresholds(verifier.name, before[verifier.name], bench.people)
        for verifier in verifiers
    }
    rows, sheet, examples = {}, {}, bench.examples()
    for candidate in (bench.original, *bench.candidates()):
        after = before if candidate.name == ORIGINAL else bench.measure(candidate, wanted)
        rows[candidate.name] = _row(before, after, verifiers, limits, bench.people)
        sheet[candidate.name] = candidate.draw(examples, 0)
    notes = [*_NOTES, f"Thresholds: {describe(limits)}."]
    return Report("table1", "Identity distance, protection and utility", rows, notes, sheet)


def _row(before, after, verifiers, limits, people) -> dict[str, Figure]:
    row = {}
    for verifier in verifiers:
        distances = between(before[verifier.name], after[verifier.name])
        row[f"distance {verifier.name}"] = Figure.mean(distances, people)
        for name, threshold in limits[verifier.name].items():
            row[f"PSR {verifier.name} {name}"] = Figure.mean(distances >= threshold, people)
    for column, name in (
        ("PSNR", "psnr"),
        ("SSIM", "ssim"),
        ("FDR HOG", "hog"),
        ("FDR SCRFD", "scrfd"),
    ):
        if name in after:
            row[column] = Figure.mean(after[name], people)
    return row


def between(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return distances (N,): between embeddings (N, D), or those that a verifier gave itself."""
    return np.linalg.norm(after - before, axis=1) if after.ndim == 2 else after


def thresholds(name: str, embeddings: np.ndarray, people: np.ndarray) -> dict[str, float]:
    """Return the verifier's thresholds by how they are named in the table."""
    limits = {}
    if (published := load_verifier(name).threshold) is not None:
        limits[f"at {published:g}"] = published
    if embeddings.ndim == 2:
        some = slice(_MOST)
        _, impostor = verification.pair_distances(
            embeddings[some], embeddings[some], people[some], people[some], exclude_same_index=True
        )
        if len(impostor):  # of a single person there are none
            limits[f"at FAR {_FAR:g}"] = verification.threshold_at_far(impostor, _FAR)
    return limits


def describe(limits: dict[str, dict[str, float]]) -> str:
    """Return the thresholds of every verifier in one line."""
    return ", ".join(
        f"{verifier} {name}: {threshold:.4g}"
        for verifier, named in limits.items()
        for name, threshold in named.items()
    )
