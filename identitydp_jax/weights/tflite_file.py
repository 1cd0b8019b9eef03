"""Weights of TensorFlow Lite as plain arrays: the constants of a FlatBuffers file, none executed.

Field numbers are those of TensorFlow's schema, lite/schema/schema.fbs.
"""

import pathlib
import struct

import numpy as np
from flatbuffers import encode, packer
from flatbuffers.number_types import Int8Flags, Int32Flags, Uint8Flags, Uint32Flags
from flatbuffers.table import Table

from identitydp_jax.checks import UserError

_IDENTIFIER = b"TFL3"
_SUBGRAPHS, _BUFFERS = 2, 4  # of the model
_TENSORS = 0  # of a subgraph
_SHAPE, _TYPE, _BUFFER, _NAME = 0, 1, 2, 3  # of a tensor
_DATA = 0  # of a buffer
_DTYPES = {0: np.dtype("<f4"), 1: np.dtype("<f2")}  # others are not weights of these networks


def read_weights(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Read the floating-point constants of a network of one subgraph.

    Returns:
      float32 arrays by tensor name, in TensorFlow Lite's layouts: kernels (D, k, k, C), depthwise
      kernels (1, k, k, C).

    Raises:
      UserError: the file is missing, unreadable, or not such a network.
    """
    try:
        content = pathlib.Path(path).read_bytes()
        if content[4:8] != _IDENTIFIER:
            raise ValueError(f"it does not begin with {_IDENTIFIER.decode()}")
        model = Table(content, encode.Get(packer.uoffset, content, 0))
        buffers = _tables(model, _BUFFERS)
        (graph,) = _tables(model, _SUBGRAPHS)
        found = {}
        for tensor in _tables(graph, _TENSORS):
            data = _numbers(buffers[_number(tensor, _BUFFER, Uint32Flags)], _DATA, Uint8Flags)
            dtype = _DTYPES.get(_number(tensor, _TYPE, Int8Flags))
            if len(data) and dtype:
                shape = _numbers(tensor, _SHAPE, Int32Flags)
                name = tensor.String(tensor.Pos + tensor.Offset(_slot(_NAME))).decode()
                found[name] = data.view(dtype).reshape(shape).astype(np.float32)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (IndexError, TypeError, ValueError, struct.error) as error:
        raise UserError(f"{path}: not a network of TensorFlow Lite ({error})") from None
    return found


def _slot(field: int) -> int:
    """Return a field's place in the table of offsets, which two sizes precede."""
    return 4 + 2 * field


def _tables(table: Table, field: int) -> list[Table]:
    """Return the tables of a vector, none if the field is absent."""
    offset = table.Offset(_slot(field))
    if not offset:
        return []
    start = table.Vector(offset)
    places = (start + 4 * i for i in range(table.VectorLen(offset)))
    return [Table(table.Bytes, table.Indirect(place)) for place in places]


def _numbers(table: Table, field: int, kind) -> np.ndarray:
    """Return a vector of numbers, empty if the field is absent."""
    offset = table.Offset(_slot(field))
    return table.GetVectorAsNumpy(kind, offset) if offset else np.zeros(0, np.uint8)


def _number(table: Table, field: int, kind) -> int:
    """Return a number, 0 if the field is absent."""
    return table.GetSlot(_slot(field), 0, kind)
