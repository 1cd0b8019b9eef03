import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx_graphs import iresnet, patterns, reference

from identitydp_jax.models.iresnet import BLOCKS_50, BLOCKS_100, IResNet, convert
from identitydp_jax.weights import onnx_file

FACES = patterns(3)


@pytest.mark.parametrize(
    ("blocks", "folded", "as_trained"),
    [(BLOCKS_50, 43_577_152, 43_590_848), (BLOCKS_100, 65_131_968, 65_156_160)],
)
def test_parameter_counts(blocks, folded, as_trained):
    face = jax.ShapeDtypeStruct((2, 112, 112, 3), jnp.float32)
    network = IResNet(blocks)
    embedding, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), face)
    leaves = jax.tree.leaves_with_path(variables)
    assert sum(leaf.size for _, leaf in leaves) == folded
    # In training every convolution has a batch norm's gain more, the embedding gain and bias.
    gains = sum(
        leaf.size
        for path, leaf in leaves
        if path[-1].key == "bias" and path[-2].key in ("stem", "conv1", "conv2", "shortcut")
    )
    assert folded + gains + 2 * 512 == as_trained
    assert (embedding.shape, embedding.dtype) == ((2, 512), jnp.float32)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "with batch norms"])
def test_converted_network_equals_onnxruntime(tmp_path, fused):
    path = iresnet(tmp_path / "small.onnx", fused=fused)
    network, params = convert(onnx_file.read(path))
    assert (network.width, network.blocks) == (8, (1, 2, 1, 1))
    found = np.asarray(jax.jit(network.apply)({"params": params}, FACES))
    wanted = reference(path, FACES)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-2  # the faces are told apart
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_names_and_order_of_parallel_branches_do_not_matter(tmp_path):
    path = iresnet(tmp_path / "small.onnx")
    _, wanted = convert(onnx_file.read(path))
    proto = onnx.load(path)
    nodes = proto.graph.node
    at = next(i for i, node in enumerate(nodes) if node.op_type == "Add")
    shortcut = nodes[at - 1]
    assert shortcut.op_type == "Conv"
    order = [*nodes[:2], shortcut, *nodes[2 : at - 1], *nodes[at:]]
    order = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
    for node in order:
        for names in (node.input, node.output):
            names[:] = [f"renamed/{name}" if name.startswith("n") else name for name in names]
        if node.op_type == "Add":
            node.input[:] = list(node.input)[::-1]
    del nodes[:]
    nodes.extend(order)
    proto.graph.output[0].name = f"renamed/{proto.graph.output[0].name}"
    onnx.save(proto, path)
    _, found = convert(onnx_file.read(path))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_stride_in_another_place_is_refused(tmp_path):
    path = iresnet(tmp_path / "small.onnx")
    proto = onnx.load(path)
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    for conv, stride in zip(convs[1:3], (2, 1), strict=True):
        next(a for a in conv.attribute if a.name == "strides").ints[:] = [stride, stride]
    onnx.save(proto, path)
    with pytest.raises(ValueError, match="in another place"):
        convert(onnx_file.read(path))
