"""Whether all are served alike: protection, detection and what is kept, by gender and age group."""

import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import bootstrap
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.candidates import ORIGINAL
from identitydp_jax.evaluation.protocols import kept, table1
from identitydp_jax.evaluation.report import Figure, Report

VERIFIERS = table1.VERIFIERS
_CELLS = ("women, not young", "women, young", "men, not young", "men, young")
_SHOWN = 2  # faces of each cell on the sheet

_NOTES = (
    "Cells are CelebA's labels Male and Young, {counts}. Labels are what annotators saw: two"
    " genders and two age groups.",
    "PSR, the protection success rate, at thresholds for all cells together: {limits}. FDR: share"
    " of results in whose middle a detector finds a face; `original` has those of the photos.",
    "Other columns: share of faces of which the same is said before and after, as in `kept`.",
    "`gap`: the best cell's figure less the worst one's. With few people in a cell much of it is"
    " chance: look at the intervals, which are over people.",
)


def run(bench: Bench) -> Report:
    """Measure every candidate cell by cell.

    Raises:
      UserError: there are no labels, or some photo has none.
    """
    if bench.labels is None:
        raise UserError(
            "groups: --labels is needed, a file as CelebA's list_attr_celeba.txt with the"
            " attributes Male and Young"
        )
    cells = 2 * bench.labels.of(bench.faces.names, "Male")
    cells = cells + bench.labels.of(bench.faces.names, "Young")
    verifiers = bench.load_verifiers(VERIFIERS)
    wanted = verifiers + bench.load(("hog", "scrfd", *kept.MEASURES))
    before = bench.measure(bench.original, wanted)
    limits = {v.name: table1.thresholds(v.name, before[v.name], bench.people) for v in verifiers}
    examples = np.concatenate([np.flatnonzero(cells == c)[:_SHOWN] for c in np.unique(cells)])
    rows, sheet, worst = {}, {}, []
    for candidate in (bench.original, *bench.candidates()):
        after = before if candidate.name == ORIGINAL else bench.measure(candidate, wanted)
        columns = _columns(before, after, limits)
        if candidate.name == ORIGINAL:  # which protects nobody and keeps everything
            columns = {name: good for name, good in columns.items() if name.startswith("FDR")}
        rows |= _rows(candidate.name, columns, cells, bench.people)
        worst.append(_worst(candidate.name, columns, cells))
        sheet[candidate.name] = candidate.draw(examples, 0)
    counts = "; ".join(_count(name, cells == c, bench.people) for c, name in enumerate(_CELLS))
    facts = {"counts": counts, "limits": table1.describe(limits)}
    notes = [*(note.format(**facts) for note in _NOTES), *worst]
    return Report("groups", "By gender and age group", rows, notes, sheet)


def _columns(before, after, limits) -> dict[str, np.ndarray]:
    """Return by column whether each face is protected, found, or looks as before: bool (N,)."""
    columns = {}
    for name, named in limits.items():
        distances = table1.between(before[name], after[name])
        columns |= {f"PSR {name} {how}": distances >= limit for how, limit in named.items()}
    for name, measure in (("FDR HOG", "hog"), ("FDR SCRFD", "scrfd")):
        if measure in after:
            columns[name] = after[measure]
    return columns | kept.agreement(kept.answers(before), kept.answers(after))


def _rows(candidate, columns, cells, people) -> dict[str, dict[str, Figure]]:
    rows = {}
    for cell in np.unique(cells):
        here = cells == cell
        rows[f"{candidate}: {_CELLS[cell]}"] = {
            name: Figure.mean(good[here], people[here]) for name, good in columns.items()
        }
    rows[f"{candidate}: gap"] = {n: _gap(good, cells, people) for n, good in columns.items()}
    return rows


def _gap(good, cells, people) -> Figure:
    def gap(rows):
        return np.ptp([rows[rows[:, 1] == cell, 0].mean() for cell in np.unique(rows[:, 1])])

    values = np.stack([good, cells], axis=1).astype(np.float64)
    low, high = bootstrap.interval(values, gap, groups=people)
    return Figure(float(gap(values)), len(values), low, high)


def _worst(candidate, columns, cells) -> str:
    """Return a sentence that names the worst cell of each column."""
    found = []
    for name, good in columns.items():
        rates = {_CELLS[cell]: good[cells == cell].mean() for cell in np.unique(cells)}
        cell = min(rates, key=rates.get)
        found.append(
            f"{name} {cell} {rates[cell]:.3f}, gap {max(rates.values()) - rates[cell]:.3f}"
        )
    return f"Worst cells of {candidate}: {'; '.join(found)}."


def _count(name, here, people) -> str:
    return f"{name} {here.sum()} photos of {len(np.unique(people[here]))} people"
