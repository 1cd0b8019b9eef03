"""dlib's face recognition network, a verifier that had no part in making any model here.

A residual network of 29 convolutions after He, Zhang, Ren, Sun: "Deep Residual Learning for Image
Recognition" (arXiv 1512.03385), with half the layers and filters of ResNet-34, trained by Davis
King with a metric loss. Its affine layers are folded into the convolutions before them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.weights import cache, dlib_file

CHIP = 150
_STEM = 32
# Channels and whether the block halves the map.
_BLOCKS = (
    *((32, False),) * 3,
    *((64, True), *((64, False),) * 3),
    *((128, True), *((128, False),) * 2),
    *((256, True), *((256, False),) * 2),
    (256, True),
)
_EMBEDDING = 128
_MEAN = (122.782, 117.001, 104.298)  # RGB, what dlib subtracts before it divides by 256


class DlibResNet(nn.Module):
    """Embedding of a face whose photos lie within 0.6 of each other."""

    @nn.compact
    def __call__(self, chips: jax.Array) -> jax.Array:
        """Map chips (N, 150, 150, 3) float32 RGB in [0, 255], as dlib cuts them, to (N, 128)."""
        x = (chips - jnp.array(_MEAN, chips.dtype)) / 256.0
        x = nn.relu(nn.Conv(_STEM, (7, 7), (2, 2), padding="VALID", name="stem")(x))
        x = nn.max_pool(x, (3, 3), (2, 2))
        for index, (channels, halves) in enumerate(_BLOCKS):
            strides, padding = ((2, 2), "VALID") if halves else ((1, 1), "SAME")
            first = nn.Conv(channels, (3, 3), strides, padding=padding, name=f"block{index}_first")
            second = nn.Conv(channels, (3, 3), name=f"block{index}_second")
            skip = _halved(x) if halves else x
            x = nn.relu(_padded_sum(second(nn.relu(first(x))), skip))
        return nn.Dense(_EMBEDDING, use_bias=False, name="embed")(x.mean(axis=(1, 2)))


def load_dlib_resnet() -> tuple:
    """Load the network of the weights `dlib_resnet`.

    Returns:
      `apply(params, chips)`, as `DlibResNet` says, and `params`, a tree of float32 arrays.

    Raises:
      UserError: the weights cannot be had.
    """
    path = cache.path("dlib_resnet")
    try:
        params = jax.tree.map(jnp.asarray, convert(dlib_file.read(path)))
    except ValueError as error:
        raise UserError(f"{path}: not dlib's face recognition network ({error})") from None
    return _apply, params


def convert(layers: list[tuple[str, np.ndarray]]) -> dict:
    """Turn the layers that `dlib_file.read` gives into the network's parameters.

    Raises:
      ValueError: they are not those of this network.
    """
    kinds = [kind for kind, _ in layers]
    if kinds != ["con", "affine"] * (1 + 2 * len(_BLOCKS)) + ["fc"]:
        raise ValueError("its layers are others")
    arrays = iter([array for _, array in layers])
    params = {"stem": _folded(next(arrays), next(arrays), (_STEM, 3, 7, 7))}
    inner = _STEM
    for index, (channels, _) in enumerate(_BLOCKS):
        for place in ("first", "second"):
            shape = (channels, inner, 3, 3)
            params[f"block{index}_{place}"] = _folded(next(arrays), next(arrays), shape)
            inner = channels
    params["embed"] = {"kernel": next(arrays).reshape(inner, _EMBEDDING)}
    return params


def _folded(conv: np.ndarray, affine: np.ndarray, shape: tuple[int, ...]) -> dict:
    """Return kernel and bias of a convolution with kernels `shape` and the affine layer after."""
    kernel, bias = conv[: -shape[0]].reshape(shape), conv[-shape[0] :]
    gain, shift = affine.reshape(2, shape[0])
    return {"kernel": kernel.transpose(2, 3, 1, 0) * gain, "bias": bias * gain + shift}


def _apply(params: dict, chips: jax.Array) -> jax.Array:
    return DlibResNet().apply({"params": params}, chips)


def _halved(x: jax.Array) -> jax.Array:
    """Average every 2x2 pixels of (N, H, W, C); an odd last row or column is left out."""
    count, height, width, channels = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(count, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def _padded_sum(a: jax.Array, b: jax.Array) -> jax.Array:
    """Add maps of different sizes; what one of them lacks below, right or in depth is zero."""
    shape = np.maximum(a.shape, b.shape)
    return sum(
        jnp.pad(x, [(0, n - m) for n, m in zip(shape, x.shape, strict=True)]) for x in (a, b)
    )
