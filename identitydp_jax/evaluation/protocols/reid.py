"""Re-identification: whether an anonymized face still lies nearest to its own original.

The protocol of Kung et al., "Face Anonymization Made Simple", WACV 2025: whoever attacks has the
originals of all faces, the very photos that were anonymized, and takes the nearest.
"""

import numpy as np

from identitydp_jax.evaluation import people, verification
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.candidates import ORIGINAL
from identitydp_jax.evaluation.report import Figure, Report

VERIFIERS = ("edgeface",)

_NOTES = (
    "Every anonymized face is compared with all {count} originals, its own among them. `own photo`:"
    " share whose nearest original is the very photo that it was made of; `own person`: share whose"
    " nearest original shows the same person.",
    "`chance` is what taking any original gives. The more originals, the lower all of it: compare"
    " figures only at one number of them. Intervals are over people.",
    "Pictures: under each way to anonymize the originals that {first} finds nearest.",
)


def run(bench: Bench) -> Report:
    """Look for every candidate's faces among the originals."""
    verifiers = bench.load_verifiers(VERIFIERS)
    own = np.arange(len(bench.people))
    before = bench.measure(bench.original, verifiers)
    examples, first = bench.examples(), verifiers[0].name
    rows, sheet = {}, {}
    for candidate in (bench.original, *bench.candidates()):
        after = before if candidate.name == ORIGINAL else bench.measure(candidate, verifiers)
        found = {v.name: verification.nearest(after[v.name], before[v.name]) for v in verifiers}
        rows[candidate.name] = {}
        for name, nearest in found.items():
            same = bench.people[nearest] == bench.people
            rows[candidate.name] |= {
                f"own photo {name}": Figure.mean(nearest == own, bench.people),
                f"own person {name}": Figure.mean(same, bench.people),
            }
        sheet[candidate.name] = candidate.draw(examples, 0)
        if candidate.name != ORIGINAL:
            sheet[f"{candidate.name}: nearest"] = bench.faces.faces[found[first][examples]]
    rows["chance"] = {}
    for verifier in verifiers:
        luck = people.chance(bench.people, bench.people)["rank-1"]
        rows["chance"] |= {
            f"own photo {verifier.name}": Figure(1 / len(own), len(own)),
            f"own person {verifier.name}": luck,
        }
    notes = [note.format(count=len(own), first=first) for note in _NOTES]
    return Report("reid", "Re-identification among the originals", rows, notes, sheet)
