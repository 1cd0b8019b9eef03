"""One step of the adversarial game, as one pure function of state, batch and key."""

import jax
import jax.numpy as jnp
import optax

from identitydp_jax import sharding
from identitydp_jax.data.augmentation import augment
from identitydp_jax.models.aeinet import AEINet
from identitydp_jax.models.face_region import blend, face_region, features_region
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.layers import at_least_float32, double, wide
from identitydp_jax.models.pixels import to_float
from identitydp_jax.models.population import transport
from identitydp_jax.training import losses
from identitydp_jax.training.accumulation import over_parts
from identitydp_jax.training.noise import add_laplace, draw_identities
from identitydp_jax.training.state import (
    TrainState,
    discriminator_network,
    network_config,
    optimizer,
)


def draw_targets(own, twins, *, key, mixture, population):
    """Choose the identity that each face shall get.

    Args:
      own: (N, D) unit embeddings of the faces.
      twins: (N, D), of their twins; not read where `mixture.twin` is 0.
      key: typed key of this step.
      mixture: shares `same`, `twin`, `other`, `noised` of faces that keep their own identity, take
        that of their twin or of the next face, or their own after Laplace noise; the rest takes a
        random one. `epsilon` bounds the log-uniform certified budget of `noised`.
      population: of `models.population.measure`; noised and random identities go through
        `transport`.

    Returns:
      Targets (N, D) of unit norm, and two float32 (N,): 1 where the target is the own identity,
      and where it is the twin's.
    """
    count = own.shape[0]
    choice_key, epsilon_key, noise_key, random_key = jax.random.split(key, 4)
    low, high = (jnp.log(jnp.float32(e)) for e in mixture.epsilon)
    epsilon = jnp.exp(jax.random.uniform(epsilon_key, (count,), minval=low, maxval=high))
    noised, cosine = add_laplace(own, key=noise_key, epsilon=epsilon)
    noised = transport(population, noised, cosine=cosine)
    random = transport(population, draw_identities(own.shape, key=random_key), cosine=0.0)
    u = jax.random.uniform(choice_key, (count, 1))
    same, twin = u < mixture.same, u < mixture.same + mixture.twin
    other = u < mixture.same + mixture.twin + mixture.other
    changed = u < mixture.same + mixture.twin + mixture.other + mixture.noised
    targets = jnp.where(changed, noised, random)
    targets = jnp.where(other, jnp.roll(own, 1, axis=0), targets)
    targets = jnp.where(same, own, jnp.where(twin, twins, targets))
    same, twin = same[:, 0], twin[:, 0] & ~same[:, 0]
    return targets, same.astype(jnp.float32), twin.astype(jnp.float32)


def split_twins(pictures):
    """Return pictures of one face or of two side by side, (N, R, K R, 3), as (N, K, R, R, 3)."""
    count, side, wide, channels = pictures.shape
    return pictures.reshape(count, side, wide // side, side, channels).swapaxes(1, 2)


def learned_faces(pictures, *, key, config):
    """Return the faces of a batch as they are trained on, and what they are with other features.

    Args:
      pictures: uint8 (N, R, K R, 3), K 1, or 2 for a face beside its twin.
      key: typed key of this step.
      config: `augmentation`, `network.resolution`.

    Returns:
      Two float32 (N, R, R, 3) in [-1, 1], augmented alike: the faces, either one of each pair, and
      the same with the twin's features; with K 1 both are equal.
    """
    augment_key, swap_key = jax.random.split(key)
    pairs = split_twins(pictures)
    pairs = augment(pairs, key=augment_key) if config.augmentation else to_float(pairs)
    swap = jax.random.bernoulli(swap_key, shape=(len(pairs), 1, 1, 1, 1))
    pairs = jnp.where(swap, pairs[:, ::-1], pairs)
    faces, twins = pairs[:, 0], pairs[:, -1]
    # What lies around the twin's features may differ; the edge shall join what stays.
    return faces, blend(faces, twins, features_region(config.network.resolution))


def soften(faces, amount):
    """Take fine detail from faces (N, R, R, 3), each by its share of `amount` (N,), 0 none, 1 all.

    What an encoder still sees then is a change of features, not a texture that only misleads it.
    """
    n, side, _, channels = faces.shape
    blocks = faces.reshape(n, side // 2, 2, side // 2, 2, channels).mean((2, 4))
    return faces + amount[:, None, None, None] * (double(blocks) - faces)


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

    def step(state: TrainState, encoder_params, pictures, key):
        (grads, judge_grads), batch_stats, metrics = gradients(state, encoder_params, pictures, key)
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
            state.step + 1, params, batch_stats, average, state.population, discriminator, moments,
            judge_moments,
        )  # fmt: skip
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

    def gradients(state: TrainState, encoder_params, pictures, key):
        face_key, target_key, soften_key = jax.random.split(key, 3)
        # Drawn for the whole batch, so that its division changes nothing.
        pair = learned_faces(pictures, key=face_key, config=config)
        faces, twins = (x.astype(wide(dtype)) for x in pair)
        encoder_params = _cast(encoder_params, dtype)
        own = _embed(encode, encoder_params, faces, dtype)
        theirs = _embed(encode, encoder_params, twins, dtype) if config.mixture.twin else own
        targets, same, twin = draw_targets(
            own, theirs, key=target_key, mixture=config.mixture, population=state.population
        )
        truth = jnp.where(twin[:, None, None, None] > 0, twins, faces)
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
            on_part, (faces, truth, own, targets, same + twin, amount), config.accumulate
        )
        grads, batch_stats, metrics = means
        if frozen:  # a mean of equal values may round
            batch_stats = state.batch_stats
        changed = 1.0 - same - twin
        metrics |= {
            "gradient_norm": optax.tree.norm(grads[0]),
            "discriminator_gradient_norm": optax.tree.norm(grads[1]),
            "cosine_target": _mean_where(changed, losses.cosine(embedding, targets)),
            "cosine_original": _mean_where(changed, losses.cosine(embedding, own)),
            "cosine_twin": _mean_where(twin, losses.cosine(embedding, targets)),
        }
        return grads, batch_stats, metrics

    return gradients


