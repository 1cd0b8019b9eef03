"""Trains the heads of `evaluation.celeba_heads`, and says how often they are right.

  python tests/benchmarks/train_celeba_heads.py PHOTOS --labels list_attr_celeba.zip \
    --test OTHERS --output celeba_heads.safetensors

PHOTOS and OTHERS are photos of CelebA with identities, any source that `identitydp evaluate --data`
takes: folders with `identities.csv`, or as CelebA comes, `img_align_celeba/` with
`--identities identity_CelebA.txt`. People of OTHERS have to be others than those of PHOTOS.
"""

import argparse
import pathlib

import numpy as np

from identitydp_jax.data.detection import Detector
from identitydp_jax.evaluation import aligned, celeba, celeba_heads
from identitydp_jax.evaluation.sources import open_source

# Any label of hair on chin or lip. A shadow of five o'clock is no beard: people disagree on it.
_BEARD = ("Goatee", "Mustache")
_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--identities", type=pathlib.Path)
    parser.add_argument("--test", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    labels = celeba.read_labels(args.labels)
    x, shown, people = read(args.source, labels, args.identities)
    kernel, bias, strengths = fit(x, shown, people)
    celeba_heads.save(args.output, kernel, bias)
    print(f"{len(x)} photos of {len(set(people))} people; strengths {strengths}")
    x, shown, others = read(args.test, labels, args.identities)
    if common := set(people) & set(others):
        raise SystemExit(f"{len(common)} people are in both sets: give other people to test on")
    print(f"tested on {len(x)} photos of {len(set(others))} others: share that has it, accuracy,")
    print("accuracy on those who have it and on those who don't")
    said = x @ kernel + bias > 0
    for name, true, found in zip(celeba_heads.ATTRIBUTES, shown.T, said.T, strict=True):
        right = true == found
        figures = true.mean(), right.mean(), right[true].mean(), right[~true].mean()
        print(f"{name:20}", *(f"{figure:.3f}" for figure in figures))


def read(spec, labels, identities):
    """Return maps (N, D), labels bool (N, 6) and identities (N,) of the faces of a source."""
    faces = aligned.align(open_source(spec), detector=Detector())
    people = faces.identities
    if identities is not None:
        listed = dict(line.split() for line in identities.read_text().splitlines())
        people = np.array([listed[name.rpartition("/")[2]] for name in faces.names])
    shown = [
        beards(labels, faces.names) if name == "Beard" else labels.of(faces.names, name)
        for name in celeba_heads.ATTRIBUTES
    ]
    return celeba_heads.maps(faces.faces), np.stack(shown, axis=1), people


def beards(labels, photos):
    """Return whether each photo shows hair on chin or lip, bool (N,)."""
    marks = [labels.of(photos, name) for name in _BEARD]
    return ~labels.of(photos, "No_Beard") | np.any(marks, axis=0)


def fit(x, shown, people):
    """Fit ridge regression from maps (N, D) to each label of bool (N, A).

    Every strength is tried on four parts of the people, each predicted from the other three; the
    one that parts those who have it best from those who don't is taken, and the threshold lies
    where equal shares of both are taken for the other.

    Returns:
      kernel (D, A), bias (A,) and the A strengths.
    """
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-3
    z = (x - mean) / deviation
    gram, target = z @ z.T / z.shape[1], 2.0 * shown - 1
    _, person = np.unique(people, return_inverse=True)
    kernel, bias, chosen = np.empty((x.shape[1], shown.shape[1])), np.empty(shown.shape[1]), []
    guesses = {s: _cross_predicted(gram, target, person % 4, s) for s in _STRENGTHS}
    for k in range(shown.shape[1]):
        tried = {s: _balance(guesses[s][:, k], shown[:, k]) for s in _STRENGTHS}
        best = max(tried, key=lambda s: tried[s][0])
        kernel[:, k] = z.T @ _dual(gram, target[:, k], best) / z.shape[1] / deviation
        bias[k] = target[:, k].mean() - mean @ kernel[:, k] - tried[best][1]
        chosen.append(best)
    return kernel, bias, chosen


def _dual(gram, target, strength):
    return np.linalg.solve(gram + strength * np.eye(len(gram)), target - target.mean(axis=0))


def _cross_predicted(gram, target, part, strength):
    guesses = np.empty_like(target)
    for held in np.unique(part):
        test, train = np.flatnonzero(part == held), np.flatnonzero(part != held)
        dual = _dual(gram[np.ix_(train, train)], target[train], strength)
        guesses[test] = gram[np.ix_(test, train)] @ dual + target[train].mean(axis=0)
    return guesses


def _balance(scores, shown):
    """Return the accuracy, the mean over both kinds, where both kinds have the same, and where."""
    thresholds = np.unique(scores)
    missed = np.searchsorted(np.sort(scores[shown]), thresholds) / shown.sum()
    taken = 1 - np.searchsorted(np.sort(scores[~shown]), thresholds) / (~shown).sum()
    at = np.abs(missed - taken).argmin()
    return 1 - (missed[at] + taken[at]) / 2, thresholds[at]


if __name__ == "__main__":
    main()
