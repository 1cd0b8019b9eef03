"""What every protocol is given: faces, ways to anonymize them, and measures with a memory."""

import dataclasses
import hashlib

import numpy as np

from identitydp_jax.anonymize.methods import Method
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import candidates, measures
from identitydp_jax.evaluation.aligned import FaceSet
from identitydp_jax.evaluation.candidates import Candidate
from identitydp_jax.evaluation.celeba import Labels
from identitydp_jax.evaluation.measures import Measure
from identitydp_jax.evaluation.sources import Source
from identitydp_jax.evaluation.store import Store


@dataclasses.dataclass(frozen=True)
class Bench:
    """An evaluation's subject and tools.

    Attributes:
      source: the photos.
      faces: the aligned faces found in them.
      methods: ways to anonymize, as asked for.
      pictures: anonymizations by other tools, by name.
      store: keeps measured rows.
      verifiers: names asked for; empty for a protocol's own choice.
      releases: keys per face asked for; None for a protocol's own choice.
      seed: the audit seed of all keys.
      labels: of the photos, where some are given.
      weights: SHA-256 of the pretrained files used so far, by name; grows.
      missing: why a measure could not be had, by name; grows.
    """

    source: Source
    faces: FaceSet
    methods: tuple[Method, ...]
    pictures: dict[str, FaceSet]
    store: Store
    verifiers: tuple[str, ...]
    releases: int | None
    seed: int
    labels: Labels | None = None
    weights: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def people(self) -> np.ndarray:
        """Identities of the faces, str (N,)."""
        return self.faces.identities

    @property
    def original(self) -> Candidate:
        """The untouched faces as a row of their own."""
        return candidates.from_pictures(candidates.ORIGINAL, "", self.faces.faces)

    def candidates(self) -> list[Candidate]:
        """Return one row per method and per folder of pictures."""
        made = [self.candidate(method) for method in self.methods]
        given = [
            candidates.from_pictures(name, found.digest, found.faces)
            for name, found in self.pictures.items()
        ]
        return made + given

    def candidate(self, method: Method) -> Candidate:
        """Return a method's row."""
        return candidates.from_method(method, self.faces.faces, seed=self.seed)

    def load(self, names) -> list[Measure]:
        """Load measures; note those that can't be had in `missing`, and the weights of the rest."""
        loaded, missing = measures.load(names)
        self.missing.update(missing)
        for measure in loaded:
            self.weights.update(measure.weights)
        return loaded

    def load_verifiers(self, default: tuple[str, ...]) -> list[Measure]:
        """Load the verifiers asked for, or a protocol's own.

        Raises:
          UserError: none can be had.
        """
        loaded = self.load(self.verifiers or default)
        if not loaded:
            raise UserError(f"no verifier can be had: {'; '.join(self.missing.values())}")
        return loaded

    def measure(
        self, candidate: Candidate, wanted: list[Measure], *, release: int = 0, index=None
    ) -> dict[str, np.ndarray]:
        """Measure a row's pictures, or those of the faces in `index`, against the originals.

        Returns:
          For every measure by its name an array with one row per face.
        """
        index = np.arange(len(self.faces.faces)) if index is None else np.asarray(index)

        def compute(places, names):
            chosen = index[places]
            faces, drawn = self.faces.faces[chosen], candidate.draw(chosen, release)
            return {m.name: m.rows(faces, drawn) for m in wanted if m.name in names}

        which = hashlib.sha256(index.astype("<i8").tobytes()).hexdigest()
        pictures = self.faces.digest, which, candidate.text, release
        what = {measure.name: (*pictures, measure.name, measure.weights) for measure in wanted}
        return self.store.rows(what, len(index), compute, label=candidate.name)

    def examples(self, count: int = 8) -> np.ndarray:
        """Return the places of a few faces of different people, for contact sheets."""
        _, first = np.unique(self.people, return_index=True)
        return np.sort(first)[:: max(1, len(first) // count)][:count]
