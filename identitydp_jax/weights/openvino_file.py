"""OpenVINO files as plain arrays: the xml names every constant of the bin, nothing is executed."""

import math
import pathlib
import xml.etree.ElementTree as ElementTree

import numpy as np

from identitydp_jax.checks import UserError

_DTYPES = {
    name: np.dtype(kind).newbyteorder("<")
    for name, kind in (("f32", "f4"), ("f16", "f2"), ("i64", "i8"), ("i32", "i4"))
}


def read_constants(xml: str | pathlib.Path, bin: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Read every constant of an OpenVINO network (IR version 10 or 11).

    Args:
      xml: the network's description.
      bin: the raw little-endian values that it points into.

    Returns:
      The constants by layer name, in the stored type (float32, float16, int64 or int32) and shape,
      read-only. Scalars have shape `()`.

    Raises:
      UserError: a file is missing or unreadable, the xml is not an OpenVINO description, or the bin
        does not hold what the xml names.
    """
    xml, bin = pathlib.Path(xml), pathlib.Path(bin)
    description, values = _bytes(xml), _bytes(bin)
    if b"<!DOCTYPE" in description or b"<!ENTITY" in description:
        # No export has them, and they can blow up to any size when parsed.
        raise UserError(f"{xml}: not an OpenVINO description (it defines XML entities)")
    try:
        layers = ElementTree.fromstring(description).findall("layers/layer[@type='Const']")
        constants = {layer.attrib["name"]: layer.find("data").attrib for layer in layers}
        arrays = {name: _constant(values, data) for name, data in constants.items()}
    except (ElementTree.ParseError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{xml} and {bin}: not an OpenVINO network ({error})") from None
    if not arrays:
        raise UserError(f"{xml}: not an OpenVINO network (no constants)")
    return arrays


def _constant(values: bytes, data: dict[str, str]) -> np.ndarray:
    """Return one constant as a view of `values`; ValueError or KeyError if it does not fit."""
    dtype = _DTYPES[data["element_type"]]
    shape = tuple(int(size) for size in data["shape"].split(",") if size.strip())
    count, offset = math.prod(shape), int(data["offset"])
    if count * dtype.itemsize != int(data["size"]) or min(shape, default=0) < 0:
        raise ValueError(f"shape {shape} does not fill {data['size']} bytes at {offset}")
    if count == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(values, dtype, count, offset).reshape(shape)


def _bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
