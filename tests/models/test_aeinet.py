import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.models import population
from identitydp_jax.models.aeinet import (
    AADLayer,
    AEIConfig,
    AEINet,
    Generator,
    GroupNorm,
    variable_shapes,
)
from identitydp_jax.models.face_region import features_region
from identitydp_jax.models.layers import parameter_count
from identitydp_jax.training.configuration import read_config

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
_KEY = jax.random.key(0)
# The number of parameters of every configuration that the repository holds.
PINNED = {
    "paper_celebahq256": 184_346_453,
    "prior128": 19_571_615,
    "smoke_cpu": 481_094,
    "synthetic128": 4_445_208,
    "synthetic128_sface": 3_105_816,
    "synthetic256": 19_565_690,
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


def test_the_file_of_the_model_on_a_pretrained_generator_is_small():
    config = AEIConfig(**read_config(CONFIGS / "prior128.py").network)
    variables = (variable_shapes(config), population.zeros(config.identity_dimension))
    assert 2 * parameter_count(variables) < 40e6  # bytes, in half precision


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 512}, "resolution is 512: choose one of 64, 128, 256"),
        ({"coarse": 32}, "coarse is 32: choose one of 64, 128, 256, 1024"),
    ],
)
def test_a_pretrained_generator_is_cut_where_it_can_be(settings, message):
    AEIConfig(**settings)
    with pytest.raises(UserError, match=message):
        AEIConfig(**settings, fusion="prior")


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


def _checkered(faces, side):
    """Faces that are `side` pixels wide to an encoder, and the same with another fine detail.

    The detail lies inside the region of features and has mean 0 in every coarse pixel.
    """
    factor = faces.shape[1] // side
    whole = (features_region(faces.shape[1])[..., 0] == 1).reshape(side, factor, side, factor)
    inside = np.repeat(np.repeat(whole.all((1, 3)), factor, 0), factor, 1)
    rows, columns = np.indices(inside.shape)
    assert inside.sum() > 200
    return faces, faces + 0.5 * (inside * (-1.0) ** (rows + columns))[..., None]


def _attribute_maps(resolution, *faces):
    """Return the maps of faces (1, 64, 64, 3) for an encoder that sees features at `resolution`."""
    config = dataclasses.replace(
        tiny.CONFIG, coarse=8, finer=False, attribute_resolution=resolution
    )
    faces = jnp.concatenate([jnp.asarray(face, jnp.float32) for face in faces])
    maps = AEINet(config).apply(tiny.variables(config), faces, method="attributes")
    return [np.asarray(x) for x in maps]


@pytest.mark.parametrize("side", [8, 16, 32])
def test_the_attribute_encoder_sees_features_at_its_own_resolution(side):
    face, detailed = _checkered(np.asarray(_inputs(1)[0]), side)
    lighter = face + 0.5 * features_region(64)
    for one, fine, light in _attribute_maps(side, face, detailed, lighter):
        np.testing.assert_allclose(fine, one, atol=1e-5)
        assert np.abs(light - one).max() > 0.01  # what its pixels hold it sees
    # From the face's own resolution on it sees all.
    for one, fine in _attribute_maps(64, face, detailed):
        assert np.abs(fine - one).max() > 0.01


def test_the_attribute_encoder_sees_all_around_the_features():
    face = np.asarray(_inputs(1)[0])
    rows, columns = np.indices(face.shape[1:3])
    outside = features_region(64) == 0
    detailed = face + 0.5 * outside * ((-1.0) ** (rows + columns))[..., None]
    for one, fine in _attribute_maps(8, face, detailed):
        assert np.abs(fine - one).max() > 0.01


@pytest.mark.parametrize(("norm", "alone"), [("pixel", True), ("instance", True), ("batch", False)])
def test_a_face_in_training_is_its_own_unless_the_batch_normalises(norm, alone):
    # Wide enough for the norm of a pixel: over two channels it is but a sign.
    config = AEIConfig(64, 1 / 8, widest=256, norm=norm, coarse=8, finer=False)
    variables, (faces, identity) = tiny.variables(config), _inputs(3)
    # Attributes as in use; in training the encoder normalises by the batch, whatever `norm`.
    maps = AEINet(config).apply(variables, faces, method="attributes")
    generator = {name: tree["generator"] for name, tree in variables.items() if "generator" in tree}

    def draw(places):
        return Generator(config).apply(
            generator, identity[places], [x[places] for x in maps], train=True,
            mutable=["batch_stats"],
        )[0]  # fmt: skip

    apart = np.abs(draw(slice(0, 3))[:2] - draw(slice(0, 2))).max()
    assert apart < 1e-4 if alone else apart > 0.01


@pytest.mark.parametrize(("encoder_norm", "alone"), [("group", True), ("batch", False)])
def test_attributes_in_training_are_a_faces_own_by_norms_of_groups(encoder_norm, alone):
    config = AEIConfig(64, 1 / 8, encoder_norm=encoder_norm, coarse=8, finer=False)
    variables, (faces, _) = tiny.variables(config), _inputs(3)

    @functools.partial(jax.jit, static_argnames="train")
    def attributes(faces, train):
        return AEINet(config).apply(
            variables, faces, train=train, method="attributes", mutable=["batch_stats"]
        )[0]

    whole, part, used = (
        attributes(faces, True),
        attributes(faces[:2], True),
        attributes(faces, False),
    )
    apart = [np.abs(a[:2] - b).max() for a, b in zip(whole, part, strict=True)]
    changed = [np.abs(a - b).max() for a, b in zip(whole, used, strict=True)]
    assert max(*apart, *changed) < 1e-4 if alone else min(*apart, *changed) > 0.01
    assert ("batch_stats" in variables) != alone


