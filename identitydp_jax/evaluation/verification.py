"""Who is recognised: distances between embeddings, thresholds and rates.

A pair is accepted as one person if its distance is below the threshold, strictly, as dlib and
FaceNet have it. A distance of infinity is never accepted; NaN is refused.
"""

from typing import NamedTuple

import numpy as np

from identitydp_jax.checks import UserError

_BLOCK = 1024  # rows of a distance matrix that are computed at once


class FoldTar(NamedTuple):
    """True accept rates over folds."""

    mean: float
    std: float  # over the folds, population
    per_fold: np.ndarray  # float64 (folds,)
    # How many impostor pairs the false accept rate leaves below a threshold, in the fold with the
    # fewest. Under 1 the rate is finer than the pairs can show, at a few each pair moves it.
    allowed_impostors: float


class FoldAccuracy(NamedTuple):
    """Accuracies over folds."""

    mean: float
    std: float  # over the folds, population
    per_fold: np.ndarray  # float64 (folds,)


def threshold_at_far(impostor: np.ndarray, far: float) -> float:
    """Return the distance below which at most a share `far` of impostor pairs lies.

    The empirical rate k / n at the k-th smallest of n distances, joined by straight lines, is read
    at `far`. Accepting only below it, no more than far * n of the given impostors pass, whatever
    the ties. If far * n is under 1, no threshold shows that rate: the smallest distance comes
    back, which accepts none of them, and depends on that one pair. Check far * n; at a handful
    one mislabelled or doubled person among the impostors may decide.

    Args:
      impostor: (n,) distances between different people.
      far: false accept rate in (0, 1).

    Raises:
      UserError: there are no distances, some are NaN, or `far` is outside (0, 1).
    """
    impostor = np.sort(_distances("impostor", impostor))
    if not 0 < far < 1:
        raise UserError(f"false accept rate {far}: give one between 0 and 1")
    position = max(far * len(impostor), 1.0) - 1  # of the k-th smallest, from 0
    below = int(position)
    share = position - below
    low, high = impostor[below], impostor[min(below + 1, len(impostor) - 1)]
    if share == 0 or low == high:  # where infinities would have no difference
        return float(low)
    return float(min(high, low + share * (high - low)))


def true_accept_rate(genuine: np.ndarray, impostor: np.ndarray, far: float) -> float:
    """Return the share of genuine pairs accepted at a false accept rate.

    Args:
      genuine: (m,) distances between photos of one person.
      impostor: (n,) distances between different people; see `threshold_at_far` for small n.
      far: false accept rate in (0, 1).

    Returns:
      float in [0, 1].

    Raises:
      UserError: as `threshold_at_far`, or there are no genuine pairs.
    """
    threshold = threshold_at_far(impostor, far)
    return float(np.mean(_distances("genuine", genuine) < threshold))


def best_accuracy(genuine: np.ndarray, impostor: np.ndarray) -> tuple[float, float]:
    """Return the highest share of pairs that one threshold tells right, and that threshold.

    It lies half-way between the two distances that it parts; the lowest wins a tie. Give as many
    genuine as impostor pairs, as LFW does: else the more numerous decide.

    Args:
      genuine: (m,) distances between photos of one person.
      impostor: (n,) distances between different people.

    Returns:
      accuracy in [0, 1], threshold.

    Raises:
      UserError: there are no pairs of a kind, or some distances are NaN.
    """
    genuine = np.sort(_distances("genuine", genuine))
    impostor = np.sort(_distances("impostor", impostor))
    values = np.unique(np.concatenate([genuine, impostor]))
    between = values[:-1] + np.diff(values) / 2
    thresholds = np.concatenate([values[:1], between, [np.nextafter(values[-1], np.inf)]])
    right = np.searchsorted(genuine, thresholds) + len(impostor)
    right = right - np.searchsorted(impostor, thresholds)
    best = np.argmax(right)
    return float(right[best] / (len(genuine) + len(impostor))), float(thresholds[best])


def tar_at_far_by_folds(
    distances: np.ndarray, same: np.ndarray, fold: np.ndarray, far: float = 1e-3
) -> FoldTar:
    """Return the true accept rate at a false accept rate, cross-validated over folds.

    The protocol of LFW (Huang et al., 2007) as FaceNet (Schroff et al., CVPR 2015) and the paper's
    Table III report it: for each fold, `threshold_at_far` on the impostor pairs of all others
    gives the threshold at which its genuine pairs are counted. LFW's ten folds leave 2700
    impostor pairs, 2.7 of them allowed at 1e-3: the threshold hangs on the nearest three, and one
    mislabelled pair among them moves every fold but its own. `allowed_impostors` says how many it
    is here; under 1 the false accept rate was not reached, and the figure is that of the nearest
    impostor.

    Args:
      distances: (N,).
      same: bool (N,), whether the pair shows one person.
      fold: (N,), any labels, usually 0 to 9.
      far: false accept rate in (0, 1).

    Raises:
      UserError: there are fewer than two folds, a fold has no genuine pairs or the others no
        impostors, the shapes differ, or some distances are NaN.
    """
    rates, allowed = [], []
    for test, others in _folds(distances, same, fold):
        rates.append(true_accept_rate(test[0], others[1], far))
        allowed.append(far * len(others[1]))
    return FoldTar(float(np.mean(rates)), float(np.std(rates)), np.array(rates), min(allowed))


