"""Batch-norm statistics over many faces rather than as a running mean."""

import jax
import jax.numpy as jnp

from identitydp_jax import sharding
from identitydp_jax.data.augmentation import augment
from identitydp_jax.models.aeinet import STATISTICS_MOMENTUM, AEINet
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.training.state import network_config
from identitydp_jax.training.step import draw_targets


def population_statistics(config, variables, batches, encode, encoder_params, mesh):
    """Return the batch-norm statistics of a network over whole batches of augmented faces.

    Running means lag behind the parameters, and their variances leave out what differs from batch
    to batch. By the law of total variance those of the population are the mean of the batches'
    variances plus the variance of their means.

    Args:
      config: the training configuration; its mixture chooses the identities.
      variables: `params` and `batch_stats` of the network, wherever they lie on the mesh.
      batches: iterable of uint8 faces (N, R, R, 3), global arrays that lie on the mesh; at least
        one, all of the same size.
      encode: `encode(params, crops)` of the identity encoder.
      encoder_params: its parameters.
      mesh: from `sharding.make_mesh`; all its processes must call this.

    Returns:
      A tree like `variables["batch_stats"]`, whole on every device, computed in float32 whatever
      `config.compute`; a function of the other arguments and `config.seed` alone, but for rounding
      by the number of devices.
    """
    everywhere = sharding.replicated(mesh)
    measure = jax.jit(_make_measure(config, encode, mesh), out_shardings=everywhere)
    root = jax.random.key(config.seed)
    every = [
        measure(variables, encoder_params, faces, jax.random.fold_in(root, i))
        for i, faces in enumerate(batches)
    ]
    return jax.jit(_pooled, out_shardings=everywhere)(every)


def _make_measure(config, encode, mesh):
    """Build `(variables, encoder_params, faces, key) -> statistics` of one batch."""
    net = AEINet(network_config(config))

    def measure(variables, encoder_params, faces, key):
        # As in the step: no convolution shall be split by how its kernel lies.
        variables = jax.lax.with_sharding_constraint(variables, sharding.replicated(mesh))
        augment_key, target_key = jax.random.split(key)
        x = augment(faces, key=augment_key) if config.augmentation else to_float(faces)
        own = encode(encoder_params, identity_crop(x))
        targets, _ = draw_targets(own, key=target_key, mixture=config.mixture)
        zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        state = {"params": variables["params"], "batch_stats": zeros}
        _, updated = net.apply(state, x, targets, train=True, mutable=["batch_stats"])
        # A running mean that starts at zero holds this share of the batch.
        return jax.tree.map(lambda s: s / (1 - STATISTICS_MOMENTUM), updated["batch_stats"])

    return measure


def _pooled(every):
    """Pool trees whose levels hold `mean` and `var` (C,) of batches of one size."""
    first = every[0]
    if "mean" not in first:
        return {name: _pooled([tree[name] for tree in every]) for name in first}
    means, variances = (jnp.stack([tree[name] for tree in every]) for name in ("mean", "var"))
    return {"mean": means.mean(0), "var": variances.mean(0) + means.var(0)}
