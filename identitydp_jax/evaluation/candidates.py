"""The rows of a table: ways to anonymize, and results that other tools made."""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

from identitydp_jax.anonymize.methods import Method, replace
from identitydp_jax.privacy import chacha, keys

ORIGINAL = "original"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Faces of a set, anonymized in one way.

    Attributes:
      name: the row's heading.
      text: all that the pictures depend on besides the originals, for `Store.rows`.
      draw: `draw(index, release)` gives the anonymizations uint8 (len(index), 256, 256, 3) of the
        faces of an integer array. Each release, an integer from 0, has keys of its own; where no
        key is used all releases are the same.
    """

    name: str
    text: str
    draw: Callable[[np.ndarray, int], np.ndarray]


def from_method(method: Method, faces: np.ndarray, *, seed: int) -> Candidate:
    """Anonymize faces uint8 (N, 256, 256, 3) by a method, with keys from an audit seed."""

    def draw(index, release):
        chosen = faces[index]
        return replace(method, chosen, keys=release_keys(method, chosen, seed, release))

    return Candidate(method.name, f"{method.recipe};seed={seed}", draw)


def from_pictures(name: str, text: str, pictures: np.ndarray) -> Candidate:
    """Take anonymizations that exist, uint8 (N, 256, 256, 3) in the order of the originals."""
    return Candidate(name, text, lambda index, release: pictures[index])


def release_keys(method: Method, faces: np.ndarray, seed: int, release: int):
    """Return one typed key per face (N,): a function of seed, pixels, method and release alone.

    So no face's result depends on which others are evaluated, in what order or on what devices.
    """
    master, policy = keys.audit_master(seed), f"{method.policy};release={release}"
    each = [
        keys.image_key(master, digest=hashlib.sha256(face.tobytes()).digest(), policy=policy)
        for face in faces
    ]
    return chacha.stack(each)
