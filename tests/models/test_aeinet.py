import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.models.aeinet import AEIConfig, AEINet, variable_shapes
from identitydp_jax.models.layers import parameter_count
from identitydp_jax.training.configuration import read_config

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
# The number of parameters of every configuration that the repository holds.
PINNED = {
    "paper_celebahq256": 184_346_453,
    "smoke_cpu": 481_076,
    "synthetic128": 4_445_154,
    "synthetic128_sface": 3_105_762,
    "synthetic256": 49_727_413,
}


def _count(config):
    return parameter_count(variable_shapes(config)["params"])


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"resolution": 64}, 66_878_289),
        ({"resolution": 128}, 113_028_947),
        ({}, 184_346_453),
        ({"attribute_kernel": 3, "mask": "channel"}, 446_519_104),
    ],
)
def test_full_size_parameter_counts(settings, count):
    assert _count(AEIConfig(**settings)) == count


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_configuration_has_a_pinned_parameter_count(path):
    assert path.stem in PINNED, f"pin the parameter count of {path.name} in PINNED"
    assert _count(AEIConfig(**read_config(path).network)) == PINNED[path.stem]


def _outputs(config):
    faces = jax.ShapeDtypeStruct((2, config.resolution, config.resolution, 3), jnp.float32)
    identity = jax.ShapeDtypeStruct((2, 512), jnp.float32)
    net, variables = AEINet(config), variable_shapes(config)

    def both(variables, faces, identity):
        maps = net.apply(variables, faces, method="attributes")
        return maps, net.apply(variables, identity, maps, method="draw")

    return jax.eval_shape(both, variables, faces, identity)


@pytest.mark.parametrize("resolution", [64, 128, 256, 512])
def test_every_resolution_draws_faces_of_its_size(resolution):
    maps, drawn = _outputs(AEIConfig(resolution, 1 / 8))
    assert drawn.shape == (2, resolution, resolution, 3)
    assert drawn.dtype == jnp.float32
    assert [x.shape[1] for x in maps] == [2**i for i in range(1, len(maps) + 1)]
    assert maps[-1].shape[1] == resolution


def test_attribute_maps_at_full_size_are_those_of_the_paper():
    maps, _ = _outputs(AEIConfig())
    assert [x.shape[1:] for x in maps] == [
        (2, 2, 1024), (4, 4, 2048), (8, 8, 1024), (16, 16, 512), (32, 32, 256), (64, 64, 128),
        (128, 128, 64), (256, 256, 64),
    ]  # fmt: skip


def test_generator_channels_at_full_size_are_those_of_the_paper():
    params = variable_shapes(AEIConfig())["params"]["generator"]
    blocks = [params[f"block{i}"] for i in range(8)]
    assert [b["second_conv"]["kernel"].shape[-2:] for b in blocks] == [
        (1024, 1024), (1024, 1024), (1024, 1024), (1024, 512), (512, 256), (256, 128), (128, 64),
        (64, 3),
    ]  # fmt: skip
    assert ["skip_conv" in b for b in blocks] == [False] * 3 + [True] * 5


def test_attribute_kernel_sizes_the_convolutions_that_read_maps():
    for kernel in (1, 3):
        config = dataclasses.replace(tiny.CONFIG, attribute_kernel=kernel)
        aad = variable_shapes(config)["params"]["generator"]["block2"]["first_aad"]
        assert aad["attribute"]["kernel"].shape[:2] == aad["mask"]["kernel"].shape[:2]
        assert aad["mask"]["kernel"].shape[:2] == (kernel, kernel)


def test_mask_has_one_channel_or_one_per_feature():
    for mask, features in (("one", 1), ("channel", 32)):
        config = dataclasses.replace(tiny.CONFIG, mask=mask)
        aad = variable_shapes(config)["params"]["generator"]["block0"]["first_aad"]
        assert aad["mask"]["kernel"].shape[-1] == features


def test_batch_norm_in_the_generator_has_statistics_and_no_parameters():
    configs = [dataclasses.replace(tiny.CONFIG, norm=norm) for norm in ("instance", "batch")]
    instance, batch = map(variable_shapes, configs)
    assert "generator" not in instance["batch_stats"]
    statistics = batch["batch_stats"]["generator"]["block0"]["first_aad"]["norm"]["norm"]
    assert statistics["mean"].shape == (32,)
    assert jax.tree.structure(instance["params"]) == jax.tree.structure(batch["params"])


