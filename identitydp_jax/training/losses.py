"""Losses of IdentityDP, equations 14 to 18, and more; float32 scalars, batch means."""

import jax
import jax.numpy as jnp
import optax

from identitydp_jax.models.layers import coarsen, reduce

KINDS = ("log", "hinge")
REDUCTIONS = ("sum", "mean")
_SEAM = 0.2  # in [-1, 1]


def generator_adversarial(fake_logits, kind: str):
    """L_adv as the generator sees it: the mean over scales of each scale's mean.

    `log` is the non-saturating form of equation 14; `hinge` is -D(X^).
    """
    if kind == "hinge":
        return _mean(-logits.mean() for logits in fake_logits)
    return _mean(_log_loss(x, 1.0) for x in fake_logits)


def discriminator_adversarial(real_logits, fake_logits, kind: str):
    """L_adv as the discriminator sees it (equation 14), or its hinge form."""
    if kind == "hinge":
        real = _mean(jnp.maximum(0.0, 1.0 - x).mean() for x in real_logits)
        fake = _mean(jnp.maximum(0.0, 1.0 + x).mean() for x in fake_logits)
        return real + fake
    real = _mean(_log_loss(x, 1.0) for x in real_logits)
    return real + _mean(_log_loss(x, 0.0) for x in fake_logits)


def cosine(a, b):
    """Cosines (N,) of unit embeddings a, b (N, D)."""
    return (a * b).sum(-1)


def identity(embedding, target):
    """L_id = 1 - cos(r_id(X^), r~_id) (equation 15), for unit embeddings (N, D)."""
    return (1.0 - cosine(embedding, target)).mean()


def leak(embedding, own, target):
    """How much more the drawn face resembles the original than its target identity does.

    Mean over the batch of max(0, cos(r_id(X^), r_id(X)) - cos(r~_id, r_id(X))), unit embeddings.
    """
    return jnp.maximum(0.0, cosine(embedding, own) - cosine(target, own)).mean()


def attributes(maps, targets, reduction: str):
    """L_att = 1/2 sum_k ||r_att^k(X^) - r_att^k(X)||^2 (equation 16).

    `reduction` is `sum`, as printed, or `mean` over the entries of each map before the sum over k.
    """
    reduce = jnp.mean if reduction == "mean" else _batch_mean_of_sums
    return 0.5 * sum(reduce((a - b) ** 2) for a, b in zip(maps, targets, strict=True))


def reconstruction(drawn, faces, weight, reduction: str):
    """L_rec = 1/2 ||X^ - X||^2, pixels weighted by `weight` (N, R, R, 1) or (N, 1, 1, 1).

    Equation 17 has weight 1 where identity and attributes come from one face and 0 elsewhere.
    """
    error = weight * (drawn - faces) ** 2
    per_face = error.mean((1, 2, 3)) if reduction == "mean" else error.sum((1, 2, 3))
    return 0.5 * per_face.mean()


def texture(drawn, truth, weight):
    """Mean absolute difference of the discriminator's features (pix2pixHD, equation 4), per row.

    Args:
      drawn: list of feature maps (N, S, S, C) of X^.
      truth: those of what it should be.
      weight: (N,), 0 where the truth is not known.
    """

    def each(a, b):
        return (weight * jnp.abs(a - b).mean((1, 2, 3))).mean()

    return _mean(each(a, b) for a, b in zip(drawn, truth, strict=True))


def colour(drawn, faces):
    """Half the mean squared difference of 8x8 block means: light and colours, no features."""

    return 0.5 * ((_blocks(drawn) - _blocks(faces)) ** 2).mean()


def surroundings(drawn, truth, weight, region):
    """Half the mean squared difference outside `region` (R, R, 1), rows weighted by `weight` (N,).

    Of a face before it is pasted: what is around it tells what hair, pose and light it has.
    """
    around = weight[:, None, None, None] * (1.0 - region)
    return reconstruction(drawn, truth, around, "mean")


def edge(drawn, faces, region):
    """Half the mean squared difference at the rim of `region` (R, R, 1), where it is about 1/2."""
    return reconstruction(drawn, faces, 4.0 * region * (1.0 - region), "mean")


def seam(drawn, faces, mask, region):
    """What a paste mask (N, R, R, 1) shows of a drawn face where it doesn't go with the photo.

    The mean of the mask times what the colours of 4x4 pixels differ by beyond a tenth of their
    range, within `region`. It asks the mask, not the face: hair, hats, hands, walls stay the
    photo's, and skin, which differs by less, is drawn.
    """
    error = jnp.abs(coarsen(drawn - faces, drawn.shape[1] // 4)).mean(-1, keepdims=True)
    return (region * mask * (jax.lax.stop_gradient(error) - _SEAM)).mean()


def _blocks(x):
    return reduce(x, x.shape[1] // 8)


def landmarks(points, others):
    """Mean distance of points (N, 68, 2) of X^ from those of X, over that of X's eyes.

    Of brows, eyes, nose and mouth, as the evaluation's landmark drift: the jaw is the identity's.
    """
    moved, eyes = points[:, 17:] - others[:, 17:], others[:, 36] - others[:, 45]
    return (_length(moved).mean(1) / _length(eyes)).mean()


def detail(drawn, truth):
    """How much more fine detail X^ (N, R, R, 3) has than it should, mean over blocks of 8x8 pixels.

    Fine is what a quarter of the resolution doesn't show; its amount the root of its mean square.
    Stripes and specks on smooth skin, which deceive an encoder and which nobody has, cost so.
    """

    def amount(x):
        fine = x - coarsen(x, x.shape[1] // 4)
        return jnp.sqrt(_blocks(fine**2).mean(-1) + 1e-6)

    return jnp.maximum(0.0, amount(drawn) - amount(truth)).mean()


def _length(x):
    # Never 0, where a length has no gradient: 0.001 is a tenth of a pixel of 128.
    return jnp.sqrt((x**2).sum(-1) + 1e-6)


def _mean(terms):
    terms = list(terms)
    return sum(terms) / len(terms)


def _log_loss(logits, label: float):
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, label)).mean()


def _batch_mean_of_sums(x):
    return x.sum() / x.shape[0]
