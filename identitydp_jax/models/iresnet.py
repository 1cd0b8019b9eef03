"""IResNet-50 and -100, the identity encoders of the ArcFace paper and its successors.

Deng, Guo, Xue, Zafeiriou: "ArcFace: Additive Angular Margin Loss for Deep Face Recognition"
(arXiv 1801.07698), Section 3.1, in the layout of InsightFace's PyTorch training code. Batch norms
after a convolution are folded into it, those before one are per-channel affine maps.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from identitydp_jax.models.mobilefacenet import PReLU
from identitydp_jax.weights.folding import Layer, channels_last, folded_layers
from identitydp_jax.weights.onnx_file import OnnxModel

BLOCKS_50 = (3, 4, 14, 3)
BLOCKS_100 = (3, 13, 30, 3)
_ONE_EACH_SIDE = ((1, 1), (1, 1))


class ChannelAffine(nn.Module):
    """`scale * x + bias` per channel: a batch norm at inference."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(..., C)` to the same shape."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return scale * x + self.param("bias", nn.initializers.zeros, (x.shape[-1],))


class ResidualBlock(nn.Module):
    """Norm, 3x3 convolution, PReLU and 3x3 convolution, added to the input."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(N, H, W, C)` to `(N, H / stride, W / stride, features)`."""
        strides = (self.stride, self.stride)
        skip = x
        if self.stride != 1:
            skip = nn.Conv(self.features, (1, 1), strides, padding="VALID", name="shortcut")(x)
        x = ChannelAffine(name="norm")(x)
        x = nn.Conv(self.features, (3, 3), padding=_ONE_EACH_SIDE, name="conv1")(x)
        x = PReLU(name="prelu")(x)
        x = nn.Conv(self.features, (3, 3), strides, padding=_ONE_EACH_SIDE, name="conv2")(x)
        return x + skip


class IResNet(nn.Module):
    """ArcFace identity encoder, r_id of the paper's Section 4.1.

    Attributes:
      blocks: residual blocks at 56, 28, 14 and 7 pixels: `BLOCKS_50` or `BLOCKS_100`.
      width: channels of the first stage; every further stage doubles them.
      embedding_size: length of the embedding.
    """

    blocks: tuple[int, int, int, int] = BLOCKS_50
    width: int = 64
    embedding_size: int = 512

    @property
    def last_block(self) -> str:
        """Name of the module that gives the last map before the embedding is made."""
        return f"stage{len(self.blocks)}_block{self.blocks[-1] - 1}"

    @nn.compact
    def __call__(self, faces: jax.Array) -> jax.Array:
        """Map faces `(N, 112, 112, 3)` float32 RGB in [-1, 1] to unit `(N, embedding_size)`."""
        x = nn.Conv(self.width, (3, 3), padding=_ONE_EACH_SIDE, name="stem")(faces)
        x = PReLU(name="stem_prelu")(x)
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                features, stride = self.width << stage, 2 if block == 0 else 1
                x = ResidualBlock(features, stride, name=f"stage{stage + 1}_block{block}")(x)
        x = ChannelAffine(name="norm")(x)
        x = nn.Dense(self.embedding_size, name="embed")(x.reshape(x.shape[0], -1))
        return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True))


def convert(model: OnnxModel) -> tuple[IResNet, dict]:
    """Turn an ArcFace IResNet in ONNX, of any depth and width, into the network and parameters.

    The graph is followed from its input; names and the order of nodes don't matter, nor whether
    the exporter has folded batch norms into convolutions.

    Returns:
      The module, and float32 numpy arrays as a plain tree for
      `network.apply({"params": tree}, faces)`.

    Raises:
      ValueError: the graph is not an IResNet of this layout.
    """
    layers = folded_layers(model)
    stem = _reader(layers, model.input, "conv")
    stem_prelu = _reader(layers, stem.output, "prelu")
    params = {"stem": _weights(stem), "stem_prelu": {"alpha": stem_prelu.kernel}}
    blocks: list[int] = []
    here = stem_prelu.output
    norm = _reader(layers, here, "affine")
    while _reads(layers, norm.output, "conv"):
        block, here = _residual_block(layers, norm)
        if "shortcut" in block:
            blocks.append(0)
        params[f"stage{len(blocks)}_block{blocks[-1]}"] = block
        blocks[-1] += 1
        norm = _reader(layers, here, "affine")
    embed = _reader(layers, norm.output, "dense")
    params["norm"] = {"scale": norm.kernel, "bias": norm.bias}
    kernel = channels_last(embed.kernel, len(norm.bias))
    params["embed"] = {"kernel": kernel, "bias": embed.bias}
    return IResNet(tuple(blocks), len(stem.bias), len(embed.bias)), params


def _residual_block(layers: list[Layer], norm: Layer) -> tuple[dict, str]:
    """Return the parameters of the block that begins with `norm`, and its output's name."""
    conv1 = _reader(layers, norm.output, "conv")
    prelu = _reader(layers, conv1.output, "prelu")
    conv2 = _reader(layers, prelu.output, "conv")
    total = _reader(layers, conv2.output, "add")
    block = {
        "norm": {"scale": norm.kernel, "bias": norm.bias},
        "conv1": _weights(conv1),
        "prelu": {"alpha": prelu.kernel},
        "conv2": _weights(conv2),
    }
    if norm.inputs[0] not in total.inputs:
        shortcut = _reader(layers, norm.inputs[0], "conv")
        if shortcut.output not in total.inputs or shortcut.stride != 2:
            raise ValueError("a sum does not skip one block")
        block["shortcut"] = _weights(shortcut)
    if conv1.stride != 1 or conv2.stride != (2 if "shortcut" in block else 1):
        raise ValueError("a block halves its map in another place")
    return block, total.output


def _reads(layers: list[Layer], name: str, op: str) -> list[Layer]:
    return [layer for layer in layers if layer.op == op and name in layer.inputs]


def _reader(layers: list[Layer], name: str, op: str) -> Layer:
    """Return the one layer of kind `op` that reads the activation `name`."""
    found = _reads(layers, name, op)
    if len(found) != 1:
        raise ValueError(f"{len(found)} layers of kind {op} read {name}, expected 1")
    return found[0]


def _weights(layer: Layer) -> dict:
    return {"kernel": layer.kernel, "bias": layer.bias}
