"""The command `identitydp keys`: make a master key, name it in public, check it, destroy it."""

import argparse
import re
import sys

from identitydp_jax.checks import UserError

_COMMITMENT = re.compile(r"sha256:[0-9a-f]{64}")


def add_parser(subparsers) -> None:
    """Add `keys` to the program's subcommands."""
    parser = subparsers.add_parser(
        "keys",
        help="make, name, check and destroy the master key behind the noise",
        description="The master key behind the noise. Who has it and an anonymized photo can undo"
        " the noise. No command shows it: its public name is a commitment, which manifests hold.",
    )
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="{new,commit,verify,destroy}"
    )
    new = actions.add_parser("new", help="make a key in a new file that only you can read")
    commit = actions.add_parser("commit", help="print the commitment to the key in a file")
    verify = actions.add_parser(
        "verify", help="check that a file holds the key of a commitment; status 1 if not"
    )
    destroy = actions.add_parser("destroy", help="overwrite and remove a key's file")
    for action in (new, commit, verify, destroy):
        action.add_argument("file", metavar="FILE", help="the key's file, 32 bytes of mode 0600")
    verify.add_argument(
        "commitment", metavar="COMMITMENT", help="what commit prints and manifests hold as key"
    )
    destroy.add_argument("--yes", action="store_true", help="needed: there is no way back")


def run(args: argparse.Namespace) -> int:
    """Run the chosen action and return the exit status."""
    if args.action == "new":
        return _new(args.file)
    if args.action == "commit":
        return _commit(args.file)
    if args.action == "verify":
        return _verify(args.file, args.commitment)
    return _destroy(args.file, args.yes)


def _new(path: str) -> int:
    from identitydp_jax.privacy import keys

    print(keys.commitment(keys.create(path)))
    print(
        f"{path} holds a new key. Without it nobody can repeat or check what it is used for;"
        " with it anybody can undo the noise: back it up where only you can read it.",
        file=sys.stderr,
    )
    return 0


def _commit(path: str) -> int:
    from identitydp_jax.privacy import keys

    print(keys.commitment(keys.load(path)))
    return 0


def _verify(path: str, expected: str) -> int:
    from identitydp_jax.privacy import keys

    if not _COMMITMENT.fullmatch(expected):  # which isn't shown: it may be a key, by mistake
        raise UserError(
            "COMMITMENT is not sha256: and 64 digits of 0-9a-f: give what commit prints"
            " (no file holds the key of an audit-seed)"
        )
    found = keys.commitment(keys.load(path))
    if found != expected:
        print(f"identitydp: error: {path} holds another key, {found}", file=sys.stderr)
        return 1
    print(f"{path}: {found}")
    return 0


def _destroy(path: str, confirmed: bool) -> int:
    from identitydp_jax.privacy import keys

    if not confirmed:
        raise UserError(
            f"{path} is left alone: no result of its key can be repeated or checked once it is"
            " gone; add --yes to destroy it"
        )
    print(f"destroyed {keys.destroy(path)}")
    print(
        f"{path} was overwritten and removed. That can't reach copies: backups, snapshots, blocks"
        " that an SSD, a journal or a copy-on-write file system kept, memory and swap of running"
        " programs. Who has a copy can still undo the noise of everything made with that key.",
        file=sys.stderr,
    )
    return 0
