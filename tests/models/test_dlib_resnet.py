import jax
import jax.numpy as jnp
import numpy as np
import pytest

from identitydp_jax.models import dlib_resnet
from identitydp_jax.models.dlib_resnet import DlibResNet
from identitydp_jax.weights import cache, dlib_file


def test_parameter_count_and_shape():
    chip = jax.ShapeDtypeStruct((2, 150, 150, 3), jnp.float32)
    found, variables = jax.eval_shape(DlibResNet().init_with_output, jax.random.key(0), chip)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 5_607_488
    assert (found.shape, found.dtype) == ((2, 128), jnp.float32)


def test_sum_of_different_sizes_fills_with_zeros():
    a, b = jnp.ones((1, 3, 2, 2)), jnp.full((1, 2, 3, 1), 5.0)
    total = dlib_resnet._padded_sum(a, b)
    assert total.shape == (1, 3, 3, 2)
    np.testing.assert_array_equal(total[0, :, :, 0], [[6, 6, 5], [6, 6, 5], [1, 1, 0]])
    np.testing.assert_array_equal(total[0, :, :, 1], [[1, 1, 0], [1, 1, 0], [1, 1, 0]])


def test_other_layers_are_refused():
    with pytest.raises(ValueError, match="layers are others"):
        dlib_resnet.convert([("con", np.zeros(3, np.float32))])


@pytest.mark.network
def test_converted_network_equals_dlib():
    dlib = pytest.importorskip("dlib")
    path = cache.path("dlib_resnet")
    apply, params = dlib_resnet.load_dlib_resnet()
    expected = jax.eval_shape(DlibResNet().init, jax.random.key(0), jnp.zeros((1, 150, 150, 3)))[
        "params"
    ]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (1, 150, 150, 3), np.uint8)
    coarse = random.integers(0, 256, (1, 6, 6, 3), np.uint8).repeat(25, 1).repeat(25, 2)
    chips = np.concatenate([noise, coarse])
    reference = dlib.face_recognition_model_v1(str(path))
    wanted = np.array([reference.compute_face_descriptor(chip) for chip in chips])
    found = jax.jit(apply)(params, chips.astype(np.float32))
    assert np.abs(wanted[0] - wanted[1]).max() > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert len(dlib_file.read(path)) == 59
