"""Linkage attack: sorting released photos by person, with nothing but the released photos."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from identitydp_jax.anonymize.methods import IdentityDP, fit, paste_back
from identitydp_jax.evaluation import bootstrap, candidates, people
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.candidates import Candidate
from identitydp_jax.evaluation.protocols.attributes import learn_metric
from identitydp_jax.evaluation.report import Figure, Report

VERIFIERS = ("edgeface",)
_LEAST = 2  # photos of a person
_RELEASES = 3  # of every photo to learn from
_SHRINKAGES = (0.01, 0.1, 0.3, 1.0)  # of the learned metric
_SHOWN = 4  # people on the sheet, two photos of each

_NOTES = (
    "{who} Who links has one release of every photo and takes pairs for one person by their"
    " distance. AUC: how often a pair that shows one person is nearer than a pair that doesn't;"
    " EER: the error rate at which as many of the one are taken for the other.",
    "`learned`: the same with a metric learned from labelled releases of half of the people, each"
    " photo under {releases} keys (shrunk as does best on a third of them), on pairs of the other"
    " half, and the other way round; the mean of both.",
    "`one key per person`: the code drawn for the first photo of each person is used for all of"
    " theirs, as by `anonymize --subject`. That is meant to be linked; the EER says how well.",
    "`original`: untouched photos, the ceiling. Intervals are over people.",
)


def run(bench: Bench) -> Report:
    """Sort every candidate's photos by person; those of IdentityDP also under one key per person.

    Raises:
      UserError: fewer than four people have two photos.
    """
    verifiers = bench.load_verifiers(VERIFIERS)
    index = people.with_photos(bench.people, _LEAST, people=4)
    releases = bench.releases or _RELEASES
    shown = _two_each(bench.people, index)
    rows, sheet = {}, {}
    fresh = [bench.original, *bench.candidates()]
    subjects = [by_subject(bench, m) for m in bench.methods if isinstance(m, IdentityDP)]
    for candidate in (*fresh, *subjects):
        measured = [bench.measure(candidate, verifiers, release=r) for r in range(releases)]
        rows[candidate.name] = {}
        for verifier in verifiers:
            each = [people.unit(part[verifier.name]) for part in measured]
            figures = _link(each, bench.people, index, one_key=candidate in subjects)
            rows[candidate.name] |= {f"{k} {verifier.name}": v for k, v in figures.items()}
        sheet[candidate.name] = candidate.draw(shown, 0)
    names = rows[fresh[0].name]
    rows["chance"] = {name: Figure(0.5, figure.count) for name, figure in names.items()}
    facts = {"who": people.describe(bench.people, index, _LEAST), "releases": releases}
    notes = [note.format(**facts) for note in _NOTES]
    return Report("linkage", "Linkage of released photos", rows, notes, sheet)


def by_subject(bench: Bench, method: IdentityDP) -> Candidate:
    """Return a method's row in which each person has one code: that of their first photo."""
    faces = bench.faces.faces
    _, first, person = np.unique(bench.people, return_index=True, return_inverse=True)
    remembered = first[person]

    def draw(index, release):
        charged = faces[remembered[index]]
        keys = candidates.release_keys(method, charged, bench.seed, release)
        codes = method.release(fit(charged, method.resolution), keys=keys)
        frames = faces[index]
        return paste_back(frames, method.draw_codes(fit(frames, method.resolution), codes))

    text = f"{bench.candidate(method).text};one key per person"
    return Candidate(f"{method.name}, one key per person", text, draw)


def _two_each(identities, index) -> np.ndarray:
    """Return the places of the first two photos of a few people."""
    names = np.unique(identities[index])[:_SHOWN]
    return np.concatenate([index[identities[index] == name][:2] for name in names])


