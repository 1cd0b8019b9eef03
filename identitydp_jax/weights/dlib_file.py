"""The weights inside a dlib network file as plain arrays: named tensors, nothing is executed."""

import math
import pathlib
import re

import numpy as np

from identitydp_jax.checks import UserError

# Names of the layers that have weights, and how many integers stand between name and weights.
_LAYER = re.compile(rb"(con_4|affine_|fc_2)(?=\x01)")
_BETWEEN = {b"con_4": 0, b"affine_": 0, b"fc_2": 2}
_TENSOR_VERSION = 2


def read(path: str | pathlib.Path) -> list[tuple[str, np.ndarray]]:
    """Read the weights of a network that dlib has serialized, in the order of its layers.

    A tensor is its version, four lengths and little-endian float32 values.

    Returns:
      Pairs of layer kind ("con", "affine" or "fc") and all its parameters, float32 (P,): of a
      convolution the kernels (out, in, height, width) and then the biases, of an affine layer the
      gains and then the shifts, of a dense layer the matrix (in, out).

    Raises:
      UserError: the file is missing, or holds no such network.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    layers = []
    position = 0
    # Each search starts behind the last tensor, so that no value can look like a name.
    while found := _LAYER.search(content, position):
        try:
            _, position = _integers(content, found.end(), _BETWEEN[found[1]])
            values, position = _tensor(content, position)
        except (IndexError, ValueError) as error:
            raise UserError(f"{path}: damaged dlib network ({error}); fetch it again") from None
        layers.append((found[1].decode().partition("_")[0], values))
    if not layers:
        raise UserError(f"{path}: not a dlib network")
    return layers


def _tensor(content: bytes, position: int) -> tuple[np.ndarray, int]:
    """Return a tensor's values and where it ends."""
    (version, *lengths), position = _integers(content, position, 5)
    if version != _TENSOR_VERSION:
        raise ValueError(f"tensor of version {version}")
    values = np.frombuffer(content, "<f4", math.prod(lengths), position)
    return values.astype(np.float32), position + values.nbytes


def _integers(content: bytes, position: int, count: int) -> tuple[list[int], int]:
    """Return `count` integers (number of bytes, bytes, lowest first) and where they end."""
    integers = []
    for _ in range(count):
        start = position + 1
        position = start + content[position]
        integers.append(int.from_bytes(content[start:position], "little"))
    return integers, position
