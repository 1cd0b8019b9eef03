"""The command `identitydp ledger`: what was released of whom, whether the ledger is whole."""

import argparse
import re
import sys

from identitydp_jax.checks import UserError

_HEAD = re.compile(r"[0-9a-f]{64}")
_TAG_DIGITS, _KEY_DIGITS = 12, 19


def add_parser(subparsers) -> None:
    """Add `ledger` to the program's subcommands."""
    parser = subparsers.add_parser(
        "ledger",
        help="show what was released of whom, verify the ledger, add up the privacy budgets",
        description="The ledger charges every release to its subject and remembers the noisy code."
        " Subjects are shown as the beginning of a keyed hash.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="{show,verify,budget}")
    show = actions.add_parser("show", help="list the releases")
    verify = actions.add_parser(
        "verify",
        help="check every entry; status 1 if the ledger is damaged, was tampered with, or can't be"
        " verified without its key",
    )
    budget = actions.add_parser(
        "budget",
        help="add up what each subject has spent; status 1 if a limit is passed, one given here or"
        " kept in the ledger",
    )
    for action in (show, verify, budget):
        action.add_argument(
            "file",
            nargs="?",
            metavar="LEDGER",
            help="the ledger's file, if it is not beside the key file",
        )
        action.add_argument(
            "--key-file",
            metavar="FILE",
            help="the master key: check the ledger's seals with it (without LEDGER, your own)",
        )
    for action in (show, budget):
        action.add_argument("--subject", metavar="NAME", help="of this one only; needs --key-file")
    verify.add_argument(
        "--head",
        action="append",
        default=[],
        metavar="HEAD",
        help="ledger head of a receipt, which must be in the chain; may be repeated. Without it, or"
        " with an old one, nothing shows that the newest entries were removed",
    )
    add_limits(budget)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action and return the exit status."""
    if args.action == "show":
        return _show(args)
    if args.action == "verify":
        return _verify(args)
    return _budget(args)


def add_limits(parser) -> None:
    """Add the limits of `accounting.Budget` to a parser."""
    parser.add_argument("--budget-epsilon", type=float, metavar="E", help="limit of pure epsilon")
    parser.add_argument("--budget-rho", type=float, metavar="R", help="limit of rho (zCDP)")
    parser.add_argument(
        "--budget-epsilon-at-delta", type=float, metavar="E", help="limit of epsilon at --delta"
    )
    parser.add_argument(
        "--delta", type=float, default=1e-6, metavar="D", help="for epsilon at delta (%(default)s)"
    )


def _show(args) -> int:
    header = "NUMBER TIME SUBJECT MECHANISM CALIBRATION CLAIMED CERTIFIED DELTA RHO KEY POLICY"
    rows = [header.split()]
    for entry in _releases(args, _read(args)):
        record = entry.record
        what = (record[name] for name in ("mechanism", "calibration"))
        numbers = (f"{record[name]:.6g}" for name in ("claimed_epsilon", "epsilon", "delta", "rho"))
        who = [str(entry.number), record["time"], record["subject"][:_TAG_DIGITS]]
        rows.append([*who, *what, *numbers, record["key"][:_KEY_DIGITS], record["policy"]])
    _print_table(rows)
    return 0


def _verify(args) -> int:
    from identitydp_jax.privacy.ledger_file import DamagedLedger

    for head in args.head:
        if not _HEAD.fullmatch(head):
            raise UserError(f"--head is {head!r}: give the 64 digits of 0-9a-f of a receipt")
    try:
        entries = _read(args, heads=args.head)
    except DamagedLedger as error:
        print(f"identitydp: error: {error}", file=sys.stderr)
        return 1
    releases = [entry for entry in entries if entry.is_release]
    subjects = {entry.record["subject"] for entry in releases}
    sealed = _key_file(args) is not None
    text = f"{len(releases)} releases of {len(subjects)} subjects, head {entries[-1].head}"
    print(text if sealed else f"unverified: {text}")
    if not sealed:
        print("identitydp: error: seals were not checked: give --key-file", file=sys.stderr)
    return 0 if sealed else 1


def _budget(args) -> int:
    from identitydp_jax.privacy import accounting

    given = accounting.Budget(
        args.budget_epsilon, args.budget_rho, args.budget_epsilon_at_delta, args.delta
    )
    entries = _read(args)
    kept = [entry.budget for entry in entries if entry.budget]
    budget = (kept[-1] if kept else accounting.Budget()).updated(given)
    spent = {}
    for entry in _releases(args, entries):
        spent.setdefault(entry.record["subject"], []).append(entry.loss)
    rows = [["SUBJECT", "RELEASES", "EPSILON", "RHO", f"EPSILON AT {args.delta:g}", "BUDGET"]]
    over = 0
    for tag, losses in spent.items():
        excess = budget.excess(losses)
        over += excess is not None
        sums = accounting.total_epsilon(losses), accounting.total_rho(losses)
        numbers = (f"{sum_:.6g}" for sum_ in (*sums, accounting.epsilon_at(args.delta, losses)))
        kept = "passed" if excess else "kept"
        rows.append([tag[:_TAG_DIGITS], str(len(losses)), *numbers, kept])
    _print_table(rows)
    if over:
        print(f"identitydp: error: {over} subjects have passed the budget", file=sys.stderr)
    return 1 if over else 0


def _releases(args, entries: list) -> list:
    """Return the releases that the options ask for."""
    from identitydp_jax.privacy import ledger

    releases = [entry for entry in entries if entry.is_release]
    if args.subject is None:
        return releases
    if _key_file(args) is None:
        raise UserError("--subject needs --key-file: names are in the ledger as keyed hashes only")
    tag = ledger.subject_tag(_key(args), args.subject)
    return [entry for entry in releases if entry.record["subject"] == tag]


def _read(args, heads=()) -> list:
    from identitydp_jax.privacy import keys, ledger, ledger_head

    key_file = _key_file(args)
    path = args.file or ledger.default_path(key_file or keys.default_path())
    attested = ledger_head.read(ledger_head.path_beside(key_file, path)) if key_file else None
    heads = [*heads, attested] if attested else heads
    return ledger.read(path, key=_key(args), heads=heads)


def _key(args) -> bytes | None:
    from identitydp_jax.privacy import keys

    key_file = _key_file(args)
    return keys.ledger_key(keys.load(key_file)) if key_file else None


def _key_file(args):
    """Return the key's file: the one named or, where no ledger is named either, the user's own."""
    from identitydp_jax.privacy import keys

    if args.key_file or args.file:
        return args.key_file
    return keys.default_path() if keys.default_path().exists() else None


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
