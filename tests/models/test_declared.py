"""Answers about faces: exclusive where they must be, and read where the encoder sees them."""

import jax.numpy as jnp
import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.models import declared
from identitydp_jax.models.identity import load_encoder


def test_nobody_is_child_and_senior_and_dark_is_at_least_medium():
    count = len(declared.QUESTIONS)
    heads = {"kernel": jnp.eye(count), "bias": jnp.zeros(count)}
    every = 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1) - 1
    found = np.asarray(declared.find(heads, jnp.asarray(every.reshape(-1, 1, 1, count))))
    asked = every > 0
    assert set(np.unique(found)) == {0.0, 1.0}
    alone = [0, 1, 3, 5, 6]
    np.testing.assert_array_equal(found[:, alone], asked[:, alone])
    np.testing.assert_array_equal(found[:, 2] > 0, asked[:, 2] & ~asked[:, 1])
    np.testing.assert_array_equal(found[:, 4] > 0, asked[:, 4] & asked[:, 3])


def test_measures_how_answers_and_embeddings_go_together():
    rng = np.random.default_rng(0)
    answers = (rng.random((500, 7)) < 0.4).astype(np.float32)
    rows = (rng.normal(size=(500, 16)) + answers @ rng.normal(size=(7, 16))).astype(np.float32)
    found = declared.measure(jnp.asarray(rows), jnp.asarray(answers))
    both = np.cov(answers.T, rows.T, bias=True)
    np.testing.assert_allclose(found["mean"], answers.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["covariance"], both[:7, :7], atol=1e-5)
    np.testing.assert_allclose(found["cross"], both[:7, 7:], atol=1e-5)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none", ()),
        ("beard, gender", ("gender", "beard")),
        ("gender,age,skin,glasses,beard", declared.ATTRIBUTES),
    ],
)
def test_a_list_of_attributes_is_read_in_their_order(text, names):
    assert declared.parse(text) == names
    asked = [attribute for attribute, _ in declared.QUESTIONS]
    np.testing.assert_array_equal(declared.preserved(names), [name in names for name in asked])


@pytest.mark.parametrize("text", ["hair", "gender,none", "", "gender,,age"])
def test_an_unknown_attribute_is_one_clear_line(text):
    with pytest.raises(UserError, match="there is no attribute") as error:
        declared.parse(text)
    assert "gender,age,skin,glasses,beard" in str(error.value)


def test_an_encoder_without_heads_has_none():
    assert declared.load("sface") is None and declared.load("own.onnx") is None
    heads = declared.load("w600k_mbf")
    assert heads.keys() == declared.zeros(1, 1).keys()
    shares = dict(zip(declared.QUESTIONS, heads["mean"], strict=True))
    assert 0.3 < shares["gender", "male"] < 0.6 and 0.01 < shares["skin", "dark"] < 0.1


@pytest.mark.network
def test_the_shipped_heads_fit_their_encoder():
    encode, params = load_encoder("w600k_mbf")
    maps = encode.middle(params, jnp.zeros((2, 112, 112, 3)))
    heads = declared.load("w600k_mbf")
    shapes = {name: value.shape for name, value in heads.items()}
    empty = declared.zeros(encode.dimension, maps[0].size)
    assert shapes == {name: value.shape for name, value in empty.items()}
