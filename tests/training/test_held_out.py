import jax
import numpy as np
import pytest
import tiny

from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.training import state as states
from identitydp_jax.training.held_out import TARGETS, make_evaluation


@pytest.fixture(scope="module")
def evaluated():
    config = tiny.training_config("data=none")
    faces = tiny.faces(5)
    variables = _moved_by_identity(states.create(config).average)
    evaluate = jax.jit(make_evaluation(config, tiny.encode))
    return config, faces, variables, evaluate, evaluate(variables, tiny.encoder_params(), faces)


def _moved_by_identity(variables):
    """Give the weights of the identity, which start at zero, values that show in the pictures."""
    rng = np.random.default_rng(0)

    def leaf(path, x):
        scale = 0.3 if "identity" in [part.key for part in path] else 0.0
        return x + scale * rng.standard_normal(x.shape, dtype=np.float32)

    return jax.tree_util.tree_map_with_path(leaf, variables)


def _embed(faces):
    return np.asarray(tiny.encode(tiny.encoder_params(), identity_crop(to_float(faces))))


def test_pictures_are_the_faces_and_one_row_for_every_target(evaluated):
    _, faces, *_, (_, pictures) = evaluated
    assert pictures.shape == (1 + len(TARGETS), 5, 64, 64, 3) and pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures[0], faces)


def test_cosines_are_those_of_the_pictures(evaluated):
    _, faces, *_, (values, pictures) = evaluated
    own = _embed(faces)
    for target, drawn in zip(TARGETS, pictures[1:], strict=True):
        seen = (_embed(drawn) * own).sum(-1).mean()  # 8 bits a channel round a little
        name = "cosine_own" if target == "own" else f"cosine_original_{target}"
        assert values[name] == pytest.approx(seen, abs=0.02)
    swapped = (_embed(pictures[2]) * np.roll(own, 1, 0)).sum(-1).mean()
    assert values["cosine_target_swap"] == pytest.approx(swapped, abs=0.02)


def test_reconstruction_is_that_of_the_own_identity(evaluated):
    _, faces, *_, (values, pictures) = evaluated
    error = 0.5 * np.mean((np.asarray(to_float(pictures[1]) - to_float(faces))) ** 2)
    assert values["reconstruction"] == pytest.approx(error, rel=0.02)


def test_loss_weighs_the_terms_without_the_discriminator(evaluated):
    config, *_, (values, _) = evaluated
    terms = ("identity", "leak", "attributes", "colour", "reconstruction")
    expected = sum(config.loss[name] * float(values[name]) for name in terms)
    assert values["loss"] == pytest.approx(expected, rel=1e-5)


def test_noise_is_the_same_at_every_evaluation(evaluated):
    _, faces, variables, evaluate, (values, _) = evaluated
    again, _ = evaluate(variables, tiny.encoder_params(), faces)
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, values, again))


def test_nothing_of_the_original_is_left_at_a_low_budget_and_most_at_a_high_one():
    """The network is left out: it draws what the encoder is shown."""
    from identitydp_jax.training.held_out import _targets

    own = _embed(tiny.faces(64))
    kept = (np.asarray(_targets(own)) * own).sum(-1).mean(-1)
    by_target = dict(zip(TARGETS, kept, strict=True))
    assert by_target["own"] == pytest.approx(1, abs=1e-5)
    assert abs(by_target["epsilon_10"]) < 0.1 and abs(by_target["random"]) < 0.1
    assert by_target["epsilon_10"] < by_target["epsilon_100"] < by_target["epsilon_1000"]
