import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import facenet

from identitydp_jax.checks import UserError
from identitydp_jax.models.inception_resnet_v1 import (
    NAMES,
    InceptionResNetV1,
    convert,
    load_facenet,
)

GROUPS = {"block35": "Repeat/", "block17": "Repeat_1/", "block8": "Repeat_2/"}


@pytest.fixture(scope="module")
def shapes():
    face = jax.ShapeDtypeStruct((2, 160, 160, 3), jnp.float32)
    return jax.eval_shape(InceptionResNetV1().init_with_output, jax.random.key(0), face)


@pytest.fixture
def constants(shapes):
    """A published graph's constants, all weights zero but those that a test sets."""
    graph = {"embeddings/Maximum/y": np.float32(1e-10)}
    for path, shape in jax.tree_util.tree_leaves_with_path(shapes[1]["params"]):
        *scopes, kind = (key.key for key in path)
        layer = f"InceptionResnetV1/{GROUPS.get(scopes[0].split('_')[0], '')}{'/'.join(scopes)}"
        zeros = np.zeros(shape.shape, np.float32)
        if kind == "kernel":
            graph[f"{layer}/weights"] = zeros
        elif len(scopes) == 2 and scopes[0].lower().startswith("block"):
            graph[f"{layer}/biases"] = zeros
            graph[f"{layer.rsplit('/', 1)[0]}/mul/x"] = np.float32(0.17)
        else:
            graph[f"{layer}/BatchNorm/beta"] = graph[f"{layer}/BatchNorm/moving_mean"] = zeros
            graph[f"{layer}/BatchNorm/moving_variance"] = zeros + 1
    return graph


def _random(seed, array):
    values = np.random.default_rng(seed).uniform(0.5, 2, math.prod(array.shape))
    return values.reshape(array.shape).astype(np.float32)


def test_parameter_count_and_output(shapes):
    embedding, variables = shapes
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 23_467_824
    assert (embedding.shape, embedding.dtype) == ((2, 512), jnp.float32)


def test_batch_norms_are_folded_into_the_layer_before_them(constants):
    layer = "InceptionResnetV1/Bottleneck"
    names = [f"{layer}/BatchNorm/{part}" for part in ("beta", "moving_mean", "moving_variance")]
    for seed, name in enumerate([f"{layer}/weights", *names]):
        constants[name] = _random(seed, constants[name])
    beta, mean, variance = (constants[name] for name in names)
    x = _random(9, np.zeros((2, 1792)))
    wanted = (x @ constants[f"{layer}/weights"] - mean) / np.sqrt(variance + 1e-3) + beta
    folded = convert(constants)["Bottleneck"]
    np.testing.assert_allclose(x @ folded["kernel"] + folded["bias"], wanted, rtol=1e-5)


def test_batch_norms_that_the_file_has_folded_stay_as_they_are(constants):
    layer = "InceptionResnetV1/Conv2d_1a_3x3"
    for part in ("beta", "moving_mean", "moving_variance"):
        del constants[f"{layer}/BatchNorm/{part}"]
    kernel = constants[f"{layer}/weights"] = _random(0, constants[f"{layer}/weights"])
    bias = constants[f"{layer}/Conv2D_bn_offset"] = _random(1, np.zeros(32))
    found = convert(constants)["Conv2d_1a_3x3"]
    np.testing.assert_array_equal(found["kernel"], kernel)
    np.testing.assert_array_equal(found["bias"], bias)


def test_a_residual_is_scaled_by_its_factor(constants):
    layer = "InceptionResnetV1/Repeat_1/block17_3/Conv2d_1x1"
    for seed, part in enumerate(("weights", "biases")):
        constants[f"{layer}/{part}"] = _random(seed, constants[f"{layer}/{part}"])
    constants["InceptionResnetV1/Repeat_1/block17_3/mul/x"] = np.float32(0.1)
    found = convert(constants)["block17_3"]["Conv2d_1x1"]
    np.testing.assert_allclose(found["kernel"], 0.1 * constants[f"{layer}/weights"], rtol=1e-6)
    np.testing.assert_allclose(found["bias"], 0.1 * constants[f"{layer}/biases"], rtol=1e-6)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("InceptionResnetV1/Repeat/block35_5/Branch_0/Conv2d_1x1/weights", "not the layers"),
        ("InceptionResnetV1/Mixed_6a/Branch_0/Conv2d_1a_3x3/BatchNorm/beta", "beta' is missing"),
    ],
)
def test_a_graph_without_one_of_the_constants_is_refused(constants, missing, message):
    del constants[missing]
    with pytest.raises(ValueError, match=message):
        convert(constants)


def test_an_unknown_training_is_one_clear_line():
    with pytest.raises(UserError, match=r"'facenet': choose one of facenet_casia, facenet_vgg"):
        load_facenet("facenet")


@pytest.mark.network
@pytest.mark.parametrize("name", NAMES)
def test_embeddings_equal_tensorflows(name):
    apply, params = load_facenet(name)
    found = np.asarray(jax.jit(apply)(params, facenet.inputs()))
    with np.load(facenet.FILE) as golden:
        np.testing.assert_allclose(found, golden[name], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
