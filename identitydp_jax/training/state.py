"""All that a training run carries from step to step."""

import functools
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from identitydp_jax.checks import UserError
from identitydp_jax.models import population, pretrained, prior
from identitydp_jax.models.aeinet import AEIConfig, variable_shapes
from identitydp_jax.models.discriminator import Discriminator

# Layers that start at zero, see `AADLayer` and `models.prior`.
_ZERO = ("identity", "rest", "scene", "both", "change", "share", "logit")


@flax.struct.dataclass
class TrainState:
    """Parameters, running statistics, their average, and the optimizers' moments.

    `population` is what `models.population.measure` says of the faces that are trained on.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    average: Any
    population: Any
    discriminator: Any
    optimizer: Any
    discriminator_optimizer: Any

    @property
    def variables(self) -> dict:
        """What draws faces in use: averaged parameters, statistics, and the population."""
        return {**self.average, "population": self.population}


def network_config(config) -> AEIConfig:
    """Return the network that a training configuration describes."""
    return AEIConfig(**config.network)


def discriminator_network(config) -> Discriminator:
    """Return the discriminator that a training configuration describes."""
    return Discriminator(**config.discriminator)


def optimizer(config) -> optax.GradientTransformation:
    """Adam with betas `config.momentum` (the paper: 0) and 0.999; slower once statistics freeze."""
    freeze_at = config.freeze_statistics_at
    slower = {} if freeze_at is None else {freeze_at: config.frozen_rate}
    rate = optax.piecewise_constant_schedule(config.learning_rate, slower)
    clip = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    return optax.chain(
        *clip,
        optax.scale_by_adam(b1=config.momentum, b2=0.999),
        optax.scale_by_learning_rate(rate),
    )


def averaged(config, state: TrainState, params, batch_stats):
    """Return the moving average of a state, moved on to new parameters and statistics."""
    # The average starts short, so that it follows the first steps.
    count = state.step.astype(jnp.float32)
    decay = jnp.minimum(config.average_decay, (1.0 + count) / (10.0 + count))
    new = {"params": params, "batch_stats": batch_stats}
    return optax.incremental_update(new, state.average, 1.0 - decay)


def shapes(config) -> TrainState:
    """Return shapes and dtypes of a state, as `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(functools.partial(_assembled, config), *_network_shapes(config))


def create(config, *, start_from=None) -> TrainState:
    """Initialise a state on the host, leaf by leaf, compiling no network.

    Values are drawn from `config.seed`; layers that the model file `start_from` has too, of the
    same name and shape, start from there.

    Raises:
      UserError: `start_from` can't be read, or was trained with another encoder.
    """
    rng = np.random.default_rng(config.seed)
    params, discriminator, batch_stats = (_initial(tree, rng) for tree in _network_shapes(config))
    network = network_config(config)
    if network.fusion == "prior":
        params["generator"] = _taken_over(params["generator"], prior.initial(network))
    if start_from is not None:
        start = pretrained.load(start_from)
        if start.encoder != config.encoder:
            raise UserError(
                f"{start_from}: was trained with {start.encoder}, this run is to use"
                f" {config.encoder}; give a model of the same encoder"
            )
        params = _taken_over(params, start.variables["params"])
        batch_stats = _taken_over(batch_stats, start.variables.get("batch_stats", {}))
    return _assembled(config, params, discriminator, batch_stats)


def _network_shapes(config):
    """Return shapes of parameters, discriminator and running statistics."""
    variables, side = variable_shapes(network_config(config)), config.network.resolution
    faces = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    net = discriminator_network(config)
    discriminator = jax.eval_shape(net.init, jax.random.key(0), faces)["params"]
    return variables["params"], discriminator, variables.get("batch_stats", {})


def _assembled(config, params, discriminator, batch_stats) -> TrainState:
    transform = optimizer(config)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        average=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}),
        population=population.zeros(network_config(config).identity_dimension),
        discriminator=discriminator,
        optimizer=transform.init(params),
        discriminator_optimizer=transform.init(discriminator),
    )


def _taken_over(tree, start):
    """Return `tree` with the leaves that `start` has too, of the same shape."""
    start = flax.traverse_util.flatten_dict(start)

    def leaf(path, value):
        found = start.get(tuple(key.key for key in path))
        return found if found is not None and found.shape == value.shape else value

    return jax.tree_util.tree_map_with_path(leaf, tree)


def _initial(shapes, rng):
    """Normal weights of variance 1 / fan-in; ones for scales and variances; zeros for the rest."""

    def leaf(path, shape):
        name = path[-1].key
        if name == "kernel" and path[-2].key not in _ZERO:
            fan_in = np.prod(shape.shape[:-1])
            draw = rng.standard_normal(shape.shape, dtype=np.float32) / np.sqrt(fan_in)
            return jnp.asarray(draw, jnp.float32)
        if name in ("scale", "var"):
            return jnp.ones(shape.shape, jnp.float32)
        return jnp.zeros(shape.shape, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)
