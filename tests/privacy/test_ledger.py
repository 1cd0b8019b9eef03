import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import ledger, ledger_chain, ledger_file, ledger_head
from identitydp_jax.privacy.accounting import Budget, GaussianLoss, PureLoss, epsilon_at, laplace
from identitydp_jax.privacy.ledger import Charge, Ledger, read

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
LOSS = laplace(6.0, l1=45_000.0, l2=2000.0)
CHARGE = Charge("laplace;epsilon=6.0", "laplace", "certified-l2", 9.4, LOSS, "sha256:12ab")
SECOND = Charge("laplace;epsilon=5.0", "laplace", "certified-l2", 8.0, LOSS, "sha256:12ab")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "people.ledger"


@pytest.fixture
def draw():
    """Draw codes that nobody draws twice; `draw.asked` has the places of each call."""

    def draw(places):
        draw.asked.append(list(places))
        return draw.random.integers(-(2**24), 2**24, (len(places), 512), np.int32)

    draw.asked, draw.random = [], np.random.default_rng(0)
    return draw


def forbidden(places):
    pytest.fail(f"drew codes for {places}")


def release(path, subjects, charge=CHARGE, draw=forbidden, **options):
    with Ledger(path, KEY, **options) as opened:
        return opened.release(subjects, charge, draw)


