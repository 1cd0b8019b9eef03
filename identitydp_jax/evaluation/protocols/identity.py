"""Whether a face obeys the identity that it is given, and whether two keys give two people."""

import numpy as np

from identitydp_jax.anonymize.faces import draw_faces, embed_faces
from identitydp_jax.anonymize.methods import IdentityDP, fit, paste_back
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import people
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.candidates import Candidate
from identitydp_jax.evaluation.report import Figure, Report

VERIFIERS = ("arcface", "edgeface", "sface")

_NOTES = (
    "`identity of another photo`: every face is drawn with the embedding, without noise, of"
    " another person's photo. `obeys`: cosine of the result with that photo; `of itself`: with the"
    " photo whose face it was. `unrelated`: that photo's own cosine with the other, what obeying"
    " starts from; `same person`: the mean cosine of two untouched photos of one person.",
    "`two keys`: cosine between two anonymizations of one photo under two keys, intervals over"
    " people. arcface is the encoder that the identities come from.",
)


def run(bench: Bench) -> Report:
    """Measure obedience of the first IdentityDP method's model, and all methods' diversity.

    Raises:
      UserError: no method is IdentityDP, or all photos show one person.
    """
    methods = [m for m in bench.methods if isinstance(m, IdentityDP)]
    if not methods:
        raise UserError("identity: --method identitydp is needed")
    verifiers = bench.load_verifiers(VERIFIERS)
    donors = _donors(bench.people)
    before = bench.measure(bench.original, verifiers)
    swapped = bench.measure(_swapped(bench, methods[0].model, donors), verifiers)
    rows: dict[str, dict[str, Figure]] = {"identity of another photo": {}}
    sheet_rows = bench.examples()
    for verifier in verifiers:
        own, drawn = (people.unit(x[verifier.name]) for x in (before, swapped))
        figures = {
            "obeys": (drawn * own[donors]).sum(axis=1),
            "of itself": (drawn * own).sum(axis=1),
            "unrelated": (own * own[donors]).sum(axis=1),
        }
        row = rows["identity of another photo"]
        for name, cosines in figures.items():
            row[f"{name} {verifier.name}"] = Figure.mean(cosines, bench.people)
        row[f"same person {verifier.name}"] = Figure(*_same_person(own, bench.people))
    for method in methods:
        candidate = bench.candidate(method)
        pair = [bench.measure(candidate, verifiers, release=release) for release in (0, 1)]
        rows[method.name] = {}
        for verifier in verifiers:
            one, two = (people.unit(x[verifier.name]) for x in pair)
            cosines = (one * two).sum(axis=1)
            rows[method.name][f"two keys {verifier.name}"] = Figure.mean(cosines, bench.people)
    sheet = {
        "original": bench.faces.faces[sheet_rows],
        "the other photo": bench.faces.faces[donors[sheet_rows]],
        "with its identity": _swapped(bench, methods[0].model, donors).draw(sheet_rows, 0),
    }
    return Report("identity", "Obedience and diversity", rows, list(_NOTES), sheet)


def _donors(names: np.ndarray) -> np.ndarray:
    """Return for every photo the place of another person's, half the set further on."""
    count = len(names)
    shifted = (np.arange(count) + count // 2) % count
    for place in range(count):
        tries = 0
        while names[shifted[place]] == names[place]:
            shifted[place] = (shifted[place] + 1) % count
            tries += 1
            if tries == count:
                raise UserError("identity: all photos show one person; give photos of several")
    return shifted


def _swapped(bench: Bench, model, donors: np.ndarray) -> Candidate:
    """Return the faces drawn with the clean identities of other photos."""

    def draw(index, release):
        faces = bench.faces.faces[index]
        given = embed_faces(model, fit(bench.faces.faces[donors[index]], model.resolution))
        drawn = draw_faces(model, fit(faces, model.resolution), given)
        return paste_back(faces, drawn)

    return Candidate("identity of another photo", f"swap;model={model.sha256}", draw)


def _same_person(embeddings: np.ndarray, names: np.ndarray) -> tuple[float, int]:
    """Return the mean cosine over pairs of photos of one person, and the number of pairs."""
    same = np.triu(names[:, None] == names[None, :], 1)
    cosines = (embeddings @ embeddings.T)[same]
    return (float(cosines.mean()) if len(cosines) else float("nan")), len(cosines)
