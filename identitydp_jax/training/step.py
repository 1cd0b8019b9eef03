"""One step of the adversarial game, as one pure function of state, batch and key."""

import jax
import jax.numpy as jnp
import optax

from identitydp_jax.models.aeinet import AEINet
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.layers import double
from identitydp_jax.models.pixels import to_float
from identitydp_jax.training import losses
from identitydp_jax.training.noise import add_laplace, draw_identities
from identitydp_jax.training.state import (
    TrainState,
    discriminator_network,
    network_config,
    optimizer,
)


def draw_targets(own, *, key, mixture):
    """Choose the identity that each face shall get.

    Args:
      own: (N, D) unit embeddings of the faces.
      key: typed key of this step.
      mixture: shares `same`, `other`, `noised` of faces that keep their own clean identity, take
        that of the next face, or their own after Laplace noise; the rest takes a random one.
        `epsilon` bounds the log-uniform certified budget of `noised`.

    Returns:
      Targets (N, D) of unit norm, and `same` (N,) float32: 1 where the target is the own identity.
    """
    count = own.shape[0]
    choice_key, epsilon_key, noise_key, random_key = jax.random.split(key, 4)
    low, high = (jnp.log(jnp.float32(e)) for e in mixture.epsilon)
    epsilon = jnp.exp(jax.random.uniform(epsilon_key, (count,), minval=low, maxval=high))
    noised = add_laplace(own, key=noise_key, epsilon=epsilon)
    random = draw_identities(own.shape, key=random_key)
    other = jnp.roll(own, 1, axis=0)
    u = jax.random.uniform(choice_key, (count, 1))
    first = mixture.same
    second = first + mixture.other
    third = second + mixture.noised
    targets = jnp.where(u < second, other, jnp.where(u < third, noised, random))
    targets = jnp.where(u < first, own, targets)
    return targets, (u[:, 0] < first).astype(jnp.float32)


def soften(faces, *, key):
    """Take fine detail from faces (N, R, R, 3), each by its own random amount from 0 to all.

    What an encoder still sees then is a change of features, not a texture that only misleads it.
    """
    n, side, _, channels = faces.shape
    blocks = faces.reshape(n, side // 2, 2, side // 2, 2, channels).mean((2, 4))
    amount = jax.random.uniform(key, (n, 1, 1, 1))
    return faces + amount * (double(blocks) - faces)


def face_region(resolution: int):
    """Where a face lies in the model frame: float32 (R, R, 1), 1 inside an ellipse, 0 outside.

    The ellipse reaches from hairline to chin of the median face; its edge is soft.
    """
    along = (jnp.arange(resolution, dtype=jnp.float32) + 0.5) / resolution
    across, down = (along[None, :] - 0.5) / 0.30, (along[:, None] - 0.57) / 0.38
    radius = jnp.sqrt(across**2 + down**2)
    return jnp.clip((1.1 - radius) / 0.2, 0.0, 1.0)[..., None]


def make_step(config, encode, *, frozen: bool):
    """Build the step `(state, encoder_params, faces, key) -> (state, metrics)`.

    Args:
      config: a training configuration (see `configs/`).
      encode: `encode(params, crops)` of the frozen identity encoder.
      frozen: normalise by the statistics in the state, as in use, rather than by the batch's own.

    The step takes uint8 faces (N, R, R, 3) and a typed key, and returns float32 scalar metrics.
    """
    net, judge = AEINet(network_config(config)), discriminator_network(config)
    transform, weights = optimizer(config), config.loss
    outside = weights.background * (1.0 - face_region(config.network.resolution))

    def generator_loss(params, state, encoder_params, faces, own, targets, same, key):
        variables = {"params": params, "batch_stats": state.batch_stats}
        maps, updates = net.apply(
            variables, faces, train=not frozen, method="attributes", mutable=["batch_stats"]
        )
        # `apply` returns the whole collection: start from what the first call has updated.
        drawn, updates = net.apply(
            {"params": params, **updates}, targets, maps, train=not frozen, method="draw",
            mutable=["batch_stats"],
        )
        # Statistics are taken from real faces alone.
        again, _ = net.apply(
            variables, drawn, train=not frozen, method="attributes", mutable=["batch_stats"]
        )
        embedding = encode(encoder_params, identity_crop(soften(drawn, key=key)))
        logits = judge.apply({"params": state.discriminator}, drawn)
        terms = {
            "adversarial": losses.generator_adversarial(logits, weights.kind),
            "identity": losses.identity(embedding, targets),
            "leak": losses.leak(embedding, own, targets),
            "attributes": losses.attributes(again, maps, weights.reduction),
            "reconstruction": losses.reconstruction(
                drawn, faces, jnp.maximum(same[:, None, None, None], outside), weights.reduction
            ),
            "colour": losses.colour(drawn, faces),
        }
        total = (
            weights.adversarial * terms["adversarial"]
            + weights.identity * terms["identity"]
            + weights.leak * terms["leak"]
            + weights.attributes * terms["attributes"]
            + weights.reconstruction * terms["reconstruction"]
            + weights.colour * terms["colour"]
        )
        return total, (terms, drawn, embedding, updates["batch_stats"])

    def discriminator_loss(params, faces, drawn):
        real, fake = (judge.apply({"params": params}, x) for x in (faces, drawn))
        correct = [((a > 0).mean() + (b < 0).mean()) / 2 for a, b in zip(real, fake, strict=True)]
        loss = losses.discriminator_adversarial(real, fake, weights.kind)
        return loss, sum(correct) / len(correct)

    def step(state: TrainState, encoder_params, faces, key):
        faces = to_float(faces)
        own = encode(encoder_params, identity_crop(faces))
        target_key, soften_key = jax.random.split(key)
        targets, same = draw_targets(own, key=target_key, mixture=config.mixture)

        gradient = jax.value_and_grad(generator_loss, has_aux=True)
        (total, aux), grads = gradient(
            state.params, state, encoder_params, faces, own, targets, same, soften_key
        )
        terms, drawn, embedding, batch_stats = aux
        updates, moments = transform.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)

        gradient = jax.value_and_grad(discriminator_loss, has_aux=True)
        drawn = jax.lax.stop_gradient(drawn)
        (judged, accuracy), judge_grads = gradient(state.discriminator, faces, drawn)
        updates, judge_moments = transform.update(
            judge_grads, state.discriminator_optimizer, state.discriminator
        )
        discriminator = optax.apply_updates(state.discriminator, updates)

        # The average starts short, so that it follows the first steps.
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.average_decay, (1.0 + count) / (10.0 + count))
        average = optax.incremental_update(
            {"params": params, "batch_stats": batch_stats}, state.average, 1.0 - decay
        )
        changed = 1.0 - same
        metrics = {
            **terms,
            "total": total,
            "discriminator": judged,
            "discriminator_accuracy": accuracy,
            "gradient_norm": optax.tree.norm(grads),
            "discriminator_gradient_norm": optax.tree.norm(judge_grads),
            "cosine_target": _mean_where(changed, losses.cosine(embedding, targets)),
            "cosine_original": _mean_where(changed, losses.cosine(embedding, own)),
        }
        state = TrainState(
            state.step + 1, params, batch_stats, average, discriminator, moments, judge_moments
        )
        return state, metrics

    return step


def _mean_where(weights, values):
    return (weights * values).sum() / jnp.maximum(weights.sum(), 1.0)
