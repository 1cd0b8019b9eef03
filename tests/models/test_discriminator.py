import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax.models.discriminator import Discriminator
from identitydp_jax.models.layers import average_pool, conv, parameter_count


def _shapes(net, resolution):
    faces = jax.ShapeDtypeStruct((1, resolution, resolution, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), faces)
    return variables["params"], *jax.eval_shape(net.apply, variables, faces)


@pytest.mark.parametrize(
    ("layers", "count", "sides"),
    [(3, 8_291_523, [35, 19, 11]), (6, 46_040_259, [7, 5, 4])],
)
def test_full_size(layers, count, sides):
    params, logits, _ = _shapes(Discriminator(layers), 256)
    assert parameter_count(params) == count
    assert [x.shape for x in logits] == [(1, side, side, 1) for side in sides]


@pytest.mark.parametrize("resolution", [64, 128, 512])
def test_every_resolution_gives_three_maps(resolution):
    _, logits, _ = _shapes(Discriminator(6, 1 / 32), resolution)
    assert len(logits) == 3
    assert all(x.shape[1] >= 2 for x in logits)


def test_width_scales_channels():
    params, *_ = _shapes(Discriminator(3, 0.25), 64)
    assert [params["scale0"][f"conv{i}"]["kernel"].shape[-1] for i in range(4)] == [16, 32, 64, 128]


def test_features_are_those_of_every_convolution_of_every_scale():
    _, _, features = _shapes(Discriminator(3, 0.25), 64)
    assert [x.shape[1:] for x in features] == [
        (side, side, channels)
        for sides in ((33, 17, 9, 10), (17, 9, 5, 6), (9, 5, 3, 4))
        for side, channels in zip(sides, (16, 32, 64, 128), strict=True)
    ]


def test_logits_are_read_from_the_last_features():
    net = Discriminator(1, 1 / 32, scales=1)
    params = tiny.filled(_shapes(net, 64)[0])
    logits, features = net.apply({"params": params}, jnp.asarray(tiny.faces(2), jnp.float32) / 255)
    score = params["scale0"]["score"]
    expected = conv(features[-1], score["kernel"], padding=2) + score["bias"]
    np.testing.assert_allclose(logits[0], expected, rtol=1e-4, atol=1e-5)


def test_scales_judge_smaller_faces_with_their_own_parameters():
    net = Discriminator(1, 1 / 32)
    params = tiny.filled(_shapes(net, 64)[0])
    faces = jnp.asarray(tiny.faces(2), jnp.float32) / 255

    @jax.jit
    def judge(params, faces):
        return net.apply({"params": params}, faces)[0]

    logits = judge(params, faces)
    halves = judge({**params, "scale0": params["scale1"]}, average_pool(faces))
    np.testing.assert_allclose(halves[0], logits[1], rtol=1e-4, atol=1e-5)
    others = judge({**params, "scale2": jax.tree.map(lambda x: x + 0.1, params["scale2"])}, faces)
    np.testing.assert_array_equal(others[0], logits[0])
    np.testing.assert_array_equal(others[1], logits[1])
    assert np.abs(others[2] - logits[2]).max() > 1e-3