@contextlib.contextmanager
def tampering(path):
    """Change a ledger's rows as somebody with the file can, and leave the triggers as they were."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        find = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        triggers = connection.execute(find).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        for _, sql in triggers:
            connection.execute(sql)


def rows(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM entry ORDER BY number").fetchall()


@pytest.fixture
def filled(path, draw):
    """A ledger with five releases of four people, entries 1 to 5."""
    release(path, ["ann", "bob"], draw=draw)
    release(path, ["cem", "dee"], draw=draw)
    release(path, ["ann"], SECOND, draw=draw)
    return path


def test_a_ledger_is_made_for_its_owner_alone(tmp_path, draw):
    path = tmp_path / "new" / "the people's.ledger?#%"
    before = os.umask(0o000)
    try:
        release(path, ["ann"], draw=draw)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert len(read(path, key=KEY)) == 2


def test_the_same_subject_and_policy_get_the_same_code_and_are_charged_once(path, draw):
    (first,) = release(path, ["ann"], draw=draw)
    assert not first.reused and first.number == 1 and draw.asked == [[0]]
    assert first.code.dtype == np.int32 and first.code.shape == (512,)
    (again,) = release(path, ["ann"])
    assert again.reused and (again.number, again.head) == (1, first.head)
    np.testing.assert_array_equal(again.code, first.code)
    costlier = Charge(CHARGE.policy, "laplace", "paper", 99.0, PureLoss(99.0), "sha256:0")
    assert release(path, ["ann"], costlier)[0].head == first.head
    assert len(read(path)) == 2
    (other,) = release(path, ["ann"], SECOND, draw=draw)
    (bob,) = release(path, ["bob"], draw=draw)
    assert len({each.code.tobytes() for each in (first, other, bob)}) == 3
    with pytest.raises(ValueError, match="read-only"):
        first.code[0] = 0


def test_one_call_draws_each_new_subject_once_in_its_place(path, draw):
    (bob,) = release(path, ["bob"], draw=draw)
    names = ["ann", "bob", "ann", b"ann", "cem", "bob"]
    found = release(path, names, draw=draw)
    assert draw.asked == [[0], [0, 3, 4]]
    codes = [each.code.tobytes() for each in found]
    assert codes[0] == codes[2] and codes[1] == codes[5] == bob.code.tobytes()
    assert len(set(codes)) == 4
    assert [each.number for each in found] == [2, 1, 2, 3, 4, 1]
    assert [each.reused for each in found] == [False, True, False, False, False, True]
    assert release(path, []) == []
    again = release(path, names)
    assert [each.code.tobytes() for each in again] == codes


def test_entries_say_what_was_charged(path, draw):
    gaussian = Charge(
        "gaussian", "gaussian", "certified-l2", 3.0, GaussianLoss(0.02), "audit-seed:1"
    )
    releases = release(path, ["ann"], draw=draw) + release(path, ["ann"], gaussian, draw=draw)
    first, laplace_entry, gaussian_entry = read(path, key=KEY)
    assert first.record["ledger"] == "identitydp ledger v1"
    assert [entry.head for entry in read(path)[1:]] == [each.head for each in releases]
    record = laplace_entry.record
    assert record["policy"] == CHARGE.policy and record["key"] == "sha256:12ab"
    assert (record["mechanism"], record["calibration"]) == ("laplace", "certified-l2")
    assert (record["claimed_epsilon"], record["epsilon"], record["delta"]) == (9.4, 6.0, 0.0)
    assert record["rho"] == LOSS.rho and laplace_entry.loss == LOSS
    assert record["time"].endswith("+00:00")
    assert gaussian_entry.loss == gaussian.loss
    assert gaussian_entry.record["delta"] == 1e-6
    assert gaussian_entry.record["epsilon"] == epsilon_at(1e-6, [gaussian.loss])


def test_names_and_keys_are_not_in_the_file(path, draw):
    name = "Ann Example"
    with Ledger(path, KEY) as opened:
        found = opened.release([name], CHARGE, draw)
        shown = [repr(opened), repr(found), str(found)]
    content = path.read_bytes()
    assert ledger.subject_tag(KEY, name).encode() in content
    for secret in (name.encode(), KEY, KEY.hex().encode()):
        assert secret not in content
        assert not any(repr(secret)[2:-1] in text for text in shown)
    assert str(int(found[0].code[0])) not in repr(found[0])


def test_tags_tell_subjects_and_keys_apart():
    subjects = ("Ann Example", b"Ann Example", "ann example", "\udcff", "name", b"digest")
    tags = [ledger.subject_tag(key, each) for key in (KEY, OTHER_KEY) for each in subjects]
    assert len(set(tags)) == 12 and {len(tag) for tag in tags} == {64}
    composed, decomposed = (unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert ledger.subject_tag(KEY, composed) == ledger.subject_tag(KEY, decomposed)


@pytest.mark.parametrize("nobody", ["", b""])
def test_an_empty_subject_is_refused(filled, nobody):
    before = filled.read_bytes()
    with pytest.raises(UserError, match="subject is empty"):
        release(filled, ["eve", nobody])
    assert filled.read_bytes() == before


def test_a_budget_is_used_to_the_full_and_not_passed(path, draw):
    charges = [
        Charge(f"policy {i}", "laplace", "paper", 1.0, PureLoss(0.1), "k") for i in range(11)
    ]
    for charge in charges[:10]:
        release(path, ["ann"], charge, draw=draw, budget=Budget(epsilon=1.0))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"after 10 releases .* epsilon would be 1\.1, above 1:"):
        release(path, ["ann"], charges[10], budget=Budget(epsilon=1.0))
    with pytest.raises(UserError, match=r"epsilon would be 1\.1, above 1"):  # bob is not charged
        release(path, ["bob", "ann"], charges[10], budget=Budget(epsilon=1.0))
    assert path.read_bytes() == before
    assert release(path, ["ann"], charges[3], budget=Budget(epsilon=1.0))[0].reused
    release(path, ["bob"], charges[10], draw=draw, budget=Budget(epsilon=1.0))
    release(path, ["ann"], charges[10], draw=draw, budget=Budget(epsilon=1.2))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(rho=1.5 * LOSS.rho), "rho would be 0.0711"),
        (Budget(epsilon_at_delta=1.5), "epsilon at delta 1e-06 would be 1.7"),
        (Budget(epsilon_at_delta=2.0, delta=1e-9), "epsilon at delta 1e-09 would be 2.25"),
    ],
)
def test_every_kind_of_budget_stops_the_release(path, draw, budget, message):
    release(path, ["ann"], draw=draw, budget=budget)
    with pytest.raises(UserError, match=message):
        release(path, ["ann"], SECOND, budget=budget)


def test_a_budget_counts_what_others_charge_meanwhile(path, draw):
    with Ledger(path, KEY, budget=Budget(epsilon=6.0)) as one, Ledger(path, KEY) as two:
        (first,) = two.release(["ann"], CHARGE, draw)
        with pytest.raises(UserError, match="epsilon would be 12"):
            one.release(["ann"], SECOND, forbidden)
        (again,) = one.release(["ann"], CHARGE, forbidden)
        np.testing.assert_array_equal(again.code, first.code)
        one.release(["bob"], CHARGE, draw)
        assert two.release(["bob", "ann"], CHARGE, forbidden)[0].number == 3  # 1 has the limit


def test_a_limit_stays_in_force_until_another_is_set(path, draw):
    release(path, ["ann"], draw=draw, budget=Budget(epsilon=6.0))
    for _ in range(2):  # a run that says nothing of a budget
        with pytest.raises(UserError, match="epsilon would be 12, above 6"):
            release(path, ["ann"], SECOND)
    release(path, ["bob"], draw=draw, budget=Budget(rho=1.5 * LOSS.rho))
    with Ledger(path, KEY) as opened:
        with pytest.raises(UserError, match="epsilon would be 12, above 6"):
            opened.release(["ann"], SECOND, forbidden)
        Ledger(path, KEY, budget=Budget(epsilon=12.0)).close()  # another process, meanwhile
        with pytest.raises(UserError, match=r"rho would be 0\.0711"):
            opened.release(["ann"], SECOND, forbidden)
        Ledger(path, KEY, budget=Budget(rho=2.5 * LOSS.rho)).close()
        opened.release(["ann"], SECOND, draw)
    limits = [entry.budget for entry in read(path, key=KEY) if entry.budget]
    assert limits[0] == Budget(epsilon=6.0)
    assert limits[-1] == Budget(epsilon=12.0, rho=2.5 * LOSS.rho) and len(limits) == 4
    Ledger(path, KEY, budget=limits[-1]).close()
    assert len(read(path)) == 8  # what is in force already is not written again


def test_a_limit_can_be_neither_changed_nor_forged(path, draw):
    release(path, ["ann"], draw=draw, budget=Budget(epsilon=6.0))
    body = rows(path)[1][1]
    assert b'"epsilon": 6.0' in body
    with tampering(path) as connection:
        changed = body.replace(b'"epsilon": 6.0', b'"epsilon": 9.0')
        connection.execute("UPDATE entry SET body = ? WHERE number = 1", (changed,))
    with pytest.raises(UserError, match="entry 1 or the one before it was changed"):
        Ledger(path, KEY)
    with tampering(path) as connection:
        connection.execute("UPDATE entry SET body = ? WHERE number = 1", (body,))
        record = {"time": "", "limits": {"epsilon": 99.0}}
        after = rows(path)[-1][2]
        forged = ledger_chain.make_row(3, record, b"", after=after, key=OTHER_KEY)
        connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", forged)
    with pytest.raises(UserError, match="entry 3 was not written with the ledger's key"):
        Ledger(path, KEY)


@pytest.mark.parametrize("limits", [{"epsilon": -1.0}, {"delta": 2.0}, {"more": 1}, None, "all"])
def test_limits_that_are_none_are_damage(path, limits):
    Ledger(path, KEY).close()
    after = rows(path)[-1][2]
    row = ledger_chain.make_row(1, {"time": "", "limits": limits}, b"", after=after, key=KEY)
    with tampering(path) as connection:
        connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", row)
    with pytest.raises(UserError, match="entry 1 is not of the format"):
        read(path)


def test_a_ledger_that_is_gone_or_was_cut_is_noticed_by_the_head_beside_the_key(path, draw):
    head_file = ledger_head.path_beside(path.with_name("master.key"), path)
    options = {"draw": draw, "head_file": head_file}
    release(path, [], **options)
    older = path.read_bytes()
    release(path, ["ann", "bob"], **options)
    assert head_file.stat().st_mode & 0o777 == 0o600
    assert ledger_head.read(head_file) == read(path)[-1].head
    release(path, ["ann"], head_file=head_file)  # a remembered code changes nothing
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=f"{path} is gone, .*restore it .*remove {head_file}"):
        release(path, ["eve"], **options)
    assert not path.exists()
    for content in (older, whole):
        path.write_bytes(content)
        path.chmod(0o600)
        if content == older:
            with pytest.raises(UserError, match=f"lacks the entry that {head_file} attests"):
                release(path, ["eve"], **options)
    release(path, ["eve"], **options)
    # Died between the commit and the head: an older head is in the chain as well.
    release(path, ["fay"], draw=draw)
    release(path, ["gus"], **options)
    assert ledger_head.read(head_file) == read(path)[-1].head
    head_file.write_text("nonsense")
    with pytest.raises(UserError, match=f"{head_file}, which attests .* something else"):
        release(path, ["eve"], **options)


@pytest.mark.parametrize(
    ("codes", "error"),
    [
        (np.zeros((1, 512), np.int64), TypeError),
        (np.zeros((1, 512), np.float32), TypeError),
        (np.zeros((1, 511), np.int32), ValueError),
        (np.zeros((2, 512), np.int32), ValueError),
        (np.zeros(512, np.int32), ValueError),
    ],
)
def test_other_codes_are_refused_and_nothing_is_charged(path, codes, error):
    with Ledger(path, KEY) as opened:
        before = path.read_bytes()
        with pytest.raises(error, match="draw returned"):
            opened.release(["ann"], CHARGE, lambda _: codes)
        assert path.read_bytes() == before


def test_a_draw_that_fails_charges_nothing_and_the_ledger_goes_on(path, draw):
    def interrupt(_):
        raise KeyboardInterrupt

    with Ledger(path, KEY) as opened:
        before = path.read_bytes()
        with pytest.raises(KeyboardInterrupt):
            opened.release(["ann"], CHARGE, interrupt)
        infinite = Charge("p", "laplace", "paper", float("inf"), LOSS, "k")
        with pytest.raises(ValueError, match="JSON"):
            opened.release(["ann"], infinite, draw)
        assert path.read_bytes() == before
        assert opened.release(["ann"], CHARGE, draw)[0].number == 1


def _set(column, number):
    def tamper(connection):
        (old,) = connection.execute(
            f"SELECT {column} FROM entry WHERE number = {number}"
        ).fetchone()
        new = old[:-1] + bytes([old[-1] ^ 1])
        connection.execute(f"UPDATE entry SET {column} = ? WHERE number = {number}", (new,))

    return tamper


def _cheaper(connection):
    connection.execute(
        "UPDATE entry SET body = CAST(replace(body, ': 6.0', ': 0.1') AS BLOB) WHERE number = 2"
    )


def _renumber(connection):
    connection.execute("DELETE FROM entry WHERE number = 2")
    for number in (3, 4, 5):
        connection.execute(f"UPDATE entry SET number = {number - 1} WHERE number = {number}")


def _swap(connection):
    for old, new in ((2, 9), (3, 2), (9, 3)):
        connection.execute(f"UPDATE entry SET number = {new} WHERE number = {old}")


def _swap_codes(connection):
    connection.execute(
        "UPDATE entry SET code = (SELECT code FROM entry e WHERE e.number = 5 - entry.number)"
        " WHERE number IN (2, 3)"
    )


def _forge(connection, key=OTHER_KEY, after=None):
    """Write the chain anew, everybody's epsilon being cheaper, with a key that is not the right."""
    found = connection.execute("SELECT * FROM entry ORDER BY number").fetchall()
    connection.execute("DELETE FROM entry")
    head = bytes(32)
    for number, body, _, _, code in found:
        record = json.loads(body)
        if number:
            record["loss"]["epsilon"] = 0.1
        row = ledger_chain.make_row(number, record, code, after=head, key=key)
        connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", row)
        head = row[2]


