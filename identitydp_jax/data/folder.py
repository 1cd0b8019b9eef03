"""Folders of model-framed faces as training input, read and augmented by grain."""

import pathlib

import cv2
import grain
import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.data.augmentation import augment

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class FolderSource:
    """Random access to the image files of a folder in the order of their names."""

    def __init__(self, folder):
        """List the images under `folder`, at any depth; raise `UserError` if there are none."""
        self._folder = pathlib.Path(folder)
        if not self._folder.is_dir():
            raise UserError(f"{folder}: not a folder; give one that holds images of faces")
        self._files = sorted(p for p in self._folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not self._files:
            raise UserError(f"{folder}: holds no image ({', '.join(_SUFFIXES)})")

    def __len__(self):
        """Return the number of images."""
        return len(self._files)

    def __getitem__(self, index):
        """Return the path of one image."""
        return self._files[index]

    def __repr__(self):
        """Name the folder; grain shows this in its errors."""
        return f"FolderSource({str(self._folder)!r})"


def read_face(path, resolution: int) -> np.ndarray:
    """Read an image of a square face as uint8 RGB (resolution, resolution, 3).

    Raises `UserError` if the file is no image or its sides differ by more than one hundredth.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise UserError(f"{path}: cannot be read as an image; remove it from the training folder")
    height, width = image.shape[:2]
    if abs(height - width) > 0.01 * max(height, width):
        raise UserError(f"{path}: is {width}x{height} pixels; training needs square aligned faces")
    if height == width == resolution:
        return image
    shrinks = height > resolution
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (resolution, resolution), interpolation=way)


def training_batches(folder, *, resolution: int, batch_size: int, seed: int, start: int, stop: int):
    """Iterate over augmented batches `start` to `stop` of an endless shuffled stream.

    Batch i is a function of (folder, seed, i) alone, so a run that resumes at step i continues
    with the batch that it would have seen.

    Returns:
      An iterator over uint8 arrays (batch_size, resolution, resolution, 3).
    """
    dataset = (
        grain.MapDataset.source(FolderSource(folder))
        .seed(seed)
        .shuffle()
        .repeat()
        .map(lambda path: read_face(path, resolution))
        .random_map(augment)
        .batch(batch_size)
    )
    steps = dataset.slice(slice(start, stop))
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
