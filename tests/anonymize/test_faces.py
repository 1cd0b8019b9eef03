"""Anonymizing aligned faces: a face's pixels are its own, whatever batch it comes in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax import sharding
from identitydp_jax.anonymize.faces import (
    Model,
    anonymize_faces,
    declared_attributes,
    draw_faces,
    embed_faces,
    release_faces,
    target_identities,
)
from identitydp_jax.checks import UserError
from identitydp_jax.models import declared
from identitydp_jax.models.aeinet import AEINet
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float, to_uint8
from identitydp_jax.models.population import anchor, condition, measure, suitable, transport
from identitydp_jax.privacy.mechanism import decode
from identitydp_jax.privacy.setting import PrivacySetting

LOW, HIGH = PrivacySetting(epsilon=6.0), PrivacySetting("privunit", 1e4)


@pytest.fixture(scope="module")
def model():
    params = {"network": tiny.variables(), "encoder": tiny.encoder_params()}
    # A random network starts with no say of the identity: give it some.
    rng = np.random.default_rng(0)

    def leaf(path, value):
        if path[-1].key == "kernel" and path[-2].key == "identity":
            return jnp.asarray(rng.normal(0, 0.1, value.shape), jnp.float32)
        return value

    params["network"] = jax.tree_util.tree_map_with_path(leaf, params["network"])
    return Model("tiny", tiny.CONFIG, params, tiny.encode, "0" * 64, "1" * 64)


@pytest.fixture(scope="module")
def peopled(model):
    """The model, with the population of what stands for faces here."""
    rows = tiny.encode(tiny.encoder_params(), identity_crop(to_float(tiny.faces(300, seed=5))))
    network = {**model.params["network"], "population": measure(rows)}
    return dataclasses.replace(model, params={**model.params, "network": network})


def keys(count, seed=0):
    return tiny.keys(count, seed)


def test_pixels_do_not_depend_on_the_batch_or_the_place_in_it(model):
    # The key-reuse check wants every use to draw its keys anew.
    faces = tiny.faces(8)
    whole = anonymize_faces(model, faces, keys=keys(8), setting=LOW)
    assert whole.dtype == np.uint8
    assert whole.shape == faces.shape
    head = anonymize_faces(model, faces[:3], keys=keys(8)[:3], setting=LOW)
    np.testing.assert_array_equal(head, whole[:3])
    alone = anonymize_faces(model, faces[5:6], keys=keys(8)[5:6], setting=LOW)
    np.testing.assert_array_equal(alone, whole[5:6])
    order = np.array([7, 2, 0, 5, 1, 6, 4, 3])
    shuffled = anonymize_faces(model, faces[order], keys=keys(8)[order], setting=LOW)
    np.testing.assert_array_equal(shuffled, whole[order])


def test_key_and_epsilon_decide_the_face(model):
    faces = tiny.faces(4)
    one = anonymize_faces(model, faces, keys=keys(4), setting=LOW)
    other = anonymize_faces(model, faces, keys=keys(4, seed=1), setting=LOW)
    clear = anonymize_faces(model, faces, keys=keys(4), setting=HIGH)
    clear_too = anonymize_faces(model, faces, keys=keys(4, seed=1), setting=HIGH)
    assert (one != other).any((1, 2, 3)).all()
    assert (one != clear).any((1, 2, 3)).all()
    # Hardly any noise: whatever the key, nearly the same picture.
    close = np.abs(clear.astype(int) - clear_too).mean()
    assert close < 0.1 * np.abs(one.astype(int) - other).mean()


@pytest.mark.parametrize("setting", [LOW, PrivacySetting(mechanism="random")])
def test_faces_are_drawn_with_identities_that_people_have(peopled, setting):
    faces = tiny.faces(3)
    codes = release_faces(peopled, faces, keys=keys(3), setting=setting)
    found = target_identities(peopled, faces, codes, setting=setting, preserve=())
    network = peopled.params["network"]
    noised = decode(jnp.asarray(codes))
    expected = transport(network["population"], noised, cosine=setting.expected_cosine)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (np.abs((found * noised).sum(1)) < 0.95).all()
    drawn = draw_faces(peopled, faces, found)
    by_hand = to_uint8(AEINet(tiny.CONFIG).apply(network, to_float(faces), jnp.asarray(found)))
    assert np.abs(drawn.astype(int) - np.asarray(by_hand)).max() <= 1


def _targets(model, codes, setting):
    return target_identities(model, tiny.faces(len(codes)), codes, setting=setting, preserve=())


def test_the_less_noise_the_less_a_code_is_moved(peopled):
    codes = release_faces(peopled, tiny.faces(3), keys=keys(3), setting=HIGH)
    noised = decode(jnp.asarray(codes))
    kept = [
        (_targets(peopled, codes, setting) * noised).sum(1)
        for setting in (LOW, PrivacySetting(epsilon=1000), HIGH)
    ]
    assert (kept[0] < kept[1]).all() and (kept[1] < kept[2]).all()
    assert (kept[0] < 0.96).all() and (kept[2] > 0.99).all()


@pytest.fixture(scope="module")
def able(peopled):
    """The model with a population, and with heads for declared attributes."""
    network = {**peopled.params["network"], "declared": tiny.declared_attributes()}
    return dataclasses.replace(peopled, params={**peopled.params, "network": network})


def test_targets_are_of_those_who_share_what_is_preserved(able):
    faces = tiny.faces(6)
    codes = release_faces(able, faces, keys=keys(6), setting=LOW)
    answers = declared_attributes(able, faces)
    heads = able.params["network"]["declared"]
    by_hand = declared.find(heads, tiny.middle({}, identity_crop(to_float(faces))))
    np.testing.assert_array_equal(answers, by_hand)
    asked = [attribute for attribute, _ in declared.QUESTIONS]
    assert 0 < answers.mean() < 1

    def targets(pictures, preserve):
        return target_identities(able, pictures, codes, setting=LOW, preserve=preserve)

    for preserve in (("glasses",), able.attributes):
        chosen = declared.preserved(preserve)
        given = condition(able.params["network"]["population"], heads, chosen)
        noised, cosine = decode(jnp.asarray(codes)), LOW.expected_cosine
        moved = transport(given, noised, cosine=cosine, answers=answers)
        faces_of_nobody = suitable(given, heads, moved, answers, chosen)
        expected = anchor(faces_of_nobody, moved, cosine=cosine)
        np.testing.assert_allclose(targets(faces, preserve), expected, atol=1e-5)
    # Of the faces these answers alone reach the target: with the same codes, those who give the
    # same answers get the same.
    order = np.argsort(answers[:, asked.index("glasses")])
    low, high = order[:1].repeat(6), order[-1:].repeat(6)
    assert answers[order[0], 5] != answers[order[-1], 5]
    one, other = (targets(faces[index], ("glasses",)) for index in (low, high))
    assert (np.abs(one - other).max(1) > 1e-3).all()
    same = answers[:, 5] == answers[order[0], 5]
    np.testing.assert_allclose(targets(faces, ("glasses",))[same], one[same], atol=1e-6)
    np.testing.assert_array_equal(targets(faces[low], ()), targets(faces[high], ()))


def test_all_that_a_model_can_preserve_is_the_default(able, peopled):
    assert able.attributes == declared.ATTRIBUTES and peopled.attributes == ()
    faces = tiny.faces(3)

    def drawn(model, **options):
        return anonymize_faces(model, faces, keys=keys(3), setting=LOW, **options)

    every = drawn(able)
    np.testing.assert_array_equal(every, drawn(able, preserve=declared.ATTRIBUTES[::-1]))
    nothing = drawn(able, preserve=())
    assert (every != nothing).any((1, 2, 3)).all()
    heads = able.params["network"]["declared"]
    opposite = {**heads, "kernel": -heads["kernel"]}
    network = {**able.params["network"], "declared": opposite}
    contrary = dataclasses.replace(able, params={**able.params, "network": network})
    np.testing.assert_array_equal(nothing, drawn(contrary, preserve=()))
    assert (every != drawn(contrary)).any((1, 2, 3)).all()
    np.testing.assert_array_equal(drawn(peopled), drawn(peopled, preserve=()))
    for model, names, said in (
        (peopled, ("age",), "can't preserve age: it knows none"),
        (able, ("hair",), "there is no attribute 'hair'"),
    ):
        with pytest.raises(UserError, match=said):
            drawn(model, preserve=names)


def test_random_never_looks_at_the_embedding(model):
    setting, blind = PrivacySetting(mechanism="random"), dict(model.params)
    blind["encoder"] = {"kernel": -model.params["encoder"]["kernel"]}
    other = Model("tiny", tiny.CONFIG, blind, tiny.encode, "0" * 64, "1" * 64)
    faces = tiny.faces(2)
    np.testing.assert_array_equal(
        anonymize_faces(model, faces, keys=keys(2), setting=setting),
        anonymize_faces(other, faces, keys=keys(2), setting=setting),
    )


def test_one_compilation_serves_every_budget_and_nearby_batch(model):
    compiled = sharding._map_block._cache_size
    anonymize_faces(model, tiny.faces(4), keys=keys(4), setting=LOW)
    before = compiled()
    anonymize_faces(model, tiny.faces(3), keys=keys(3), setting=PrivacySetting(epsilon=77.0))
    assert compiled() == before


def test_embeddings_are_unit_vectors_and_no_faces_are_no_work(model):
    embedding = embed_faces(model, tiny.faces(2))
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    nobody = anonymize_faces(model, tiny.faces(2)[:0], keys=keys(2)[:0], setting=LOW)
    assert nobody.shape == (0, 64, 64, 3)


@pytest.mark.parametrize(
    ("faces", "count", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.uint8), 2, r"takes uint8 \(N, 64, 64, 3\)"),
        (np.zeros((2, 64, 64, 3), np.float32), 2, "faces are float32"),
        (np.zeros((2, 64, 64, 3), np.uint8), 3, "one key for each of 2 faces"),
    ],
)
def test_wrong_faces_and_keys_are_named(model, faces, count, message):
    with pytest.raises(UserError, match=message):
        anonymize_faces(model, faces, keys=keys(count), setting=LOW)
