"""Reversal attack: a regressor from the anonymized embedding back to the original one."""

import numpy as np

from identitydp_jax.evaluation import people
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.report import Report

VERIFIERS = ("edgeface",)
_LEAST = 2
_RELEASES = 3
_RIDGES = tuple(10.0**k for k in range(-3, 4))

_NOTES = (
    "{who}"
    " The regressor (ridge, its strength chosen on a third of the people it learns from) maps the"
    " embedding of an anonymized face to that of its original. It learns from {learned} people,"
    " every photo anonymized under {releases} keys, and is used on {tested} others.",
    "Probes are anonymized photos of the others, the gallery holds originals of their other"
    " photos.",
    "`plain` compares the anonymized embedding itself.",
    "TAR: true accept rate at a false accept rate of 1e-3.",
)


def run(bench: Bench) -> Report:
    """Undo every candidate as far as a linear map can."""
    verifier = bench.load_verifiers(VERIFIERS)[0]
    several = people.with_photos(bench.people, _LEAST, people=4)
    learned, tested = people.split_people(bench.people, several)
    gallery, probes = people.split_photos(bench.people, tested)
    names = bench.people[probes], bench.people[gallery]
    before = people.unit(bench.measure(bench.original, [verifier])[verifier.name])
    releases = bench.releases or _RELEASES
    rows = {}
    for candidate in bench.candidates():
        after = [
            people.unit(bench.measure(candidate, [verifier], release=r)[verifier.name])
            for r in range(releases)
        ]
        x = np.concatenate([part[learned] for part in after])
        y = np.tile(before[learned], (releases, 1))
        undo = learn(x, y, np.tile(bench.people[learned], releases))
        rows[f"{candidate.name}, plain"] = people.recognition(
            after[0][probes], before[gallery], *names
        )
        rows[f"{candidate.name}, reversed"] = people.recognition(
            people.unit(undo(after[0][probes])), before[gallery], *names
        )
    rows["original"] = people.recognition(before[probes], before[gallery], *names)
    rows["chance"] = people.chance(*names)
    facts = {
        "who": people.describe(bench.people, several, _LEAST),
        "learned": len(np.unique(bench.people[learned])),
        "tested": len(np.unique(bench.people[tested])),
        "releases": releases,
    }
    return Report("reversal", "Reversal attack", rows, [note.format(**facts) for note in _NOTES])


def learn(x: np.ndarray, y: np.ndarray, names: np.ndarray):
    """Fit ridge regression from rows x (N, D) to rows y (N, E); return it as a function.

    The strength is the one of least squared error on a third of the people, held out; the fit
    returned is over all of them.
    """
    _, person = np.unique(names, return_inverse=True)
    held = person % 3 == 2
    if not held.any():
        held[:] = True  # one or two people: nobody to hold out
    fit = held if held.all() else ~held
    errors = [np.mean((_ridge(x[fit], y[fit], s)(x[held]) - y[held]) ** 2) for s in _RIDGES]
    return _ridge(x, y, _RIDGES[int(np.argmin(errors))])


def _ridge(x, y, strength: float):
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    centred = x - mean_x
    gram = centred.T @ centred + strength * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, centred.T @ (y - mean_y))
    return lambda rows: (rows - mean_x) @ weights + mean_y
