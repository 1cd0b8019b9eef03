import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx_graphs import patterns, reference, sface

from identitydp_jax.models.identity import load_encoder
from identitydp_jax.models.sface import SFace, convert
from identitydp_jax.weights import onnx_file

FACES = patterns(3)


def test_parameter_count_and_shape():
    face = jax.ShapeDtypeStruct((2, 112, 112, 3), jnp.float32)
    embedding, variables = jax.eval_shape(SFace().init_with_output, jax.random.key(0), face)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 9_629_632
    assert (embedding.shape, embedding.dtype) == ((2, 128), jnp.float32)


def test_converted_network_equals_onnxruntime_at_its_own_range(tmp_path):
    path = sface(tmp_path / "small.onnx")
    network, params = convert(onnx_file.read(path))
    assert (network.width, network.blocks) == (8, ((16, 2), (16, 1), (32, 2)))
    found = np.asarray(jax.jit(network.apply)({"params": params}, FACES))
    wanted = reference(path, 127.5 * (FACES + 1))
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-2  # the faces are told apart
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_half_precision_gives_nearly_the_same_embedding(tmp_path):
    apply, params = load_encoder(sface(tmp_path / "small.onnx"))
    half, whole = (_embed(apply, params, dtype) for dtype in (jnp.bfloat16, jnp.float32))
    assert half.dtype == jnp.bfloat16
    half = half.astype(jnp.float32)
    half = half / jnp.linalg.norm(half, axis=1, keepdims=True)
    assert float((half * whole).sum(1).min()) > 0.999


def _embed(apply, params, dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return jax.jit(apply)(params, jnp.asarray(FACES, dtype))


@pytest.mark.parametrize("scale", [1 / 127.5, 1.0])
def test_another_range_is_refused(tmp_path, scale):
    path = sface(tmp_path / "small.onnx", scale=scale)
    with pytest.raises(ValueError, match="does not begin with"):
        convert(onnx_file.read(path))


def test_another_order_is_refused(tmp_path):
    path = sface(tmp_path / "small.onnx")
    proto = onnx.load(path)
    prelu = next(node for node in proto.graph.node if node.op_type == "PRelu")
    prelu.op_type, prelu.input[1] = "Add", prelu.input[0]
    onnx.save(proto, path)
    with pytest.raises(ValueError, match="another order"):
        convert(onnx_file.read(path))
