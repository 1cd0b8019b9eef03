import numpy as np
import pytest

from identitydp_jax.weights.folding import channels_last, folded_layers
from identitydp_jax.weights.onnx_file import Node, OnnxModel

WEIGHTS = {
    "kernel": np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype(np.float32),
    "gain": np.float32([2, 3]),
    "bias": np.float32([1, -1]),
    "mean": np.float32([4, 5]),
    "variance": np.float32([1, 4]),
}
BATCH_NORM = ("gain", "bias", "mean", "variance")


def _conv(source, output, **attributes):
    attributes = {"pads": [1, 1, 1, 1], "strides": [1, 1]} | attributes
    return Node("Conv", (source, "kernel"), (output,), attributes)


def _norm(source, output):
    return Node("BatchNormalization", (source, *BATCH_NORM), (output,), {"epsilon": 0.0})


def _layers(*nodes):
    return folded_layers(OnnxModel(WEIGHTS, nodes, "x", nodes[-1].outputs[0]))


def test_a_batch_norm_after_a_convolution_is_folded_into_it():
    (conv,) = _layers(_conv("x", "a"), _norm("a", "b"))
    scale = np.float32([2, 1.5])
    assert (conv.op, conv.output) == ("conv", "b")
    np.testing.assert_allclose(conv.kernel, WEIGHTS["kernel"].transpose(2, 3, 1, 0) * scale)
    np.testing.assert_allclose(conv.bias, [1 - 4 * 2, -1 - 5 * 1.5])


def test_a_batch_norm_before_a_padded_convolution_stays():
    assert [layer.op for layer in _layers(_norm("x", "a"), _conv("a", "b"))] == ["affine", "conv"]


def test_a_convolution_that_others_read_too_stays_as_it_is():
    add = Node("Add", ("a", "b"), ("c",), {})
    conv, norm, _ = _layers(_conv("x", "a"), _norm("a", "b"), add)
    assert (conv.op, norm.op) == ("conv", "affine")
    np.testing.assert_array_equal(conv.kernel, WEIGHTS["kernel"].transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [0, 0, 0, 0]},
        {"pads": [0, 0, 1, 1]},
        {"dilations": [2, 2]},
        {"strides": [2, 1]},
        {"auto_pad": b"SAME_LOWER"},
    ],
    ids=str,
)
def test_a_convolution_of_another_kind_is_refused(attributes):
    with pytest.raises(ValueError, match="padded or dilated"):
        _layers(_conv("x", "a", **attributes))


def test_a_weight_that_is_computed_is_refused():
    with pytest.raises(ValueError, match="'other' is not stored"):
        _layers(Node("Gemm", ("x", "other"), ("a",), {}))


def test_rows_are_reordered_from_channel_major_to_channel_minor():
    maps = np.random.default_rng(1).normal(size=(5, 3, 2, 2))  # N, C, H, W
    kernel = np.random.default_rng(2).normal(size=(12, 4))
    found = maps.transpose(0, 2, 3, 1).reshape(5, -1) @ channels_last(kernel, channels=3)
    np.testing.assert_allclose(found, maps.reshape(5, -1) @ kernel)