def test_groups_of_channels_are_normalised():
    x = jnp.asarray(np.random.default_rng(0).normal(2, 3, (2, 4, 4, 16)), jnp.float32)
    norm = GroupNorm()
    found = np.asarray(norm.apply(norm.init(_KEY, x, train=True), x, train=True))
    groups = found.reshape(2, 16, 8, 2)
    np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(groups.std((1, 3)), 1, atol=1e-3)


def test_norm_per_pixel_lets_no_spike_grow():
    """One pixel of a map a thousand times too bright: what blocks give stays as it was elsewhere.

    Normalised over the map the spike is all that is left.
    """
    config = dataclasses.replace(tiny.CONFIG, norm="pixel")
    rng = np.random.default_rng(0)
    h = jnp.asarray(rng.normal(size=(1, 8, 8, 32)), jnp.float32)
    spiked = h.at[0, 3, 4].mul(1e3)
    maps, identity = jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 512))
    change = {}
    for norm in ("pixel", "instance"):
        layer = AADLayer(dataclasses.replace(config, norm=norm))
        shapes = jax.eval_shape(lambda x=layer: x.init(_KEY, h, maps, identity, train=True))
        apply = jax.jit(lambda p, h, x=layer: x.apply(p, h, maps, identity, train=True))
        one, other = (apply(tiny.filled(shapes), x) for x in (h, spiked))
        assert np.isfinite(other).all()
        elsewhere = np.ones((8, 8), bool)
        elsewhere[3, 4] = False
        change[norm] = np.abs(other - one)[0][elsewhere].max()
        if norm == "pixel":
            assert np.abs(other).max() < np.sqrt(32)  # no entry of 32 that have variance 1 is more
    assert change["pixel"] < 1e-5 and change["instance"] > 0.1


def _leaves(config):
    flat = jax.tree_util.tree_leaves_with_path(variable_shapes(config))
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in flat}


@pytest.mark.parametrize("side", [8, 32])
def test_a_network_of_coarse_faces_is_a_part_of_the_whole_one(side):
    config = dataclasses.replace(tiny.CONFIG, norm="pixel", coarse=side)
    coarse, whole = _leaves(dataclasses.replace(config, finer=False)), _leaves(config)
    assert coarse.items() <= whole.items()
    blocks = {8: 3, 32: 5}[side]
    names = " ".join(coarse)
    assert f"block{blocks - 1}" in names and f"block{blocks}" not in names
    assert f"up{blocks - 2}" in names and f"up{blocks - 1}" not in names
    # The paper's network has no coarse face, and one of the full size is none.
    paper = _leaves(dataclasses.replace(tiny.CONFIG, norm="pixel"))
    assert _leaves(dataclasses.replace(config, coarse=64)) == paper
    added = " ".join(whole.keys() - paper.keys())
    assert len(whole) == len(paper) + 3 and "['coarse']" in added and "['gain']" in added


def test_finer_blocks_add_to_the_coarse_face_by_their_gain():
    config = dataclasses.replace(tiny.CONFIG, norm="pixel", coarse=16)
    variables, (faces, identity) = tiny.variables(config), _inputs(2)

    def draw(config, gain):
        variables["params"]["generator"]["gain"] = jnp.full(3, gain)
        return np.asarray(AEINet(config).apply(variables, faces, identity))

    coarse = draw(dataclasses.replace(config, finer=False), 1.0)
    np.testing.assert_allclose(draw(config, 0.0), coarse, atol=1e-6)
    assert np.abs(draw(config, 1.0) - coarse).mean() > 0.02


def test_coarse_faces_are_enlarged_to_the_resolution():
    config = dataclasses.replace(tiny.CONFIG, norm="pixel", coarse=16, finer=False)
    variables = tiny.variables(config)
    net, (faces, identity) = AEINet(config), _inputs(2)
    maps = net.apply(variables, faces, method="attributes")
    assert [x.shape[1] for x in maps] == [2, 4, 8, 16]
    drawn = np.asarray(net.apply(variables, identity, maps, method="draw"))
    assert drawn.shape == (2, 64, 64, 3) and drawn.std() > 0.02
    # Of one quarter of the resolution: what is finer is interpolated, before tanh.
    before = np.arctanh(np.clip(drawn, -0.9999, 0.9999))
    bend = np.abs(np.diff(before[:, 8:-8, 8:-8], 2, axis=1))
    steps = np.abs(np.diff(before[:, 8:-8, 8:-8], axis=1))
    assert bend.mean() < 0.5 * steps.mean()


def test_layers_are_as_wide_as_the_widest():
    params = variable_shapes(AEIConfig(64, 0.5, widest=256))["params"]
    down = [params["encoder"][f"down{i}"]["kernel"].shape[-1] for i in range(5)]
    assert down == [16, 32, 64, 128, 128]
    blocks = [params["generator"][f"block{i}"]["second_conv"]["kernel"] for i in range(6)]
    assert [kernel.shape[-1] for kernel in blocks] == [128, 128, 128, 64, 32, 3]


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
        ({"widest": 0}, "widest is 0"),
        ({"attribute_resolution": 24}, "attribute_resolution is 24: choose one of 8, 16, 32"),
        ({"coarse": 0}, "coarse is 0: choose one of 8, 16, 32"),
    ],
)
def test_settings_that_no_network_has_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        AEIConfig(**settings)