def accuracy_by_folds(distances: np.ndarray, same: np.ndarray, fold: np.ndarray) -> FoldAccuracy:
    """Return LFW's accuracy: each fold at the `best_accuracy` threshold of all others.

    Args:
      distances: (N,).
      same: bool (N,), whether the pair shows one person.
      fold: (N,), any labels, usually 0 to 9.

    Raises:
      UserError: as `tar_at_far_by_folds`.
    """
    rates = []
    for (genuine, impostor), others in _folds(distances, same, fold):
        _, threshold = best_accuracy(*others)
        right = np.sum(genuine < threshold) + np.sum(impostor >= threshold)
        rates.append(right / (len(genuine) + len(impostor)))
    return FoldAccuracy(float(np.mean(rates)), float(np.std(rates)), np.array(rates))


def identification(
    probe_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    probe_labels: np.ndarray,
    gallery_labels: np.ndarray,
) -> np.ndarray:
    """Return for each probe whether its nearest gallery face shows the same person: rank 1.

    Nearest by Euclidean distance; the first wins a tie. The mean is the rank-1 rate, to be read
    against chance: the share of a probe's own person in the gallery.

    Args:
      probe_embeddings: (N, D).
      gallery_embeddings: (M, D).
      probe_labels: (N,), any labels.
      gallery_labels: (M,).

    Returns:
      bool (N,).

    Raises:
      UserError: the gallery is empty, the shapes do not fit, or embeddings are not finite.
    """
    found = nearest(probe_embeddings, gallery_embeddings)
    _, probe_labels = _embeddings(probe_embeddings, probe_labels)
    _, gallery_labels = _embeddings(gallery_embeddings, gallery_labels)
    return gallery_labels[found] == probe_labels


def nearest(probe_embeddings: np.ndarray, gallery_embeddings: np.ndarray) -> np.ndarray:
    """Return the row of each probe's nearest gallery face, int64 (N,), as `identification` does.

    Args:
      probe_embeddings: (N, D).
      gallery_embeddings: (M, D).

    Raises:
      UserError: the gallery is empty, the shapes do not fit, or embeddings are not finite.
    """
    probes, _ = _embeddings(probe_embeddings, np.arange(len(probe_embeddings)))
    gallery, _ = _embeddings(gallery_embeddings, np.arange(len(gallery_embeddings)))
    if not len(gallery):
        raise UserError("the gallery is empty: there is nobody to be recognised as")
    blocks = [block.argmin(axis=1) for _, block in _distance_blocks(probes, gallery)]
    return np.concatenate([*blocks, np.zeros(0, np.int64)])


def pair_distances(
    embeddings_a: np.ndarray,
    embeddings_b: np.ndarray,
    labels_a: np.ndarray,
    labels_b: np.ndarray,
    exclude_same_index: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Euclidean distances of all pairs (a, b), by whether the labels agree.

    A set against itself gives each pair twice, (i, j) and (j, i); rates stay what they are.

    Args:
      embeddings_a: (N, D).
      embeddings_b: (M, D).
      labels_a: (N,), any labels.
      labels_b: (M,).
      exclude_same_index: leave out pairs (i, i), where both come from one photo.

    Returns:
      genuine float32 (G,) and impostor float32 (I,); either may be empty.

    Raises:
      UserError: the shapes do not fit, or embeddings are not finite.
    """
    a, labels_a = _embeddings(embeddings_a, labels_a)
    b, labels_b = _embeddings(embeddings_b, labels_b)
    genuine, impostor = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for rows, block in _distance_blocks(a, b):
        same = labels_a[rows, None] == labels_b[None, :]
        other = ~same
        if exclude_same_index:
            elsewhere = rows[:, None] != np.arange(len(b))
            same, other = same & elsewhere, other & elsewhere
        genuine.append(block[same])
        impostor.append(block[other])
    return np.concatenate(genuine), np.concatenate(impostor)


def _distance_blocks(a, b):
    """Yield row numbers of `a` and their float32 distances (rows, M) to `b`, block by block."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.sum(b * b, axis=1)
    for start in range(0, len(a), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(a)))
        part = a[rows]
        squares = np.sum(part * part, axis=1)[:, None] + norms - 2 * part @ b.T
        yield rows, np.sqrt(np.maximum(squares, 0)).astype(np.float32)


def _embeddings(embeddings, labels):
    embeddings, labels = np.asarray(embeddings), np.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        shapes = f"{embeddings.shape} and {labels.shape}"
        raise UserError(f"embeddings and labels of shapes {shapes}: give (N, D) and (N,)")
    if not np.isfinite(embeddings).all():
        raise UserError("some embeddings are not finite: look at the verifier that made them")
    return embeddings, labels


def _distances(kind: str, distances):
    distances = np.asarray(distances, np.float64)
    if not distances.size:
        raise UserError(f"there are no {kind} pairs: give people with several photos, and several")
    if np.isnan(distances).any():
        raise UserError(f"some distances of {kind} pairs are NaN: look at the verifier")
    return distances


def _folds(distances, same, fold):
    """Return per fold the (genuine, impostor) distances of it and of all others."""
    distances, same, fold = np.asarray(distances), np.asarray(same, bool), np.asarray(fold)
    if not distances.shape == same.shape == fold.shape:
        shapes = f"{distances.shape}, {same.shape} and {fold.shape}"
        raise UserError(f"distances, same and fold have shapes {shapes}: give one of each per pair")
    labels = np.unique(fold)
    if len(labels) < 2:
        raise UserError(f"{len(labels)} folds of pairs: give at least two")

    def split(chosen):
        return distances[chosen & same], distances[chosen & ~same]

    return [(split(fold == label), split(fold != label)) for label in labels]
