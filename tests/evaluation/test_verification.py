import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import verification

# Few different values, so that ties are common; infinity is a face that was not found.
DISTANCES = arrays(
    np.float64,
    st.integers(1, 40),
    elements=st.one_of(st.integers(0, 12).map(float), st.just(np.inf)),
)
FARS = st.floats(1e-4, 0.999)


def test_threshold_by_hand():
    impostor = np.array([4.0, 1, 2, 3, 10, 9, 8, 7, 6, 5])
    assert verification.threshold_at_far(impostor, 0.2) == 2
    assert verification.threshold_at_far(impostor, 0.25) == pytest.approx(2.5)
    assert verification.threshold_at_far(impostor, 0.95) == pytest.approx(9.5)


def test_too_few_impostors_leave_the_nearest_one():
    assert verification.threshold_at_far(np.array([5.0, 3, 4]), 1e-3) == 3
    assert verification.threshold_at_far(np.array([np.inf]), 0.5) == np.inf


@given(DISTANCES, FARS)
def test_no_more_impostors_pass_than_wanted(impostor, far):
    threshold = verification.threshold_at_far(impostor, far)
    assert np.mean(impostor < threshold) <= far
    # The next impostor would be one too many, or the line between the two was read.
    if far * len(impostor) >= 1:
        assert np.mean(impostor <= threshold) >= (int(far * len(impostor))) / len(impostor)


@given(DISTANCES, DISTANCES, FARS, FARS)
def test_rates_grow_with_the_false_accept_rate(genuine, impostor, one, other):
    low, high = sorted((one, other))
    low = verification.true_accept_rate(genuine, impostor, low)
    assert 0 <= low <= verification.true_accept_rate(genuine, impostor, high) <= 1


@given(DISTANCES, DISTANCES, FARS)
def test_farther_genuine_pairs_are_accepted_less(genuine, impostor, far):
    near = verification.true_accept_rate(genuine, impostor, far)
    assert verification.true_accept_rate(genuine + 1, impostor, far) <= near
    assert verification.true_accept_rate(genuine, impostor + 1, far) >= near


def test_true_accept_rate_by_hand():
    impostor = np.arange(1.0, 101)
    genuine = np.array([1.0, 4.9, 5, 30])
    assert verification.true_accept_rate(genuine, impostor, 0.05) == 0.5
    assert verification.true_accept_rate(genuine, impostor, 0.055) == 0.75
    constant = np.ones(100)  # a verifier that sees nothing recognises nobody
    assert verification.true_accept_rate(constant, constant, 0.1) == 0


def test_random_embeddings_are_at_chance():
    rng = np.random.default_rng(0)
    rate = verification.true_accept_rate(rng.normal(size=20000), rng.normal(size=20000), 0.1)
    assert rate == pytest.approx(0.1, abs=0.01)


def test_best_accuracy_by_hand():
    assert verification.best_accuracy(np.array([1.0, 2]), np.array([4.0, 5])) == (1, 3)
    assert verification.best_accuracy(np.array([1.0, 2, 6]), np.array([4.0, 5, 7])) == (5 / 6, 3)
    # inverted: accept nobody, or everybody
    assert verification.best_accuracy(np.array([9.0]), np.array([1.0])) == (0.5, 1)
    accuracy, threshold = verification.best_accuracy(np.array([3.0, 3]), np.array([3.0]))
    assert accuracy == 2 / 3 and threshold > 3


@given(DISTANCES, DISTANCES)
def test_no_threshold_beats_the_best(genuine, impostor):
    def accuracy(threshold):
        right = np.sum(genuine < threshold) + np.sum(impostor >= threshold)
        return right / (len(genuine) + len(impostor))

    best, threshold = verification.best_accuracy(genuine, impostor)
    assert best == accuracy(threshold)
    assert best >= max(accuracy(t) for t in np.arange(-0.5, 14, 0.5))


def _ten_folds(per_fold, rng):
    """Pairs with distinct distances, genuine ones nearer, `per_fold` of each kind per fold."""
    fold = np.repeat(np.arange(10), 2 * per_fold)
    same = np.tile(np.repeat([True, False], per_fold), 10)
    return rng.normal(np.where(same, 0.6, 1.4), 0.2), same, fold


def test_folds_take_the_threshold_from_the_others():
    # Fold "a" would accept its own nearest impostors at 1 to 4; "b" decides for it, and inversely.
    distances = np.array([0.5, 2.5, 1, 2, 3, 4, 10.5, 25, 10, 20, 30, 40])
    same = np.array([True] * 2 + [False] * 4 + [True] * 2 + [False] * 4)
    fold = np.repeat(["a", "b"], 6)
    result = verification.tar_at_far_by_folds(distances, same, fold, far=0.5)
    np.testing.assert_array_equal(result.per_fold, [1, 0])  # thresholds 20 and 2
    assert result[:2] == (0.5, 0.5) and result.allowed_impostors == 2
    accuracy = verification.accuracy_by_folds(distances, same, fold)
    # b's best threshold is 15, below which are all of a; a's is 0.75, below which is none of b
    np.testing.assert_allclose(accuracy.per_fold, [2 / 6, 4 / 6])
    assert accuracy.mean == 0.5 and accuracy.std == pytest.approx(1 / 6)


