import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from identitydp_jax.checks import UserError
from identitydp_jax.weights import onnx_file

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def _save(path, weights=None):
    value = numpy_helper.from_array(np.float32([1, 2]), "value")
    nodes = [
        helper.make_node("Constant", [], ["bias"], value=value),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Gemm", ["same", "kernel", "bias"], ["y"], transB=1, alpha=0.5),
        helper.make_node("Identity", ["y"], ["out"]),
    ]
    weights = weights or [numpy_helper.from_array(KERNEL, "kernel")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])]
    # Old exporters list the weights among the inputs.
    inputs.append(helper.make_tensor_value_info("kernel", TensorProto.FLOAT, [2, 3]))
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_constants_become_weights_and_identities_disappear(tmp_path):
    model = onnx_file.read(_save(tmp_path / "a.onnx"))
    assert (model.input, model.output) == ("x", "y")
    (node,) = model.nodes
    assert (node.op, node.inputs, node.outputs) == ("Gemm", ("x", "kernel", "bias"), ("y",))
    assert node.attributes == {"transB": 1, "alpha": 0.5}
    np.testing.assert_array_equal(model.initializers["kernel"], KERNEL)
    np.testing.assert_array_equal(model.initializers["bias"], [1, 2])


def test_weights_in_other_files_are_refused_unread(tmp_path):
    (tmp_path / "secret").write_bytes(KERNEL.tobytes())
    weight = TensorProto(name="kernel", data_type=TensorProto.FLOAT, dims=[2, 3])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.append(onnx.StringStringEntryProto(key="location", value="secret"))
    with pytest.raises(UserError, match="keeps its weights in other files"):
        onnx_file.read(_save(tmp_path / "a.onnx", [weight]))


def test_damaged_weights_are_one_clear_line(tmp_path):
    weight = numpy_helper.from_array(KERNEL, "kernel")
    weight.raw_data = weight.raw_data[:-4]
    with pytest.raises(UserError, match="weight 'kernel' is damaged"):
        onnx_file.read(_save(tmp_path / "a.onnx", [weight]))


@pytest.mark.parametrize("keep", [0, 40, -30])
def test_files_that_are_not_onnx_are_one_clear_line(tmp_path, keep):
    path = _save(tmp_path / "a.onnx")
    path.write_bytes(path.read_bytes()[:keep] if keep else b"hello, I am a text file")
    with pytest.raises(UserError, match=r"a\.onnx: not an? ") as error:
        onnx_file.read(path)
    assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"b\.onnx: no such file"):
        onnx_file.read(tmp_path / "b.onnx")
    with pytest.raises(UserError, match="cannot be read"):
        onnx_file.read(tmp_path)
