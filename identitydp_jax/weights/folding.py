"""Inference-time layers of an ONNX graph, with batch norms folded where that is exact."""

import collections
import dataclasses

import numpy as np

from identitydp_jax.weights.onnx_file import Node, OnnxModel

_PASSED_THROUGH = ("Flatten", "Reshape", "Dropout")


@dataclasses.dataclass
class Layer:
    """A convolution, matrix product, PReLU, per-channel affine map or sum.

    Attributes:
      op: "conv", "dense", "prelu", "affine" or "add".
      inputs: names of the activations it reads.
      output: name of the activation it writes.
      kernel: `(height, width, in / groups, out)` of a conv, `(in, out)` of a dense layer,
        `(channels,)` slopes of a PReLU and scales of an affine map.
      bias: `(out,)` of a conv, dense or affine layer.
      stride: step of a conv along both axes.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None
    stride: int = 1


def folded_layers(model: OnnxModel) -> list[Layer]:
    """Return a graph's layers in order, in float32.

    A batch norm that alone reads a conv or dense layer is folded into it; any other (in front of a
    zero-padded conv, say) becomes an "affine" layer. Reshapes and dropout disappear: a dense layer
    after them reads the map in channel-major order, see `channels_last`.

    Raises:
      ValueError: the graph holds an operation that ArcFace encoders do not have.
    """
    readers = collections.Counter(name for node in model.nodes for name in node.inputs)
    renamed: dict[str, str] = {}
    writers: dict[str, Layer] = {}
    layers: list[Layer] = []
    for node in model.nodes:
        source, output = node.inputs[0], node.outputs[0]
        before = writers.get(source)
        if node.op in _PASSED_THROUGH:
            renamed[output] = renamed.get(source, source)
        elif (
            node.op == "BatchNormalization"
            and before is not None
            and before.op in ("conv", "dense")
            and readers[source] == 1
        ):
            scale, shift = _scale_and_shift(node, model)
            before.kernel, before.bias = before.kernel * scale, before.bias * scale + shift
            before.output = output
            writers[output] = before
        else:
            inputs = tuple(renamed.get(name, name) for name in node.inputs)
            layers.append(_layer(node, inputs, model))
            writers[output] = layers[-1]
    return layers


def channels_last(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Reorder the rows of a dense kernel that reads a flattened map, from CHW to HWC order.

    Args:
      kernel: `(channels * pixels, out)`, channel-major as ONNX flattens a map.
      channels: of the map that was flattened.
    """
    by_channel = kernel.reshape(channels, -1, kernel.shape[-1])
    return by_channel.transpose(1, 0, 2).reshape(kernel.shape)


def _layer(node: Node, inputs: tuple[str, ...], model: OnnxModel) -> Layer:
    """Return the layer of one node, kernels transposed from ONNX's order to Flax's."""
    output, attributes = node.outputs[0], node.attributes
    if node.op == "Add":
        return Layer("add", inputs, output)
    if node.op == "PRelu":
        return Layer("prelu", inputs[:1], output, _constant(model, inputs[1]).reshape(-1))
    if node.op == "BatchNormalization":
        return Layer("affine", inputs[:1], output, *_scale_and_shift(node, model))
    if node.op == "Conv":
        kernel = _constant(model, inputs[1]).transpose(2, 3, 1, 0)
        bias = _bias(model, inputs, kernel)
        return Layer("conv", inputs[:1], output, kernel, bias, _stride(node, kernel))
    if node.op == "Gemm":
        if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
            raise ValueError("a Gemm node scales its input")
        kernel = _constant(model, inputs[1])
        kernel = kernel.T if attributes.get("transB", 0) else kernel
        return Layer("dense", inputs[:1], output, kernel, _bias(model, inputs, kernel))
    raise ValueError(f"ONNX operation {node.op} is not part of an ArcFace encoder")


def _stride(node: Node, kernel: np.ndarray) -> int:
    """Return a convolution's stride; ValueError unless it is square, same-padded and dense."""
    height, width = kernel.shape[:2]
    stride, *others = node.attributes.get("strides", (1, 1))
    plain = (
        list(node.attributes.get("pads", (0, 0, 0, 0))) == [height // 2, width // 2] * 2
        and set(node.attributes.get("dilations", (1,))) == {1}
        and set(others) <= {stride}
        and node.attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
    )
    if not plain:
        raise ValueError(f"convolution {node.outputs[0]} is padded or dilated in another way")
    return stride


def _bias(model: OnnxModel, inputs: tuple[str, ...], kernel: np.ndarray) -> np.ndarray:
    if len(inputs) < 3:
        return np.zeros(kernel.shape[-1], np.float32)
    return _constant(model, inputs[2])


def _scale_and_shift(node: Node, model: OnnxModel) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch norm's inference form: y = scale * x + shift, each `(channels,)`."""
    gain, bias, mean, variance = (_constant(model, name) for name in node.inputs[1:5])
    variance = variance.astype(np.float64) + node.attributes.get("epsilon", 1e-5)
    scale = gain / np.sqrt(variance)
    return scale.astype(np.float32), (bias - mean * scale).astype(np.float32)


def _constant(model: OnnxModel, name: str) -> np.ndarray:
    """Return a weight as float32; ValueError if the file does not hold it."""
    if name not in model.initializers:
        raise ValueError(f"weight {name!r} is not stored in the file")
    return np.asarray(model.initializers[name], np.float32)
