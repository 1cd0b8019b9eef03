import numpy as np
import pytest
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorboardX.proto.types_pb2 import DT_FLOAT, DT_INT32

from identitydp_jax.checks import UserError
from identitydp_jax.weights.graph_def import read_constants

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def _constant(graph, name, shape, *, raw=b"", listed=(), dtype=DT_FLOAT):
    node = graph.node.add(name=name, op="Const")
    node.attr["dtype"].type = dtype
    tensor = node.attr["value"].tensor
    tensor.dtype, tensor.tensor_content = dtype, raw
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend(listed)


def _save(path, *constants):
    graph = GraphDef()
    graph.node.add(name="input", op="Placeholder")
    for name, shape, values in constants:
        _constant(graph, name, shape, **values)
    graph.node.add(name="product", op="MatMul", input=["input", "kernel"])
    path.write_bytes(graph.SerializeToString())
    return path


def test_float_constants_are_read_in_every_form(tmp_path):
    path = _save(
        tmp_path / "a.pb",
        ("kernel", (2, 3), {"raw": KERNEL.tobytes()}),
        ("listed", (3,), {"listed": [1, 2, 3]}),
        ("filled", (2, 2), {"listed": [1, 7]}),
        ("scalar", (), {"listed": [0.5]}),
        ("empty", (0, 4), {}),
        ("axes", (2,), {"raw": np.int32([1, 2]).tobytes(), "dtype": DT_INT32}),
    )
    found = read_constants(path)
    wanted = {
        "kernel": KERNEL,
        "listed": [1, 2, 3],
        "filled": [[1, 7], [7, 7]],
        "scalar": 0.5,
        "empty": np.zeros((0, 4)),
    }
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name].dtype == np.float32 and not found[name].flags.writeable
        np.testing.assert_array_equal(found[name], values)
        assert found[name].shape == np.shape(values)


@pytest.mark.parametrize(
    "values",
    [
        {"raw": KERNEL.tobytes()[:-4]},
        {"raw": KERNEL.tobytes()[:-1]},
        {"listed": range(7)},
        {},
    ],
    ids=["short", "cut within a number", "long", "none"],
)
def test_damaged_constants_are_one_clear_line(tmp_path, values):
    path = _save(tmp_path / "a.pb", ("kernel", (2, 3), values))
    with pytest.raises(UserError, match=r"a\.pb: constant 'kernel' is damaged") as error:
        read_constants(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 25, -10])
def test_files_that_are_no_graph_are_one_clear_line(tmp_path, keep):
    path = _save(tmp_path / "a.pb", ("kernel", (2, 3), {"raw": KERNEL.tobytes()}))
    path.write_bytes(path.read_bytes()[:keep] if keep else b"hello, I am a text file")
    with pytest.raises(UserError, match=r"a\.pb: not a frozen TensorFlow graph") as error:
        read_constants(path)
    assert "\n" not in str(error.value)


def test_graphs_without_weights_and_missing_files_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="holds no weights"):
        read_constants(_save(tmp_path / "a.pb"))
    with pytest.raises(UserError, match="cannot be read"):
        read_constants(tmp_path / "b.pb")
