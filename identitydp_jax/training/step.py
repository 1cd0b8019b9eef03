"""One step of the adversarial game, as one pure function of state, batch and key."""

import jax
import jax.numpy as jnp
import optax

from identitydp_jax import sharding
from identitydp_jax.data.augmentation import augment
from identitydp_jax.models.aeinet import AEINet
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.layers import at_least_float32, double, wide
from identitydp_jax.models.pixels import to_float
from identitydp_jax.training import losses
from identitydp_jax.training.accumulation import over_parts
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


def soften(faces, amount):
    """Take fine detail from faces (N, R, R, 3), each by its share of `amount` (N,), 0 none, 1 all.

    What an encoder still sees then is a change of features, not a texture that only misleads it.
    """
    n, side, _, channels = faces.shape
    blocks = faces.reshape(n, side // 2, 2, side // 2, 2, channels).mean((2, 4))
    return faces + amount[:, None, None, None] * (double(blocks) - faces)


def face_region(resolution: int):
    """Where a face lies in the model frame: float32 (R, R, 1), 1 inside an ellipse, 0 outside.

    The ellipse reaches from hairline to chin of the median face; its edge is soft.
    """
    along = (jnp.arange(resolution, dtype=jnp.float32) + 0.5) / resolution
    across, down = (along[None, :] - 0.5) / 0.30, (along[:, None] - 0.57) / 0.38
    radius = jnp.sqrt(across**2 + down**2)
    return jnp.clip((1.1 - radius) / 0.2, 0.0, 1.0)[..., None]


def make_step(config, encode, mesh, *, frozen: bool):
    """Build the step `(state, encoder_params, faces, key) -> (state, metrics)`.

    Args:
      config: a training configuration (see `configs/`).
      encode: `encode(params, crops)` of the frozen identity encoder.
      mesh: from `sharding.make_mesh`; the state lies on it as `sharding.state_shardings` says.
      frozen: normalise by the statistics in the state, as in use, rather than by the batch's own.

    The step takes the global batch, uint8 faces (N, R, R, 3), and a typed key, and returns float32
    scalar metrics. Jit it with the shardings of the state on both sides, and donate the state.
    """
    gradients = make_gradients(config, encode, mesh, frozen=frozen)
    transform = optimizer(config)

    def step(state: TrainState, encoder_params, faces, key):
        (grads, judge_grads), batch_stats, metrics = gradients(state, encoder_params, faces, key)
        updates, moments = transform.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
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
        state = TrainState(
            state.step + 1, params, batch_stats, average, discriminator, moments, judge_moments
        )
        return state, metrics

    return step


def make_gradients(config, encode, mesh, *, frozen: bool):
    """Build `(state, encoder_params, faces, key) -> (gradients, batch_stats, metrics)`.

    It takes what the step takes. `gradients` are those of the network and of the discriminator,
    float32 like their parameters. The networks compute in `config.compute`, all else in float32.

    On other numbers of devices the same comes out up to rounding: losses within 1e-6. Gradients
    differ by more where batch norm takes its own statistics of few entries, as on the 2x2 maps of
    a small batch: in float32 by up to 1e-3 of the largest entry of an array.

    With `config.accumulate` above 1 the batch is worked through in as many parts. Losses and
    gradients are their means, equal to those of the undivided batch up to rounding where no batch
    norm takes its own statistics. Batch norm normalises by those of each part, over all devices;
    the running statistics move once per step, by the mean of the parts' means and variances.

    With `config.fsdp` both networks are gathered once per step; gradients are summed over devices
    once per part and then kept, like the state, in parts.
    """
    dtype = jnp.dtype(config.compute)
    part_gradients = _make_part_gradients(config, encode, dtype, frozen=frozen)

    def gradients(state: TrainState, encoder_params, faces, key):
        augment_key, target_key, soften_key = jax.random.split(key, 3)
        # Drawn for the whole batch, so that its division changes nothing.
        faces = augment(faces, key=augment_key) if config.augmentation else to_float(faces)
        faces = faces.astype(wide(dtype))
        encoder_params = _cast(encoder_params, dtype)
        own = _embed(encode, encoder_params, faces, dtype)
        targets, same = draw_targets(own, key=target_key, mixture=config.mixture)
        amount = config.softening * jax.random.uniform(soften_key, (faces.shape[0],))
        # Left to itself the partitioner splits convolutions by channels as their kernels lie.
        everywhere = sharding.replicated(mesh)
        networks = (state.params, state.discriminator)
        kept = sharding.state_shardings(networks, mesh, fsdp=config.fsdp)
        networks = jax.lax.with_sharding_constraint(networks, everywhere)
        whole = state.replace(params=networks[0], discriminator=networks[1])

        def on_part(part):
            (grads, *means), embedding = part_gradients(whole, encoder_params, *part)
            grads = jax.lax.with_sharding_constraint(grads, everywhere)
            return (jax.lax.with_sharding_constraint(grads, kept), *means), embedding

        means, embedding = over_parts(
            on_part, (faces, own, targets, same, amount), config.accumulate
        )
        grads, batch_stats, metrics = means
        if frozen:  # a mean of equal values may round
            batch_stats = state.batch_stats
        changed = 1.0 - same
        metrics |= {
            "gradient_norm": optax.tree.norm(grads[0]),
            "discriminator_gradient_norm": optax.tree.norm(grads[1]),
            "cosine_target": _mean_where(changed, losses.cosine(embedding, targets)),
            "cosine_original": _mean_where(changed, losses.cosine(embedding, own)),
        }
        return grads, batch_stats, metrics

    return gradients


def _make_part_gradients(config, encode, dtype, *, frozen: bool):
    """Build the gradients of both players on one part of a batch, as `over_parts` wants them."""
    net = AEINet(network_config(config), remat=config.remat)
    judge, weights = discriminator_network(config), config.loss
    outside = weights.background * (1.0 - face_region(config.network.resolution))

    def attributes(variables, faces):
        return net.apply(
            variables, faces.astype(dtype), train=not frozen, method="attributes",
            mutable=["batch_stats"],
        )

    def judged(params, faces):
        return _wide(judge.apply({"params": params}, faces.astype(dtype)))

    def generator_loss(params, state, encoder_params, faces, own, targets, same, amount):
        variables = {"params": params, "batch_stats": state.batch_stats}
        maps, updates = attributes(variables, faces)
        # `apply` returns the whole collection: start from what the first call has updated.
        drawn, updates = net.apply(
            {"params": params, **updates}, targets.astype(dtype), maps, train=not frozen,
            method="draw", mutable=["batch_stats"],
        )
        drawn = at_least_float32(drawn)
        # Statistics are taken from real faces alone.
        again, _ = attributes(variables, drawn)
        embedding = _embed(encode, encoder_params, soften(drawn, amount), dtype)
        terms = {
            "adversarial": losses.generator_adversarial(
                judged(state.discriminator, drawn), weights.kind
            ),
            "identity": losses.identity(embedding, targets),
            "leak": losses.leak(embedding, own, targets),
            "attributes": losses.attributes(_wide(again), _wide(maps), weights.reduction),
            "reconstruction": losses.reconstruction(
                drawn, faces, jnp.maximum(same[:, None, None, None], outside), weights.reduction
            ),
            "colour": losses.colour(drawn, faces),
        }
        total = sum(weights[name] * term for name, term in terms.items())
        return total, (terms, drawn, embedding, updates["batch_stats"])

    def discriminator_loss(params, faces, drawn):
        real, fake = (judged(params, x) for x in (faces, drawn))
        correct = [((a > 0).mean() + (b < 0).mean()) / 2 for a, b in zip(real, fake, strict=True)]
        loss = losses.discriminator_adversarial(real, fake, weights.kind)
        return loss, sum(correct) / len(correct)

    def part_gradients(state, encoder_params, faces, *rest):
        gradient = jax.value_and_grad(generator_loss, has_aux=True)
        (total, aux), grads = gradient(state.params, state, encoder_params, faces, *rest)
        terms, drawn, embedding, batch_stats = aux
        gradient = jax.value_and_grad(discriminator_loss, has_aux=True)
        drawn = jax.lax.stop_gradient(drawn)
        (loss, accuracy), judge_grads = gradient(state.discriminator, faces, drawn)
        metrics = {
            **terms, "total": total, "discriminator": loss, "discriminator_accuracy": accuracy,
        }  # fmt: skip
        return ((grads, judge_grads), batch_stats, metrics), embedding

    return part_gradients


def _embed(encode, params, faces, dtype):
    """Return unit embeddings of faces, float32 at least, computed in `dtype`."""
    # The crop's place needs float32; a half-precision embedding is no longer of unit norm.
    embedding = at_least_float32(encode(params, identity_crop(faces).astype(dtype)))
    return embedding / jnp.linalg.norm(embedding, axis=-1, keepdims=True)


def _cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def _wide(tree):
    return jax.tree.map(at_least_float32, tree)


def _mean_where(weights, values):
    return (weights * values).sum() / jnp.maximum(weights.sum(), 1.0)
