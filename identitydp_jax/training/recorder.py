"""What a run writes for people to watch: tables, TensorBoard events, picture grids."""

import csv
import io
import pathlib

import cv2
import numpy as np
import tensorboardX

from identitydp_jax import storage

TABLES = ("metrics", "held_out")


class Recorder:
    """Appends values to CSV tables and TensorBoard events, and saves picture grids."""

    def __init__(self, workdir, *, start: int, writes: bool):
        """Open the files under `workdir` for a run that begins or continues after step `start`.

        What a stopped run recorded beyond `start` is dropped, as those steps are done again. One
        that doesn't write, in a process that isn't the first, does nothing.
        """
        self._folder, self._events = pathlib.Path(workdir), None
        if writes:
            for table in TABLES:
                _cut(self._path(table), start)
            self._events = tensorboardX.SummaryWriter(
                str(self._folder / "events"), purge_step=start + 1
            )

    def __enter__(self):
        """Return the open recorder."""
        return self

    def __exit__(self, *exception):
        """Close the event file."""
        if self._events:
            self._events.close()

    def scalars(self, table: str, step: int, values: dict[str, float]) -> None:
        """Append the values of one step to one of `TABLES`; the first call writes the header."""
        if not self._events:
            return
        path = self._path(table)
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *values])
            writer.writerow([step, *(f"{value:.6g}" for value in values.values())])
        for name, value in values.items():
            self._events.add_scalar(f"{table}/{name}", value, step)
        self._events.flush()

    def pictures(self, step: int, rows: np.ndarray) -> None:
        """Save rows of uint8 faces (rows, N, R, R, 3) as one PNG and one TensorBoard image."""
        if not self._events:
            return
        count, columns, side = rows.shape[:3]
        grid = rows.swapaxes(1, 2).reshape(count * side, columns * side, 3)
        _, content = cv2.imencode(".png", grid[..., ::-1])
        storage.write(self._folder / "pictures" / f"{step:08d}.png", content.tobytes())
        self._events.add_image("held_out", grid, step, dataformats="HWC")

    def _path(self, table: str) -> pathlib.Path:
        return self._folder / f"{table}.csv"


def _cut(table: pathlib.Path, start: int) -> None:
    """Keep the rows of a table up to step `start`; one that a kill cut short goes too."""
    if not table.exists():
        return
    with table.open(newline="") as file:
        header, *rows = csv.reader(file) if table.stat().st_size else [[]]
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= start]
    if not kept:
        table.unlink()
        return
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *kept])
    storage.write(table, text.getvalue().encode())
