"""A pretrained generator as the decoder: identity styles it, attribute maps modulate its features.

The second fusion of `AEINet`. In the paper's AAD layers (FaceShifter, equations 2 to 5) a mask
blends features modulated by the identity with features modulated by the attributes. Here the
features are those of MobileStyleGAN (`models.face_source`), which a style modulates already:

* a style code per resolution is read from the identity embedding (`IdentityStyle`) and from the
  bottleneck of the attribute encoder, which knows of pose, hair and light;
* `PriorAAD` blends the features with themselves as modulated by the attribute map of their size;
* beyond the resolution where the generator is cut, `cut_source.Tail` stands for what remains of it.

A network that has learned nothing draws the mean face, and every layer starts from a generator that
draws photographs.
"""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.models import face_source, population
from identitydp_jax.models.cut_source import Tail, pretrained, style_count, synthesise
from identitydp_jax.models.face_region import core_region
from identitydp_jax.models.face_source import LATENT_SIZE, synthesis_block
from identitydp_jax.models.layers import Conv, enlarge, reduce

_MODULATED = 64  # px: the largest features that attribute maps modulate
_IDENTITY_WIDTH = 1024
_TRUNK_WIDTH = 512
_GAINS = (0.3, 0.6, 0.8, 0.8, 0.4, 0.2, 0.2)  # of the codes for 4, 8, 16, ... px
_MEASURED = 4096
_MOSTLY_DRAWN = 2.0  # logit of a paste mask that has learned nothing
_LEAST = 0.01  # of the largest deviation: what varies less is not asked to fit
_HELD = re.compile("constant|stem|style_|up_|conv_")


class IdentityStyle(nn.Module):
    """Reads identity embeddings as styles: a linear map and, for the rest, two hidden layers."""

    @nn.compact
    def __call__(self, identity):
        """Map unit embeddings (N, D) to styles (N, 512), in standard deviations from the mean."""
        identity = identity * np.float32(identity.shape[-1] ** 0.5)
        x = identity
        for index in range(2):
            y = nn.Dense(_IDENTITY_WIDTH, name=f"hidden{index}")(x)
            x = nn.gelu(nn.LayerNorm(name=f"norm{index}")(y if index == 0 else x + y))
        rest = nn.Dense(LATENT_SIZE, kernel_init=nn.initializers.zeros, name="rest")(x)
        return nn.Dense(LATENT_SIZE, name="linear")(identity) + rest


class Styles(nn.Module):
    """One style code per resolution, from the identity and the attribute encoder's bottleneck.

    Attributes:
      count: how many codes.
    """

    count: int

    @nn.compact
    def __call__(self, identity, bottleneck):
        """Map (N, D) unit embeddings and (N, 2, 2, C) maps to (N, count, 512) deviations."""
        trunk = bottleneck.reshape(len(bottleneck), -1)
        trunk = nn.leaky_relu(nn.Dense(_TRUNK_WIDTH, name="trunk")(trunk), 0.2)
        own = IdentityStyle(name="identity")(identity)
        gain = self.param("gain", nn.initializers.zeros, (self.count, 1))
        hidden = nn.Dense(_TRUNK_WIDTH, name="joint")(jnp.concatenate([trunk, own], axis=-1))
        zeros = nn.initializers.zeros
        shape, size = (-1, self.count, LATENT_SIZE), self.count * LATENT_SIZE
        scene = nn.Dense(size, kernel_init=zeros, name="scene")(trunk).reshape(shape)
        both = nn.Dense(size, kernel_init=zeros, name="both")(nn.leaky_relu(hidden, 0.2))
        return scene + gain * own[:, None] + both.reshape(shape)


