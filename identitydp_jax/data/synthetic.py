"""Folders of generated faces: written once, resumed after a stop, then read like any folder."""

import io
import json
import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image
from tqdm import tqdm

from identitydp_jax import storage
from identitydp_jax.checks import UserError, parse_json

FORMATS = {"png": ".png", "jpeg": ".jpg"}
_RECIPE_NAME = "synthetic.json"
# JPEG without chroma subsampling: at 64 px its colour bleeding would be learned as skin.
_SAVE_OPTIONS = {"png": {}, "jpeg": {"quality": 95, "subsampling": 0}}


def write_faces(
    directory: str | os.PathLike,
    *,
    count: int,
    draw: Callable[[int], np.ndarray],
    recipe: Mapping[str, str | int],
    image_format: str = "png",
) -> int:
    """Write faces 0 to count - 1 into a folder, leaving out those that it already holds.

    A file that exists is whole, so the same call resumes what was stopped. `synthetic.json` records
    the recipe: a folder made with another one, or holding anything else, is refused rather than
    mixed.

    Args:
      directory: the folder, made if absent; its files are called `000000.png` and so on.
      count: how many faces the folder shall hold.
      draw: gives face `index` as `(H, W, 3)` uint8 sRGB; a pure function of `index`.
      recipe: what else decides the pixels (seed, resolution, generator), as plain values.
      image_format: one of `FORMATS`.

    Returns:
      The number of faces written now.

    Raises:
      UserError: the folder cannot be written, or holds something else.
    """
    directory = pathlib.Path(directory)
    try:
        _claim(directory, {**recipe, "format": image_format})
        paths = [directory / f"{index:06d}{FORMATS[image_format]}" for index in range(count)]
        missing = [index for index, path in enumerate(paths) if not path.exists()]
        progress = tqdm(missing, "faces", count, initial=count - len(missing), unit="face")
        for index in progress:
            image, content = Image.fromarray(draw(index)), io.BytesIO()
            image.save(content, format=image_format, **_SAVE_OPTIONS[image_format])
            storage.write(paths[index], content.getvalue(), sync=False)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{directory}: cannot be written ({reason})") from None
    return len(missing)


def _claim(directory: pathlib.Path, recipe: dict) -> None:
    """Record the recipe in an empty folder, or check that it is the one recorded there."""
    directory.mkdir(parents=True, exist_ok=True)
    storage.sweep(directory)
    record = directory / _RECIPE_NAME
    if record.exists():
        try:
            found = parse_json(storage.read(record))
        except ValueError:
            raise UserError(f"{record}: not readable; choose another folder") from None
        if found != recipe:
            raise UserError(
                f"{directory}: holds faces made with {_plain(found)}, not {_plain(recipe)}; "
                "give the same settings or another folder"
            )
        return
    if any(directory.iterdir()):
        raise UserError(f"{directory}: not empty and not made here; choose another folder")
    storage.write(record, (json.dumps(recipe, indent=2) + "\n").encode())


def _plain(recipe) -> str:
    """Return a recipe as one readable phrase."""
    if not isinstance(recipe, dict):
        return repr(recipe)
    return ", ".join(f"{name} {value}" for name, value in recipe.items())
