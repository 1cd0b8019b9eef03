"""Measured rows survive the end of a run."""

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import store as stores
from identitydp_jax.evaluation.store import Store


class Squares:
    """Counts the rows that it is asked for, and may be stopped."""

    def __init__(self, stop_at=None):
        self.asked, self.stop_at = [], stop_at

    def __call__(self, index, names):
        if self.stop_at is not None and self.stop_at in index:
            raise KeyboardInterrupt
        self.asked += index.tolist()
        made = {"square": index**2, "pair": np.stack([index, -index], axis=1)}
        return {name: made[name] for name in names}


X = {"square": ("x", "square"), "pair": ("x", "pair")}


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    store = Store(tmp_path / "measured")
    with pytest.raises(KeyboardInterrupt):
        store.rows(X, 100, Squares(stop_at=70), label="")
    again = Squares()
    rows = store.rows(X, 100, again, label="")
    np.testing.assert_array_equal(rows["square"], np.arange(100) ** 2)
    np.testing.assert_array_equal(rows["pair"][:, 1], -np.arange(100))
    assert again.asked == list(range(64, 100))
    idle = Squares()
    store.rows(X, 100, idle, label="")
    assert idle.asked == []


def test_other_questions_have_other_answers(tmp_path):
    store, asked = Store(tmp_path), Squares()
    store.rows({"square": ("x", 1)}, 3, asked, label="")
    store.rows({"square": ("x", 2)}, 3, asked, label="")
    assert asked.asked == [0, 1, 2, 0, 1, 2]


def test_only_what_is_lacking_is_computed(tmp_path):
    store, names = Store(tmp_path), []

    def compute(index, wanted):
        names.extend(wanted)
        return Squares()(index, wanted)

    store.rows({"pair": X["pair"]}, 3, compute, label="")
    rows = store.rows(X, 3, compute, label="")
    assert names == ["pair", "square"]
    np.testing.assert_array_equal(rows["pair"][:, 1], -rows["pair"][:, 0])


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00 cut", b"\0" * 100])
def test_a_damaged_block_is_measured_again(tmp_path, content):
    store = Store(tmp_path)
    store.rows(X, 3, Squares(), label="")
    for block in tmp_path.rglob("*.npy"):
        block.write_bytes(content)
    again = Squares()
    np.testing.assert_array_equal(store.rows(X, 3, again, label="")["square"], [0, 1, 4])
    assert again.asked == [0, 1, 2]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: cannot be written \(.+\): name another --output"):
        Store(tmp_path / "file").rows(X, 3, Squares(), label="")


def test_rows_that_other_code_measured_are_measured_again(tmp_path, monkeypatch):
    store = Store(tmp_path / "measured")
    store.rows(X, 3, Squares(), label="")
    package = tmp_path / "package"
    (package / "room").mkdir(parents=True)
    (package / "room" / "module.py").write_text("x = 1\n")
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(stores.storage, "__file__", str(package / "storage.py"))
    for change in (
        lambda: None,  # code that is not that of the package
        lambda: (package / "room" / "module.py").write_text("x = 2\n"),
        lambda: (package / "room" / "module.py").rename(package / "module.py"),
    ):
        change()
        stores._code.cache_clear()
        for expected in ([0, 1, 2], []):
            asked = Squares()
            store.rows(X, 3, asked, label="")
            assert asked.asked == expected
    monkeypatch.undo()
    stores._code.cache_clear()
