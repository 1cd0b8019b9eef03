import jax
import numpy as np
import pytest
import tiny

from identitydp_jax.models import landmark_net
from identitydp_jax.models.face_region import face_region, features_region
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.models.population import measure, zeros
from identitydp_jax.training import losses
from identitydp_jax.training import state as states
from identitydp_jax.training.held_out import TARGETS, make_evaluation


@pytest.fixture(scope="module")
def evaluated():
    config = tiny.training_config("data=none")
    pictures = tiny.pictures(5)
    variables = _moved_by_identity(states.create(config).variables)
    evaluate = jax.jit(make_evaluation(config, tiny.encode))
    found = evaluate(variables, tiny.encoder_params(), pictures)
    return config, pictures, variables, evaluate, found


def _moved_by_identity(variables):
    """Give the weights of the identity, which start at zero, values that show in the pictures."""
    rng = np.random.default_rng(0)

    def leaf(path, x):
        scale = 0.3 if "identity" in [part.key for part in path] else 0.0
        return x + scale * rng.standard_normal(x.shape, dtype=np.float32)

    return jax.tree_util.tree_map_with_path(leaf, variables)


def _embed(faces):
    return np.asarray(tiny.encode(tiny.encoder_params(), identity_crop(to_float(faces))))


def test_the_grid_is_the_faces_their_twins_and_one_row_for_every_target(evaluated):
    _, pictures, *_, (_, grid) = evaluated
    assert grid.shape == (2 + len(TARGETS), 5, 64, 64, 3) and grid.dtype == np.uint8
    faces, twins = np.split(pictures, 2, axis=2)
    np.testing.assert_array_equal(grid[0], faces)
    # A twin has another person's features in the face's own place.
    features = features_region(64)[..., 0]
    np.testing.assert_array_equal(grid[1][:, features == 1], twins[:, features == 1])
    np.testing.assert_array_equal(grid[1][:, features == 0], faces[:, features == 0])
    # Everything is drawn in the region of the face alone.
    region = face_region(64)[..., 0]
    for drawn in grid[2:]:
        np.testing.assert_array_equal(drawn[:, region == 0], faces[:, region == 0])
        assert (drawn[:, region == 1] != faces[:, region == 1]).mean() > 0.5


def test_no_more_than_eight_faces_are_shown():
    config = tiny.training_config("data=none", "mixture.twin=0")
    variables, params = jax.eval_shape(
        lambda: (states.create(config).variables, tiny.encoder_params())
    )
    for count, shown in ((9, 8), (3, 3)):
        pictures = jax.ShapeDtypeStruct((count, 64, 64, 3), np.uint8)
        _, grid = jax.eval_shape(make_evaluation(config, tiny.encode), variables, params, pictures)
        assert grid.shape == (2 + len(TARGETS), shown, 64, 64, 3)


def test_cosines_are_those_of_the_pictures(evaluated):
    _, pictures, *_, (values, grid) = evaluated
    own = _embed(pictures[:, :, :64])
    for target, drawn in zip(TARGETS, grid[2:], strict=True):
        seen = (_embed(drawn) * own).sum(-1).mean()  # 8 bits a channel round a little
        name = "cosine_own" if target == "own" else f"cosine_original_{target}"
        assert values[name] == pytest.approx(seen, abs=0.02)
    for i, name, wanted in ((3, "twin", _embed(grid[1])), (4, "other", np.roll(own, 1, 0))):
        seen = (_embed(grid[i]) * wanted).sum(-1).mean()
        assert values[f"cosine_target_{name}"] == pytest.approx(seen, abs=0.02)


def test_reconstruction_is_that_of_the_own_identity_and_of_the_twins(evaluated):
    *_, (values, grid) = evaluated
    known = {"reconstruction": (grid[2], grid[0]), "reconstruction_twin": (grid[3], grid[1])}
    for name, (drawn, truth) in known.items():
        error = 0.5 * np.mean((np.asarray(to_float(drawn) - to_float(truth))) ** 2)
        assert values[name] == pytest.approx(error, rel=0.02)


def test_loss_weighs_the_terms_without_the_discriminator(evaluated):
    config, *_, (values, _) = evaluated
    terms = ("identity", "leak", "attributes", "colour", "detail", "reconstruction")
    expected = sum(config.loss[name] * float(values[name]) for name in terms)
    assert values["loss"] == pytest.approx(expected, rel=1e-5)


def test_landmarks_are_told_if_they_have_a_weight(evaluated, monkeypatch):
    config, pictures, variables, _, (without, grid) = evaluated
    monkeypatch.setattr(landmark_net, "load", dict)
    monkeypatch.setattr(landmark_net, "find", lambda params, faces: faces)
    monkeypatch.setattr(losses, "landmarks", lambda drawn, faces: ((drawn - faces) ** 2).mean())
    config = tiny.training_config("data=none", "loss.landmarks=5")
    evaluate = jax.jit(make_evaluation(config, tiny.encode))
    values, _ = evaluate(variables, tiny.encoder_params(), pictures)
    error = np.mean((np.asarray(to_float(grid[2:]) - to_float(grid[0]))) ** 2)
    assert "landmarks" not in without
    assert values["landmarks"] == pytest.approx(error, rel=0.02)
    expected = float(without["loss"] + 5 * values["landmarks"])
    assert values["loss"] == pytest.approx(expected, rel=1e-5)


def test_noise_is_the_same_at_every_evaluation(evaluated):
    _, pictures, variables, evaluate, (values, _) = evaluated
    again, _ = evaluate(variables, tiny.encoder_params(), pictures)
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, values, again))


def test_nothing_of_the_original_is_left_at_a_low_budget_and_most_at_a_high_one():
    """The network is left out: it draws what the encoder is shown."""
    from identitydp_jax.training.held_out import _targets

    own, theirs = _embed(tiny.faces(64)), _embed(tiny.faces(64, seed=1))
    targets = np.asarray(_targets(own, theirs, zeros(512), False))
    by_target = dict(zip(TARGETS, (targets * own).sum(-1).mean(-1), strict=True))
    np.testing.assert_array_equal(targets[TARGETS.index("twin")], theirs)
    np.testing.assert_array_equal(targets[TARGETS.index("other")], np.roll(own, 1, axis=0))
    assert by_target["own"] == pytest.approx(1, abs=1e-5)
    assert abs(by_target["epsilon_10"]) < 0.1 and abs(by_target["random"]) < 0.1
    assert by_target["epsilon_10"] < by_target["epsilon_100"] < by_target["epsilon_1000"]


def test_noised_and_random_identities_are_brought_to_the_population():
    from identitydp_jax.training.held_out import _targets

    own = _embed(tiny.faces(64))
    population = measure(own)
    plain, moved = (
        np.asarray(_targets(own, own, where, False)) for where in (zeros(512), population)
    )
    np.testing.assert_array_equal(plain[:3], moved[:3])
    mean = own.mean(0) / np.linalg.norm(own.mean(0))
    for target, before, after in list(zip(TARGETS, plain @ mean, moved @ mean, strict=True))[3:]:
        wanted = (own @ mean).mean()
        assert abs(after.mean() - wanted) < 0.1, target
        assert abs(before.mean() - wanted) > abs(after.mean() - wanted), target
