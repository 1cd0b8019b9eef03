"""Inference graphs in ONNX as pure functions of their weights and a batch of images.

Only the operators of the verifiers' graphs are known (ONNX operator specification, opset 11), and
the graph runs on one image at a time under `vmap`, because exported graphs have a batch of one
written into their shapes.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from identitydp_jax.checks import UserError
from identitydp_jax.models.depthwise import depthwise_conv
from identitydp_jax.weights import onnx_file
from identitydp_jax.weights.onnx_file import Node, OnnxModel

_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class OnnxGraph:
    """A graph as a pure function; two of one file are equal, so jit knows them.

    Attributes:
      sha256: hexadecimal digest of the file.
      model: the operations, and the constants that shapes and exponents come from.
    """

    sha256: str
    model: OnnxModel = dataclasses.field(compare=False, repr=False)

    def __call__(self, params: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
        """Map images (N, H, W, 3) float32, in the graph's own range, to its output (N, ...)."""
        planes = jnp.transpose(images, (0, 3, 1, 2))
        return jax.vmap(lambda one: self._run(params, one[None])[0])(planes)

    def _run(self, params, planes):
        """Evaluate the nodes in order on one image (1, 3, H, W)."""
        values = {**self.model.initializers, **params, self.model.input: planes}
        for node in self.model.nodes:
            inputs = [values[name] if name else None for name in node.inputs]
            outputs = _OPERATORS[node.op](node.attributes, *inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            values.update(zip(node.outputs, outputs, strict=False))
        return values[self.model.output]


def load(path: str | pathlib.Path) -> tuple[OnnxGraph, dict[str, jax.Array]]:
    """Load an inference graph of one image input.

    Returns:
      `apply(params, images)` and `params`, float32 arrays by name (kernels of convolutions in
      Flax's order). `apply` is pure and differentiable; it maps `(N, H, W, 3)` float32, in the size
      and range that the graph wants, to its first output, `(N, ...)` float32.

    Raises:
      UserError: the file is missing, damaged, or holds an operator, a convolution or a scaled
        product of a kind that is not known here.
    """
    model = onnx_file.read(path)
    for node in model.nodes:
        problem = _problem(node, model)
        if problem:
            raise UserError(f"{path}: {problem}; give the file of a network that is supported")
    # Whole numbers are shapes and single numbers are exponents or bounds: part of the program.
    weights = {
        name: array.astype(np.float32)
        for name, array in model.initializers.items()
        if array.ndim and np.issubdtype(array.dtype, np.floating)
    }
    for name in {node.inputs[1] for node in model.nodes if node.op == "Conv"}:
        weights[name] = weights[name].transpose(2, 3, 1, 0)
    rest = {name: array for name, array in model.initializers.items() if name not in weights}
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    graph = OnnxGraph(digest, dataclasses.replace(model, initializers=rest))
    return graph, jax.tree.map(jnp.asarray, weights)


def _problem(node: Node, model: OnnxModel) -> str | None:
    """Say why a node can't be evaluated, or return None."""
    if node.op not in _OPERATORS:
        return f"its operator {node.op} is not among {', '.join(_OPERATORS)}"
    attributes = node.attributes
    if node.op == "Conv":
        kernel = model.initializers.get(node.inputs[1])
        groups, channels = attributes.get("group", 1), 0 if kernel is None else len(kernel)
        if kernel is None or kernel.ndim != 4 or groups not in (1, channels):
            return f"convolution {node.outputs[0]} is neither plain nor depthwise"
        if set(attributes.get("dilations", (1,))) != {1} or "auto_pad" in attributes:
            return f"convolution {node.outputs[0]} is dilated or pads itself"
    if node.op == "Gemm" and (attributes.get("alpha", 1), attributes.get("beta", 1)) != (1, 1):
        return f"matrix product {node.outputs[0]} is scaled"
    return None


def _conv(attributes, x, kernel, bias=None):
    strides = tuple(attributes.get("strides", (1, 1)))
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    padding = ((top, bottom), (left, right))
    x = jnp.transpose(x, (0, 2, 3, 1))
    if kernel.shape[2] == 1 and attributes.get("group", 1) > 1:
        x = depthwise_conv(x, kernel, strides=strides, padding=padding)
    else:
        order = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=order)
    x = x if bias is None else x + bias
    return jnp.transpose(x, (0, 3, 1, 2))


def _batch_norm(attributes, x, gain, bias, mean, variance):
    scale = gain * lax.rsqrt(variance + attributes.get("epsilon", 1e-5))
    per_channel = (-1,) + (1,) * (x.ndim - 2)
    return x * scale.reshape(per_channel) + (bias - mean * scale).reshape(per_channel)


def _gemm(attributes, a, b, c=None):
    a = a.T if attributes.get("transA", 0) else a
    product = a @ (b.T if attributes.get("transB", 0) else b)
    return product if c is None else product + c


def _clip(_, x, low=None, high=None):
    x = x if low is None else jnp.maximum(x, low)
    return x if high is None else jnp.minimum(x, high)


def _expand(_, x, shape):
    return jnp.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _l2(attributes, x):
    squares = jnp.sum(x * x, **_reduced(attributes))
    # The root's slope at zero is infinite; below the smallest number it is taken as nought.
    return jnp.sqrt(jnp.maximum(squares, _SMALLEST))


def _mean(attributes, x):
    return jnp.mean(x, **_reduced(attributes))


def _reduced(attributes):
    axes = attributes.get("axes")
    return {"axis": axes and tuple(axes), "keepdims": bool(attributes.get("keepdims", 1))}


def _reshape(_, x, shape):
    # A zero keeps the length of its axis.
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())])


def _flatten(attributes, x):
    return x.reshape(int(np.prod(x.shape[: attributes.get("axis", 1)])), -1)


def _slice(_, x, starts, ends, axes=None, steps=None):
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones_like(starts) if steps is None else steps
    index = [slice(None)] * x.ndim
    for axis, *bounds in np.stack([axes, starts, ends, steps], axis=1).tolist():
        index[axis] = slice(*bounds)
    return x[tuple(index)]


def _softmax(attributes, x):
    # Up to opset 12 a softmax runs over all axes from this one on.
    axis = attributes.get("axis", 1)
    return jax.nn.softmax(x, axis=tuple(range(axis % x.ndim, x.ndim)))


def _split(attributes, x):
    ends = np.cumsum(attributes["split"])[:-1].tolist()
    return tuple(jnp.split(x, ends, axis=attributes.get("axis", 0)))


_OPERATORS: Mapping[str, Callable] = {
    "Add": lambda _, a, b: a + b,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": lambda attributes, *x: jnp.concatenate(x, axis=attributes["axis"]),
    "Conv": _conv,
    "Div": lambda _, a, b: a / b,
    "Dropout": lambda _, x: x,
    "Erf": lambda _, x: lax.erf(x),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _, x: jnp.mean(x, axis=(2, 3), keepdims=True),
    "MatMul": lambda _, a, b: a @ b,
    "Mul": lambda _, a, b: a * b,
    "PRelu": lambda _, x, slope: jnp.where(x >= 0, x, slope * x),
    "Pow": lambda _, x, exponent: x ** float(exponent),
    "ReduceL2": _l2,
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": lambda _, x: jnp.sqrt(x),
    "Squeeze": lambda attributes, x: jnp.squeeze(x, axis=tuple(attributes["axes"])),
    "Sub": lambda _, a, b: a - b,
    "Transpose": lambda attributes, x: jnp.transpose(x, attributes["perm"]),
}
