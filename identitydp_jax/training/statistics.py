"""Batch-norm statistics over many faces rather than as a running mean."""

import jax
import jax.numpy as jnp

from identitydp_jax.models.aeinet import STATISTICS_MOMENTUM, AEINet
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.training.state import network_config
from identitydp_jax.training.step import draw_targets


def population_statistics(config, variables, batches, encode, encoder_params):
    """Return the batch-norm statistics of a network over whole batches of training faces.

    Running means lag behind the parameters, and their variances leave out what differs from batch
    to batch. By the law of total variance those of the population are the mean of the batches'
    variances plus the variance of their means.

    Args:
      config: the training configuration; its mixture chooses the identities.
      variables: `params` and `batch_stats` of the network.
      batches: iterable of uint8 faces (N, R, R, 3).
      encode: `encode(params, crops)` of the identity encoder.
      encoder_params: its parameters.

    Returns:
      A tree like `variables["batch_stats"]`; a function of the arguments and `config.seed` alone.
    """
    net = AEINet(network_config(config))

    @jax.jit
    def statistics(faces, key):
        x = to_float(faces)
        own = encode(encoder_params, identity_crop(x))
        targets, _ = draw_targets(own, key=key, mixture=config.mixture)
        zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        state = {"params": variables["params"], "batch_stats": zeros}
        _, updated = net.apply(state, x, targets, train=True, mutable=["batch_stats"])
        # A running mean that starts at zero holds this share of the batch.
        return jax.tree.map(lambda s: s / (1 - STATISTICS_MOMENTUM), updated["batch_stats"])

    root = jax.random.key(config.seed)
    every = [statistics(faces, jax.random.fold_in(root, i)) for i, faces in enumerate(batches)]
    return _pooled(jax.tree.map(lambda *leaves: jnp.stack(leaves), *every))


def _pooled(stacked):
    """Pool a tree of `mean` and `var` leaves (batches, C), level by level."""
    if "mean" not in stacked:
        return {name: _pooled(level) for name, level in stacked.items()}
    means, variances = stacked["mean"], stacked["var"]
    return {"mean": means.mean(0), "var": variances.mean(0) + means.var(0)}
