import pathlib

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import identitydp_jax
from identitydp_jax.checks import UserError
from identitydp_jax.models import onnx_graph
from identitydp_jax.weights import cache

SIDE, CHANNELS = 9, 3


def _random(*shape):
    return np.random.default_rng(len(shape)).uniform(0.2, 1.2, shape).astype(np.float32)


def _integers(*values):
    return np.array(values, np.int64)


KERNEL = _random(4, CHANNELS, 3, 3)
# Operator, constants after its first input, attributes, number of outputs.
CASES = {
    "add": ("Add", [_random(CHANNELS, 1, 1)], {}),
    "batch norm": ("BatchNormalization", [_random(CHANNELS) for _ in range(4)], {"epsilon": 1e-3}),
    "clip below": ("Clip", [np.float32(0.1)], {}),
    "clip": ("Clip", [np.float32(-0.2), np.float32(0.3)], {}),
    "concat": ("Concat", [_random(1, 2, SIDE, SIDE)], {"axis": 1}),
    "conv": ("Conv", [KERNEL, _random(4)], {"pads": [1, 2, 1, 0], "strides": [2, 2]}),
    "conv without bias": ("Conv", [KERNEL], {}),
    "depthwise conv": ("Conv", [_random(3, 1, 5, 5), _random(3)], {"pads": [2] * 4, "group": 3}),
    "div": ("Div", [_random(CHANNELS, 1, 1)], {}),
    "dropout": ("Dropout", [], {"ratio": 0.4}),
    "erf": ("Erf", [], {}),
    "expand": ("Expand", [_integers(2, 1, 1, 1, SIDE)], {}),
    "flatten": ("Flatten", [], {"axis": 1}),
    "global average pool": ("GlobalAveragePool", [], {}),
    "matmul": ("MatMul", [_random(SIDE, 4)], {}),
    "mul": ("Mul", [_random(SIDE)], {}),
    "prelu": ("PRelu", [_random(CHANNELS, 1, 1)], {}),
    "pow": ("Pow", [np.float32(2)], {}),
    "l2": ("ReduceL2", [], {"axes": [-1], "keepdims": 1}),
    "mean": ("ReduceMean", [], {"axes": [1, 2], "keepdims": 0}),
    "mean of all": ("ReduceMean", [], {}),
    "reshape": ("Reshape", [_integers(0, SIDE, -1)], {}),
    "slice": ("Slice", [_integers(1, 0), _integers(8, -2), _integers(2, 3), _integers(3, 1)], {}),
    "slice of all": ("Slice", [_integers(0, 1), _integers(1, 3)], {}),
    "softmax": ("Softmax", [], {"axis": 3}),
    "softmax from": ("Softmax", [], {"axis": 2}),
    "split": ("Split", [], {"axis": 1, "split": [1, 2]}),
    "sub": ("Sub", [_random(1, CHANNELS, SIDE, SIDE)], {}),
    "squeeze": ("Squeeze", [], {"axes": [0]}),
    "transpose": ("Transpose", [], {"perm": [0, 2, 3, 1]}),
}


def _save(path, nodes, constants):
    shape = [1, CHANNELS, SIDE, SIDE]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", [image], [result], weights)
    opset = [helper.make_opsetid("", 11)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=6), path)
    return path


def _one(path, op, constants, attributes):
    constants = {f"c{index}": array for index, array in enumerate(constants)}
    outputs = ["first", "result"] if op == "Split" else ["result"]
    node = helper.make_node(op, ["image", *constants], outputs, **attributes)
    return _save(path, [node], constants)


def _reference(path, images):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    planes = np.asarray(images).transpose(0, 3, 1, 2)
    return np.stack([session.run(None, {name: plane[None]})[-1] for plane in planes])


