"""ONNX files as plain data: named arrays and a list of nodes, with nothing executed."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from identitydp_jax.checks import UserError


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation: its type, the names it reads and writes, and its attributes as plain data."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class OnnxModel:
    """A graph in topological order: `initializers` by name, `nodes`, first input and output."""

    initializers: Mapping[str, np.ndarray]
    nodes: tuple[Node, ...]
    input: str
    output: str


def read(path: str | pathlib.Path) -> OnnxModel:
    """Read an ONNX file's constants and operations without executing anything.

    `Constant` nodes become initializers and `Identity` nodes disappear, so that exports by
    different tools look alike. Weights stored in other files beside the ONNX file are refused.

    Raises:
      UserError: the file is missing, is not ONNX, or refers to other files.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the path of an ONNX file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except DecodeError:
        raise UserError(f"{path}: not an ONNX file (or cut off); fetch it again") from None
    graph = proto.graph
    arrays = {tensor.name: _array(tensor, path) for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in arrays]
    if not graph.node or len(inputs) != 1 or not graph.output:
        raise UserError(f"{path}: not a network with one input; give a face encoder's ONNX file")
    renamed: dict[str, str] = {}
    nodes = []
    for proto_node in graph.node:
        attributes = {
            attribute.name: _attribute(attribute, path) for attribute in proto_node.attribute
        }
        if proto_node.op_type == "Constant" and "value" in attributes:
            arrays[proto_node.output[0]] = attributes["value"]
            continue
        names = tuple(renamed.get(name, name) for name in proto_node.input)
        if proto_node.op_type == "Identity":
            renamed[proto_node.output[0]] = names[0]
            continue
        nodes.append(Node(proto_node.op_type, names, tuple(proto_node.output), attributes))
    output = graph.output[0].name
    return OnnxModel(arrays, tuple(nodes), inputs[0], renamed.get(output, output))


def _array(tensor, path) -> np.ndarray:
    """Return a tensor's array, refusing data that lies in another file."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise UserError(f"{path}: keeps its weights in other files; save it as one ONNX file")
    try:
        return numpy_helper.to_array(tensor)
    except (TypeError, ValueError):
        raise UserError(f"{path}: weight {tensor.name!r} is damaged; fetch it again") from None


def _attribute(attribute, path):
    """Return an attribute as plain data, a tensor as an array."""
    value = onnx.helper.get_attribute_value(attribute)
    return _array(value, path) if isinstance(value, onnx.TensorProto) else value
