"""Building blocks of MediaPipe's small networks, and their weights out of TensorFlow Lite.

Bazarevsky et al.: "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs" (arXiv
1907.05047), with parametric rectifiers.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from identitydp_jax.models.layers import Conv
from identitydp_jax.models.mobilefacenet import DepthwiseConv, PReLU

# TensorFlow's SAME padding of a 3x3 convolution: below and right if it halves an even map.
_PADDING = {1: ((1, 1), (1, 1)), 2: ((0, 1), (0, 1))}


class Stem(nn.Module):
    """A 3x3 convolution that halves the map, and its rectifier."""

    features: int

    @nn.compact
    def __call__(self, x):
        """Map (N, H, W, C) to (N, H / 2, W / 2, features), H and W even."""
        x = jnp.pad(x, ((0, 0), *_PADDING[2], (0, 0)))
        return PReLU(name="prelu")(Conv(self.features, size=3, stride=2, name="conv")(x))


class Residual(nn.Module):
    """A map and what a depthwise and a 1x1 convolution make of it, added up and rectified.

    Attributes:
      features: channels of the result, at least those of the map, which zeros fill up.
      squeezed: channels that the depthwise convolution sees; 0 is those of the map.
      halves: halve the map, by the maximum of 2x2 where it is only added.
    """

    features: int
    squeezed: int = 0
    halves: bool = False

    @nn.compact
    def __call__(self, x):
        """Map (N, H, W, C) to (N, H', W', features)."""
        channels = x.shape[-1]
        stride = 2 if self.halves else 1
        found = x
        if self.squeezed:
            found = Conv(self.squeezed, size=stride, stride=stride, name="squeeze")(found)
            found, stride = PReLU(name="squeeze_prelu")(found), 1
        found = DepthwiseConv(stride, _PADDING[stride], name="depthwise")(found)
        found = Conv(self.features, name="expand")(found)
        if self.halves:
            rows = jnp.maximum(x[:, ::2], x[:, 1::2])
            x = jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - channels)))
        return PReLU(name="prelu")(x + found)


def conv(weights, name: str) -> dict:
    """Return a convolution's parameters for `layers.Conv`."""
    kernel = np.transpose(weights[f"{name}/Kernel"], (1, 2, 3, 0))
    return {"kernel": kernel, "bias": weights[f"{name}/Bias"]}


def prelu(weights, name: str) -> dict:
    """Return a rectifier's parameters for `PReLU`."""
    return {"alpha": weights[f"{name}/Alpha"].reshape(-1)}


def depthwise(weights, name: str) -> dict:
    """Return a depthwise convolution's parameters for `DepthwiseConv`."""
    kernel = np.transpose(weights[f"{name}/Kernel"], (1, 2, 0, 3))
    return {"kernel": kernel, "bias": weights[f"{name}/Bias"]}
