import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx_graphs import mobilefacenet, patterns, reference

from identitydp_jax.models.mobilefacenet import MobileFaceNet, convert
from identitydp_jax.weights import onnx_file

FACES = patterns(3)


def test_parameter_count_and_shape_of_the_shipped_encoder():
    face = jax.ShapeDtypeStruct((2, 112, 112, 3), jnp.float32)
    embedding, variables = jax.eval_shape(MobileFaceNet().init_with_output, jax.random.key(0), face)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 3_398_400
    assert (embedding.shape, embedding.dtype) == ((2, 512), jnp.float32)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "with batch norms"])
def test_converted_network_equals_onnxruntime(tmp_path, fused):
    path = mobilefacenet(tmp_path / "small.onnx", fused=fused)
    network, params = convert(onnx_file.read(path))
    assert (network.width, network.blocks) == (8, (2, 1, 1))
    found = np.asarray(jax.jit(network.apply)({"params": params}, FACES))
    wanted = reference(path, FACES)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-2  # the faces are told apart
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_another_skip_is_refused(tmp_path):
    path = mobilefacenet(tmp_path / "small.onnx", blocks=(2, 1, 1))
    proto = onnx.load(path)
    first, second = [node for node in proto.graph.node if node.op_type == "Add"][:2]
    second.input[0] = first.input[0]
    onnx.save(proto, path)
    with pytest.raises(ValueError, match="does not skip one bottleneck"):
        convert(onnx_file.read(path))


def test_another_activation_is_refused(tmp_path):
    path = mobilefacenet(tmp_path / "small.onnx")
    proto = onnx.load(path)
    next(node for node in proto.graph.node if node.op_type == "PRelu").op_type = "LeakyRelu"
    onnx.save(proto, path)
    with pytest.raises(ValueError, match="LeakyRelu"):
        convert(onnx_file.read(path))
