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
        "verify", help="check every entry; status 1 if the ledger is damaged or was tampered with"
    )
    budget = actions.add_parser(
        "budget", help="add up what each subject has spent; status 1 if a limit is passed"
    )
    for action in (show, verify, budget):
        action.add_argument(
            "file",
            nargs="?",
            metavar="LEDGER",
            help="the ledger's file, if it is not beside the key file",
        )
        action.add_argument(
            "--key-file", metavar="FILE", help="the master key: check the ledger's seals with it"
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
    for entry in _releases(args):
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
    subjects = {entry.record["subject"] for entry in entries[1:]}
    print(f"{len(entries) - 1} releases of {len(subjects)} subjects, head {entries[-1].head}")
    if not args.key_file:
        print("identitydp: seals were not checked: give --key-file", file=sys.stderr)
    return 0


def _budget(args) -> int:
    from identitydp_jax.privacy import accounting

    budget = accounting.Budget(
        args.budget_epsilon, args.budget_rho, args.budget_epsilon_at_delta, args.delta
    )
    spent = {}
    for entry in _releases(args):
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


def _releases(args) -> list:
    """Return the verified releases that the options ask for."""
    from identitydp_jax.privacy import ledger

    releases = _read(args)[1:]
    if args.subject is None:
        return releases
    if not args.key_file:
        raise UserError("--subject needs --key-file: names are in the ledger as keyed hashes only")
    tag = ledger.subject_tag(_key(args), args.subject)
    return [entry for entry in releases if entry.record["subject"] == tag]


def _read(args, heads=()) -> list:
    from identitydp_jax.privacy import keys, ledger

    path = args.file or ledger.default_path(args.key_file or keys.default_path())
    return ledger.read(path, key=_key(args), heads=heads)


def _key(args) -> bytes | None:
    from identitydp_jax.privacy import keys

    return keys.ledger_key(keys.load(args.key_file)) if args.key_file else None


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