def _make_part_gradients(config, encode, dtype, *, frozen: bool):
    """Build the gradients of both players on one part of a batch, as `over_parts` wants them."""
    net = AEINet(network_config(config), remat=config.remat)
    judge, weights = discriminator_network(config), config.loss
    region = face_region(config.network.resolution)

    def attributes(variables, faces):
        return net.apply(
            variables, faces.astype(dtype), train=not frozen, method="attributes",
            mutable=["batch_stats"],
        )  # fmt: skip

    def judged(params, faces):
        return _wide(judge.apply({"params": params}, faces.astype(dtype)))

    def generator_loss(params, state, encoder_params, faces, truth, own, targets, known, amount):
        variables = {"params": params, "batch_stats": state.batch_stats}
        maps, updates = attributes(variables, faces)
        # `apply` returns the whole collection: start from what the first call has updated.
        drawn, updates = net.apply(
            {"params": params, **updates}, targets.astype(dtype), maps, train=not frozen,
            method="draw", mutable=["batch_stats"],
        )  # fmt: skip
        drawn = blend(faces, at_least_float32(drawn), region)
        # Terms without a weight cost nothing but what the metrics need.
        seen = drawn if weights.identity or weights.leak else jax.lax.stop_gradient(drawn)
        embedding = _embed(encode, encoder_params, soften(seen, amount), dtype)
        terms = {
            "identity": losses.identity(embedding, targets),
            "leak": losses.leak(embedding, own, targets),
            "reconstruction": losses.reconstruction(
                drawn, truth, known[:, None, None, None], weights.reduction
            ),
            "colour": losses.colour(drawn, faces),
        }
        if weights.attributes:
            # Statistics are taken from real faces alone.
            again, _ = attributes(variables, drawn)
            terms["attributes"] = losses.attributes(_wide(again), _wide(maps), weights.reduction)
        if weights.adversarial:
            logits, features = judged(state.discriminator, drawn)
            terms["adversarial"] = losses.generator_adversarial(logits, weights.kind)
            if weights.texture:
                _, wanted = judged(state.discriminator, truth)
                terms["texture"] = losses.texture(features, wanted, known)
        total = sum(weights[name] * term for name, term in terms.items())
        return total, (terms, drawn, embedding, updates["batch_stats"])

    def discriminator_loss(params, faces, drawn):
        real, fake = (judged(params, x)[0] for x in (faces, drawn))
        correct = [((a > 0).mean() + (b < 0).mean()) / 2 for a, b in zip(real, fake, strict=True)]
        loss = losses.discriminator_adversarial(real, fake, weights.kind)
        return loss, sum(correct) / len(correct)

    def part_gradients(state, encoder_params, faces, *rest):
        gradient = jax.value_and_grad(generator_loss, has_aux=True)
        (total, aux), grads = gradient(state.params, state, encoder_params, faces, *rest)
        terms, drawn, embedding, batch_stats = aux
        gradient = jax.value_and_grad(discriminator_loss, has_aux=True)
        drawn = jax.lax.stop_gradient(drawn)
        metrics = {**terms, "total": total}
        if not weights.adversarial:
            judge_grads = jax.tree.map(jnp.zeros_like, state.discriminator)
            return ((grads, judge_grads), batch_stats, metrics), embedding
        (loss, accuracy), judge_grads = gradient(state.discriminator, faces, drawn)
        metrics |= {"discriminator": loss, "discriminator_accuracy": accuracy}
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
