"""What an audit says: a table for the screen, and a Markdown report that can be repeated."""

import os
import platform
from collections.abc import Sequence

import jax
import numpy as np

from identitydp_jax import __version__, storage
from identitydp_jax.checks import UserError, given_path
from identitydp_jax.privacy.audit import FALSE_ALARM, LOWER_BOUND_ERROR, Finding

_ALARM = f"False alarm: at most {FALSE_ALARM:g}."
STATEMENTS = {
    "exact epsilon": "The thresholds and bounds that the sampler compares with are integers. What"
    " they guarantee for any two inputs, any set of codes and delta 0, is computed from them in"
    " exact rational arithmetic, and is at most what is claimed. (The Gaussian mechanism: its rho,"
    " as an epsilon at a delta.) This is the proof; the other checks look whether the code does"
    " what it is about.",
    "lower bound": "Two inputs that are as far apart as can be, or as far as so many draws show,"
    " are released many times. How often their codes pass a threshold, chosen with other draws,"
    " bounds from below how well they can be told apart (Clopper and Pearson). It must not pass the"
    " claim for that pair, which grows with the distance; nor should it be far below. False alarm:"
    f" at most {LOWER_BOUND_ERROR:.0%} for all pairs of an audit together.",
    "distribution": "Chi-square of the noise against its exact law, in cells of every size. The"
    f" same test must refuse the same draws at a scale 10 % larger or smaller. {_ALARM}",
    "support": "No code that one input can release is impossible for another, and none is telling"
    " by its low-order bits or by falling on few values, as those of floating-point samplers do."
    f" {_ALARM}",
    "guard": "NaN, infinities, huge and tiny norms, random bits: the integers that the noise is"
    " added to never pass the norm that the proof assumes. They are read off as the difference of"
    " two releases under one key, which it is exactly: why a key is used once.",
    "input unused": "Under one key, all inputs release the same codes: epsilon is 0.",
    "independence": "No two coordinates, and no two keys, share noise: products of signs and of"
    f" sizes over all pairs, by Hoeffding's inequality. {_ALARM}",
    "keys": "Keys that are derived for other photos, faces, subjects and settings differ and give"
    f" independent noise. {_ALARM}",
    "determinism": "The codes of a row depend on the row, its key and the setting alone.",
    "replay": "Every photo of the manifest is anonymized again from its input and the audit seed,"
    " and gives the same file, bit for bit.",
}


def line(finding: Finding) -> str:
    """Return a finding as a line for the screen."""
    verdict = "PASS" if finding.passed else "FAIL"
    return f"{verdict}  {finding.check:13}  {finding.subject}: {finding.figures}"


def summary(findings: Sequence[Finding]) -> str:
    """Return the result in one sentence."""
    failed = sorted({finding.check for finding in findings if not finding.passed})
    if failed:
        count = sum(not finding.passed for finding in findings)
        verdict = "NOT REPEATED" if failed == ["replay"] else "BROKEN"
        return f"{verdict}: {count} of {len(findings)} checks failed ({', '.join(failed)})"
    return f"All {len(findings)} checks passed"


def markdown(findings: Sequence[Finding], *, title: str, command: str) -> str:
    """Return the report: result, command, versions, and a table with its statement per check."""
    backend = jax.devices()[0]
    parts = [
        f"# {title}",
        f"**{summary(findings)}.**",
        f"    {command}",
        f"identitydp {__version__}, jax {jax.__version__}, numpy {np.__version__}, Python"
        f" {platform.python_version()}, {platform.machine()}, {len(jax.devices())} x"
        f" {backend.device_kind} ({backend.platform}). The command repeats this report.",
    ]
    for check, statement in STATEMENTS.items():
        rows = [finding for finding in findings if finding.check == check]
        if rows:
            parts += [f"## {check.capitalize()}", statement, _table(rows)]
    return "\n\n".join(parts) + "\n"


def write(path: str | os.PathLike, text: str) -> None:
    """Write the report.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        storage.write(given_path(path), text.encode())
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): name another file with --output"
        ) from None


def _table(rows: list[Finding]) -> str:
    lines = ["| | of | found |", "|---|---|---|"]
    for row in rows:
        verdict = "pass" if row.passed else "**FAIL**"
        cells = (text.replace("|", "\\|") for text in (row.subject, row.figures))
        lines.append(f"| {verdict} | {' | '.join(cells)} |")
    return "\n".join(lines)
