"""The losses against the formulas, written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from identitydp_jax.models import face_geometry
from identitydp_jax.training import losses


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _logits(seed):
    return [2 * _random(4, side, side, 1, seed=seed + side) for side in (5, 3, 2)]


def _sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def _same(found, expected):
    assert found.dtype == jnp.float32
    assert found.shape == ()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_log_loss_is_equation_14():
    real, fake = _logits(0), _logits(10)
    expected = np.mean([-np.log(_sigmoid(x)).mean() for x in real])
    expected += np.mean([-np.log(1 - _sigmoid(x)).mean() for x in fake])
    _same(losses.discriminator_adversarial(real, fake, "log"), expected)
    # The generator's form does not saturate: -log D instead of log(1 - D).
    _same(
        losses.generator_adversarial(fake, "log"),
        np.mean([-np.log(_sigmoid(x)).mean() for x in fake]),
    )


def test_hinge_loss():
    real, fake = _logits(0), _logits(10)
    expected = np.mean([np.maximum(0, 1 - x).mean() for x in real])
    expected += np.mean([np.maximum(0, 1 + x).mean() for x in fake])
    _same(losses.discriminator_adversarial(real, fake, "hinge"), expected)
    _same(losses.generator_adversarial(fake, "hinge"), -np.mean([x.mean() for x in fake]))


@pytest.mark.parametrize("kind", losses.KINDS)
def test_adversaries_want_opposite_things(kind):
    low, high = [np.full((1, 2, 2, 1), -0.5, np.float32)], [np.full((1, 2, 2, 1), 0.5, np.float32)]
    assert losses.generator_adversarial(high, kind) < losses.generator_adversarial(low, kind)
    right = losses.discriminator_adversarial(high, low, kind)
    assert right < losses.discriminator_adversarial(low, high, kind)


def test_every_scale_counts_the_same():
    small, large = np.full((1, 2, 2, 1), 1.0, np.float32), np.full((1, 9, 9, 1), 3.0, np.float32)
    _same(losses.generator_adversarial([small, large], "hinge"), -2.0)


def test_identity_is_equation_15():
    a, b = _random(6, 512, seed=1), _random(6, 512, seed=2)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    expected = np.mean([1 - float(x @ y) for x, y in zip(a, b, strict=True)])
    _same(losses.identity(a, b), expected)
    np.testing.assert_allclose(losses.identity(a, a), 0, atol=1e-6)
    np.testing.assert_allclose(losses.identity(a, -a), 2, rtol=1e-6)
    np.testing.assert_allclose(losses.cosine(a, b), (a * b).sum(1), rtol=1e-5, atol=1e-7)


def test_leak_counts_only_what_exceeds_the_target():
    own = np.eye(512, dtype=np.float32)[:3]

    def at(cosine):
        rows = np.zeros((3, 512), np.float32)
        rows[:, 7] = np.sqrt(1 - np.square(cosine))
        rows[np.arange(3), np.arange(3)] = cosine
        return rows

    target = at([0.5, 0.0, -0.2])
    _same(losses.leak(at([0.8, -0.3, 0.1]), own, target), (0.3 + 0.0 + 0.3) / 3)
    assert losses.leak(target, own, target) == 0


@pytest.mark.parametrize("reduction", losses.REDUCTIONS)
def test_attributes_is_equation_16(reduction):
    maps = [_random(3, side, side, channels, seed=side) for side, channels in ((2, 8), (4, 5))]
    targets = [_random(*x.shape, seed=20 + x.shape[1]) for x in maps]
    expected = 0.0
    for a, b in zip(maps, targets, strict=True):
        squares = (a.astype(np.float64) - b) ** 2
        expected += squares.sum() / 3 if reduction == "sum" else squares.mean()
    _same(losses.attributes(maps, targets, reduction), expected / 2)


@pytest.mark.parametrize("reduction", losses.REDUCTIONS)
def test_reconstruction_is_equation_17(reduction):
    drawn, faces = _random(4, 8, 8, 3, seed=1), _random(4, 8, 8, 3, seed=2)
    same = np.array([1, 0, 1, 0], np.float32)
    expected = 0.0
    for i in (0, 2):
        squares = (drawn[i].astype(np.float64) - faces[i]) ** 2
        expected += squares.sum() if reduction == "sum" else squares.mean()
    weight = same[:, None, None, None]
    _same(losses.reconstruction(drawn, faces, weight, reduction), expected / 2 / 4)


def test_reconstruction_is_zero_where_identity_and_attributes_differ():
    drawn, faces = _random(2, 8, 8, 3, seed=1), _random(2, 8, 8, 3, seed=2)
    assert losses.reconstruction(drawn, faces, np.zeros((2, 1, 1, 1), np.float32), "mean") == 0


def test_reconstruction_weighs_pixels():
    drawn, faces = _random(2, 8, 8, 3, seed=1), _random(2, 8, 8, 3, seed=2)
    weight = np.zeros((2, 8, 8, 1), np.float32)
    weight[:, :2] = 0.25
    expected = 0.5 * 0.25 * ((drawn - faces)[:, :2].astype(np.float64) ** 2).sum() / 2
    _same(losses.reconstruction(drawn, faces, weight, "sum"), expected)


def test_texture_is_the_mean_over_layers_of_absolute_differences():
    drawn = [_random(4, side, side, 3, seed=side) for side in (6, 3)]
    truth = [_random(*x.shape, seed=20 + x.shape[1]) for x in drawn]
    errors = [np.abs(a - b).mean((1, 2, 3)) for a, b in zip(drawn, truth, strict=True)]
    weight = np.array([1, 0, 0.5, 0], np.float32)
    _same(losses.texture(drawn, truth, weight), np.mean([weight * error for error in errors]))


def test_texture_is_nothing_where_features_are_equal_or_the_truth_unknown():
    drawn = [_random(2, 5, 5, 3)]
    truth = [drawn[0] + np.array([0, 1], np.float32)[:, None, None, None]]
    assert losses.texture(drawn, drawn, np.ones(2, np.float32)) == 0
    assert losses.texture(drawn, truth, np.array([1, 0], np.float32)) == 0
    _same(losses.texture(drawn, truth, np.array([0, 1], np.float32)), 0.5)


def test_colour_sees_blocks_and_no_features():
    faces = _random(2, 16, 16, 3)
    brighter = faces + np.float32(0.2)
    _same(losses.colour(brighter, faces), 0.5 * 0.2**2)
    stripes = faces + np.where(np.arange(16) % 2, 0.5, -0.5).astype(np.float32)[:, None]
    np.testing.assert_allclose(losses.colour(stripes, faces), 0, atol=1e-10)
    one_block = faces.copy()
    one_block[0, 8:, :8, 1] += 0.4
    _same(losses.colour(one_block, faces), 0.5 * 0.4**2 / (2 * 4 * 3))


def test_landmarks_is_the_drift_of_the_evaluation():
    from identitydp_jax.evaluation.landmarks import drift

    rng = np.random.default_rng(0)
    others = rng.uniform(0.2, 0.8, (5, 68, 2)).astype(np.float32)
    points = others + rng.normal(0, 0.05, others.shape).astype(np.float32)
    found = losses.landmarks(jnp.asarray(points), jnp.asarray(others))
    np.testing.assert_allclose(found, drift(others, points).mean(), rtol=1e-3)
    # The jaw does not count, and points that did not move have a gradient.
    points[:, 17:] = others[:, 17:]
    found, gradient = jax.value_and_grad(losses.landmarks)(jnp.asarray(points), jnp.asarray(others))
    assert found < 0.01
    np.testing.assert_array_equal(gradient, 0)


def test_detail_is_what_blocks_have_more_of():
    faces, drawn = np.zeros((2, 16, 16, 3), np.float32), np.zeros((2, 16, 16, 3), np.float32)
    stripes = np.where(np.arange(8) % 2, 0.3, -0.3).astype(np.float32)[None, :, None]
    drawn[0, :8, :8] += stripes  # more than there was
    drawn[1, 8:, 8:] += stripes  # as much as there was, elsewhere in the block
    faces[1, 8:, 8:] -= stripes
    faces[1, :8, :8] += stripes  # less than there was
    found = losses.detail(jnp.asarray(drawn), jnp.asarray(faces))
    _same(found, (np.sqrt(0.09 + 1e-6) - 1e-3) / 8)
    # Colours and light are no detail.
    _same(losses.detail(jnp.asarray(faces + 0.3), jnp.asarray(faces)), 0.0)


def test_surroundings_sees_what_lies_outside_the_region_of_known_rows():
    drawn, truth, region = _random(3, 8, 8, 3), _random(3, 8, 8, 3, seed=1), _random(8, 8, 1) > 0
    region = region.astype(np.float32)
    weight = np.array([1, 0, 1], np.float32)
    error = (1 - region) * (drawn - truth) ** 2
    _same(losses.surroundings(drawn, truth, weight, region), 0.5 * (error[0] + error[2]).mean() / 3)
    inside = truth + region * _random(3, 8, 8, 3, seed=2)
    assert losses.surroundings(inside, truth, weight, region) == 0


def test_edge_sees_the_rim_alone():
    region = np.zeros((8, 8, 1), np.float32)
    region[2:6], region[1], region[6] = 1.0, 0.5, 0.1
    drawn, faces = _random(2, 8, 8, 3), _random(2, 8, 8, 3, seed=1)
    squares = (drawn - faces) ** 2
    expected = 0.5 * (squares[:, 1].mean() + 0.36 * squares[:, 6].mean()) / 8
    _same(losses.edge(drawn, faces, region), expected)


def test_seam_asks_the_mask_to_show_what_goes_with_the_photo():
    faces, region = np.zeros((2, 16, 16, 3), np.float32), np.ones((16, 16, 1), np.float32)
    region[8:] = 0.0
    drawn = faces.copy()
    drawn[0], drawn[1] = 0.5, 0.1  # more and less than a tenth of the range of colours
    mask = np.full((2, 16, 16, 1), 0.75, np.float32)
    _same(losses.seam(drawn, faces, mask, region), 0.5 * 0.75 * (0.3 - 0.1) / 2)
    ask = jax.grad(losses.seam, argnums=(0, 2))
    of_drawn, of_mask = ask(jnp.asarray(drawn), jnp.asarray(faces), jnp.asarray(mask), region)
    np.testing.assert_array_equal(of_drawn, 0)  # the face goes its own way
    assert (of_mask[0, :8] > 0).all() and (of_mask[1, :8] < 0).all() and not of_mask[:, 8:].any()
    # Stripes within four pixels are no seam.
    stripes = np.where(np.arange(16) % 2, 0.9, -0.9).astype(np.float32)[:, None]
    fine = np.float32(losses.seam(faces + stripes, faces, mask, region))
    np.testing.assert_allclose(fine, -0.5 * 0.75 * 0.2, rtol=1e-5)


def test_an_expression_costs_what_moves_and_what_opens_or_closes():
    rng = np.random.default_rng(0)
    mesh = jnp.asarray(rng.uniform(0.2, 0.8, (2, 468, 3)), jnp.float32)
    assert losses.expression(mesh, mesh) == pytest.approx(0.0, abs=1e-4)
    lips = np.array([pair[0] for pair in face_geometry._INNER_LIP_PAIRS])
    opened = mesh.at[:, lips, 1].add(-0.1)
    shifted = mesh.at[:, np.array(face_geometry.BROWS), 0].add(0.1)
    drift = [face_geometry.drift(mesh, x).mean() for x in (opened, shifted)]
    assert losses.expression(opened, mesh) > drift[0] + 0.01
    np.testing.assert_allclose(losses.expression(shifted, mesh), drift[1], rtol=1e-3)
    jaw = mesh.at[:, 152].add(0.3)
    assert losses.expression(jaw, mesh) == pytest.approx(0.0, abs=1e-4)
