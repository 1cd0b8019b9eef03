import argparse
import os

import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import key_commands, key_file, keys

SECRET = bytes(range(0xC0, 0xE0))
COMMITMENT = "sha256:" + "0" * 64
ACTIONS = [["new"], ["commit"], ["verify", COMMITMENT], ["destroy"], ["destroy", "--yes"]]


def keys_command(action, path, *rest):
    parser = argparse.ArgumentParser()
    key_commands.add_parser(parser.add_subparsers(dest="command"))
    return key_commands.run(parser.parse_args(["keys", action, str(path), *rest]))


def shows(text):
    """Whether a text gives the secret away: raw, in hexadecimal, as Python writes it."""
    raw = text.encode("utf-8", "surrogateescape")
    head, tail = SECRET[:4], SECRET[-4:]
    forms = (head, tail, *(part.hex().encode() for part in (head, tail)))
    return any(form in raw.lower() for form in forms) or repr(SECRET)[2:18] in text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "master.key"


@pytest.fixture
def held(path):
    """A file that holds SECRET."""
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def test_new_makes_a_key_and_prints_its_commitment_alone(path, capsys, monkeypatch):
    monkeypatch.setattr(key_file.secrets, "token_bytes", lambda count: SECRET[:count])
    assert keys_command("new", path) == 0
    out, err = capsys.readouterr()
    assert path.read_bytes() == SECRET and path.stat().st_mode & 0o777 == 0o600
    assert out == keys.commitment(keys.MasterKey(SECRET)) + "\n"
    assert "master.key holds a new key" in err and "back it up" in err


def test_new_makes_another_key_each_time(tmp_path, capsys):
    for name in "ab":
        assert keys_command("new", tmp_path / name) == 0
    one, two = capsys.readouterr().out.split()
    assert one != two
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_new_refuses_to_overwrite(held, capsys):
    with pytest.raises(UserError, match=r"master\.key exists"):
        keys_command("new", held)
    assert held.read_bytes() == SECRET and capsys.readouterr().out == ""


def test_commit_prints_the_commitment_alone(held, capsys):
    assert keys_command("commit", held) == 0
    assert capsys.readouterr() == (keys.commitment(keys.MasterKey(SECRET)) + "\n", "")


def test_verify_accepts_the_key_of_the_commitment(held, capsys):
    commitment = keys.commitment(keys.MasterKey(SECRET))
    assert keys_command("verify", held, commitment) == 0
    assert capsys.readouterr() == (f"{held}: {commitment}\n", "")


def test_verify_reports_another_key_with_status_1(held, capsys):
    right = keys.commitment(keys.MasterKey(SECRET))
    last = "0" if right[-1] != "0" else "1"
    for wrong in (COMMITMENT, right[:-1] + last):
        assert keys_command("verify", held, wrong) == 1
        out, err = capsys.readouterr()
        assert out == "" and err == f"identitydp: error: {held} holds another key, {right}\n"


@pytest.mark.parametrize(
    "text",
    [
        *("audit-seed:7", "", COMMITMENT[:-1], COMMITMENT + "0", COMMITMENT + "\n"),
        *("SHA256:" + COMMITMENT[7:], SECRET.hex(), "sha256:" + SECRET.hex()[:-1]),
    ],
)
def test_verify_refuses_what_is_no_commitment_without_repeating_it(held, text):
    with pytest.raises(UserError, match="COMMITMENT is not sha256") as caught:
        keys_command("verify", held, text)
    assert not shows(str(caught.value))


def test_destroy_asks_for_yes(held, capsys):
    with pytest.raises(UserError, match=r"master\.key is left alone.*add --yes"):
        keys_command("destroy", held)
    assert held.read_bytes() == SECRET and capsys.readouterr().out == ""


def test_destroy_removes_the_file_and_says_what_may_remain(held, capsys):
    assert keys_command("destroy", held, "--yes") == 0
    out, err = capsys.readouterr()
    assert not held.exists() and list(held.parent.iterdir()) == []
    assert out == f"destroyed {keys.commitment(keys.MasterKey(SECRET))}\n"
    for word in ("backups", "snapshots", "SSD", "journal", "swap"):
        assert word in err


@pytest.mark.parametrize("content", [b"", SECRET[:31], SECRET * 100])
def test_destroy_leaves_what_is_no_key(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UserError, match=f"has {len(content)} bytes, not 32"):
        keys_command("destroy", path, "--yes")
    assert path.read_bytes() == content


@pytest.mark.parametrize("action", [["commit"], ["verify", COMMITMENT], ["destroy", "--yes"]])
def test_what_is_not_there_is_not_made(path, action):
    with pytest.raises(UserError, match=r"master\.key: No such file"):
        keys_command(action[0], path, *action[1:])
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("action", ACTIONS, ids=" ".join)
@pytest.mark.parametrize("trouble", ["none", "mode", "size", "link", "refused"])
def test_no_action_shows_the_key(held, capfdbinary, monkeypatch, action, trouble):
    monkeypatch.setattr(key_file.secrets, "token_bytes", lambda count: SECRET[:count])
    name = held
    if trouble == "mode":
        held.chmod(0o644)
    elif trouble == "size":
        held.write_bytes(SECRET + SECRET)
    elif trouble == "link":
        name = held.with_name("link")
        name.symlink_to(held)
    elif trouble == "refused":
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "refused")))
    elif action == ["new"]:
        name = held.with_name("other.key")
    shown = ""
    try:
        keys_command(action[0], name, *action[1:])
    except UserError as error:
        shown = str(error)
        assert "\n" not in shown
    out, err = capfdbinary.readouterr()
    assert shown or out or err
    assert not any(
        shows(text if isinstance(text, str) else text.decode()) for text in (shown, out, err)
    )
    assert shows(SECRET.hex()) and shows(repr(SECRET))  # the check itself can find it


def test_an_action_is_needed(capsys):
    with pytest.raises(SystemExit) as caught:
        keys_command("show", "master.key")
    assert caught.value.code == 2 and "{new,commit,verify,destroy}" in capsys.readouterr().err
