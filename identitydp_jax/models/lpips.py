"""LPIPS, the learned perceptual distance of two images, on VGG16.

Zhang, Isola, Efros, Shechtman, Wang (arXiv 1801.03924), version 0.1, on the convolutions of
Simonyan, Zisserman (arXiv 1409.1556).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.weights import cache, numpy_pickle

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# What ImageNet's mean and deviation are for images in [-1, 1], with the paper's rounding.
_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)


class VGG16(nn.Module):
    """The convolutions of VGG16."""

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """Map `(N, H, W, 3)` float32 in [-1, 1] to the five stages' last maps.

        Stage s = 0..4 gives `(N, H / 2^s, W / 2^s, C)`, not negative, C = 64, 128, 256, 512, 512.
        """
        x = (images - jnp.asarray(_MEAN)) / jnp.asarray(_DEVIATION)
        maps = []
        for stage, (width, layers) in enumerate(_STAGES):
            if stage:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for layer in range(layers):
                x = nn.relu(nn.Conv(width, (3, 3), name=f"stage{stage}_conv{layer}")(x))
            maps.append(x)
        return maps


class LPIPS(nn.Module):
    """The paper's Equation 1: weighted squared differences of unit feature vectors."""

    @nn.compact
    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Map two `(N, H, W, 3)` float32 in [-1, 1] to distances `(N,)`."""
        network = VGG16(name="vgg16")
        total = jnp.zeros(len(a))
        for stage, (one, other) in enumerate(zip(network(a), network(b), strict=True)):
            weights = self.param(f"weights{stage}", nn.initializers.ones, one.shape[-1:])
            difference = (_unit(one) - _unit(other)) ** 2 @ weights
            total = total + difference.mean(axis=(1, 2))
        return total


def distance(params: dict, a: jax.Array, b: jax.Array) -> jax.Array:
    """Return how different two images look, 0 (equal) to about 1.

    Args:
      params: from `load_lpips`.
      a: `(N, H, W, 3)` float32 sRGB in [-1, 1], H and W at least 16.
      b: of the same shape.

    Returns:
      `(N,)` float32.
    """
    with jax.default_matmul_precision("highest"):  # published distances are those of float32
        return LPIPS().apply({"params": params}, a, b)


def load_lpips() -> tuple:
    """Load the network, fetched into the cache if it is absent.

    Returns:
      `distance` and `params`, a plain tree of float32 arrays.

    Raises:
      UserError: the file cannot be fetched or is damaged.
    """
    tree = numpy_pickle.read(cache.path("lpips_vgg16"))
    return distance, jax.tree.map(jnp.asarray, convert(tree))


def convert(tree: dict) -> dict:
    """Name the layers of the pickled tree as `LPIPS` does.

    Args:
      tree: `VGG16_0` with `Conv_0` to `Conv_12`, and `NetLinLayer_0` to `NetLinLayer_4`.
    """
    names = [f"stage{s}_conv{i}" for s, (_, layers) in enumerate(_STAGES) for i in range(layers)]
    params: dict = {
        "vgg16": {name: tree["VGG16_0"][f"Conv_{index}"] for index, name in enumerate(names)}
    }
    for stage in range(len(_STAGES)):
        kernel = tree[f"NetLinLayer_{stage}"]["Conv_0"]["kernel"]
        params[f"weights{stage}"] = np.reshape(kernel, -1)
    return params


def _unit(x: jax.Array) -> jax.Array:
    """Scale every pixel's feature vector to length 1."""
    return x / (jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True)) + 1e-10)
