"""The command `identitydp audit`: whether the mechanism is what it claims, for anybody to run."""

import argparse
import sys

from identitydp_jax.checks import UserError, given_path

_MECHANISMS = ("laplace", "privunit", "gaussian", "random", "float-laplace")


def add_parser(subparsers) -> None:
    """Add `audit` to the program's subcommands."""
    parser = subparsers.add_parser(
        "audit",
        help="check that the privacy mechanism is what it claims, or that a folder can be repeated",
        description="Compute what the implemented integers guarantee, and attack the mechanism from"
        " outside: bounds on epsilon from below, support, distribution, independence, keys.",
        epilog="Exit status: 0 all checks passed, 1 one failed, 2 wrong usage.",
    )
    parser.add_argument(
        "--mechanism",
        choices=_MECHANISMS,
        help="what to check (laplace); float-laplace is an example that is broken, which nothing"
        " else can use",
    )
    parser.add_argument(
        "--epsilon", type=float, nargs="+", metavar="E", help="nominal budgets (several)"
    )
    parser.add_argument(
        "--calibration", metavar="C", help="of laplace, as for anonymize (certified-l2)"
    )
    parser.add_argument("--dimension", type=int, metavar="D", help="length of the embeddings (512)")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="number that all draws are derived from (0)"
    )
    parser.add_argument(
        "--manifest",
        metavar="FOLDER",
        help="instead, do again every photo in this output folder of anonymize --audit-seed and"
        " compare bit for bit",
    )
    parser.add_argument("--output", "-o", metavar="FILE", help="write a report in Markdown")


def run(args: argparse.Namespace) -> int:
    """Do the checks, print each as it is done, and return the exit status."""
    from identitydp_jax.privacy import audit_report

    title, checks = _replay(args) if args.manifest else _suite(args)
    findings = []
    for finding in checks:
        findings.append(finding)
        print(audit_report.line(finding), flush=True)
    if args.output:
        text = audit_report.markdown(findings, title=title, command=args.line)
        audit_report.write(args.output, text)
    print(f"identitydp: {audit_report.summary(findings)}", file=sys.stderr)
    return 0 if all(finding.passed for finding in findings) else 1


def _replay(args):
    for name in ("mechanism", "epsilon", "calibration", "dimension", "seed"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} does not go with --manifest: leave one of them out")
    from identitydp_jax.anonymize import replay

    return f"Replay of {args.manifest}", replay.replay(given_path(args.manifest))


def _suite(args):
    from identitydp_jax.privacy import audit_suite

    name = args.mechanism or "laplace"
    fitting = {
        "calibration": name == "laplace",
        "epsilon": name != "random",
        "dimension": name != audit_suite.FLOAT_LAPLACE,
    }
    for option, fits in fitting.items():
        if getattr(args, option) is not None and not fits:
            raise UserError(f"--{option} does not go with the mechanism {name}: leave it out")
    epsilons = args.epsilon or audit_suite.EPSILONS[name]
    calibration = args.calibration or "certified-l2"
    dimension = 512 if args.dimension is None else args.dimension
    checks = audit_suite.run(name, epsilons, calibration, seed=args.seed or 0, dimension=dimension)
    return f"Audit of the mechanism {name}", checks
