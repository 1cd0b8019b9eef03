"""What `config.data` and `data prepare --source` name, opened as image files by number.

A source has a length, `source[i]`, the bytes of image file i, and `source.name(i)`; both raise
`UserError` for what cannot be read.
"""

import contextlib
import io
import warnings

import cv2
import numpy as np
from PIL import Image

from identitydp_jax.checks import UserError, given_path
from identitydp_jax.data.archive import ArchiveSource
from identitydp_jax.data.folder import FolderSource
from identitydp_jax.data.shards import ShardSource
from identitydp_jax.data.tfds_source import TfdsSource

_UNALIGNED = ("celeb_a", "lfw")


def open_faces(spec: str):
    """Open square faces in the model frame to train on.

    * ``FOLDER``: image files at any depth.
    * ``array_record:FOLDER``: what `identitydp data prepare` writes.
    * ``tfds:NAME[:SPLIT]``: a data set of square aligned faces, as ``tfds:celeb_a_hq/256``.

    Raises:
      UserError: there is no such thing, it holds no face, or its photos have to be prepared first.
    """
    if spec.startswith("array_record:"):
        return ShardSource(spec.removeprefix("array_record:"))
    if spec.startswith("tfds:"):
        if spec.split(":")[1].partition("/")[0] in _UNALIGNED:
            raise UserError(
                f"{spec}: its photos are not in the model frame; run `identitydp data prepare"
                f" --source {spec} --output FOLDER`, then train on array_record:FOLDER"
            )
        return TfdsSource(spec)
    return FolderSource(spec)


def open_photos(spec: str):
    """Open photos of any framing: a folder, a zip or tar file, or ``tfds:NAME[:SPLIT]``.

    Raises:
      UserError: there is no such thing, or it holds no image.
    """
    if spec.startswith("tfds:"):
        return TfdsSource(spec)
    path = given_path(spec)
    if not path.exists():
        raise UserError(f"{spec}: no such folder or archive")
    return FolderSource(path) if path.is_dir() else ArchiveSource(path)


def decode(data: bytes, name: str) -> np.ndarray:
    """Decode an image file to uint8 RGB (H, W, 3), upright.

    Raises:
      UserError: naming `name`, if it is no image.
    """
    try:
        _check_size(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (cv2.error, ValueError):  # an empty file, or a huge one
        image = None
    if image is None:
        raise UserError(f"{name}: cannot be read as an image; remove it")
    return image


def _check_size(data: bytes) -> None:
    """Raise `ValueError` for a file whose head promises more pixels than any photo has."""
    with warnings.catch_warnings(), contextlib.suppress(Image.UnidentifiedImageError, OSError):
        warnings.simplefilter("ignore")  # of half as many
        try:
            Image.open(io.BytesIO(data)).close()
        except Image.DecompressionBombError as error:
            raise ValueError(str(error)) from None


def decode_face(data: bytes, name: str, high: int, wide: int) -> np.ndarray:
    """Decode the image file of a square face, or several side by side, to uint8 (high, wide, 3).

    Raises:
      UserError: naming `name`, if it is no image or its proportions are off by over one hundredth.
    """
    image = decode(data, name)
    height, width = image.shape[:2]
    if abs(height * wide / high - width) > 0.01 * max(height, width):
        raise UserError(
            f"{name}: is {width}x{height} pixels; training needs square aligned faces, which"
            " `identitydp data prepare` makes"
        )
    if (height, width) == (high, wide):
        return image
    way = cv2.INTER_AREA if height > high else cv2.INTER_CUBIC
    return cv2.resize(image, (wide, high), interpolation=way)
