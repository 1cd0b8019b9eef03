"""The Inception-v3 of December 2015, whose features the Frechet inception distance compares.

Network: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna (arXiv 1512.00567). Distance: Heusel, Ramsauer,
Unterthiner, Nessler, Hochreiter (arXiv 1706.08500). Its weights are not those of later releases,
and neither are its resize, its average pools (which leave padding out of the mean) and the last
block's pool (a maximum): published distances hold for this network only. Batch norms, which have
no scale, are folded into the convolutions before them.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.weights import cache, torch_file

SIZE = 299
_VARIANCE_FLOOR = 1e-3
_Layer = tuple[int, tuple[int, int]]


class InceptionV3(nn.Module):
    """The network up to its last pool; layers are named as in the published graph."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(N, 299, 299, 3)` float32, (0..255 - 128) / 128, to features `(N, 2048)`."""
        x = _conv(x, "conv", 32, (3, 3), stride=2)
        x = _conv(x, "conv_1", 32, (3, 3), padding="VALID")
        x = _max_pool(_conv(x, "conv_2", 64, (3, 3)))
        x = _conv(x, "conv_3", 80, (1, 1))
        x = _max_pool(_conv(x, "conv_4", 192, (3, 3), padding="VALID"))
        for name, pooled in (("mixed", 32), ("mixed_1", 64), ("mixed_2", 64)):
            x = _block35(x, name, pooled)
        x = _shrink35(x, "mixed_3")
        for name, width in (("mixed_4", 128), ("mixed_5", 160), ("mixed_6", 160), ("mixed_7", 192)):
            x = _block17(x, name, width)
        x = _shrink17(x, "mixed_8")
        x = _block8(x, "mixed_9", _average_pool)
        x = _block8(x, "mixed_10", lambda x: nn.max_pool(x, (3, 3), padding="SAME"))
        return jnp.mean(x, axis=(1, 2))


def features(params: dict, images: jax.Array) -> jax.Array:
    """Map images to the features of the Frechet inception distance.

    Args:
      params: from `load_inception`.
      images: `(N, H, W, 3)` uint8 or float32 sRGB in 0..255, as the original graph takes them.

    Returns:
      `(N, 2048)` float32, not negative.
    """
    with jax.default_matmul_precision("highest"):  # published distances are those of float32
        resized = resize(images.astype(jnp.float32))
        return InceptionV3().apply({"params": params}, (resized - 128) / 128)


def resize(images: jax.Array) -> jax.Array:
    """Resize `(N, H, W, C)` float32 to 299 px as the original graph does.

    Bilinear, with output pixel `i` at input position `i * H / 299` (corners of pixels where others
    align centres), and without smoothing when it shrinks.
    """
    rows, columns = (jnp.asarray(_interpolation(size)) for size in images.shape[1:3])
    return jnp.einsum("yh,nhwc,xw->nyxc", rows, images, columns)


def load_inception() -> tuple:
    """Load the network, fetched into the cache if it is absent.

    Returns:
      `features` and `params`, a plain tree of float32 arrays.

    Raises:
      UserError: the file cannot be fetched or is damaged.
    """
    tensors = torch_file.read(cache.path("inception_fid"))
    return features, jax.tree.map(jnp.asarray, convert(tensors))


def convert(tensors: Mapping[str, np.ndarray]) -> dict:
    """Turn the TorchScript network's tensors into parameters, batch norms folded in.

    Args:
      tensors: by name, `net.layers.LAYER.{weight,beta,mean,var}`, kernels `(out, in, h, w)`.

    Returns:
      `{layer: {"kernel", "bias"}}`, float32.
    """
    params = {}
    for name in tensors:
        layer, _, kind = name.rpartition(".")
        if kind == "weight":
            scale = 1 / np.sqrt(tensors[f"{layer}.var"] + np.float32(_VARIANCE_FLOOR))
            kernel = tensors[name].transpose(2, 3, 1, 0) * scale
            bias = tensors[f"{layer}.beta"] - tensors[f"{layer}.mean"] * scale
            key = layer.removeprefix("net.layers.").replace(".", "_")
            params[key] = {"kernel": kernel, "bias": bias}
    return params


