"""Batch-norm statistics over many faces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType

from identitydp_jax import sharding
from identitydp_jax.models.pixels import to_float
from identitydp_jax.training import statistics
from identitydp_jax.training.state import network_config


def test_pooling_gives_the_variance_of_all_entries_together():
    data = np.random.default_rng(0).normal(2, 3, (5, 40, 4)) + np.arange(5)[:, None, None]
    every = [
        {"norm": {"mean": jnp.asarray(x.mean(0)), "var": jnp.asarray(x.var(0))}} for x in data
    ]
    pooled = statistics._pooled(every)["norm"]
    np.testing.assert_allclose(pooled["mean"], data.reshape(-1, 4).mean(0), rtol=1e-5)
    np.testing.assert_allclose(pooled["var"], data.reshape(-1, 4).var(0), rtol=1e-5)


@pytest.fixture(scope="module")
def _darker():
    """Darker by half, in place of what is random."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "augment", lambda faces, *, key: 0.5 * to_float(faces) - 0.5)
        yield


def _batches():
    return [tiny.faces(16, seed=0), tiny.faces(16, seed=1)]


def _mesh(devices):
    return jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])


def _statistics(devices, *overrides):
    """Statistics over this many devices, with variables and batches placed as in training."""
    config, mesh = tiny.training_config(*overrides), _mesh(devices)
    variables = tiny.variables(network_config(config))
    held = sharding.state_shardings(variables, mesh, fsdp=config.fsdp)
    return statistics.population_statistics(
        config,
        sharding.place(variables, held),
        [sharding.global_batch(faces, mesh) for faces in _batches()],
        tiny.encode,
        sharding.place(tiny.encoder_params(), sharding.replicated(mesh)),
        mesh,
    )


@pytest.fixture(scope="module")
def one(_darker):
    return _statistics(1)


def test_statistics_are_those_of_the_augmented_faces(one):
    config = tiny.training_config()
    variables = tiny.variables(network_config(config))
    assert jax.tree.structure(one) == jax.tree.structure(variables["batch_stats"])
    # The first convolution's output, by hand.
    x = 0.5 * np.asarray(to_float(np.concatenate(_batches()))) - 0.5
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
        def measure(variables, encoder_params, faces, key):
            given.extend(jax.tree.leaves((variables, encoder_params, faces)))
            return variables["batch_stats"]

        return measure

    monkeypatch.setattr(statistics, "_make_measure", make)
    _statistics(1)
    assert given and all(isinstance(x, jax.core.Tracer) for x in given)
