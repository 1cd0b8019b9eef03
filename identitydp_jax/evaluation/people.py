"""Splitting faces by whom they show, and how well attackers name them."""

import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import verification
from identitydp_jax.evaluation.report import Figure

FAR = 1e-3


def with_photos(identities: np.ndarray, least: int, *, people: int = 2) -> np.ndarray:
    """Return the places of faces whose person has at least `least` photos, in order.

    Raises:
      UserError: there are fewer than `people` such people.
    """
    names, person, count = np.unique(identities, return_inverse=True, return_counts=True)
    enough = int((count >= least).sum())
    if enough < people:
        raise UserError(
            f"{enough} of {len(names)} people have {least} photos or more: this attack needs"
            f" {people} of them; give a folder with a subfolder per person, or a larger --limit"
        )
    return np.flatnonzero(count[person] >= least)


def describe(identities: np.ndarray, index: np.ndarray, least: int) -> str:
    """Return a sentence on who takes part: the faces at `index`, from `with_photos`."""
    known, out = len(np.unique(identities[index])), len(identities) - len(index)
    return f"{known} people with at least {least} photos each take part; {out} photos are left out."


def split_photos(identities: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split places so that every person's photos fall into both parts in turn, the first first."""
    seen: dict[str, int] = {}
    first = np.zeros(len(index), bool)
    for i, name in enumerate(identities[index]):
        first[i] = seen.get(name, 0) % 2 == 0
        seen[name] = seen.get(name, 0) + 1
    return index[first], index[~first]


def split_people(identities: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split places so that every person is in one part alone, people in turn by name."""
    _, person = np.unique(identities[index], return_inverse=True)
    return index[person % 2 == 0], index[person % 2 == 1]


def recognition(probes, gallery, probe_names, gallery_names) -> dict[str, Figure]:
    """Return rank-1 and TAR at FAR 1e-3 of probes (N, D) against a gallery (M, D).

    Euclidean distances; the rank-1 interval is over people.
    """
    hits = verification.identification(probes, gallery, probe_names, gallery_names)
    genuine, impostor = verification.pair_distances(probes, gallery, probe_names, gallery_names)
    accepted = genuine < verification.threshold_at_far(impostor, FAR)
    return {"rank-1": Figure.mean(hits, probe_names), "TAR at FAR 1e-3": Figure.mean(accepted)}


def chance(probe_names, gallery_names) -> dict[str, Figure]:
    """Return what naming a random gallery face gives."""
    share = [(gallery_names == name).mean() for name in probe_names]
    return {
        "rank-1": Figure(float(np.mean(share)), len(probe_names)),
        "TAR at FAR 1e-3": Figure(FAR, len(probe_names)),
    }


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale rows (..., D) to unit length; a row of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
