import argparse
import contextlib
import sqlite3

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import keys, ledger, ledger_commands, ledger_head
from identitydp_jax.privacy.accounting import Budget, PureLoss
from identitydp_jax.privacy.ledger import Charge, Ledger


def run(*arguments):
    parser = argparse.ArgumentParser()
    ledger_commands.add_parser(parser.add_subparsers(dest="command"))
    return ledger_commands.run(parser.parse_args(["ledger", *map(str, arguments)]))


def charge(epsilon):
    policy = f"laplace;epsilon={epsilon}"
    return Charge(
        policy, "laplace", "paper", 0.7 * epsilon, PureLoss(epsilon), "sha256:" + 64 * "a"
    )


def draw(places):
    return np.zeros((len(places), 512), np.int32)


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "master.key"
    keys.create(path)
    return path


@pytest.fixture
def path(tmp_path, key_file):
    """Ann is charged 6 and 2, Bob 6."""
    path = tmp_path / "people.ledger"
    with Ledger(path, keys.ledger_key(keys.load(key_file))) as opened:
        opened.release(["ann", "bob"], charge(6.0), draw)
        opened.release(["ann"], charge(2.0), draw)
    return path


def test_show_lists_the_releases_without_names(path, capsys):
    assert run("show", path) == 0
    header, first, _, third = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["NUMBER", "TIME", "SUBJECT"]
    number, _, tag, *rest = first.split()
    assert number == "1" and len(tag) == 12
    assert rest[:6] == ["laplace", "paper", "4.2", "6", "0", "5.97033"]
    assert rest[6:] == ["sha256:aaaaaaaaaaaa", "laplace;epsilon=6.0"]
    assert third.split()[2] == tag and "ann" not in first


def test_show_and_budget_of_one_subject(path, key_file, capsys):
    assert run("show", path, "--subject", "bob", "--key-file", key_file) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["NUMBER", "2"]
    assert run("budget", path, "--subject", "eve", "--key-file", key_file) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    with pytest.raises(UserError, match="--subject needs --key-file"):
        run("show", path, "--subject", "bob")


def test_budget_adds_up_and_says_who_has_passed_it(path, capsys):
    assert run("budget", path) == 0
    header, ann, bob = capsys.readouterr().out.splitlines()
    assert header.split()[-4:] == ["EPSILON", "AT", "1e-06", "BUDGET"]
    assert ann.split()[1:] == ["2", "8", "7.49352", "8", "kept"]
    assert bob.split()[1:] == ["1", "6", "5.97033", "6", "kept"]
    for options in (
        ("--budget-epsilon", 7),
        ("--budget-rho", 7),
        ("--budget-epsilon-at-delta", 7, "--delta", 1e-5),
    ):
        assert run("budget", path, *options) == 1
        shown = capsys.readouterr()
        assert shown.err == "identitydp: error: 1 subjects have passed the budget\n"
        assert [line.split()[-1] for line in shown.out.splitlines()[1:]] == ["passed", "kept"]
    assert run("budget", path, "--budget-epsilon", 8) == 0
    with pytest.raises(UserError, match="budget rho is"):
        run("budget", path, "--budget-rho", 0)
    with pytest.raises(UserError, match="delta is"):
        run("budget", path, "--delta", 0)


def test_verify_names_the_head_and_checks_receipts_and_seals(path, key_file, capsys):
    head = ledger.read(path)[-1].head
    assert run("verify", path) == 1  # anybody can write such a chain
    shown = capsys.readouterr()
    assert shown.out == f"unverified: 3 releases of 2 subjects, head {head}\n"
    assert "seals were not checked: give --key-file" in shown.err
    assert run("verify", path, "--key-file", key_file, "--head", head) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and shown.out == f"3 releases of 2 subjects, head {head}\n"
    assert run("verify", path, "--head", head, "--head", 64 * "0") == 1
    assert f"lacks the entry with the head {64 * '0'}" in capsys.readouterr().err
    with pytest.raises(UserError, match="--head is 'abc'"):
        run("verify", path, "--head", "abc")
    keys.create(key_file.with_name("other.key"))
    with pytest.raises(UserError, match="belongs to another key"):
        run("verify", path, "--key-file", key_file.with_name("other.key"))


def test_limits_that_are_kept_count_and_are_no_releases(path, key_file, capsys):
    secret = keys.ledger_key(keys.load(key_file))
    Ledger(path, secret, budget=Budget(epsilon=7.0)).close()
    assert run("budget", path) == 1
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "passed",
        "kept",
    ]
    assert run("budget", path, "--budget-epsilon", 9) == 0
    assert run("show", path) == 0
    assert run("verify", path, "--key-file", key_file) == 0
    assert "3 releases of 2 subjects" in capsys.readouterr().out


def test_verify_looks_at_the_head_beside_the_key(path, key_file, capsys):
    ledger_head.write(ledger_head.path_beside(key_file, path), 64 * "0")
    assert run("verify", path, "--key-file", key_file) == 1
    assert f"lacks the entry with the head {64 * '0'}" in capsys.readouterr().err


def test_verify_exits_1_if_the_ledger_is_damaged(path, capsys):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER entry_stays")
    assert run("verify", path) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "damaged or was tampered with" in shown.err
    for action in ("show", "budget"):
        with pytest.raises(UserError, match="damaged or was tampered with"):
            run(action, path)


def test_without_a_file_the_one_beside_the_key_is_read(path, key_file, monkeypatch, capsys):
    beside = key_file.with_name(f"{key_file.name}.ledger")
    path.rename(beside)
    assert run("verify", "--key-file", key_file) == 0
    monkeypatch.setattr(keys, "default_path", lambda: key_file)
    assert run("verify") == 0
    with pytest.raises(UserError, match="No such file"):
        run("verify", path)


def test_an_empty_ledger_has_headers_only(tmp_path, key_file, capsys):
    Ledger(tmp_path / "new.ledger", keys.ledger_key(keys.load(key_file))).close()
    for action in ("show", "budget"):
        assert run(action, tmp_path / "new.ledger") == 0
        assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_action_is_needed():
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