def _sql(*statements):
    def tamper(connection):
        for statement in statements:
            connection.execute(statement)

    return tamper


TAMPERINGS = {
    "body": _set("body", 2),
    "first body": _set("body", 0),
    "newest body": _set("body", 5),
    "cheaper": _cheaper,
    "head": _set("head", 2),
    "newest head": _set("head", 5),
    "code": _set("code", 2),
    "short code": _sql("UPDATE entry SET code = x'' WHERE number = 2"),
    "swapped codes": _swap_codes,
    "code is text": _sql("UPDATE entry SET code = 'text' WHERE number = 2"),
    "body is text": _sql("UPDATE entry SET body = CAST(body AS TEXT) WHERE number = 2"),
    "removed": _sql("DELETE FROM entry WHERE number = 2"),
    "removed and renumbered": _renumber,
    "first removed": _sql("DELETE FROM entry WHERE number = 0"),
    "all removed": _sql("DELETE FROM entry"),
    "reordered": _swap,
    "renumbered": _sql("UPDATE entry SET number = 6 WHERE number = 5"),
    "repeated": _sql(
        "INSERT INTO entry SELECT 6, body, head, seal, code FROM entry LIMIT 1 OFFSET 5"
    ),
    "inserted": _sql("INSERT INTO entry VALUES (6, x'7b7d', zeroblob(32), zeroblob(32), x'')"),
    "negative": _sql("INSERT INTO entry SELECT -1, body, head, seal, code FROM entry LIMIT 1"),
    "other columns": _sql("ALTER TABLE entry ADD COLUMN more TEXT"),
    "other table": _sql("CREATE TABLE more (number INTEGER)"),
    "trigger": _sql("CREATE TRIGGER undo AFTER INSERT ON entry BEGIN SELECT 1; END"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found(filled, draw, name):
    with tampering(filled) as connection:
        TAMPERINGS[name](connection)
    before = filled.read_bytes()
    with pytest.raises(UserError, match="damaged or was tampered with"):
        read(filled)
    for subject in ("bob", "eve"):
        with pytest.raises(UserError, match="damaged or was tampered with"):
            release(filled, [subject], draw=draw)
    assert filled.read_bytes() == before


def test_dropping_a_trigger_is_found(filled):
    with contextlib.closing(sqlite3.connect(filled)) as connection:
        connection.execute("DROP TRIGGER entry_stays")
    with pytest.raises(UserError, match="tables or triggers"):
        read(filled)


def test_a_forged_chain_lacks_the_seals(filled, draw):
    with tampering(filled) as connection:
        _forge(connection)
    assert len(read(filled)) == 6  # nothing is wrong with its hashes
    with pytest.raises(UserError, match="entry 0 was not written with the ledger's key"):
        read(filled, key=KEY)
    with pytest.raises(UserError, match="entry 0 was not written with the ledger's key"):
        release(filled, ["eve"], draw=draw)


def test_a_changed_seal_is_found_by_who_has_the_key(filled):
    with tampering(filled) as connection:
        _set("seal", 3)(connection)
    read(filled)
    with pytest.raises(UserError, match="entry 3 was not written with the ledger's key"):
        read(filled, key=KEY)


def test_missing_newest_entries_are_found_by_a_receipt_alone(filled, draw):
    (last,) = release(filled, ["eve"], draw=draw)
    assert len(read(filled, key=KEY, heads=[last.head])) == 7
    with tampering(filled) as connection:
        connection.execute("DELETE FROM entry WHERE number >= 5")
    assert len(read(filled, key=KEY)) == 5  # the file alone does not show it
    with pytest.raises(UserError, match=f"lacks the entry with the head {last.head}"):
        read(filled, key=KEY, heads=[last.head])


def test_tampering_while_it_is_open_is_found(filled, draw):
    for tamper in (_sql("DELETE FROM entry WHERE number = 5"), _set("head", 5)):
        content = filled.read_bytes()
        with Ledger(filled, KEY) as opened:
            with tampering(filled) as connection:
                tamper(connection)
            with pytest.raises(UserError, match="entry 5 was changed or removed in use"):
                opened.release(["eve"], CHARGE, draw)
        filled.write_bytes(content)
    for name in ("code", "code is text", "swapped codes", "removed"):
        content = filled.read_bytes()
        with Ledger(filled, KEY) as opened:
            with tampering(filled) as connection:
                TAMPERINGS[name](connection)
            with pytest.raises(UserError, match="the code of entry 2 was changed"):
                opened.release(["bob"], CHARGE, draw)
        filled.write_bytes(content)
    assert draw.asked[3:] == []


def test_another_file_of_the_name_is_found(filled, draw):
    with Ledger(filled, KEY) as opened:
        copy = filled.with_name("copy")
        copy.write_bytes(filled.read_bytes())
        copy.chmod(0o600)
        copy.replace(filled)
        with pytest.raises(UserError, match="moved or replaced in use"):
            opened.release(["eve"], CHARGE, draw)
        filled.unlink()
        with pytest.raises(UserError, match="moved or replaced in use"):
            opened.release(["eve"], CHARGE, draw)
        assert not filled.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET body = x'00' WHERE number = 2",
        "DELETE FROM entry WHERE number = 5",
        "REPLACE INTO entry SELECT 2, body, head, seal, code FROM entry WHERE number = 3",
        "INSERT INTO entry SELECT 7, body, head, seal, code FROM entry WHERE number = 3",
        "INSERT INTO entry SELECT -1, body, head, seal, code FROM entry WHERE number = 3",
    ],
)
def test_the_file_itself_refuses_all_but_appending(filled, statement):
    before = rows(filled)
    with (
        contextlib.closing(sqlite3.connect(filled)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        connection.execute(statement)
    assert rows(filled) == before


def test_no_flipped_byte_changes_what_is_read(filled):
    content, expected = filled.read_bytes(), read(filled, key=KEY)
    found = 0
    for place in [*range(0, 100), *range(100, len(content), 211)]:
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        filled.write_bytes(damaged)
        try:
            assert read(filled, key=KEY) == expected
        except UserError as error:
            assert str(filled) in str(error) and "\n" not in str(error)
            found += 1
    assert found > 50  # the rest is unused space


def test_a_file_cut_off_anywhere_is_refused_or_whole(filled, draw):
    content, expected = filled.read_bytes(), read(filled, key=KEY)
    unused = 0
    for size in [*range(0, 200, 7), *range(200, len(content), 997), len(content) - 1]:
        filled.write_bytes(content[:size])
        try:
            assert read(filled, key=KEY) == expected  # the end of the last page may be unused
            unused += 1
            continue
        except UserError as error:
            assert str(filled) in str(error) and "\n" not in str(error)
        with pytest.raises(UserError, match=r"people\.ledger"):
            release(filled, ["eve"], draw=draw)
        assert filled.read_bytes() == content[:size]
    assert unused < 5


def test_what_is_no_ledger_is_refused_and_left_alone(tmp_path, path, filled, draw):
    empty, text, database, link, pipe = (
        tmp_path / name for name in ("empty", "text", "database", "link", "pipe")
    )
    empty.touch(0o600)
    text.write_text("subject, epsilon\n" * 100)
    text.chmod(0o600)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    database.chmod(0o600)
    link.symlink_to(filled)
    os.mkfifo(pipe, 0o600)
    for wrong, message in [
        (empty, "tables or triggers are not those of a ledger"),
        (text, "not a database"),
        (database, "tables or triggers are not those of a ledger"),
        (link, "not a regular file"),
        (pipe, "not a regular file"),
        (tmp_path, "not a regular file"),
        (text / "below", "below: (Not a directory|File exists): name a file"),
    ]:
        before = wrong.read_bytes() if wrong.is_file() else None
        for attempt in (read, lambda each: release(each, ["eve"], draw=draw)):
            with pytest.raises(UserError, match=message):
                attempt(wrong)
        assert before is None or wrong.read_bytes() == before
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "nowhere")
    assert draw.asked[3:] == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o700])