def _link(releases: list[np.ndarray], identities, index, *, one_key: bool) -> dict[str, Figure]:
    """Return the figures of one row from unit embeddings (N, D) of each of its releases.

    Releases from the second on are only learned from. With one key per person each release has a
    face of its own, so that whom it shows is somebody else to learn.
    """
    halves = people.split_people(identities, index)
    learned = []
    for known, tested in (halves, halves[::-1]):
        labels = [
            np.char.add(identities[known], f"/{number if one_key else ''}")
            for number in range(len(releases))
        ]
        metric = _learn(np.concatenate([each[known] for each in releases]), np.concatenate(labels))
        learned.append(Pairs.of(metric(releases[0][tested]), identities[tested]))
    plain = [Pairs.of(releases[0][index], identities[index])]
    return {
        "AUC": figure(plain, Pairs.auc),
        "EER": figure(plain, Pairs.eer),
        "learned AUC": figure(learned, Pairs.auc),
        "learned EER": figure(learned, Pairs.eer),
    }


def _learn(vectors, names):
    """Learn a metric, shrunk as does best on a third of the people, held out."""
    _, person = np.unique(names, return_inverse=True)
    held = person % 3 == 2

    def found(shrinkage):
        metric = learn_metric(vectors[~held], names[~held], shrinkage=shrinkage)
        pairs = Pairs.of(metric(vectors[held]), names[held])
        return pairs.auc(np.ones(person.max() + 1, int))

    best = max(_SHRINKAGES, key=found) if held.any() else _SHRINKAGES[-1]
    return learn_metric(vectors, names, shrinkage=best)


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """All pairs of a set of photos by their distance.

    Attributes:
      level: int (P,), how many smaller distances there are among those of all pairs.
      first: int (P,), whom the one photo shows, from 0.
      second: int (P,), whom the other shows.
    """

    level: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, embeddings: np.ndarray, identities: np.ndarray) -> "Pairs":
        """Take the pairs of photos with embeddings (N, D) that show `identities` (N,)."""
        _, person = np.unique(identities, return_inverse=True)
        i, j = np.triu_indices(len(person), 1)
        distances = 1 - (embeddings.astype(np.float64) @ embeddings.T.astype(np.float64))[i, j]
        _, level = np.unique(distances.astype(np.float32), return_inverse=True)
        return cls(level, person[i], person[j])

    def auc(self, times: np.ndarray) -> float:
        """Return how often a pair of one person is nearer than a pair of two, ties by half.

        Args:
          times: (people,), how often each person is in the set; copies of one are different people
            and no pair.
        """
        same, other = self._rates(times)
        beyond = other[::-1].cumsum()[::-1] - other / 2
        return float((same * beyond).sum())

    def eer(self, times: np.ndarray) -> float:
        """Return the equal error rate; `times` as in `auc`."""
        same, other = (rates.cumsum() for rates in self._rates(times))
        missed = np.maximum(0, 1 - same)  # sums are rounded
        best = np.abs(other - missed).argmin()
        return float(other[best] + missed[best]) / 2

    def _rates(self, times):
        """Return the shares of pairs of one person and of two at every level, each (levels,)."""
        one = self.first == self.second
        weights = times[self.first] * np.where(one, 1, times[self.second])
        parts = [np.bincount(self.level, weights * kind) for kind in (one, ~one)]
        # Of one person alone there are no pairs of two: they tell nothing, as if all were alike.
        return [p / p.sum() if p.any() else np.full(len(p), 1 / len(p)) for p in parts]


def figure(sets: Sequence[Pairs], rate) -> Figure:
    """Return the mean of a rate over sets of pairs of different people, resampled by person."""
    sizes = [max(pairs.first.max(), pairs.second.max()) + 1 for pairs in sets]
    whose = np.repeat(np.arange(len(sets)), sizes)

    def mean(drawn):
        times = np.bincount(drawn, minlength=len(whose))
        return np.mean([rate(p, times[whose == k]) for k, p in enumerate(sets)])

    everybody = np.arange(len(whose))
    low, high = bootstrap.interval(everybody, mean)
    count = sum(len(pairs.level) for pairs in sets)
    return Figure(float(mean(everybody)), count, low, high)
