"""What an evaluation says: figures with intervals, as JSON, as Markdown and as pictures."""

import dataclasses
import json
import math
import pathlib
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from identitydp_jax import storage
from identitydp_jax.evaluation import bootstrap

_LOST = ("unreadable", "no_face_found", "duplicates")
_TILE, _GAP, _HEAD = 160, 6, 22


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
      value: the number itself.
      count: how many observations it is made of.
      low, high: bootstrap 95 % interval, None where none applies.
    """

    value: float
    count: int
    low: float | None = None
    high: float | None = None

    @classmethod
    def mean(cls, values, groups=None) -> "Figure":
        """Average observations; `groups` (same length) are resampled whole, such as people."""
        values = np.asarray(values, np.float64)
        low, high = bootstrap.interval(values, groups=groups)
        return cls(float(values.mean()), len(values), low, high)

    def __str__(self):
        """Show the value and half the width of its interval."""
        if not math.isfinite(self.value):
            return "-"
        text = f"{self.value:.3f}" if abs(self.value) < 10 else f"{self.value:.2f}"
        if self.low is None:
            return text
        return f"{text} ±{(self.high - self.low) / 2:.3f}"


@dataclasses.dataclass
class Report:
    """The result of one protocol.

    Attributes:
      protocol: its name.
      title: first line of the Markdown.
      rows: figures by row (a method, or a step of a curve) and column.
      notes: how the figures were made, one sentence each.
      sheet: pictures by row, each uint8 (n, 256, 256, 3), for the contact sheet.
      curves: `(column, x axis, logarithmic, {line: [(x, row)]})` of each plot.
    """

    protocol: str
    title: str
    rows: dict[str, dict[str, Figure]]
    notes: list[str]
    sheet: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    curves: list["Curve"] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A plot of one column of a report against a number.

    Attributes:
      columns: columns drawn, one line each (and each group of `lines`).
      label: of the x axis; it is logarithmic.
      lines: `{line: [(x, row name), ...]}`.
      levels: horizontal lines by name, such as chance.
    """

    columns: tuple[str, ...]
    label: str
    lines: dict[str, list[tuple[float, str]]]
    levels: dict[str, float] = dataclasses.field(default_factory=dict)


def write(report: Report, facts: dict, output: pathlib.Path) -> list[pathlib.Path]:
    """Write `PROTOCOL.json`, `.md`, and, where there is what to draw, `.png` and `-sheet.png`.

    Args:
      report: what was measured.
      facts: what else the JSON says: `command`, `data` (counts and photos left out), `weights`,
        `missing` (why, by name of a measure).
      output: a folder, made where absent.

    Returns:
      The files written.
    """
    output.mkdir(parents=True, exist_ok=True)
    written = [output / f"{report.protocol}.json", output / f"{report.protocol}.md"]
    rows = {
        row: {column: _plain(figure) for column, figure in figures.items()}
        for row, figures in report.rows.items()
    }
    content = {"protocol": report.protocol, **facts, "notes": report.notes, "rows": rows}
    texts = json.dumps(content, indent=1, allow_nan=False) + "\n", _markdown(report, facts)
    for path, text in zip(written, texts, strict=True):
        storage.write(path, text.encode())
    if report.curves:
        written.append(output / f"{report.protocol}.png")
        with storage.beside(written[-1]) as (file, _):
            _plot(report, file)
    if report.sheet:
        written.append(output / f"{report.protocol}-sheet.png")
        with storage.beside(written[-1]) as (file, _):
            _draw_sheet(report.sheet).save(file, format="PNG")
    return written


def _plain(figure: Figure) -> dict:
    return {
        name: _rounded(value) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(figure).items()
    }


def _rounded(value: float) -> float | None:
    """Keep six digits: what is beyond them differs between machines."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _markdown(report: Report, facts: dict) -> str:
    columns = list(dict.fromkeys(column for row in report.rows.values() for column in row))
    lines = [f"# {report.title}", "", "| | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, row in report.rows.items():
        cells = (str(row[column]) if column in row else "-" for column in columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "```sh", facts["command"], "```", ""]
    lines += [f"- {note}" for note in (_counted(facts["data"]), *report.notes)]
    lines += [f"- Not measured, {name}: {why}" for name, why in facts["missing"].items()]
    return "\n".join(lines) + "\n"


def _counted(data: dict) -> str:
    lost = {name.replace("_", " "): len(data[name]) for name in _LOST}
    return (
        f"{data['faces']} faces of {data['people']} known people in {data['photos']} photos; left"
        f" out: {', '.join(f'{count} {name}' for name, count in lost.items())}."
    )


def _plot(report: Report, file: BinaryIO) -> None:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.4 * len(report.curves), 4.8), layout="constrained")
    for axes, curve in zip(
        canvas.subplots(1, len(report.curves), squeeze=False)[0], report.curves, strict=True
    ):
        for line, points in curve.lines.items():
            for column in curve.columns:
                shown = [(x, report.rows[row][column]) for x, row in points]
                name = " ".join(filter(None, (line, column if len(curve.columns) > 1 else "")))
                axes.plot([x for x, _ in shown], [f.value for _, f in shown], ".-", label=name)
                if all(figure.low is not None for _, figure in shown):
                    low, high = [f.low for _, f in shown], [f.high for _, f in shown]
                    axes.fill_between([x for x, _ in shown], low, high, alpha=0.2)
        for name, level in curve.levels.items():
            axes.axhline(level, linestyle="--", color="grey", label=name)
        axes.set(xscale="log", xlabel=curve.label)
        if len(curve.columns) == 1:
            axes.set_ylabel(curve.columns[0])
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    canvas.savefig(file, dpi=120, format="png")


def _draw_sheet(rows: dict[str, np.ndarray]) -> Image.Image:
    count = max(len(pictures) for pictures in rows.values())
    size = (_GAP + count * (_TILE + _GAP), len(rows) * (_HEAD + _TILE) + _GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (name, pictures) in enumerate(rows.items()):
        top = i * (_HEAD + _TILE)
        draw.text((_GAP, top + 3), name, "black", font)
        for j, picture in enumerate(pictures):
            tile = Image.fromarray(picture).resize((_TILE, _TILE), Image.Resampling.BOX)
            sheet.paste(tile, (_GAP + j * (_TILE + _GAP), top + _HEAD))
    return sheet