def test_wider_permissions_are_refused(filled, mode):
    filled.chmod(mode)
    for attempt in (read, lambda path: release(path, ["ann"])):
        with pytest.raises(UserError, match="wider than 0600: chmod 600 it"):
            attempt(filled)


def test_another_key_is_refused(filled, draw):
    for attempt in (lambda: Ledger(filled, OTHER_KEY), lambda: read(filled, key=OTHER_KEY)):
        with pytest.raises(UserError, match="belongs to another key") as caught:
            attempt()
        assert OTHER_KEY.hex() not in str(caught.value)
    for wrong in (b"", KEY[:31], KEY + b"0"):
        with pytest.raises(ValueError, match="give 32"):
            Ledger(filled, wrong)


def test_a_ledger_of_another_format_is_refused(path, monkeypatch, draw):
    monkeypatch.setattr(ledger, "FORMAT", "identitydp ledger v2")
    with pytest.raises(UserError, match="entry 0 is not of the format 'identitydp ledger v1'"):
        release(path, ["ann"], draw=draw)


NO_LOSSES = [{"epsilon": float("1e999")}, {"epsilon": -1}, {"epsilon": []}, {"sigma": 1}, 6.0, None]


@pytest.mark.parametrize(
    "change",
    [*({"loss": loss} for loss in NO_LOSSES), {"policy": 1}, {"subject": []}, {"rho": "1"}],
)
def test_an_entry_that_says_nothing_is_refused_even_if_it_is_sealed(filled, change):
    (*_, (number, body, head, _, code)) = rows(filled)
    body = json.dumps(json.loads(body) | change).encode()
    head = ledger_chain.next_head(head, body)
    row = (number + 1, body, head, ledger_chain.mac(KEY, b"seal", head), code)
    with contextlib.closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", row)
    with pytest.raises(UserError, match="entry 6 is not of the format"):
        read(filled, key=KEY)


