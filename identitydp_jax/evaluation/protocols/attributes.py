"""Attributes-only attack: what the untouched attribute maps tell about who it is.

The guarantee covers the identity embedding given the attribute maps and the declared attributes, so
this is the part of a face that it leaves open.
"""

import dataclasses

import numpy as np

from identitydp_jax.anonymize.faces import attributes_of_faces, declared_attributes
from identitydp_jax.anonymize.methods import IdentityDP, fit
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import people
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.report import Report
from identitydp_jax.models.declared import preserved
from identitydp_jax.privacy.setting import PrivacySetting

VERIFIERS = ("edgeface",)
_LEAST = 2
_DIRECTIONS = 128  # principal components that the learned metric looks at
_SHRINKAGE = 0.01  # of the within-person covariance towards a multiple of the identity

_NOTES = (
    "{who}"
    " Probes are every second photo of {tested} people, the gallery their other photos, untouched;"
    " in the rows `same photo` the gallery holds the very photos that the probes come from.",
    "`attribute maps`: maps averaged to 8 x 8 and standardised, nearest neighbour.",
    "`learned metric`: principal components of the maps, whitened by the within-person covariance"
    " (shrunk by {shrinkage}), both learned from {learned} other people.",
    "`random identity`: {verifiers} on faces drawn from the attribute maps and an identity that"
    " never saw the input.",
    "`declared attributes`: the preserved ones alone, as yes or no; `nothing preserved`: the random"
    " identity without them.",
    "TAR: true accept rate at a false accept rate of 1e-3.",
)


def run(bench: Bench) -> Report:
    """Identify people by attribute maps, and by faces drawn with a random identity.

    Raises:
      UserError: no method is IdentityDP.
    """
    method = next((m for m in bench.methods if isinstance(m, IdentityDP)), None)
    if method is None:
        raise UserError("attributes: --method identitydp is needed")
    verifiers = bench.load_verifiers(VERIFIERS)
    several = people.with_photos(bench.people, _LEAST, people=4)
    learned, tested = people.split_people(bench.people, several)
    gallery, probes = people.split_photos(bench.people, tested)
    names = bench.people[probes], bench.people[gallery]
    faces = fit(bench.faces.faces, method.resolution)
    maps = attributes_of_faces(method.model, faces)
    maps = (maps - maps[learned].mean(0)) / (maps[learned].std(0) + 1e-6)
    metric = learn_metric(maps[learned], bench.people[learned])
    rows = {
        "attribute maps": people.recognition(maps[probes], maps[gallery], *names),
        "attribute maps, learned metric": people.recognition(
            metric(maps[probes]), metric(maps[gallery]), *names
        ),
    }
    if method.preserve:
        answers = declared_attributes(method.model, faces)[:, preserved(method.preserve)]
        rows["declared attributes"] = people.recognition(answers[probes], answers[gallery], *names)
    setting = PrivacySetting("random", dimension=method.model.dimension)
    random = dataclasses.replace(method, setting=setting)
    drawn = {"random identity": bench.candidate(random)}
    if method.preserve:
        bare = bench.candidate(dataclasses.replace(random, preserve=()))
        drawn["random identity, nothing preserved"] = bare
    for verifier in verifiers:
        before = bench.measure(bench.original, [verifier])[verifier.name]
        for name, candidate in drawn.items():
            after = bench.measure(candidate, [verifier])[verifier.name]
            rows[f"{name}, {verifier.name}"] = people.recognition(
                after[probes], before[gallery], *names
            )
            rows[f"{name}, {verifier.name}, same photo"] = people.recognition(
                after[probes], before[probes], probes.astype(str), probes.astype(str)
            )
        rows[f"original, {verifier.name}"] = people.recognition(
            before[probes], before[gallery], *names
        )
    rows["chance"] = people.chance(*names)
    rows["chance, same photo"] = people.chance(probes, probes)
    facts = {
        "who": people.describe(bench.people, several, _LEAST),
        "tested": len(np.unique(bench.people[tested])),
        "learned": len(np.unique(bench.people[learned])),
        "shrinkage": _SHRINKAGE,
        "verifiers": " and ".join(verifier.name for verifier in verifiers),
    }
    notes = [note.format(**facts) for note in _NOTES]
    return Report("attributes", "Attributes-only attack", rows, notes)


def learn_metric(vectors: np.ndarray, names: np.ndarray):
    """Learn a linear map of vectors (N, D) in which photos of one person lie close together.

    Returns:
      A function from (M, D) to (M, K).
    """
    mean = vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(vectors - mean, full_matrices=False)
    basis = directions[: min(_DIRECTIONS, len(vectors) // 2)].T
    x = (vectors - mean) @ basis
    _, person = np.unique(names, return_inverse=True)
    centres = np.stack([x[person == i].mean(axis=0) for i in range(person.max() + 1)])
    within = np.cov((x - centres[person]).T, bias=True)
    level = np.trace(within) / len(within)
    shrunk = (1 - _SHRINKAGE) * within + _SHRINKAGE * level * np.eye(len(within))
    whitening = np.linalg.cholesky(np.linalg.inv(shrunk))
    return lambda vectors: people.unit((vectors - mean) @ basis @ whitening)
