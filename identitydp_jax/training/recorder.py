"""What a run writes for people to watch: a CSV, TensorBoard events, picture grids."""

import csv
import os
import pathlib

import cv2
import numpy as np
import tensorboardX


class Recorder:
    """Appends metrics to `metrics.csv` and TensorBoard events, and saves picture grids."""

    def __init__(self, workdir, *, start: int):
        """Open the files under `workdir` for a run that begins or continues after step `start`.

        What a stopped run recorded beyond `start` is dropped, as those steps are done again.
        """
        self._folder = pathlib.Path(workdir)
        self._table = self._folder / "metrics.csv"
        if self._table.exists():
            _cut(self._table, start)
        self._events = tensorboardX.SummaryWriter(
            str(self._folder / "events"), purge_step=start + 1
        )

    def __enter__(self):
        """Return the open recorder."""
        return self

    def __exit__(self, *exception):
        """Close the event file."""
        self._events.close()

    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one step; the first call of a run writes the header."""
        new = not self._table.exists()
        with self._table.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *metrics])
            writer.writerow([step, *(f"{value:.6g}" for value in metrics.values())])
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def pictures(self, step: int, rows: list[np.ndarray]) -> None:
        """Save rows of uint8 faces (N, R, R, 3) as one PNG and one TensorBoard image."""
        grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
        folder = self._folder / "pictures"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{step:08d}.png"), grid[..., ::-1])
        self._events.add_image("faces", grid, step, dataformats="HWC")


def _cut(table: pathlib.Path, start: int) -> None:
    """Keep the rows of a table up to step `start`; one that a kill cut short goes too."""
    with table.open(newline="") as file:
        header, *rows = csv.reader(file) if table.stat().st_size else [[]]
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= start]
    if not kept:
        table.unlink()
        return
    beside = table.with_name(table.name + ".part")
    with beside.open("w", newline="") as file:
        csv.writer(file).writerows([header, *kept])
    os.replace(beside, table)
