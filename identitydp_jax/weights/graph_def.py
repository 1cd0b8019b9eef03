"""Frozen TensorFlow graphs as plain arrays: only constants are read, nothing is executed."""

import math
import pathlib

import numpy as np
from google.protobuf.message import DecodeError
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorboardX.proto.types_pb2 import DT_FLOAT

from identitydp_jax.checks import UserError


def read_constants(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Read every float32 constant of a frozen graph (a serialized TensorFlow `GraphDef`).

    Returns:
      The constants by node name, in the stored shape, read-only. Scalars have shape `()`.

    Raises:
      UserError: the file is missing or unreadable, is no such graph, or a constant is damaged.
    """
    graph = GraphDef()
    try:
        graph.ParseFromString(pathlib.Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except DecodeError:
        raise UserError(
            f"{path}: not a frozen TensorFlow graph (or cut off); fetch it again"
        ) from None
    constants = {}
    for node in graph.node:
        if node.op == "Const" and node.attr["dtype"].type == DT_FLOAT:
            try:
                constants[node.name] = _array(node.attr["value"].tensor)
            except ValueError as error:
                raise UserError(
                    f"{path}: constant {node.name!r} is damaged ({error}); fetch it again"
                ) from None
    if not constants:
        raise UserError(f"{path}: not a frozen TensorFlow graph (it holds no weights)")
    return constants


def _array(tensor) -> np.ndarray:
    """Return a float tensor: raw little-endian bytes, or a list whose last value fills the rest."""
    shape = tuple(dimension.size for dimension in tensor.tensor_shape.dim)
    if tensor.dtype != DT_FLOAT or min(shape, default=0) < 0:
        raise ValueError("no float32 values of a known shape")
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, "<f4").reshape(shape)
    count, listed = math.prod(shape), np.asarray(tensor.float_val, np.float32)
    if count and not 0 < len(listed) <= count:
        raise ValueError(f"{len(listed)} values for shape {shape}")
    values = np.pad(listed, (0, count - len(listed)), mode="edge").reshape(shape)
    values.setflags(write=False)
    return values
