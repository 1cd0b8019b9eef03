"""One step of the adversarial game, as one pure function of state, batch and key."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from identitydp_jax import sharding
from identitydp_jax.data.augmentation import augment
from identitydp_jax.models import face_mesh, face_source, landmark_net, prior
from identitydp_jax.models.aeinet import AEINet
from identitydp_jax.models.face_region import blend, face_region, features_region
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.layers import at_least_float32, coarsen, wide
from identitydp_jax.models.pixels import to_float
from identitydp_jax.models.population import anchor, transport
from identitydp_jax.training import losses
from identitydp_jax.training.accumulation import over_parts
from identitydp_jax.training.noise import add_laplace, draw_identities
from identitydp_jax.training.state import (
    TrainState,
    averaged,
    discriminator_network,
    network_config,
    optimizer,
)


class Rows(NamedTuple):
    """Which identity each face of a batch shall get, bool (N,): one is true, or none for a random.

    Its own, its twin's, that of the next face, or its own after Laplace noise.
    """

    same: jax.Array
    twin: jax.Array
    other: jax.Array
    noised: jax.Array

    @property
    def known(self):
        """Where it is known what the face shall look like."""
        return self.same | self.twin

    def truth(self, faces, twins):
        """Return what the faces (N, R, R, 3) shall look like where that is known."""
        return jnp.where(self.twin[:, None, None, None], twins, faces)


def draw_rows(count: int, *, key, mixture) -> Rows:
    """Draw `Rows` of `count` faces by the shares of `mixture` of the same names."""
    u = jax.random.uniform(key, (count,))
    edges = itertools.accumulate((mixture[name] for name in Rows._fields), initial=0.0)
    return Rows(*((low <= u) & (u < high) for low, high in itertools.pairwise(edges)))


def draw_targets(own, rows: Rows, *, key, mixture, population):
    """Choose the identity that each face shall get: (N, D), of unit norm.

    Args:
      own: (N, D) unit embeddings of the faces, of their twins where `rows.twin` is true.
      rows: of `draw_rows`.
      key: typed key of this step.
      mixture: `epsilon` bounds the log-uniform certified budget of `rows.noised`; if `anchored`
        they become those of faces, see `models.population.anchor`, here of the next face.
      population: of `models.population.measure`; noised and random identities go through
        `transport`.
    """
    epsilon_key, noise_key, random_key = jax.random.split(key, 3)
    low, high = (jnp.log(jnp.float32(e)) for e in mixture.epsilon)
    epsilon = jnp.exp(jax.random.uniform(epsilon_key, own.shape[:1], minval=low, maxval=high))
    noised, cosine = add_laplace(own, key=noise_key, epsilon=epsilon)
    noised = transport(population, noised, cosine=cosine)
    others = jnp.roll(own, 1, axis=0)
    if mixture.anchored:
        noised = anchor(others, noised, cosine=cosine)
    random = transport(population, draw_identities(own.shape, key=random_key), cosine=0.0)
    targets = jnp.where(rows.noised[:, None], noised, random)
    targets = jnp.where(rows.other[:, None], others, targets)
    return jnp.where(rows.known[:, None], own, targets)


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

    What an encoder still sees of a quarter of the resolution is a change of features, not a texture
    that only misleads it.
    """
    blurred = coarsen(faces, faces.shape[1] // 4)
    return faces + amount[:, None, None, None] * (blurred - faces)


def make_step(config, encode, mesh, *, frozen: bool):
    """Build the step `(state, encoder_params, pictures, key) -> (state, metrics)`.

    Args:
      config: a training configuration (see `configs/`).
      encode: `encode(params, crops)` of the frozen identity encoder.
      mesh: from `sharding.make_mesh`; the state lies on it as `sharding.state_shardings` says.
      frozen: normalise by the statistics in the state, as in use, rather than by the batch's own.

    The step takes the global batch, uint8 pictures (N, R, K R, 3), and a typed key, and returns
    float32 scalar metrics. Jit it with the shardings of the state on both sides, and donate the
    state.
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
        average = averaged(config, state, params, batch_stats)
        state = TrainState(
            state.step + 1, params, batch_stats, average, state.population, discriminator, moments,
            judge_moments,
        )  # fmt: skip
        return state, metrics

    return step


def make_gradients(config, encode, mesh, *, frozen: bool):
    """Build `(state, encoder_params, pictures, key) -> (gradients, batch_stats, metrics)`.

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
        face_key, row_key, target_key, soften_key = jax.random.split(key, 4)
        # Drawn for the whole batch, so that its division changes nothing.
        pair = learned_faces(pictures, key=face_key, config=config)
        faces, twins = (x.astype(wide(dtype)) for x in pair)
        encoder_params = _cast(encoder_params, dtype)
        rows = draw_rows(len(faces), key=row_key, mixture=config.mixture)
        truth = rows.truth(faces, twins)
        own = _embed(encode, encoder_params, truth, dtype)
        targets = draw_targets(
            own, rows, key=target_key, mixture=config.mixture, population=state.population
        )
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

        known = rows.known.astype(jnp.float32)
        means, embedding = over_parts(
            on_part, (faces, truth, own, targets, known, amount), config.accumulate
        )
        grads, batch_stats, metrics = means
        if frozen:  # a mean of equal values may round
            batch_stats = state.batch_stats
        metrics |= {
            "gradient_norm": optax.tree.norm(grads[0]),
            "discriminator_gradient_norm": optax.tree.norm(grads[1]),
            "cosine_target": _mean_where(~rows.known, losses.cosine(embedding, targets)),
            "cosine_original": _mean_where(~rows.known, losses.cosine(embedding, own)),
            "cosine_twin": _mean_where(rows.twin, losses.cosine(embedding, targets)),
        }
        return grads, batch_stats, metrics

    return gradients


def _make_part_gradients(config, encode, dtype, *, frozen: bool):
    """Build the gradients of both players on one part of a batch, as `over_parts` wants them."""
    net = AEINet(network_config(config), remat=config.remat)
    judge, weights = discriminator_network(config), config.loss
    landmarks = landmark_net.load() if weights.landmarks else None
    mesh = face_mesh.load() if weights.expression else None
    region = face_region(config.network.resolution)
    styles = prior.style_space(prior.some_styles(face_source.load())) if weights.styles else None

    def attributes(variables, faces):
        return net.apply(
            variables, faces.astype(dtype), train=not frozen, method="attributes",
            mutable=["batch_stats"],
        )  # fmt: skip

    def judged(params, faces):
        return _wide(judge.apply({"params": params}, faces.astype(dtype)))

    def generator_loss(params, state, encoder_params, faces, truth, own, targets, known, amount):
        if net.config.fusion == "prior":
            params = {**params, "generator": prior.hold(params["generator"])}
        variables = {"params": params, "batch_stats": state.batch_stats}
        maps, updates = attributes(variables, faces)
        # `apply` returns the whole collection: start from what the first call has updated.
        whole, updates = net.apply(
            {"params": params, **updates}, targets.astype(dtype), maps, train=not frozen,
            method="draw", mutable=["batch_stats", "penalties"],
        )  # fmt: skip
        whole = at_least_float32(whole)
        mask = at_least_float32(net.apply({"params": params}, maps, method="mask"))
        drawn = blend(faces, whole, region * mask)
        # Terms without a weight cost nothing but what the metrics need.
        seen = drawn if weights.identity or weights.leak else jax.lax.stop_gradient(drawn)
        embedding = _embed(encode, encoder_params, soften(seen, amount), dtype)
        terms = {
            "identity": losses.identity(embedding, targets),
            "leak": losses.leak(embedding, own, targets),
            # Without the mask, which would make it easy by showing the photo.
            "reconstruction": losses.reconstruction(
                blend(faces, whole, region), truth, known[:, None, None, None], weights.reduction
            ),
            "colour": losses.colour(drawn, faces),
            "detail": losses.detail(drawn, truth),
        }
        if weights.surroundings:
            terms["surroundings"] = losses.surroundings(whole, truth, known, region)
        if weights.edge:
            terms["edge"] = losses.edge(whole, faces, region * mask)
        if weights.seam:
            terms["seam"] = losses.seam(whole, faces, mask, region)
        if weights.styles:
            terms |= _penalties(updates["penalties"]["generator"], styles)
        if weights.landmarks:
            found, wanted = (landmark_net.find(landmarks, x) for x in (drawn, faces))
            terms["landmarks"] = losses.landmarks(found, wanted)
        if weights.expression:
            found, wanted = (face_mesh.find(mesh, x) for x in (drawn, faces))
            terms["expression"] = losses.expression(found, wanted)
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
        return total, (terms, drawn, embedding, updates.get("batch_stats", {}))

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


def _penalties(sown, space):
    """Return the terms `styles` and `modulation` of what `prior.PriorGenerator` has sown."""
    sown = dict(sown)
    (codes,) = sown.pop("codes")
    changes = [change for layer in sown.values() for change in layer["modulation"]]
    return {
        "styles": prior.style_excess(space, codes),
        "modulation": sum(changes) / len(changes),
    }


def _embed(encode, params, faces, dtype):
    """Return unit embeddings of faces, float32 at least, computed in `dtype`."""
    # The crop's place needs float32; a half-precision embedding is no longer of unit norm.
    embedding = at_least_float32(encode(params, identity_crop(faces).astype(dtype)))
    return embedding / jnp.linalg.norm(embedding, axis=-1, keepdims=True)


def _cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def _wide(tree):
    return jax.tree.map(at_least_float32, tree)


def _mean_where(chosen, values):
    return jnp.where(chosen, values, 0.0).sum() / jnp.maximum(chosen.sum(dtype=jnp.float32), 1.0)
