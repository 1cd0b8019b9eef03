"""What a benchmark found: figures and a table, for people and for programs."""

import dataclasses
import json
import os
import pathlib

import jax

from identitydp_jax import __version__, storage
from identitydp_jax.checks import UserError


@dataclasses.dataclass(frozen=True)
class Report:
    """Results of one benchmark.

    Attributes:
      name: of the benchmark, and of its file.
      facts: plain values by what they are, units included; None for what could not be measured.
      rows: the table, one dictionary per row, with the same keys in all.
      notes: sentences that say how to read it.
    """

    name: str
    facts: dict[str, object]
    rows: list[dict[str, object]]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Return facts, table and notes as Markdown."""
        table = [list(self.rows[0]), *(row.values() for row in self.rows)]
        parts = [_table([[self.name, ""], *self.facts.items()]), _table(table), *self.notes]
        return "\n\n".join(parts)

    def write(self, folder: pathlib.Path) -> None:
        """Write NAME.json into a folder; raise `UserError` if that fails."""
        path = folder / f"{self.name}.json"
        try:
            storage.write(path, (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode())
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); give another --output"
            ) from None


def machine() -> dict[str, object]:
    """Return the facts that every report begins with: devices, versions, and who else is there."""
    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "cores, load average": f"{os.cpu_count()}, {os.getloadavg()[0]:.1f}",
        "identitydp": __version__,
        "jax": jax.__version__,
    }


def _table(rows) -> str:
    lines = [f"| {' | '.join(map(_shown, row))} |" for row in rows]
    columns = lines[0].count(" | ") + 1
    return "\n".join([lines[0], "|---" * columns + "|", *lines[1:]])


def _shown(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
