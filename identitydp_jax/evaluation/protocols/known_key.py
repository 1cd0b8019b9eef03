"""Known-key attack: what somebody can do who has the key. It must succeed: keys are secrets.

Two attackers. One also has the noised embedding, and takes the noise away. The other has only the
published picture and candidate photos, draws each of them with the key, and compares.
"""

import numpy as np

from identitydp_jax.anonymize.faces import embed_faces, release_faces
from identitydp_jax.anonymize.methods import IdentityDP, fit, replace
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import candidates, people
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.report import Figure, Report
from identitydp_jax.privacy import chacha
from identitydp_jax.privacy.mechanism import release

_LEAST = 2
_CANDIDATES = 32  # photos that the second attacker tries, so 1024 pictures are drawn

_NOTES = (
    "{who}"
    " `noise taken away`: the attacker has the key and the released codes. He draws the noise that"
    " the key gives and subtracts it; what is left is the rounded original, which is compared with"
    " other photos of the people. (Not with privunit, which adds no noise.)",
    "`candidates drawn`: the attacker has the picture's key, the picture and {tried} candidate"
    " photos, the true one among them. He draws each and takes the one whose picture is nearest.",
    "`recovered`: cosine between the embedding got back and the true one.",
)


def run(bench: Bench) -> Report:
    """Attack every IdentityDP method with its keys in hand.

    Raises:
      UserError: there is none with a mechanism that looks at the face.
    """
    methods = [
        m for m in bench.methods if isinstance(m, IdentityDP) and m.setting.mechanism != "random"
    ]
    if not methods:
        raise UserError("known-key: --method identitydp is needed")
    several = people.with_photos(bench.people, _LEAST)
    gallery, probes = people.split_photos(bench.people, several)
    names = bench.people[probes], bench.people[gallery]
    rows = {}
    for method in methods:
        faces = fit(bench.faces.faces, method.resolution)
        known = embed_faces(method.model, faces[gallery])
        if method.setting.mechanism != "privunit":
            truth, found = _take_noise_away(bench, method, faces[probes])
            rows[f"{method.name}, noise taken away"] = {
                **people.recognition(found, known, *names),
                "recovered": Figure.mean((truth * found).sum(axis=1), names[0]),
            }
        hits = _draw_candidates(bench, method, probes[:_CANDIDATES])
        rows[f"{method.name}, candidates drawn"] = {"rank-1": Figure.mean(hits)}
    rows["chance, noise taken away"] = people.chance(*names)
    tried = min(_CANDIDATES, len(probes))
    rows["chance, candidates drawn"] = {"rank-1": Figure(1 / tried, tried)}
    facts = {"who": people.describe(bench.people, several, _LEAST), "tried": tried}
    notes = [note.format(**facts) for note in _NOTES]
    return Report("known-key", "Known-key attack", rows, notes)


def _take_noise_away(bench: Bench, method: IdentityDP, faces):
    """Return the true embeddings of faces and those got back from the codes and the keys."""

    def keys():
        return candidates.release_keys(method, faces, bench.seed, 0)

    setting, truth = method.setting, embed_faces(method.model, faces)
    codes = release_faces(method.model, faces, keys=keys(), setting=setting)
    # An embedding without a direction releases its noise alone.
    noise = release(
        np.zeros_like(truth), key=keys(), mechanism=setting.mechanism, arrays=setting.arrays
    )
    return truth, people.unit((codes - np.asarray(noise)).astype(np.float64))


def _draw_candidates(bench: Bench, method: IdentityDP, index) -> np.ndarray:
    """Return for every face in `index` whether drawing all of them with its key finds it."""
    faces = bench.faces.faces[index]
    count = len(index)
    published = replace(method, faces, keys=candidates.release_keys(method, faces, bench.seed, 0))
    hits = np.zeros(count, bool)
    for i in range(count):
        key = candidates.release_keys(method, faces[[i]], bench.seed, 0)
        drawn = replace(method, faces, keys=chacha.stack([key[0]] * count))
        error = np.abs(drawn.astype(np.int16) - published[i]).mean(axis=(1, 2, 3))
        hits[i] = error.argmin() == i
    return hits