def test_a_commit_is_synced_to_the_disk_with_its_folder(filled):
    with Ledger(filled, KEY) as opened:
        setting = opened._file._connection.execute("PRAGMA synchronous").fetchone()
        journal = opened._file._connection.execute("PRAGMA journal_mode").fetchone()
    assert setting == (3,) and journal == ("delete",)  # 3 is EXTRA


def test_a_ledger_that_somebody_holds_is_waited_for_and_then_named(filled, draw, monkeypatch):
    monkeypatch.setattr(ledger_file, "_PATIENCE", 0.05)
    with contextlib.closing(sqlite3.connect(filled, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="held by another process"):
            release(filled, ["eve"], draw=draw)
        assert len(read(filled, key=KEY)) == 6
        holder.execute("ROLLBACK")
    release(filled, ["eve"], draw=draw)


def test_what_another_process_did_not_commit_is_undone(filled, draw):
    expected = read(filled, key=KEY)
    with contextlib.closing(sqlite3.connect(filled, isolation_level=None)) as dying:
        dying.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
        dying.execute("BEGIN IMMEDIATE")
        for number in range(6, 60):
            dying.execute(
                "INSERT INTO entry SELECT ?, body, head, seal, code FROM entry WHERE number = 5",
                (number,),
            )
        copy, journal = filled.with_name("copy"), filled.with_name("copy-journal")
        copy.write_bytes(filled.read_bytes())
        journal.write_bytes(filled.with_name(f"{filled.name}-journal").read_bytes())
        copy.chmod(0o600)
    assert len(copy.read_bytes()) > 2 * len(filled.read_bytes())
    assert read(copy, key=KEY) == expected
    release(copy, ["eve"], draw=draw)


def run(mode, path):
    script = pathlib.Path(__file__).with_name("ledger_processes.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, mode, path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_processes_that_race_share_codes_and_the_budget(path):
    result = run("race", path)
    assert result["statuses"] == [0] * 4
    assert result["shared"] == 12  # (subject, number, code): the same for all four
    assert len(result["own"]) == len(set(result["own"])) == 12  # one process got each last place
    assert result["entries"] == 1 + 1 + 12 + 12  # the ledger's name, the limit, and releases


def test_killing_processes_at_any_moment_loses_no_release_in_hand(path):
    result = run("kill", path)
    assert result["entries"] > result["acknowledged"] > 20


def test_dying_at_any_byte_of_a_write_loses_no_release_in_hand(path):
    result = run("cut", path)
    ends = {os.waitstatus_to_exitcode(status) for status in result["statuses"]}
    assert ends == {-signal.SIGXFSZ, 0} and result["acknowledged"] > 5


def test_a_disk_that_is_full_at_any_byte_is_an_error_and_nothing_is_lost(path):
    result = run("full", path)
    ends = {os.waitstatus_to_exitcode(status) for status in result["statuses"]}
    assert ends == {3, 0} and result["acknowledged"] > 5