def test_lfw_sized_folds():
    distances, same, fold = _ten_folds(300, np.random.default_rng(0))
    result = verification.tar_at_far_by_folds(distances, same, fold)
    assert result.allowed_impostors == pytest.approx(2.7)
    for k in range(10):
        nearest = np.sort(distances[~same & (fold != k)])
        threshold = nearest[1] + 0.7 * (nearest[2] - nearest[1])
        assert result.per_fold[k] == np.mean(distances[same & (fold == k)] < threshold)
    accuracy = verification.accuracy_by_folds(distances, same, fold)
    assert accuracy.mean == pytest.approx(0.977, abs=0.008)  # Phi(2)
    assert accuracy.std == pytest.approx(accuracy.per_fold.std())


def test_one_mislabelled_pair_may_decide():
    distances, same, fold = _ten_folds(100, np.random.default_rng(1))
    clean = verification.tar_at_far_by_folds(distances, same, fold)
    assert clean.allowed_impostors < 1  # 900 impostors cannot show 1e-3
    distances[np.argmax(~same)] = 0.1  # one person twice, under two names, in fold 0
    spoilt = verification.tar_at_far_by_folds(distances, same, fold)
    assert spoilt.per_fold[0] == clean.per_fold[0]
    assert (spoilt.per_fold[1:] < 0.1).all() and (clean.per_fold > 0.3).all()


def test_the_order_of_pairs_does_not_matter():
    rng = np.random.default_rng(2)
    pairs = _ten_folds(20, rng)
    order = rng.permutation(len(pairs[0]))
    for measure in (verification.tar_at_far_by_folds, verification.accuracy_by_folds):
        a, b = measure(*pairs), measure(*(column[order] for column in pairs))
        np.testing.assert_array_equal(a.per_fold, b.per_fold)


def test_identification_by_hand():
    gallery, names = np.array([[0.0, 0], [10, 0], [0, 10]]), np.array(["a", "b", "c"])
    probes = np.array([[1.0, 1], [9, 2], [6, 1], [1, 9]])
    hits = verification.identification(probes, gallery, np.array(["a", "b", "a", "z"]), names)
    np.testing.assert_array_equal(hits, [True, True, False, False])
    assert verification.identification(probes[:0], gallery, names[:0], names).shape == (0,)


def test_random_probes_are_identified_by_chance():
    rng = np.random.default_rng(0)
    probes, gallery = rng.normal(size=(3000, 8)), rng.normal(size=(50, 8))
    hits = verification.identification(probes, gallery, rng.integers(50, size=3000), np.arange(50))
    assert hits.mean() == pytest.approx(1 / 50, abs=0.01)


def test_pair_distances_by_hand():
    a, b = np.array([[0.0, 0], [3, 4]]), np.array([[0.0, 0], [6, 8], [3, 0]])
    genuine, impostor = verification.pair_distances(a, b, np.array([1, 2]), np.array([1, 2, 1]))
    np.testing.assert_allclose(np.sort(genuine), [0, 3, 5])
    np.testing.assert_allclose(np.sort(impostor), [4, 5, 10])
    genuine, impostor = verification.pair_distances(
        a, b, np.array([1, 2]), np.array([1, 2, 1]), exclude_same_index=True
    )
    np.testing.assert_allclose(genuine, [3])
    np.testing.assert_allclose(np.sort(impostor), [4, 5, 10])


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(23, 5)).astype(np.float32), rng.normal(size=(9, 5)).astype(np.float32)
    labels_a, labels_b = rng.integers(4, size=23), rng.integers(4, size=9)
    exact = np.linalg.norm(a[:, None].astype(float) - b[None], axis=2)
    same = labels_a[:, None] == labels_b
    hits = labels_b[exact.argmin(axis=1)] == labels_a
    for block in (4, 1024):
        monkeypatch.setattr(verification, "_BLOCK", block)
        genuine, impostor = verification.pair_distances(a, b, labels_a, labels_b, True)
        elsewhere = np.arange(23)[:, None] != np.arange(9)
        np.testing.assert_allclose(genuine, exact[same & elsewhere], rtol=1e-6)
        np.testing.assert_allclose(impostor, exact[~same & elsewhere], rtol=1e-6)
        np.testing.assert_array_equal(verification.identification(a, b, labels_a, labels_b), hits)


ONE, NAN = np.array([1.0]), np.array([1.0, np.nan])
UNIT = np.ones((1, 2))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: verification.threshold_at_far(ONE[:0], 0.1), "no impostor pairs"),
        (lambda: verification.threshold_at_far(NAN, 0.1), "NaN"),
        (lambda: verification.threshold_at_far(ONE, 0.0), "between 0 and 1"),
        (lambda: verification.threshold_at_far(ONE, float("nan")), "between 0 and 1"),
        (lambda: verification.true_accept_rate(ONE[:0], ONE, 0.1), "no genuine pairs"),
        (lambda: verification.best_accuracy(NAN, ONE), "genuine pairs are NaN"),
        (lambda: verification.tar_at_far_by_folds(ONE, ONE > 0, ONE), "1 folds"),
        (lambda: verification.accuracy_by_folds(ONE, ONE > 0, NAN), "one of each per pair"),
        (lambda: verification.tar_at_far_by_folds(NAN + 1, NAN > 0, ONE), "one of each per pair"),
        (lambda: verification.identification(UNIT, UNIT[:0], ONE, ONE[:0]), "gallery is empty"),
        (lambda: verification.identification(UNIT * np.inf, UNIT, ONE, ONE), "not finite"),
        (lambda: verification.pair_distances(UNIT, UNIT, NAN, ONE), "of shapes"),
    ],
)
def test_what_cannot_be_measured(call, said):
    with pytest.raises(UserError, match=said):
        call()
