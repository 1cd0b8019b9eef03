"""Batch-norm statistics over many faces rather than as a running mean."""

import jax
import jax.numpy as jnp

from identitydp_jax import sharding
from identitydp_jax.models.aeinet import STATISTICS_MOMENTUM, AEINet
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.models.population import measure
from identitydp_jax.training.state import network_config
from identitydp_jax.training.step import draw_rows, draw_targets, learned_faces, split_twins


def measure_identities(batches, encode, encoder_params, mesh):
    """Return `models.population.measure` of the faces of whole batches, not augmented.

    Arguments are those of `population_statistics`, and so is what the result depends on.
    """
    everywhere = sharding.replicated(mesh)

    def embed(params, pictures):
        return encode(params, identity_crop(to_float(split_twins(pictures)[:, 0])))

    embed = jax.jit(embed, out_shardings=everywhere)
    rows = [embed(encoder_params, pictures) for pictures in batches]
    return jax.jit(lambda *rows: measure(jnp.concatenate(rows)), out_shardings=everywhere)(*rows)


def population_statistics(config, variables, population, batches, encode, encoder_params, mesh):
    """Return the batch-norm statistics of a network over whole batches of augmented faces.

    Running means lag behind the parameters, and their variances leave out what differs from batch
    to batch. By the law of total variance those of the population are the mean of the batches'
    variances plus the variance of their means.

    Args:
      config: the training configuration; its mixture chooses the identities.
      variables: `params` and `batch_stats` of the network, wherever they lie on the mesh.
      population: of `measure_identities`.
      batches: iterable of uint8 pictures (N, R, K R, 3), global arrays that lie on the mesh; at
        least one, all of the same size.
      encode: `encode(params, crops)` of the identity encoder.
      encoder_params: its parameters.
      mesh: from `sharding.make_mesh`; all its processes must call this.

    Returns:
      A tree like `variables["batch_stats"]`, whole on every device, computed in float32 whatever
      `config.compute`; a function of the other arguments and `config.seed` alone, but for rounding
      by the number of devices.
    """
    everywhere = sharding.replicated(mesh)
    statistics = jax.jit(_make_statistics(config, encode, mesh), out_shardings=everywhere)
    root = jax.random.key(config.seed)
    every = [
        statistics(variables, population, encoder_params, pictures, jax.random.fold_in(root, i))
        for i, pictures in enumerate(batches)
    ]
    return jax.jit(_pooled, out_shardings=everywhere)(every)


def _make_statistics(config, encode, mesh):
    """Build `(variables, population, encoder_params, pictures, key) -> statistics` of a batch."""
    net = AEINet(network_config(config))

    def statistics(variables, population, encoder_params, pictures, key):
        # As in the step: no convolution shall be split by how its kernel lies.
        variables = jax.lax.with_sharding_constraint(variables, sharding.replicated(mesh))
        face_key, row_key, target_key = jax.random.split(key, 3)
        x, twins = learned_faces(pictures, key=face_key, config=config)
        rows = draw_rows(len(x), key=row_key, mixture=config.mixture)
        own = encode(encoder_params, identity_crop(rows.truth(x, twins)))
        targets = draw_targets(
            own, rows, key=target_key, mixture=config.mixture, population=population
        )
        zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        state = {"params": variables["params"], "batch_stats": zeros}
        _, updated = net.apply(state, x, targets, train=True, mutable=["batch_stats"])
        # A running mean that starts at zero holds this share of the batch.
        found = updated.get("batch_stats", {})  # a network may have none
        return jax.tree.map(lambda s: s / (1 - STATISTICS_MOMENTUM), found)

    return statistics


def _pooled(every):
    """Pool trees whose levels hold `mean` and `var` (C,) of batches of one size."""
    first = every[0]
    if "mean" not in first:
        return {name: _pooled([tree[name] for tree in every]) for name in first}
    means, variances = (jnp.stack([tree[name] for tree in every]) for name in ("mean", "var"))
    return {"mean": means.mean(0), "var": variances.mean(0) + means.var(0)}
