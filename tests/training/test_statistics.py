"""Batch-norm statistics, and what identities are like, over many faces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType

from identitydp_jax import sharding
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.models.population import measure
from identitydp_jax.training import statistics
from identitydp_jax.training.state import network_config
from identitydp_jax.training.step import split_twins


def test_pooling_gives_the_variance_of_all_entries_together():
    data = np.random.default_rng(0).normal(2, 3, (5, 40, 4)) + np.arange(5)[:, None, None]
    pairs = [(jnp.asarray(x.mean(0)), jnp.asarray(x.var(0))) for x in data]
    every = [{"norm": {"mean": mean, "var": var}} for mean, var in pairs]
    pooled = statistics._pooled(every)["norm"]
    np.testing.assert_allclose(pooled["mean"], data.reshape(-1, 4).mean(0), rtol=1e-5)
    np.testing.assert_allclose(pooled["var"], data.reshape(-1, 4).var(0), rtol=1e-5)


@pytest.fixture(scope="module")
def _darker():
    """Darker by half, in place of what is random."""

    def learned_faces(pictures, *, key, config):
        pairs = 0.5 * to_float(split_twins(pictures)) - 0.5
        return pairs[:, 0], pairs[:, 1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "learned_faces", learned_faces)
        yield


def _batches():
    return [tiny.pictures(16, seed=0), tiny.pictures(16, seed=1)]


def _embedded(faces, encode=tiny.encode):
    return encode(tiny.encoder_params(), identity_crop(to_float(faces)))


_SEEN_WHOLE = ("network.attribute_resolution=64",)  # by the attribute encoder


def _short(params, crops):
    """Embeddings of few entries, whose axes eight devices find in no time."""
    return tiny.encode(params, crops)[:, :48]


def _mesh(devices):
    return jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])


def _statistics(devices, *overrides, **kind):
    """Statistics over this many devices, with variables and batches placed as in training."""
    config, mesh = tiny.training_config(*_SEEN_WHOLE, *overrides, **kind), _mesh(devices)
    variables = {"batch_stats": {}, **tiny.variables(network_config(config))}
    held = sharding.state_shardings(variables, mesh, fsdp=config.fsdp)
    return statistics.population_statistics(
        config,
        sharding.place(variables, held),
        sharding.place(measure(_embedded(tiny.faces(40))), sharding.replicated(mesh)),
        [sharding.global_batch(faces, mesh) for faces in _batches()],
        tiny.encode,
        sharding.place(tiny.encoder_params(), sharding.replicated(mesh)),
        mesh,
    )


@pytest.fixture(scope="module")
def one(_darker):
    return _statistics(1)


def test_statistics_are_those_of_the_augmented_faces(one):
    config = tiny.training_config(*_SEEN_WHOLE)
    variables = tiny.variables(network_config(config))
    assert jax.tree.structure(one) == jax.tree.structure(variables["batch_stats"])
    left = np.concatenate(_batches())[:, :, :64]
    # The first convolution's output, by hand.
    x = 0.5 * np.asarray(to_float(left)) - 0.5
    convolved = jax.lax.conv_general_dilated(
        x,
        np.asarray(variables["params"]["encoder"]["down0"]["kernel"]),
        (2, 2),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    first = one["encoder"]["down0_norm"]["norm"]
    np.testing.assert_allclose(first["mean"], convolved.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(first["var"], convolved.var((0, 1, 2)), rtol=1e-3)


def test_a_network_without_batch_norm_has_none():
    with tiny.small_source():
        assert _statistics(1, "network.coarse=64", name="prior128") == {}


def test_eight_devices_that_share_the_parameters_find_what_one_finds(one):
    eight = _statistics(8, "fsdp=true")
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(eight), strict=True
    ):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * np.abs(a).max(), err_msg=name)
        assert b.sharding.device_set == set(jax.devices())
        assert b.is_fully_replicated


def test_parameters_are_arguments_of_the_program_and_not_part_of_it(monkeypatch):
    given = []

    def make(config, encode, mesh):
        def statistics(variables, population, encoder_params, pictures, key):
            given.extend(jax.tree.leaves((variables, population, encoder_params, pictures)))
            return variables["batch_stats"]

        return statistics

    monkeypatch.setattr(statistics, "_make_statistics", make)
    _statistics(1)
    assert given and all(isinstance(x, jax.core.Tracer) for x in given)


def _measured(devices, batches):
    mesh = _mesh(devices)
    return statistics.measure_identities(
        [sharding.global_batch(pictures, mesh) for pictures in batches],
        _short,
        sharding.place(tiny.encoder_params(), sharding.replicated(mesh)),
        mesh,
    )


def _covariance(population):
    basis, deviation = (np.asarray(population[name]) for name in ("basis", "deviation"))
    return basis * deviation**2 @ basis.T


def test_identities_are_those_of_the_faces_as_they_are_and_not_of_their_twins():
    found, batches = _measured(1, _batches()), np.concatenate(_batches())
    own, theirs = (np.asarray(_embedded(batches[:, :, side], _short)) for side in np.s_[:64, 64:])
    np.testing.assert_allclose(found["mean"], own.mean(0), atol=1e-6)
    np.testing.assert_allclose(_covariance(found), np.cov(own.T, bias=True), atol=1e-6)
    assert np.abs(theirs.mean(0) - own.mean(0)).max() > 1e-3
    alone = _measured(1, [batch[:, :, :64] for batch in _batches()])
    np.testing.assert_allclose(alone["mean"], found["mean"], atol=1e-6)


def test_eight_devices_measure_the_identities_that_one_measures():
    one, eight = (_measured(devices, _batches()) for devices in (1, 8))
    for leaf in jax.tree.leaves(eight):
        assert leaf.is_fully_replicated and leaf.sharding.device_set == set(jax.devices())
    np.testing.assert_allclose(eight["mean"], one["mean"], atol=1e-6)
    np.testing.assert_allclose(eight["deviation"], one["deviation"], atol=1e-3)
    # Axes of equal or no deviation may turn: what counts is their covariance.
    np.testing.assert_allclose(_covariance(eight), _covariance(one), atol=1e-6)
