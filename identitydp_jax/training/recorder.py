"""What a run writes for people to watch: a CSV, TensorBoard events, picture grids."""

import csv
import pathlib

import cv2
import numpy as np
import tensorboardX


class Recorder:
    """Appends metrics to `metrics.csv` and TensorBoard events, and saves picture grids."""

    def __init__(self, workdir):
        """Open the files under `workdir` for appending."""
        self._folder = pathlib.Path(workdir)
        self._events = tensorboardX.SummaryWriter(str(self._folder / "events"))

    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one step; the first call of a run writes the header."""
        path = self._folder / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
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
