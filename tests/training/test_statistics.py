"""Batch-norm statistics over many faces."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from identitydp_jax.training import statistics


def test_pooling_gives_the_variance_of_all_entries_together():
    data = np.random.default_rng(0).normal(2, 3, (5, 40, 4)) + np.arange(5)[:, None, None]
    level = {"mean": jnp.asarray(data.mean(1)), "var": jnp.asarray(data.var(1))}
    pooled = statistics._pooled({"norm": level})["norm"]
    np.testing.assert_allclose(pooled["mean"], data.reshape(-1, 4).mean(0), rtol=1e-5)
    np.testing.assert_allclose(pooled["var"], data.reshape(-1, 4).var(0), rtol=1e-5)


def test_statistics_are_those_of_the_faces():
    config = tiny.training_config()
    variables = tiny.variables(statistics.network_config(config))
    batches = [tiny.faces(16, seed=0), tiny.faces(16, seed=1)]
    found = statistics.population_statistics(
        config, variables, batches, tiny.encode, tiny.encoder_params()
    )
    assert jax.tree.structure(found) == jax.tree.structure(variables["batch_stats"])
    # The first convolution's output, by hand.
    x = np.asarray(statistics.to_float(np.concatenate(batches)))
    convolved = jax.lax.conv_general_dilated(
        x,
        np.asarray(variables["params"]["encoder"]["down0"]["kernel"]),
        (2, 2),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    first = found["encoder"]["down0_norm"]["norm"]
    np.testing.assert_allclose(first["mean"], convolved.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(first["var"], convolved.var((0, 1, 2)), rtol=1e-3)