def _interpolation(size: int) -> np.ndarray:
    """Return the `(299, size)` float32 matrix of bilinear weights along one axis."""
    position = np.arange(SIZE) * (size / SIZE)
    low = np.floor(position).astype(int)
    weights = np.zeros((SIZE, size), np.float32)
    np.add.at(weights, (np.arange(SIZE), low), 1 - (position - low))
    np.add.at(weights, (np.arange(SIZE), np.minimum(low + 1, size - 1)), position - low)
    return weights


def _conv(x, name: str, features: int, kernel: tuple[int, int], *, stride=1, padding="SAME"):
    """Convolve (a stride of 2 pads nothing), add the bias, cut off below 0."""
    padding = "VALID" if stride == 2 else padding
    return nn.relu(nn.Conv(features, kernel, (stride, stride), padding, name=name)(x))


def _tower(x, name: str, *layers: _Layer, last_stride: int = 1):
    """Apply convolutions in turn."""
    for index, (width, kernel) in enumerate(layers):
        stride = last_stride if index == len(layers) - 1 else 1
        x = _conv(x, f"{name}_conv{f'_{index}' if index else ''}", width, kernel, stride=stride)
    return x


def _max_pool(x):
    return nn.max_pool(x, (3, 3), (2, 2))


def _average_pool(x):
    """Average 3x3 neighbours, of those that there are."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _block35(x, name: str, pooled: int):
    """Map 35 px to 35 px."""
    towers = (
        _conv(x, f"{name}_conv", 64, (1, 1)),
        _tower(x, f"{name}_tower", (48, (1, 1)), (64, (5, 5))),
        _tower(x, f"{name}_tower_1", (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
        _tower(_average_pool(x), f"{name}_tower_2", (pooled, (1, 1))),
    )
    return jnp.concatenate(towers, axis=-1)


def _shrink35(x, name: str):
    """Map 35 px to 17 px."""
    towers = (
        _conv(x, f"{name}_conv", 384, (3, 3), stride=2),
        _tower(x, f"{name}_tower", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)), last_stride=2),
        _max_pool(x),
    )
    return jnp.concatenate(towers, axis=-1)


def _block17(x, name: str, width: int):
    """Map 17 px to 17 px, with 7x7 kernels as products of rows and columns."""
    row, column = (1, 7), (7, 1)
    twice = ((width, column), (width, row), (width, column), (192, row))
    towers = (
        _conv(x, f"{name}_conv", 192, (1, 1)),
        _tower(x, f"{name}_tower", (width, (1, 1)), (width, row), (192, column)),
        _tower(x, f"{name}_tower_1", (width, (1, 1)), *twice),
        _tower(_average_pool(x), f"{name}_tower_2", (192, (1, 1))),
    )
    return jnp.concatenate(towers, axis=-1)


def _shrink17(x, name: str):
    """Map 17 px to 8 px."""
    product = ((192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, (3, 3)))
    towers = (
        _tower(x, f"{name}_tower", (192, (1, 1)), (320, (3, 3)), last_stride=2),
        _tower(x, f"{name}_tower_1", *product, last_stride=2),
        _max_pool(x),
    )
    return jnp.concatenate(towers, axis=-1)


def _block8(x, name: str, pool):
    """Map 8 px to 8 px, with the last kernels as sums of rows and columns."""
    single = _conv(x, f"{name}_tower_conv", 384, (1, 1))
    double = _tower(x, f"{name}_tower_1", (448, (1, 1)), (384, (3, 3)))
    towers = (
        _conv(x, f"{name}_conv", 320, (1, 1)),
        _conv(single, f"{name}_tower_mixed_conv", 384, (1, 3)),
        _conv(single, f"{name}_tower_mixed_conv_1", 384, (3, 1)),
        _conv(double, f"{name}_tower_1_mixed_conv", 384, (1, 3)),
        _conv(double, f"{name}_tower_1_mixed_conv_1", 384, (3, 1)),
        _tower(pool(x), f"{name}_tower_2", (192, (1, 1))),
    )
    return jnp.concatenate(towers, axis=-1)
