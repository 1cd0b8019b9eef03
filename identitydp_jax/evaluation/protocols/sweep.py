"""Everything against the privacy budget: figures 4, 5 and 6 of the paper."""

import dataclasses

import numpy as np

from identitydp_jax.anonymize.faces import embed_faces, target_identities
from identitydp_jax.anonymize.methods import IdentityDP, fit
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import candidates
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.measures import Measure
from identitydp_jax.evaluation.protocols.table1 import VERIFIERS, between
from identitydp_jax.evaluation.report import Curve, Figure, Report
from identitydp_jax.privacy.mechanism import decode

EPSILONS = (0.01, 0.1, 1.0, 3.0, 6.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
_RELEASES = 4

_COSINES = {
    "cos(r, r~)": "noised embedding and the original's",
    "cos(r, t)": "the identity that the generator is asked for (`models.population`) and the"
    " original's",
    "cos(t, r(X^))": "embedding of the drawn face and the one asked for: does the face obey?",
    "cos(r~, r(X^))": "embedding of the drawn face and the noised one",
    "cos(r, r(X^))": "embedding of the drawn face and the original's",
}
_NOTES = (
    "Every face is anonymized under {releases} keys at every nominal epsilon; figures are means"
    " over faces and keys, intervals over people.",
    "Cosines are those of the model's own encoder: "
    + "; ".join(f"{name}: {what}" for name, what in _COSINES.items())
    + ". `expected` is the mechanism's own formula for cos(r, r~).",
    "Pictures: for each face the key whose distance ({first}) is nearest the mean of that epsilon.",
)


def run(bench: Bench) -> Report:
    """Measure the first IdentityDP method at every epsilon.

    Raises:
      UserError: no method is IdentityDP.
    """
    method = next((m for m in bench.methods if isinstance(m, IdentityDP)), None)
    if method is None or method.setting.mechanism == "random":
        raise UserError(
            "sweep: --method identitydp is needed, with a mechanism that has an epsilon"
        )
    releases = bench.releases or _RELEASES
    verifiers = bench.load_verifiers(VERIFIERS)
    wanted = verifiers + bench.load(("psnr", "ssim", "hog"))
    before = bench.measure(bench.original, verifiers)
    people, examples = np.tile(bench.people, releases), bench.examples()
    rows, sheet = {}, {candidates.ORIGINAL: bench.faces.faces[examples]}
    for epsilon in EPSILONS:
        setting = dataclasses.replace(method.setting, epsilon=epsilon)
        here = dataclasses.replace(method, setting=setting)
        measured = [_measure(bench, here, wanted, release) for release in range(releases)]
        row = {"expected": Figure(setting.expected_cosine, 1)}
        distances = {
            v.name: np.stack([between(before[v.name], m[v.name]) for m in measured])
            for v in verifiers
        }
        columns = {name: np.stack([m[name] for m in measured]) for name in _COSINES}
        columns |= {f"distance {name}": values for name, values in distances.items()}
        for name in ("psnr", "ssim", "hog"):
            if name in measured[0]:
                columns[name] = np.stack([m[name] for m in measured])
        row |= {name: Figure.mean(values.ravel(), people) for name, values in columns.items()}
        rows[f"epsilon {epsilon:g}"] = row
        first = distances[verifiers[0].name]
        typical = np.abs(first - first.mean()).argmin(axis=0)[examples]
        candidate = bench.candidate(here)
        sheet[f"epsilon {epsilon:g}"] = np.concatenate(
            [candidate.draw(examples[[i]], int(typical[i])) for i in range(len(examples))]
        )
    facts = {"releases": releases, "first": verifiers[0].name}
    notes = [note.format(**facts) for note in _NOTES]
    return Report("sweep", f"{method.name} against epsilon", rows, notes, sheet, _curves(verifiers))


def _curves(verifiers) -> list[Curve]:
    points = [(epsilon, f"epsilon {epsilon:g}") for epsilon in EPSILONS]
    line = {"": points}
    distances = tuple(f"distance {verifier.name}" for verifier in verifiers)
    label = "nominal epsilon"
    return [
        Curve(distances, label, line),
        Curve(("ssim",), label, line),
        Curve(("psnr",), label, line),
        Curve(("expected", *_COSINES), label, line),
    ]


def _measure(bench: Bench, method: IdentityDP, wanted, release: int) -> dict[str, np.ndarray]:
    """Measure one release of every face, with the cosines beside."""

    def cosines(faces, drawn):
        def small(pictures):
            return fit(pictures, method.resolution)

        keys = candidates.release_keys(method, faces, bench.seed, release)
        r = embed_faces(method.model, small(faces))
        codes = method.release(small(faces), keys=keys)
        noised = np.asarray(decode(codes))
        asked = target_identities(
            method.model, small(faces), codes, setting=method.setting, preserve=method.preserve
        )
        seen = embed_faces(method.model, small(drawn))
        pairs = ((r, noised), (r, asked), (asked, seen), (noised, seen), (r, seen))
        return np.stack([(a * b).sum(axis=1) for a, b in pairs], axis=1)

    weights = {"model": method.model.sha256}
    measures = [*wanted, Measure("cosines", weights, cosines)]
    rows = bench.measure(bench.candidate(method), measures, release=release)
    return rows | dict(zip(_COSINES, rows["cosines"].T, strict=True))
