import itertools

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import pairs

ROWS = {
    "Ann_Bee/Ann_Bee_0001.jpg": 0,
    "Ann_Bee/Ann_Bee_0012.png": 1,
    "Cid/Cid_0001.jpg": 2,
    "Cid/Cid_0003.jpg": -1,
    "Dan/Dan_0002.jpg": 4,
}
GOOD = """2\t1
Ann_Bee\t1\t12
Ann_Bee\t12\tCid\t1
Cid 1 3
Dan 2 Ann_Bee 1
"""


def _write(tmp_path, text):
    path = tmp_path / "pairs.txt"
    path.write_bytes(text.encode("latin-1"))
    return path


def test_pairs_are_rows_of_photos(tmp_path):
    found = pairs.lfw_pairs(_write(tmp_path, GOOD), ROWS)
    assert found.first.tolist() == [0, 1, 2, 4] and found.second.tolist() == [1, 2, -1, 0]
    assert found.same.tolist() == [True, False, True, False]
    assert found.fold.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2\t1", "2", r"pairs\.txt, line 1: give the number of folds and of pairs"),
        ("2\t1", "2 x", "line 1: give"),
        ("2\t1", "0 1", "line 1: give"),
        (GOOD, "", "line 1: give"),
        ("2\t1", "3\t1", r"has 4 pairs and announces 3 folds of 2 x 1"),
        ("Cid 1 3", "Cid 1 Dan 2", "line 4: is 'Cid 1 Dan 2', and `NAME i j` is due"),
        ("Dan 2 Ann_Bee 1", "Dan 2 1", "line 5: is 'Dan 2 1', and `NAME i OTHER j` is due"),
        ("Cid 1 3", "Cid one 3", "line 4: .* are numbers"),
        ("Dan 2", "Dan 3", r"pairs\.txt, line 5: Dan/Dan_0003 is not among the 5 photos"),
        ("Ann_Bee\t1\t12", "Eve 1 2", "line 2: Eve/Eve_0001 is not among"),
        ("Cid 1 3", "C\xefd 1 3", "not a text in UTF-8"),
    ],
)
def test_other_files_are_refused_by_line(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(UserError, match=message):
        pairs.lfw_pairs(_write(tmp_path, GOOD.replace(old, new)), ROWS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: No such file"):
        pairs.lfw_pairs(tmp_path / "none.txt", ROWS)


def _identities(seed=0):
    """120 rows: 40 people with 1 to 8 photos, mixed up."""
    sizes = np.r_[np.ones(10, int), np.full(15, 2), np.full(14, 5), 10]
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(40).astype(str), sizes))


def test_drawn_pairs_are_what_they_say():
    people = _identities()
    drawn = pairs.draw_pairs(people, folds=4, per_fold=20, seed=3)
    assert len(drawn) == 4 * 2 * 20
    np.testing.assert_array_equal(people[drawn.first] == people[drawn.second], drawn.same)
    assert (drawn.first != drawn.second).all()
    keys = {
        frozenset(pair) for pair in zip(drawn.first.tolist(), drawn.second.tolist(), strict=True)
    }
    assert len(keys) == len(drawn)
    for fold in range(4):
        assert drawn.same[drawn.fold == fold].sum() == 20


def test_no_person_is_in_two_folds():
    people = _identities()
    drawn = pairs.draw_pairs(people, folds=4, per_fold=20)
    inside = [
        set(people[drawn.first[drawn.fold == fold]]) | set(people[drawn.second[drawn.fold == fold]])
        for fold in range(4)
    ]
    assert not any(a & b for a, b in itertools.combinations(inside, 2))


def test_draws_follow_the_seed():
    people = _identities()
    first, again, other = (pairs.draw_pairs(people, folds=4, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.first, again.first)
    assert first.first.tolist() != other.first.tolist()


def test_small_folds_bound_all_folds():
    people = np.repeat(["a", "b", "c", "d"], [2, 3, 2, 3])
    drawn = pairs.draw_pairs(people, folds=2)
    # One fold deals a 3 and a 2 each: 3 + 1 pairs of the same person, 6 of different people.
    assert len(drawn) == 2 * 2 * 4
    np.testing.assert_array_equal(people[drawn.first] == people[drawn.second], drawn.same)


def test_people_with_many_photos_do_not_prevail():
    people = np.repeat(["many", *"abcdefg"], [200, *[10] * 7])
    drawn = pairs.draw_pairs(people, folds=1, per_fold=200)
    share = (people[drawn.first][drawn.same] == "many").mean()
    assert share < 0.3  # drawn photo by photo it would be 0.98


@pytest.mark.parametrize("people", [["a", "a", "b"], ["a", "b", "c", "d"], ["a", "a", "b", "b"]])
def test_too_few_people(people):
    with pytest.raises(UserError, match=r"2 folds need 4 people, 2 of them with two photos"):
        pairs.draw_pairs(np.array(people), folds=2)


def test_written_pairs_are_read_again(tmp_path):
    sizes = {"Ann": 4, "Bo_C": 3, "Cid": 3, "Dan": 2}
    names = [f"{who}/{who}_{i + 1:04d}.jpg" for who, n in sizes.items() for i in range(n)]
    people = np.array([name.split("/")[0] for name in names])
    drawn = pairs.draw_pairs(people, folds=2, per_fold=3)
    pairs.write_pairs(tmp_path / "pairs.txt", drawn, names)
    assert (tmp_path / "pairs.txt").read_text().startswith("2\t3\n")
    found = pairs.lfw_pairs(tmp_path / "pairs.txt", {name: row for row, name in enumerate(names)})
    for field in ("first", "second", "same", "fold"):
        np.testing.assert_array_equal(getattr(found, field), getattr(drawn, field))
    with pytest.raises(UserError, match=r"x\.jpg: pairs in LFW's layout need"):
        pairs.write_pairs(tmp_path / "pairs.txt", drawn, ["x.jpg", *names[1:], "x.jpg"])
