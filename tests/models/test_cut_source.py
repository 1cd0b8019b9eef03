"""MobileStyleGAN cut: the faces of the whole one, from the same styles."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from skimage.metrics import peak_signal_noise_ratio

from identitydp_jax.models import cut_source, face_source, prior
from identitydp_jax.models.cut_source import CutSource, Tail, collapse, draw_twins, twin_styles
from identitydp_jax.models.face_source import synthesis_block
from identitydp_jax.models.layers import parameter_count, reduce


@pytest.fixture
def source():
    with tiny.small_source() as params:
        yield params


def _keys(count):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(5), i))(jnp.arange(count))


@pytest.mark.parametrize(("side", "count"), [(64, 6_936_339), (128, 7_255_635), (256, 7_562_739)])
def test_shapes_and_parameter_counts(side, count):
    styles = jax.ShapeDtypeStruct((2, cut_source.style_count(side), 512), jnp.float32)
    faces, variables = jax.eval_shape(CutSource(side).init_with_output, jax.random.key(0), styles)
    assert faces.shape == (2, side, side, 3) and faces.dtype == jnp.float32
    assert parameter_count(variables) == count


@pytest.mark.parametrize("side", [64, 128, 256])
def test_what_is_taken_over_are_the_parameters_of_the_cut_generator(source, side):
    styles = jax.ShapeDtypeStruct((1, cut_source.style_count(side), 512), jnp.float32)
    expected = jax.eval_shape(CutSource(side).init, jax.random.key(0), styles)["params"]
    found = cut_source.pretrained(source, side)
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, expected)


def _averaged_convolution(x, kernel, factor):
    """Enlarge (S, S) by blocks, filter with zeros around, average over the blocks again."""
    large = np.pad(np.kron(x, np.ones((factor, factor))), 1)
    side = len(large) - 2
    parts = [kernel[i, j] * large[i : i + side, j : j + side] for i in range(3) for j in range(3)]
    return sum(parts).reshape(len(x), factor, -1, factor).mean((1, 3))


@pytest.mark.parametrize("side", [64, 128, 256])
def test_collapsed_kernels_do_to_blocks_what_the_kernels_do_on_average(source, side):
    tail, x = collapse(source, side), np.random.default_rng(0).normal(size=(side, side))
    for index in range(int(np.log2(side)) - 2, 7):
        for part in "ab":
            kernel = source[f"conv_{index}_{part}"]["depthwise"][..., 0, 1]
            collapsed = tail[f"conv_{index}_{part}"]["depthwise"][..., 0, 1]
            expected = _averaged_convolution(x, kernel, 2 ** (index + 3) // side)
            found = _averaged_convolution(x, collapsed, 1)
            np.testing.assert_allclose(found, expected, atol=1e-5)


def _without_detail(source, side):
    """Parameters whose maps beyond the cut are the same over blocks of the cut's pixels."""
    source, rng = dict(source), np.random.default_rng(1)
    for index in range(int(np.log2(side)) - 2, 7):
        up = source[f"up_{index}"]
        low = np.arange(up["bias"].size) < up["bias"].size // 4
        source[f"up_{index}"] = {name: value * low for name, value in up.items()}
        factor = 2 ** (index + 3) // side
        for name in (f"conv_{index}_a", f"conv_{index}_b"):
            centre = np.zeros((3, 3, 1, 1), np.float32)
            centre[1, 1] = 1
            noise = np.kron(rng.normal(size=(side, side)), np.ones((factor, factor)))
            source[name] = {
                **source[name],
                "depthwise": source[name]["depthwise"] + 3 * centre,
                "noise": noise[..., None].astype(np.float32),
            }
            source[name]["depthwise"] = source[name]["depthwise"] * centre
    return source


@pytest.mark.parametrize("side", [64, 256])
def test_the_tail_is_the_rest_of_the_generator_for_maps_without_detail(source, side):
    source, first = _without_detail(source, side), int(np.log2(side)) - 2
    rng = np.random.default_rng(0)
    width = face_source.WIDTHS[first - 1]
    x = jnp.asarray(rng.normal(size=(1, side, side, width)), jnp.float32)
    style = jnp.asarray(rng.normal(size=(1, 512)), jnp.float32)

    class Rest(nn.Module):
        """What `FaceSource` does after features of `side` px."""

        @nn.compact
        def __call__(self, x, style):
            for index in range(first, 7):
                x = synthesis_block(x, style, index)
            return x * nn.Dense(x.shape[-1], name="head_style")(style)[:, None, None]

    names = [name for name in source if name.startswith(("up_", "conv_"))]
    rest = {name: source[name] for name in (*names, "head_style")}
    with jax.default_matmul_precision("highest"):
        features = jax.jit(Rest().apply)({"params": rest}, x, style)
        low = features @ source["head_kernel"][:, :3] + source["head_bias"][:3]
        expected = 0.5 * reduce(low, side)
        found = jax.jit(Tail().apply)({"params": collapse(source, side)}, x, style)
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_twins_share_all_styles_but_those_of_16_and_32_px(source):
    params = {name: source[name] for name in ("mapping", "mean_style")}
    own, twins = (np.asarray(x) for x in twin_styles(params, _keys(3), side=128))
    assert own.shape == twins.shape == (3, 6, 512)
    pixels = 4 * 2 ** np.arange(6)
    for code, side in enumerate(pixels):
        same = np.all(own[:, code] == twins[:, code], axis=1)
        np.testing.assert_array_equal(same, side not in (16, 32))
        np.testing.assert_array_equal(own[:, code], own[:, 0])
    np.testing.assert_array_equal(twins[:, 2], twins[:, 3])


def test_a_pair_is_drawn_from_the_styles_that_are_told(source):
    params = cut_source.load(64)
    pairs = np.asarray(draw_twins(params, _keys(2), side=64))
    styles = twin_styles(params, _keys(2), side=64)
    kept = cut_source.pretrained(source, 64)
    for i, codes in enumerate(styles):
        drawn = jnp.clip(CutSource(64).apply({"params": kept}, codes), -1, 1)
        np.testing.assert_allclose(pairs[:, i], drawn, atol=1e-5)
    assert np.abs(pairs[:, 0] - pairs[:, 1]).mean() > 1e-3
    picture = cut_source.twins(params, key=_keys(2)[1], side=64)
    assert picture.shape == (64, 128, 3) and picture.dtype == np.uint8
    wide = 127.5 * (np.concatenate([*pairs[1]], axis=1) + 1)
    assert np.abs(np.asarray(picture, float) - wide).max() < 0.51


@pytest.mark.network
def test_cut_faces_are_those_of_the_whole_generator():
    whole = jax.device_put(face_source.load())
    for side, least in ((64, 26.0), (128, 28.5)):
        cut = jax.device_put(cut_source.load(side))
        found, expected = [], []
        for key, again in zip(_keys(3), _keys(3), strict=True):
            found.append(np.asarray(cut_source.twins(cut, key=key, side=side)))
            expected.append(np.asarray(face_source.twins(whole, key=again, resolution=side)))
        pairs = zip(expected, found, strict=True)
        quality = np.mean([peak_signal_noise_ratio(a, b) for a, b in pairs])
        assert quality >= least, f"{quality:.2f} dB at {side} px"


@pytest.mark.network
def test_styles_of_faces_of_nobody_are_not_strange():
    styles = prior.some_styles(face_source.load())
    space, fresh = prior.style_space(styles), jnp.asarray(styles[:200])[:, None]
    assert prior.style_excess(space, fresh) < 0.2 < prior.style_excess(space, 3 * fresh)
