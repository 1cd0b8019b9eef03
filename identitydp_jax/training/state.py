"""All that a training run carries from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from identitydp_jax.models.aeinet import AEIConfig, variable_shapes
from identitydp_jax.models.discriminator import Discriminator


@flax.struct.dataclass
class TrainState:
    """Parameters, running statistics, their average, and the optimizers' moments."""

    step: jax.Array
    params: Any
    batch_stats: Any
    average: Any
    discriminator: Any
    optimizer: Any
    discriminator_optimizer: Any


def network_config(config) -> AEIConfig:
    """Return the network that a training configuration describes."""
    return AEIConfig(**config.network)


def discriminator_network(config) -> Discriminator:
    """Return the discriminator that a training configuration describes."""
    return Discriminator(**config.discriminator)


def optimizer(config) -> optax.GradientTransformation:
    """Adam with the paper's betas, 0 and 0.999; slower once the statistics are frozen."""
    rate = optax.piecewise_constant_schedule(
        config.learning_rate, {config.freeze_statistics_at: config.frozen_rate}
    )
    return optax.adam(rate, b1=0.0, b2=0.999)


def create(config) -> TrainState:
    """Initialise a state from `config.seed` on the host, leaf by leaf, compiling no network."""
    shapes = variable_shapes(network_config(config))
    side = config.network.resolution
    faces = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    net = discriminator_network(config)
    discriminator_shapes = jax.eval_shape(net.init, jax.random.key(0), faces)["params"]
    rng = np.random.default_rng(config.seed)
    params = _initial(shapes["params"], rng)
    discriminator = _initial(discriminator_shapes, rng)
    batch_stats = _initial(shapes.get("batch_stats", {}), rng)
    transform = optimizer(config)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        average=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}),
        discriminator=discriminator,
        optimizer=transform.init(params),
        discriminator_optimizer=transform.init(discriminator),
    )


def _initial(shapes, rng):
    """Normal weights of variance 1 / fan-in; ones for scales and variances; zeros for the rest."""

    def leaf(path, shape):
        name = path[-1].key
        if name == "kernel" and path[-2].key != "identity":  # starts at zero, see `AADLayer`
            fan_in = np.prod(shape.shape[:-1])
            draw = rng.standard_normal(shape.shape, dtype=np.float32) / np.sqrt(fan_in)
            return jnp.asarray(draw, jnp.float32)
        if name in ("scale", "var"):
            return jnp.ones(shape.shape, jnp.float32)
        return jnp.zeros(shape.shape, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)
