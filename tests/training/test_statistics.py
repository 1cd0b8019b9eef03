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


def test_statistics_are_those_of_the_faces_and_parameters_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(
        statistics, "load_encoder", lambda name: (tiny.encode, tiny.encoder_params())
    )
    config = tiny.training_config()
    folder = tiny.write_faces(tmp_path / "faces", 8)
    before = tiny.variables(statistics.network_config(config))
    after = statistics.with_population_statistics(config, before, folder, batches=2)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    jax.tree.map(np.testing.assert_array_equal, after["params"], before["params"])
    # The first convolution's output, computed here by hand from the same stream of faces.
    stream = statistics.training_batches(
        folder, resolution=64, batch_size=64, seed=config.seed, start=0, stop=2
    )
    x = np.concatenate([np.asarray(statistics.to_float(faces)) for faces in stream])
    kernel = np.asarray(before["params"]["encoder"]["down0"]["kernel"])
    convolved = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = after["batch_stats"]["encoder"]["down0_norm"]["norm"]
    np.testing.assert_allclose(found["mean"], convolved.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(found["var"], convolved.var((0, 1, 2)), rtol=1e-3)