class PriorAAD(nn.Module):
    """Adaptive attentional denormalization of features that their style modulates already.

    FaceShifter's layer (equations 2 to 5) with the features h themselves in the place of what the
    identity makes of them: (1 - M) (gamma h + beta) + M h, gamma 1 and beta 0 to begin with.
    """

    kernel: int

    @nn.compact
    def __call__(self, h, attribute):
        """Modulate h (N, S, S, C) by an attribute map (N, S, S, A)."""
        size, features, zeros = self.kernel, h.shape[-1], nn.initializers.zeros
        by = Conv(2 * features, size, padding=size // 2, kernel_init=zeros, name="change")
        gamma, beta = jnp.split(by(attribute), 2, axis=-1)
        mask = nn.sigmoid(Conv(1, size, padding=size // 2, kernel_init=zeros, name="share")(h))
        change = (1.0 - mask) * (gamma * h + beta)
        self.sow("penalties", "modulation", jnp.mean((1 - mask) ** 2 * (gamma**2 + beta**2)))
        return h + change


class PasteMask(nn.Module):
    """Tells where the drawn face shall be seen and where the photo, from the attribute maps."""

    @nn.compact
    def __call__(self, attributes, side: int):
        """Map attribute maps to shares of the drawn face (N, side, side, 1), in [0, 1].

        1 within `face_region.core_region`, whatever the maps.
        """
        finest = next(a for a in attributes if a.shape[1] == min(side, _MODULATED))
        logit = Conv(1, 3, padding=1, kernel_init=nn.initializers.zeros, name="logit")(finest)
        share = enlarge(nn.sigmoid(logit + _MOSTLY_DRAWN), side)
        core = jnp.asarray(core_region(side), share.dtype)
        return core + (1.0 - core) * share


class PriorGenerator(nn.Module):
    """Identity embedding and attribute maps to a face, drawn by the layers of MobileStyleGAN.

    Attributes:
      config: shape of the network, an `aeinet.AEIConfig`.
      doubled: draw at twice the resolution, by one more pretrained block, see `double_parameters`:
        no layer is trained for it, and it adds fine detail alone.
    """

    config: Any
    doubled: bool = False

    @nn.compact
    def __call__(self, identity, attributes, *, train: bool):
        """Map unit identities (N, D) and the encoder's maps to faces (N, R, R, 3).

        Sows into `penalties`, for the training: `codes` (N, count, 512) and `modulation`, the mean
        square of every `PriorAAD`'s change.
        """
        config = self.config
        deviations = Styles(style_count(config.resolution), name="styles")(identity, attributes[0])
        maps = {attribute.shape[1]: attribute for attribute in attributes[1:]}

        def modulate(x):
            size = x.shape[1]
            layer = PriorAAD(config.attribute_kernel, name=f"aad{size}")
            return layer(x, maps[size]) if size <= _MODULATED else x

        mean = self.param("style_mean", nn.initializers.zeros, (LATENT_SIZE,))
        deviation = self.param("style_deviation", nn.initializers.ones, (LATENT_SIZE,))
        styles = mean + deviation * deviations
        self.sow("penalties", "codes", styles)
        side = _cut(config)
        x, block = synthesise(self, styles, side, modulate)
        style = styles[:, block]
        faces = Tail(name=f"tail{side}")(x, style)
        if not self.doubled:
            return enlarge(faces, config.resolution)
        fine = Tail(name=f"tail{2 * side}")(synthesis_block(x, style, block), style)
        return enlarge(faces, 2 * side) + fine - enlarge(reduce(fine, side), 2 * side)


def initial(config) -> dict:
    """Return what the `PriorGenerator` of an `aeinet.AEIConfig` takes over, fetched if absent.

    The pretrained layers, mean and standard deviation of the styles of faces of nobody, and a gain
    at which the codes of 16 and 32 px begin to follow the identity most.

    Raises:
      UserError: the files cannot be fetched or are not the pinned ones.
    """
    source = face_source.load()
    styles = some_styles(source)
    scale = {"style_mean": styles.mean(0), "style_deviation": styles.std(0)}
    gain = np.array(_GAINS[: style_count(config.resolution)], np.float32)[:, None]
    return {**pretrained(source, _cut(config)), **scale, "styles": {"gain": gain}}


def double_parameters(source, config) -> dict:
    """Return the parameters that `PriorGenerator` needs to draw at twice the resolution.

    Args:
      source: parameters of `face_source.FaceSource`.
      config: of the network, an `aeinet.AEIConfig`.
    """
    kept, more = (pretrained(source, factor * _cut(config)) for factor in (1, 2))
    return {name: value for name, value in more.items() if name not in kept}


def some_styles(source) -> np.ndarray:
    """Return the styles (4096, 512) of fixed latents, by the parameters of `FaceSource`."""
    keys = jax.random.split(jax.random.key(0), _MEASURED)
    latents, psi = face_source.latents(keys)
    mapped = face_source.StyleMapping().apply({"params": source["mapping"]}, latents)
    return np.asarray(source["mean_style"] + psi[:, None] * (mapped - source["mean_style"]))


def hold(generator: dict) -> dict:
    """Return `PriorGenerator`'s parameters, those that were pretrained without gradients."""

    def leaf(name, value):
        return jax.lax.stop_gradient(value) if _HELD.match(name) else value

    return {name: leaf(name, value) for name, value in generator.items()}


def style_space(styles) -> dict:
    """Return what is needed to tell how far styles lie from those of faces of nobody.

    Styles are widened by the inverse of the mapping's last activation (P_N space, Zhu et al., arXiv
    2012.09036), where they are nearly normal, and whitened.

    Args:
      styles: float32 (N, 512), of `some_styles`.
    """
    return population.measure(_widened(jnp.asarray(styles)))


def style_excess(space, styles):
    """Return how much further from the mean styles lie than those of nobody's faces do, ().

    The mean over codes of max(0, m - 1), m the mean square of a code's whitened entries.

    Args:
      space: of `style_space`.
      styles: float32 (N, count, 512).
    """
    deviation = jnp.maximum(space["deviation"], _LEAST * space["deviation"].max())
    white = ((_widened(styles) - space["mean"]) @ space["basis"]) / deviation
    return jnp.maximum(0.0, jnp.mean(white**2, axis=-1) - 1.0).mean()


def _cut(config) -> int:
    return config.resolution if config.finer else min(config.coarse, config.resolution)


def _widened(styles):
    return jnp.where(styles < 0, styles * 5.0, styles)
