"""SFace's network, an identity encoder whose licence allows commercial use.

Zhong, Deng, Hu, Zhao, Li, Wen: "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
Recognition" (arXiv 2205.12010), as OpenCV's model zoo gives it: MobileNet v1 (arXiv 1704.04861)
with PReLUs, from its first convolution on at the full 112 px. Batch norms are folded into the
convolutions before them and, the last one, into the matrix product after it.
"""

import dataclasses
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.models.mobilefacenet import DepthwiseConv, PReLU
from identitydp_jax.weights.folding import Layer, channels_last, folded_layers
from identitydp_jax.weights.onnx_file import OnnxModel

_ONE_EACH_SIDE = ((1, 1), (1, 1))
_KINDS = "(conv prelu )(conv prelu conv prelu )+affine dense"
_SHIFT, _SCALE = 127.5, 1 / 128  # what the graph does to its input, 0 to 255
# Channels and stride of MobileNet v1's separable convolutions.
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5)
_BLOCKS += ((1024, 2), (1024, 1))


class SFace(nn.Module):
    """Identity encoder, r_id of the paper's Section 4.1 for models without ArcFace.

    Attributes:
      width: channels of the first convolution.
      blocks: channels and stride of each separable convolution.
      embedding_size: length of the embedding.
    """

    width: int = 32
    blocks: tuple[tuple[int, int], ...] = _BLOCKS
    embedding_size: int = 128

    @property
    def last_block(self) -> str:
        """Name of the module that gives the last map before the embedding is made."""
        return f"pointwise{len(self.blocks) - 1}_prelu"

    @nn.compact
    def __call__(self, faces: jax.Array) -> jax.Array:
        """Map faces `(N, 112, 112, 3)` float32 RGB in [-1, 1] to unit `(N, embedding_size)`."""
        x = nn.Conv(self.width, (3, 3), padding=_ONE_EACH_SIDE, name="stem")(faces)
        x = PReLU(name="stem_prelu")(x)
        for block, (features, stride) in enumerate(self.blocks):
            x = DepthwiseConv(stride, name=f"depthwise{block}")(x)
            x = PReLU(name=f"depthwise{block}_prelu")(x)
            x = nn.Dense(features, name=f"pointwise{block}")(x)
            x = PReLU(name=f"pointwise{block}_prelu")(x)
        x = nn.Dense(self.embedding_size, name="embed")(x.reshape(x.shape[0], -1))
        return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True))


def convert(model: OnnxModel) -> tuple[SFace, dict]:
    """Turn SFace in ONNX into the network and its parameters.

    Returns:
      The module of the graph's width and depth, and float32 numpy arrays as a plain tree for
      `network.apply({"params": tree}, faces)`.

    Raises:
      ValueError: the graph is not an SFace of this layout.
    """
    layers = folded_layers(_without_scaling(model))
    if any(before.output not in after.inputs for before, after in itertools.pairwise(layers)):
        raise ValueError("layers do not follow each other")
    if not re.fullmatch(_KINDS, " ".join(layer.op for layer in layers)):
        raise ValueError("layers of other kinds or in another order")
    stem, stem_prelu, *body, norm, embed = layers
    # The graph's input is 127.5 (x + 1), of which it takes (127.5 (x + 1) - 127.5) / 128.
    kernel = stem.kernel * np.float32(_SHIFT * _SCALE)
    params = {
        "stem": {"kernel": kernel, "bias": stem.bias},
        "stem_prelu": {"alpha": stem_prelu.kernel},
        "embed": _after(norm, embed),
    }
    blocks = []
    for i in range(0, len(body), 4):
        depthwise, depthwise_prelu, pointwise, pointwise_prelu = body[i : i + 4]
        kernel = pointwise.kernel.reshape(pointwise.kernel.shape[-2:])
        block = len(blocks)
        params |= {
            f"depthwise{block}": {"kernel": depthwise.kernel, "bias": depthwise.bias},
            f"depthwise{block}_prelu": {"alpha": depthwise_prelu.kernel},
            f"pointwise{block}": {"kernel": kernel, "bias": pointwise.bias},
            f"pointwise{block}_prelu": {"alpha": pointwise_prelu.kernel},
        }
        blocks.append((len(pointwise.bias), depthwise.stride))
    return SFace(len(stem.bias), tuple(blocks), len(embed.bias)), params


def _without_scaling(model: OnnxModel) -> OnnxModel:
    """Return the graph without the (x - 127.5) / 128 that it begins with."""
    shift, scale, *rest = model.nodes
    for node, op, wanted in ((shift, "Sub", _SHIFT), (scale, "Mul", _SCALE)):
        number = model.initializers.get(node.inputs[-1], np.zeros(0))
        if node.op != op or number.size != 1 or number.item() != wanted:
            raise ValueError("it does not begin with (x - 127.5) / 128")
    return dataclasses.replace(model, nodes=tuple(rest))


def _after(norm: Layer, dense: Layer) -> dict:
    """Return a matrix product that reads a flattened map after a batch norm, without the norm."""
    kernel = channels_last(dense.kernel, len(norm.bias))
    pixels = len(kernel) // len(norm.bias)
    bias = dense.bias + np.tile(norm.bias, pixels) @ kernel
    return {"kernel": np.tile(norm.kernel, pixels)[:, None] * kernel, "bias": bias}
