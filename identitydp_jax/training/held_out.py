"""How a model does on faces that it never trains on: losses, cosines and pictures."""

import jax
import jax.numpy as jnp

from identitydp_jax.models.aeinet import AEINet
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float, to_uint8
from identitydp_jax.training import losses
from identitydp_jax.training import state as states
from identitydp_jax.training.noise import add_laplace, draw_identities

BUDGETS = (10, 100, 1000)  # epsilon under `certified-l2`; at 10 next to nothing is left of a face
TARGETS = ("own", "swap", *(f"epsilon_{epsilon}" for epsilon in BUDGETS), "random")
_SHOWN = 8
_KEY = 0  # the same noise at every step, so that steps compare


def make_evaluation(config, encode):
    """Build `(variables, encoder_params, faces) -> (values, pictures)`, to be jitted.

    Every face is drawn anew with its own identity, with the next face's, with its own after Laplace
    noise of every budget in `BUDGETS`, and with a random one, as the network is used: normalised by
    its running statistics.

    Args:
      config: a training configuration (see `configs/`).
      encode: `encode(params, crops)` of the frozen identity encoder.

    The function takes `params` and `batch_stats` of the network, the encoder's parameters and uint8
    faces (N, R, R, 3). It returns

    * `values`, float32 scalars: the terms `identity`, `leak`, `attributes` and `colour`, means over
      faces and targets; `reconstruction` and `cosine_own` of faces that keep their own identity;
      for every other target T `cosine_target_T`, cos(r_id(X^), r~_id), and `cosine_original_T`,
      cos(r_id(X^), r_id(X)); and `loss`, the sum of these terms by the weights of `config.loss`.
      L_adv is not in it: the discriminator that it is measured by changes;
    * `pictures`, uint8 (1 + targets, min(N, 8), R, R, 3): the first faces, and what was drawn.
    """
    net, weights = AEINet(states.network_config(config)), config.loss

    def evaluate(variables, encoder_params, faces):
        x = to_float(faces)
        own = encode(encoder_params, identity_crop(x))
        maps = net.apply(variables, x, method="attributes")

        def on_target(target):
            drawn = net.apply(variables, target, maps, method="draw")
            embedding = encode(encoder_params, identity_crop(drawn))
            again = net.apply(variables, drawn, method="attributes")
            values = {
                "identity": losses.identity(embedding, target),
                "leak": losses.leak(embedding, own, target),
                "attributes": losses.attributes(again, maps, weights.reduction),
                "colour": losses.colour(drawn, x),
                "reconstruction": losses.reconstruction(
                    drawn, x, jnp.ones((len(x), 1, 1, 1)), weights.reduction
                ),
                "cosine_target": losses.cosine(embedding, target).mean(),
                "cosine_original": losses.cosine(embedding, own).mean(),
            }
            return values, to_uint8(drawn[:_SHOWN])

        # One target after the other: a small program, and the memory of one.
        each, drawn = jax.lax.map(on_target, _targets(own))
        return _summary(each, weights), jnp.concatenate([faces[None, :_SHOWN], drawn])

    return evaluate


def _targets(own):
    """Return the identities (targets, N, D) that the faces get, in the order of `TARGETS`."""
    noise_key, random_key = jax.random.split(jax.random.key(_KEY))
    keys = jax.random.split(noise_key, len(BUDGETS))
    noised = [
        add_laplace(own, key=key, epsilon=jnp.full(len(own), epsilon, jnp.float32))
        for key, epsilon in zip(keys, BUDGETS, strict=True)
    ]
    swapped = jnp.roll(own, 1, axis=0)
    return jnp.stack([own, swapped, *noised, draw_identities(own.shape, key=random_key)])


def _summary(each, weights):
    """Return the values that `make_evaluation` describes, from those (targets,) of every target."""
    values = {name: each[name].mean() for name in ("identity", "leak", "attributes", "colour")}
    values["reconstruction"] = each["reconstruction"][0]
    loss = sum(weights[name] * value for name, value in values.items())
    values["cosine_own"] = each["cosine_target"][0]
    for i, target in enumerate(TARGETS[1:], 1):
        for name in ("cosine_target", "cosine_original"):
            values[f"{name}_{target}"] = each[name][i]
    return {"loss": loss, **values}
