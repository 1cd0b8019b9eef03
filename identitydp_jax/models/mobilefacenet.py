"""MobileFaceNet, the identity encoder that the shipped models use.

Chen, Liu, Gao, Han: "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on
Mobile Devices" (arXiv 1804.07573), in the widened form that InsightFace trains with ArcFace. Batch
norms are folded into the convolutions before them, as in the exported ONNX files.
"""

import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.models.depthwise import Pair, depthwise_conv
from identitydp_jax.weights.folding import Layer, channels_last, folded_layers
from identitydp_jax.weights.onnx_file import OnnxModel

_ONE_EACH_SIDE = ((1, 1), (1, 1))
_KINDS = "(conv prelu ){2}(conv prelu conv prelu conv )+(conv prelu ){2}dense"


class PReLU(nn.Module):
    """`max(x, 0) + alpha * min(x, 0)` with one slope per channel."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(..., C)` to the same shape."""
        alpha = self.param("alpha", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, alpha * x)


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of each channel by itself, with bias, zeros around the map by default."""

    stride: int = 1
    padding: tuple[Pair, Pair] = _ONE_EACH_SIDE

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(N, H, W, C)` to `(N, H / stride, W / stride, C)`."""
        shape = (3, 3, 1, x.shape[-1])
        kernel = self.param("kernel", nn.initializers.lecun_normal(in_axis=(0, 1)), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        strides = (self.stride, self.stride)
        return depthwise_conv(x, kernel, strides=strides, padding=self.padding) + bias


class PairedConv(nn.Module):
    """A 3x3 convolution in groups of two channels, with bias.

    Channel `c` of the first half and channel `c` of the second half form a group, so that two
    depthwise convolutions do: of the map, and of the map with its halves swapped.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(N, H, W, C)` to the same shape, `C` even."""
        shape = (3, 3, 1, x.shape[-1])
        init = nn.initializers.lecun_normal(in_axis=(0, 1))
        own = self.param("own_kernel", init, shape)
        other = self.param("other_kernel", init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        swapped = jnp.roll(x, x.shape[-1] // 2, axis=-1)
        convolved = depthwise_conv(x, own, padding=_ONE_EACH_SIDE)
        return convolved + depthwise_conv(swapped, other, padding=_ONE_EACH_SIDE) + bias


class Bottleneck(nn.Module):
    """Expand by 1x1, convolve depthwise, project by 1x1 without activation."""

    hidden: int
    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(N, H, W, C)` to `(N, H / stride, W / stride, features)`."""
        x = PReLU(name="expand_prelu")(nn.Dense(self.hidden, name="expand")(x))
        x = DepthwiseConv(self.stride, name="depthwise")(x)
        x = PReLU(name="depthwise_prelu")(x)
        return nn.Dense(self.features, name="project")(x)


class MobileFaceNet(nn.Module):
    """ArcFace identity encoder, r_id of the paper's Section 4.1.

    Attributes:
      width: channels of the first stage; the later ones are multiples of it.
      blocks: residual bottlenecks at 28, 14 and 7 pixels.
      embedding_size: length of the embedding.
    """

    width: int = 128
    blocks: tuple[int, int, int] = (4, 6, 2)
    embedding_size: int = 512

    @property
    def last_block(self) -> str:
        """Name of the module that gives the last map before the embedding is made."""
        return f"stage3_block{self.blocks[-1] - 1}"

    @nn.compact
    def __call__(self, faces: jax.Array) -> jax.Array:
        """Map faces `(N, 112, 112, 3)` float32 RGB in [-1, 1] to unit `(N, embedding_size)`."""
        width = self.width
        x = nn.Conv(width, (3, 3), (2, 2), padding=_ONE_EACH_SIDE, name="stem")(faces)
        x = PReLU(name="stem_prelu")(x)
        x = PReLU(name="paired_prelu")(PairedConv(name="paired")(x))
        stages = ((width, width, width), (2 * width, 2 * width, 2 * width))
        stages += ((4 * width, 2 * width, 2 * width),)
        for stage, (down_hidden, hidden, features) in enumerate(stages, 1):
            x = Bottleneck(down_hidden, features, stride=2, name=f"stage{stage}_down")(x)
            for block in range(self.blocks[stage - 1]):
                x = x + Bottleneck(hidden, features, name=f"stage{stage}_block{block}")(x)
        x = PReLU(name="separate_prelu")(nn.Dense(4 * width, name="separate")(x))
        x = PReLU(name="squeeze_prelu")(nn.Dense(width // 2, name="squeeze")(x))
        x = nn.Dense(self.embedding_size, name="embed")(x.reshape(x.shape[0], -1))
        return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True))


def convert(model: OnnxModel) -> tuple[MobileFaceNet, dict]:
    """Turn an ArcFace MobileFaceNet in ONNX into the network and its parameters.

    Returns:
      The module of the graph's width and depth, and float32 numpy arrays as a plain tree for
      `network.apply({"params": tree}, faces)`.

    Raises:
      ValueError: the graph is not a MobileFaceNet of this layout.
    """
    layers = folded_layers(model)
    if any(before.output not in after.inputs for before, after in itertools.pairwise(layers)):
        raise ValueError("layers do not follow each other")
    kinds = " ".join(layer.op for layer in layers if layer.op != "add")
    if not re.fullmatch(_KINDS, kinds):
        raise ValueError("layers of other kinds or in another order")
    stem, stem_prelu, paired, paired_prelu, *body = layers
    *body, separate, separate_prelu, squeeze, squeeze_prelu, embed = body
    # ONNX groups neighbours: put the first of every pair into the first half, up to the layer
    # that reads them all.
    halves = np.arange(len(stem.bias)).reshape(-1, 2).T.reshape(-1)
    body[0].kernel = body[0].kernel[:, :, halves]
    params = {
        "stem": {"kernel": stem.kernel[..., halves], "bias": stem.bias[halves]},
        "stem_prelu": {"alpha": stem_prelu.kernel[halves]},
        "paired": _paired(paired, halves),
        "paired_prelu": {"alpha": paired_prelu.kernel[halves]},
        "separate": _dense(separate),
        "separate_prelu": {"alpha": separate_prelu.kernel},
        "squeeze": _dense(squeeze),
        "squeeze_prelu": {"alpha": squeeze_prelu.kernel},
        "embed": {"kernel": channels_last(embed.kernel, len(squeeze.bias)), "bias": embed.bias},
    }
    blocks, bottlenecks = _stages(body)
    return MobileFaceNet(len(stem.bias), blocks, len(embed.bias)), params | bottlenecks


def _stages(body: list[Layer]) -> tuple[tuple[int, ...], dict]:
    """Return the residual bottlenecks per stage and all bottlenecks' parameters by name."""
    params: dict = {}
    blocks: list[int] = []
    while body:
        bottleneck, body = body[:5], body[5:]
        if body and body[0].op == "add":
            if bottleneck[0].inputs[0] not in body.pop(0).inputs:
                raise ValueError("a sum does not skip one bottleneck")
            name = f"stage{len(blocks)}_block{blocks[-1]}"
            blocks[-1] += 1
        else:
            blocks.append(0)
            name = f"stage{len(blocks)}_down"
        params[name] = _bottleneck(*bottleneck)
    return tuple(blocks), params


def _bottleneck(
    expand: Layer, expand_prelu: Layer, depthwise: Layer, depthwise_prelu: Layer, project: Layer
) -> dict:
    return {
        "expand": _dense(expand),
        "expand_prelu": {"alpha": expand_prelu.kernel},
        "depthwise": {"kernel": depthwise.kernel, "bias": depthwise.bias},
        "depthwise_prelu": {"alpha": depthwise_prelu.kernel},
        "project": _dense(project),
    }


def _dense(layer: Layer) -> dict:
    """Return a 1x1 convolution as a matrix product."""
    return {"kernel": layer.kernel.reshape(layer.kernel.shape[-2:]), "bias": layer.bias}


def _paired(layer: Layer, halves: np.ndarray) -> dict:
    """Split `(3, 3, 2, C)` into what a channel reads of itself and of its partner."""
    first, second = layer.kernel[:, :, :1, halves], layer.kernel[:, :, 1:, halves]
    is_first = halves % 2 == 0
    own, other = np.where(is_first, first, second), np.where(is_first, second, first)
    return {"own_kernel": own, "other_kernel": other, "bias": layer.bias[halves]}