@pytest.mark.parametrize("case", CASES)
def test_operator_equals_onnxruntime(case, tmp_path):
    path = _one(tmp_path / "one.onnx", *CASES[case])
    images = np.random.default_rng(7).normal(size=(2, SIDE, SIDE, CHANNELS)).astype(np.float32)
    wanted = _reference(path, images)
    # A graph's first axis is the image's, which squeezing and averaging over all take away.
    graph, params = onnx_graph.load(path)
    planes = images.transpose(0, 3, 1, 2)
    found = np.stack([graph._run(params, jnp.asarray(plane[None])) for plane in planes])
    np.testing.assert_allclose(found, wanted, atol=2e-6, rtol=1e-5)


def test_gemm_and_sqrt_after_flatten(tmp_path):
    constants = {"kernel": _random(5, CHANNELS), "bias": _random(5)}
    nodes = [
        helper.make_node("Mul", ["image", "image"], ["squares"]),
        helper.make_node("Sqrt", ["squares"], ["roots"]),
        helper.make_node("GlobalAveragePool", ["roots"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "kernel", "bias"], ["result"], transB=1),
    ]
    path = _save(tmp_path / "gemm.onnx", nodes, constants)
    images = np.random.default_rng(8).normal(size=(3, SIDE, SIDE, CHANNELS)).astype(np.float32)
    graph, params = onnx_graph.load(path)
    found = jax.jit(graph)(params, images)
    np.testing.assert_allclose(found, _reference(path, images)[:, 0], atol=1e-5)
    assert set(params) == set(constants)  # what could be trained, and nothing else


def test_length_of_nothing_has_a_slope(tmp_path):
    path = _one(tmp_path / "l2.onnx", "ReduceL2", [], {"axes": [1], "keepdims": 1})
    graph, params = onnx_graph.load(path)
    nothing = jnp.zeros((1, SIDE, SIDE, CHANNELS))
    gradient = jax.grad(lambda x: graph(params, x).sum())(nothing)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    ("op", "constants", "attributes", "message"),
    [
        ("LeakyRelu", [], {}, "operator LeakyRelu is not among Add"),
        ("Conv", [_random(6, 1, 3, 3)], {"group": 3}, "neither plain nor depthwise"),
        ("Conv", [KERNEL], {"dilations": [2, 2]}, "dilated"),
        ("Conv", [KERNEL], {"auto_pad": "SAME_UPPER"}, "pads itself"),
        ("Gemm", [_random(SIDE, 2)], {"alpha": 0.5}, "scaled"),
    ],
)
def test_what_is_not_known_is_refused(op, constants, attributes, message, tmp_path):
    path = _one(tmp_path / "odd.onnx", op, constants, attributes)
    with pytest.raises(UserError, match=rf"odd\.onnx: .*{message}"):
        onnx_graph.load(path)


def test_graphs_of_one_file_are_one_program(tmp_path):
    path = _one(tmp_path / "one.onnx", *CASES["conv"])
    other = _one(tmp_path / "other.onnx", *CASES["prelu"])
    first, again = onnx_graph.load(path)[0], onnx_graph.load(path)[0]
    assert first == again and hash(first) == hash(again)
    assert first != onnx_graph.load(other)[0]


@pytest.mark.network
@pytest.mark.parametrize(("name", "low", "high"), [("edgeface_s", -1, 1), ("sface", 0, 255)])
def test_verifiers_equal_onnxruntime(name, low, high):
    path = cache.path(name)
    graph, params = onnx_graph.load(path)
    noise = np.random.default_rng(0).uniform(low, high, (1, 112, 112, 3)).astype(np.float32)
    faces = _demo_faces(2).astype(np.float32) / 255 * (high - low) + low
    images = np.concatenate([noise, faces])
    found = np.asarray(jax.jit(graph)(params, images))
    wanted = _reference(path, images)[:, 0]
    assert np.abs(wanted[1] - wanted[2]).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(graph(params, x) ** 2)))(images[1:2])
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def _demo_faces(count):
    """Return shipped faces uint8 (count, 112, 112, 3)."""
    folder = pathlib.Path(identitydp_jax.__file__).parent / "demo_faces"
    pictures = [cv2.imread(str(path)) for path in sorted(folder.glob("*.jpg"))[:count]]
    small = [cv2.resize(p, (112, 112), interpolation=cv2.INTER_AREA) for p in pictures]
    return np.stack(small)[..., ::-1]
