"""How a model does on faces that it never trains on: losses, cosines and pictures."""

import jax
import jax.numpy as jnp

from identitydp_jax.models import landmark_net
from identitydp_jax.models.aeinet import AEINet
from identitydp_jax.models.face_region import blend, face_region, features_region
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float, to_uint8
from identitydp_jax.models.population import anchor, transport
from identitydp_jax.training import losses
from identitydp_jax.training import state as states
from identitydp_jax.training.noise import add_laplace, draw_identities
from identitydp_jax.training.step import split_twins

BUDGETS = (10, 100, 1000)  # epsilon under `certified-l2`; at 10 next to nothing is left of a face
TARGETS = ("own", "twin", "other", *(f"epsilon_{epsilon}" for epsilon in BUDGETS), "random")
_TERMS = ("identity", "leak", "attributes", "colour", "detail", "landmarks")  # means over targets
_SHOWN = 8
_KEY = 0  # the same noise at every step, so that steps compare


def make_evaluation(config, encode):
    """Build `(variables, encoder_params, pictures) -> (values, grid)`, to be jitted.

    Every face is drawn anew with its own identity, with its twin's (without twins its own again),
    with the next face's, with its own after Laplace noise of every budget in `BUDGETS`, and with a
    random one, as the network is used: normalised by its running statistics.

    Args:
      config: a training configuration (see `configs/`).
      encode: `encode(params, crops)` of the frozen identity encoder.

    The function takes `TrainState.variables`, the encoder's parameters and uint8 pictures
    (N, R, K R, 3). It returns

    * `values`, float32 scalars: the terms `identity`, `leak`, `attributes`, `colour`, `detail` and,
      with a weight, `landmarks`, means over faces and targets; `reconstruction` and `cosine_own` of
      faces that keep their own identity, `reconstruction_twin` of those that take their twin's; for
      every other target T `cosine_target_T`, cos(r_id(X^), r~_id), and `cosine_original_T`,
      cos(r_id(X^), r_id(X)); and `loss`, the sum of these terms by the weights of `config.loss`.
      L_adv and the texture are not in it: the discriminator that they are measured by changes;
    * `grid`, uint8 (2 + targets, min(N, 8), R, R, 3): the first faces, their twins, and what was
      drawn.
    """
    net, weights = AEINet(states.network_config(config)), config.loss
    side = config.network.resolution
    region = face_region(side)
    landmarks = landmark_net.load() if weights.landmarks else None

    def evaluate(variables, encoder_params, pictures):
        pairs = to_float(split_twins(pictures))
        x, twins = pairs[:, 0], blend(pairs[:, 0], pairs[:, -1], features_region(side))
        own, theirs = (encode(encoder_params, identity_crop(faces)) for faces in (x, twins))
        maps = net.apply(variables, x, method="attributes")
        points = landmark_net.find(landmarks, x) if weights.landmarks else None

        def on_target(given):
            target, truth = given
            drawn = net.apply(variables, target, maps, method="draw")
            drawn = blend(x, drawn, region * net.apply(variables, maps, method="mask"))
            embedding = encode(encoder_params, identity_crop(drawn))
            again = net.apply(variables, drawn, method="attributes")
            values = {
                "identity": losses.identity(embedding, target),
                "leak": losses.leak(embedding, own, target),
                "attributes": losses.attributes(again, maps, weights.reduction),
                "colour": losses.colour(drawn, x),
                "detail": losses.detail(drawn, truth),
                "reconstruction": losses.reconstruction(
                    drawn, truth, jnp.ones((len(x), 1, 1, 1)), weights.reduction
                ),
                "cosine_target": losses.cosine(embedding, target).mean(),
                "cosine_original": losses.cosine(embedding, own).mean(),
            }
            if weights.landmarks:
                found = landmark_net.find(landmarks, drawn)
                values["landmarks"] = losses.landmarks(found, points)
            return values, to_uint8(drawn[:_SHOWN])

        targets = _targets(own, theirs, variables["population"], config.mixture.anchored)
        truths = jnp.stack([x, twins, *[x] * (len(TARGETS) - 2)])
        # One target after the other: a small program, and the memory of one.
        each, drawn = jax.lax.map(on_target, (targets, truths))
        known = to_uint8(jnp.stack([x, twins])[:, :_SHOWN])
        return _summary(each, weights), jnp.concatenate([known, drawn])

    return evaluate


def _targets(own, theirs, population, anchored):
    """Return the identities (targets, N, D) that the faces get, in the order of `TARGETS`."""
    noise_key, random_key = jax.random.split(jax.random.key(_KEY))
    keys = jax.random.split(noise_key, len(BUDGETS))

    def noised(key, epsilon):
        rows, cosine = add_laplace(own, key=key, epsilon=jnp.full(len(own), epsilon, jnp.float32))
        moved = transport(population, rows, cosine=cosine)
        return anchor(others, moved, cosine=cosine) if anchored else moved

    others = jnp.roll(own, 1, axis=0)
    each = [noised(key, epsilon) for key, epsilon in zip(keys, BUDGETS, strict=True)]
    random = transport(population, draw_identities(own.shape, key=random_key), cosine=0.0)
    return jnp.stack([own, theirs, others, *each, random])


def _summary(each, weights):
    """Return the values that `make_evaluation` describes, from those (targets,) of every target."""
    values = {name: each[name].mean() for name in _TERMS if name in each}
    values["reconstruction"] = each["reconstruction"][0]
    loss = sum(weights[name] * value for name, value in values.items())
    values["reconstruction_twin"] = each["reconstruction"][1]
    values["cosine_own"] = each["cosine_target"][0]
    for i, target in enumerate(TARGETS[1:], 1):
        for name in ("cosine_target", "cosine_original"):
            values[f"{name}_{target}"] = each[name][i]
    return {"loss": loss, **values}
