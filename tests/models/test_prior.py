"""The paper's network on a pretrained generator: what it starts from, and what it can't do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax.models import cut_source
from identitydp_jax.models.aeinet import AEIConfig, AEINet
from identitydp_jax.models.cut_source import CutSource
from identitydp_jax.models.face_region import core_region
from identitydp_jax.models.prior import (
    PasteMask,
    PriorGenerator,
    hold,
    style_excess,
    style_space,
)
from identitydp_jax.training import state as states

CONFIG = AEIConfig(64, 1 / 32, widest=192, fusion="prior", encoder_norm="group")
_ADDED = {"aad4", "aad8", "aad16", "aad32", "aad64", "styles"}


@pytest.fixture(scope="module")
def source():
    with tiny.small_source() as params:
        yield params


@pytest.fixture(scope="module")
def params(source):
    """The parameters of a network that has learned nothing."""
    config = tiny.training_config("network.coarse=64", name="prior128")
    assert states.network_config(config).fusion == "prior"
    return states.create(config).params


def _identities(count):
    rows = np.random.default_rng(0).normal(size=(count, 512)).astype(np.float32)
    return jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _maps(config, count, seed):
    faces = jax.ShapeDtypeStruct((count, config.resolution, config.resolution, 3), jnp.float32)
    net = AEINet(config)
    variables = jax.eval_shape(
        net.init, jax.random.key(0), faces, jax.ShapeDtypeStruct((count, 512), jnp.float32)
    )
    shapes = jax.eval_shape(lambda v, x: net.apply(v, x, method="attributes"), variables, faces)
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in shapes]


@pytest.fixture(scope="module")
def draw(source, params):
    """Return `draw(generator, identities, maps)` to faces and style codes."""
    net = PriorGenerator(CONFIG)

    @jax.jit
    def draw(generator, identities, maps):
        faces, sown = net.apply(
            {"params": generator}, identities, maps, train=False, mutable=["penalties"]
        )
        return faces, sown["penalties"]["codes"][0]

    return draw


def test_an_untrained_network_draws_the_pretrained_face_of_its_styles(params, draw):
    generator, identities = params["generator"], _identities(3)
    faces, codes = draw(generator, identities, _maps(CONFIG, 3, 0))
    assert faces.shape == (3, 64, 64, 3) and codes.shape == (3, 5, 512)
    # Attribute maps have no say yet.
    others, same = draw(generator, identities, _maps(CONFIG, 3, 1))
    np.testing.assert_array_equal(others, faces)
    np.testing.assert_array_equal(same, codes)
    kept = {name: value for name, value in generator.items() if name not in _ADDED}
    del kept["style_mean"], kept["style_deviation"]
    plain = jax.jit(CutSource(64).apply)({"params": kept}, codes)
    np.testing.assert_array_equal(plain, faces)
    assert np.abs(faces[0] - faces[1]).max() > 1e-3
    # Identities are followed by codes alone, and those by their gain.
    flat = {**generator, "styles": {**generator["styles"], "gain": jnp.zeros((5, 1))}}
    mean, codes = draw(flat, identities, _maps(CONFIG, 3, 0))
    np.testing.assert_allclose(codes, np.broadcast_to(flat["style_mean"], codes.shape), atol=1e-6)
    np.testing.assert_allclose(mean[1:], mean[:-1], atol=1e-5 * np.abs(mean).max())


def test_every_attribute_map_modulates_features_of_its_size(params, draw):
    generator, identities, maps = params["generator"], _identities(2), _maps(CONFIG, 2, 0)
    still, _ = draw(generator, identities, maps)
    for size in (4, 8, 16, 32, 64):
        layer = generator[f"aad{size}"]
        kernel = 0.1 * jnp.ones_like(layer["change"]["kernel"])
        moved = {**layer, "change": {**layer["change"], "kernel": kernel}}
        there = [m + 1.0 * (m.shape[1] == size) for m in maps]
        one, other = (
            draw({**generator, f"aad{size}": moved}, identities, m)[0] for m in (maps, there)
        )
        assert np.abs(one - still).max() > 1e-4 and np.abs(other - one).max() > 1e-4
        # A share of 1 keeps the features as they are.
        bias = jnp.full_like(layer["share"]["bias"], 100.0)
        shut = {**moved, "share": {**layer["share"], "bias": bias}}
        found, _ = draw({**generator, f"aad{size}": shut}, identities, maps)
        np.testing.assert_allclose(found, still, atol=1e-6)


def test_pretrained_layers_are_held_and_nothing_else(source, params):
    held = {*cut_source.pretrained(source, 64), "style_mean", "style_deviation"} - {"tail64"}

    def total(generator):
        return sum(leaf.sum() for leaf in jax.tree.leaves(hold(generator)))

    gradient = jax.grad(total)(params["generator"])
    assert gradient.keys() == held | _ADDED | {"tail64"}
    for name, layer in gradient.items():
        for leaf in jax.tree.leaves(layer):
            np.testing.assert_array_equal(leaf, 0.0 if name in held else 1.0, err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, hold(params["generator"]), params["generator"])


def test_styles_of_nobody_cost_nothing_and_strange_ones_by_their_distance():
    rng = np.random.default_rng(0)
    # As the last activation of the mapping gives them: negative entries shrunk to a fifth.
    wide = rng.normal(0.3, 1, (3000, 512)) * np.geomspace(2, 0.2, 512)
    shrunk = np.where(wide < 0, wide / 5, wide).astype(np.float32)
    space = style_space(shrunk)
    mean = wide.mean(0)

    def excess(strange, rows=50):
        moved = mean + strange * (wide[:rows] - mean)
        styles = np.where(moved < 0, moved / 5, moved).astype(np.float32)
        return float(style_excess(space, jnp.asarray(styles.reshape(-1, 2, 512))))

    assert excess(0.0) == 0 and excess(0.8) < 1e-3 and excess(1.0) < 0.05
    distances = (((wide[:50] - mean) / wide.std(0)) ** 2).mean(1)
    np.testing.assert_allclose(excess(3.0), (9 * distances - 1).mean(), rtol=0.05)
    # One code of many that is strange is not made up for by the others.
    codes = np.repeat(shrunk.mean(0)[None, None], 4, 1)
    codes[0, 2] = 10.0
    assert style_excess(space, jnp.asarray(codes)) > 1


def test_styles_that_vary_little_are_not_asked_to_fit_closely():
    styles = np.random.default_rng(0).normal(size=(2000, 512)).astype(np.float32)
    styles[:, 100:] = 0.5 + 1e-6 * styles[:, 100:]
    moved = np.abs(styles[:1, None].mean(0, keepdims=True)) * 0
    moved = np.where(np.arange(512) < 100, moved, 0.501).astype(np.float32)
    assert style_excess(style_space(styles), jnp.asarray(moved)) < 1


def test_a_paste_mask_never_uncovers_the_core_of_a_face():
    config, core = CONFIG, core_region(64)
    maps, net = _maps(config, 4, 0), PasteMask()
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), maps, 64))

    def mask(kernel, bias):
        values = {"kernel": kernel, "bias": bias}
        logit = {
            name: jnp.asarray(np.broadcast_to(values[name], leaf.shape), jnp.float32)
            for name, leaf in shapes["params"]["logit"].items()
        }
        return np.asarray(net.apply({"params": {"logit": logit}}, maps, 64))

    rng = np.random.default_rng(1)
    shape = shapes["params"]["logit"]["kernel"].shape
    for kernel, bias in ((rng.normal(0, 9, shape), 0.0), (rng.normal(size=shape), -9.0)):
        found = mask(kernel, bias)
        assert found.shape == (4, 64, 64, 1)
        assert (found[:, core[..., 0] == 1] == 1).all()
        assert (found >= core - 1e-6).all() and (found <= 1 + 1e-6).all()
        assert found[:, core[..., 0] == 0].std() > 1e-4  # elsewhere the maps decide
    np.testing.assert_allclose(mask(0.0, -99.0), np.broadcast_to(core, found.shape), atol=1e-6)
    # At first it shows most of the face.
    assert 0.8 < mask(0.0, 0.0).min() < 1