@pytest.fixture(scope="module")
def drawing():
    """Return `draw(variables, faces, identity)` of the tiny network, with its maps."""
    net = AEINet(tiny.CONFIG)

    @jax.jit
    def draw(variables, faces, identity):
        maps = net.apply(variables, faces, method="attributes")
        return net.apply(variables, identity, maps, method="draw"), maps

    return draw


def _inputs(count):
    faces = jnp.asarray(tiny.faces(count), jnp.float32) / 127.5 - 1.0
    identity = np.random.default_rng(3).normal(size=(count, 512)).astype(np.float32)
    return faces, jnp.asarray(identity / np.linalg.norm(identity, axis=1, keepdims=True))


def test_drawn_faces_depend_on_identity_and_attributes(drawing):
    variables = tiny.variables()
    faces, identity = _inputs(2)
    drawn, maps = drawing(variables, faces, identity)
    assert np.abs(drawn).max() <= 1
    assert np.asarray(drawn).std() > 0.05
    other_identity, same_maps = drawing(variables, faces, identity[::-1])
    other_faces, _ = drawing(variables, faces[::-1], identity)
    for a, b in zip(maps, same_maps, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(other_identity - drawn).mean() > 0.02
    assert np.abs(other_faces - drawn).mean() > 0.02


def test_sigmoid_output_is_the_same_head_rescaled(drawing):
    faces, identity = _inputs(2)
    variables = tiny.variables()
    net = AEINet(dataclasses.replace(tiny.CONFIG, output="sigmoid"))
    sigmoid = jax.jit(net.apply)(variables, faces, identity)
    tanh, _ = drawing(variables, faces, identity)
    # 2 sigmoid(h) - 1 = tanh(h / 2); near 1 float32 has lost h.
    usable = np.abs(tanh) < 0.99
    assert usable.mean() > 0.5
    expected = np.tanh(np.arctanh(tanh[usable]) / 2)
    np.testing.assert_allclose(sigmoid[usable], expected, atol=1e-3)


def test_mask_blends_between_attribute_and_identity(drawing):
    """A mask of 1 everywhere leaves nothing of the maps; one of 0 little of the identity."""
    faces, identity = _inputs(2)

    def closed(bias):
        def leaf(path, value):
            names = [entry.key for entry in path]
            if names[-2:] == ["mask", "bias"]:
                return jnp.full_like(value, bias)
            return value

        return jax.tree_util.tree_map_with_path(leaf, tiny.variables())

    for bias, follows_identity in ((40.0, True), (-60.0, False)):
        variables = closed(bias)
        drawn, other_faces, other_identity = (
            drawing(variables, *inputs)[0]
            for inputs in ((faces, identity), (faces[::-1], identity), (faces, identity[::-1]))
        )
        same, moved = other_faces, other_identity
        if not follows_identity:
            same, moved = moved, same
            # The lift of the identity to the first block's input leaves a little.
            assert np.abs(same - drawn).mean() < 0.5 * np.abs(moved - drawn).mean()
        else:
            np.testing.assert_allclose(same, drawn, atol=1e-3)
        assert np.abs(moved - drawn).mean() > 0.02


def test_training_normalises_by_the_batch_and_updates_statistics():
    net, variables = AEINet(tiny.CONFIG), tiny.variables()
    faces, _ = _inputs(2)

    @jax.jit
    def attributes(variables, faces):
        return net.apply(variables, faces, train=True, method="attributes", mutable=["batch_stats"])

    maps, updated = attributes(variables, faces)
    scaled, _ = attributes(variables, 3 * faces + 1)
    # Padding sees the shift, normalisation takes the rest away.
    np.testing.assert_allclose(scaled[0].std(), maps[0].std(), rtol=0.3)
    statistics = updated["batch_stats"]["encoder"]["down0_norm"]["norm"]
    assert np.abs(statistics["mean"]).max() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 100}, "resolution is 100: choose 64, 128, 256 or 512"),
        ({"width": 0.0}, "width is 0.0"),
        ({"width": float("nan")}, "width is nan"),
        ({"attribute_kernel": 2}, "attribute_kernel is 2: choose 1 or 3"),
        ({"mask": "two"}, "mask is 'two': choose one of one, channel"),
        ({"norm": "layer"}, "norm is 'layer'"),
        ({"output": "relu"}, "output is 'relu'"),
    ],
)
def test_settings_that_no_network_has_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        AEIConfig(**settings)
