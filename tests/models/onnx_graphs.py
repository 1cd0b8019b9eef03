"""Small identity encoders in ONNX, node by node, as InsightFace and OpenCV's zoo export them."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SIDE = 112


class Graph:
    """Grows a graph with random weights; `fused` exports fold batch norms after convolutions."""

    def __init__(self, fused, seed=0):
        self.fused = fused
        self.random = np.random.default_rng(seed)
        self.nodes = []
        self.weights = []

    def node(self, op, inputs, **attributes):
        output = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def weight(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def conv(self, x, inner, outer, size, stride=1, groups=1):
        """A convolution and the batch norm after it."""
        fan_in = inner // groups * size * size
        kernel = self.random.normal(0, 1.5 * fan_in**-0.5, (outer, inner // groups, size, size))
        inputs = [x, self.weight(kernel)]
        if self.fused:
            inputs.append(self.weight(self.random.normal(0, 0.1, outer)))
        x = self.node(
            "Conv",
            inputs,
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
            strides=[stride, stride],
            group=groups,
        )
        return x if self.fused else self.norm(x, outer)

    def norm(self, x, channels):
        gain, bias = self.random.uniform(0.5, 1.5, channels), self.random.normal(0, 0.1, channels)
        mean, variance = self.random.normal(0, 0.1, channels), self.random.uniform(0.5, 2, channels)
        inputs = [x, *map(self.weight, (gain, bias, mean, variance))]
        return self.node("BatchNormalization", inputs, epsilon=1e-3)

    def prelu(self, x, channels):
        slopes = self.random.uniform(0, 0.5, (channels, 1, 1))
        return self.node("PRelu", [x, self.weight(slopes)])

    def embed(self, x, inner, outer):
        x = self.node("Flatten", [x], axis=1)
        kernel = self.weight(self.random.normal(0, inner**-0.5, (outer, inner)))
        bias = self.weight(self.random.normal(0, 0.1, outer))
        return self.norm(self.node("Gemm", [x, kernel, bias], transB=1), outer)

    def save(self, path, output, batch="N"):
        shape = [batch, 3, SIDE, SIDE]
        faces = helper.make_tensor_value_info("faces", TensorProto.FLOAT, shape)
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "encoder", [faces], [result], self.weights)
        opset = [helper.make_opsetid("", 11)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=6), path)
        return path


def mobilefacenet(path, *, width=8, blocks=(2, 1, 1), fused=True):
    graph = Graph(fused)
    x = graph.prelu(graph.conv("faces", 3, width, 3, 2), width)
    x = graph.prelu(graph.conv(x, width, width, 3, groups=width // 2), width)

    def bottleneck(x, inner, hidden, outer, stride):
        x = graph.prelu(graph.conv(x, inner, hidden, 1), hidden)
        x = graph.prelu(graph.conv(x, hidden, hidden, 3, stride, groups=hidden), hidden)
        return graph.conv(x, hidden, outer, 1)

    inner = width
    for count, down, factor in zip(blocks, (1, 2, 4), (1, 2, 2), strict=True):
        outer = factor * width
        x = bottleneck(x, inner, down * width, outer, 2)
        for _ in range(count):
            x = graph.node("Add", [x, bottleneck(x, outer, outer, outer, 1)])
        inner = outer
    x = graph.prelu(graph.conv(x, inner, 4 * width, 1), 4 * width)
    x = graph.prelu(graph.conv(x, 4 * width, width // 2, 1), width // 2)
    return graph.save(path, graph.embed(x, width // 2 * 49, 512))


def iresnet(path, *, width=8, blocks=(1, 2, 1, 1), fused=True):
    graph = Graph(fused)
    x = graph.prelu(graph.conv("faces", 3, width, 3), width)
    inner = width
    for stage, count in enumerate(blocks):
        outer = width << stage
        for block in range(count):
            stride = 2 if block == 0 else 1
            y = graph.prelu(graph.conv(graph.norm(x, inner), inner, outer, 3), outer)
            y = graph.conv(y, outer, outer, 3, stride)
            skip = graph.conv(x, inner, outer, 1, stride) if block == 0 else x
            x, inner = graph.node("Add", [y, skip]), outer
    return graph.save(path, graph.embed(graph.norm(x, inner), inner * 49, 512))


def sface(path, *, width=8, blocks=((16, 2), (16, 1), (32, 2)), size=128, scale=1 / 128):
    """SFace, which takes pictures in [0, 255]."""
    graph = Graph(fused=False)
    x = graph.node("Sub", ["faces", graph.weight([127.5])])
    x = graph.node("Mul", [x, graph.weight([scale])])
    x = graph.prelu(graph.conv(x, 3, width, 3), width)
    inner, side = width, SIDE
    for outer, stride in blocks:
        x = graph.prelu(graph.conv(x, inner, inner, 3, stride, groups=inner), inner)
        x = graph.prelu(graph.conv(x, inner, outer, 1), outer)
        inner, side = outer, side // stride
    x = graph.node("Dropout", [graph.norm(x, inner)])
    return graph.save(path, graph.embed(x, inner * side**2, size))


def patterns(count):
    """Return pictures (count, 112, 112, 3) in [-1, 1] that even a random network tells apart."""
    coarse = np.random.default_rng(1).uniform(-1, 1, (count, 7, 7, 3)).astype(np.float32)
    return coarse.repeat(SIDE // 7, 1).repeat(SIDE // 7, 2)


def reference(path, faces):
    """Return onnxruntime's embeddings, normalised, of faces (N, 112, 112, 3)."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    planes = np.asarray(faces).transpose(0, 3, 1, 2)
    found = np.concatenate([session.run(None, {name: plane[None]})[0] for plane in planes])
    return found / np.linalg.norm(found, axis=1, keepdims=True)
