"""FaceNet: the Inception-ResNet-v1 face verifier, in its two published trainings.

Schroff, Kalenichenko, Philbin: "FaceNet: A Unified Embedding for Face Recognition and Clustering"
(arXiv 1503.03832) gives the embedding; Szegedy, Ioffe, Vanhoucke, Alemi: "Inception-v4,
Inception-ResNet and the Impact of Residual Connections on Learning" (arXiv 1602.07261), figures 10
to 15, the network. Layers carry the names that they have in the published graphs, whose last part
is the kernel's height and width. Batch norms are folded into the layers before them, and the
factors of the residuals into the convolutions that end them.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.checks import one_of
from identitydp_jax.weights import cache, graph_def

NAMES = ("facenet_casia", "facenet_vggface2")
_ROOT = "InceptionResnetV1"
_EPSILON = 1e-3  # of every batch norm
_FACE = jax.ShapeDtypeStruct((1, 160, 160, 3), jnp.float32)

# Branches of a block: layers one after the other, each a name and a number of features.
Branches = tuple[tuple[tuple[str, int], ...], ...]
_BLOCK35 = (
    (("Conv2d_1x1", 32),),
    (("Conv2d_0a_1x1", 32), ("Conv2d_0b_3x3", 32)),
    (("Conv2d_0a_1x1", 32), ("Conv2d_0b_3x3", 32), ("Conv2d_0c_3x3", 32)),
)
_MIXED_6A = (
    (("Conv2d_1a_3x3", 384),),
    (("Conv2d_0a_1x1", 192), ("Conv2d_0b_3x3", 192), ("Conv2d_1a_3x3", 256)),
)
_BLOCK17 = (
    (("Conv2d_1x1", 128),),
    (("Conv2d_0a_1x1", 128), ("Conv2d_0b_1x7", 128), ("Conv2d_0c_7x1", 128)),
)
_MIXED_7A = (
    (("Conv2d_0a_1x1", 256), ("Conv2d_1a_3x3", 384)),
    (("Conv2d_0a_1x1", 256), ("Conv2d_1a_3x3", 256)),
    (("Conv2d_0a_1x1", 256), ("Conv2d_0b_3x3", 256), ("Conv2d_1a_3x3", 256)),
)
_BLOCK8 = (
    (("Conv2d_1x1", 192),),
    (("Conv2d_0a_1x1", 192), ("Conv2d_0b_1x3", 192), ("Conv2d_0c_3x1", 192)),
)


class Branch(nn.Module):
    """Convolutions with ReLU; those named `1a` halve the map, the others keep its size."""

    layers: tuple[tuple[str, int], ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(N, H, W, C)` to `(N, H', W', features of the last layer)`."""
        for name, features in self.layers:
            height, width = map(int, name.rsplit("_", 1)[1].split("x"))
            strides, padding = ((2, 2), "VALID") if "_1a_" in name else ((1, 1), "SAME")
            x = nn.Conv(features, (height, width), strides, padding=padding, name=name)(x)
            x = nn.relu(x)
        return x


class Residual(nn.Module):
    """Add to a map what branches make of it, put together by a 1x1 convolution."""

    branches: Branches

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(N, H, W, C)` to the same shape."""
        mixed = _concatenate(self.branches, x)
        return x + nn.Conv(x.shape[-1], (1, 1), name="Conv2d_1x1")(mixed)


class Reduction(nn.Module):
    """Halve a map by branches and by 3x3 maxima side by side."""

    branches: Branches

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(N, H, W, C)` to `(N, (H - 1) // 2, (W - 1) // 2, C + the branches' features)`."""
        return jnp.concatenate([_concatenate(self.branches, x), _max_pool(x)], axis=-1)


class InceptionResNetV1(nn.Module):
    """FaceNet's network."""

    @nn.compact
    def __call__(self, faces: jax.Array) -> jax.Array:
        """Map faces `(N, 160, 160, 3)` float32 RGB in [-1, 1] to unit embeddings `(N, 512)`."""
        x = nn.relu(nn.Conv(32, (3, 3), (2, 2), padding="VALID", name="Conv2d_1a_3x3")(faces))
        x = nn.relu(nn.Conv(32, (3, 3), padding="VALID", name="Conv2d_2a_3x3")(x))
        x = _max_pool(nn.relu(nn.Conv(64, (3, 3), name="Conv2d_2b_3x3")(x)))
        x = nn.relu(nn.Conv(80, (1, 1), name="Conv2d_3b_1x1")(x))
        x = nn.relu(nn.Conv(192, (3, 3), padding="VALID", name="Conv2d_4a_3x3")(x))
        x = nn.relu(nn.Conv(256, (3, 3), (2, 2), padding="VALID", name="Conv2d_4b_3x3")(x))
        for block in range(1, 6):
            x = nn.relu(Residual(_BLOCK35, name=f"block35_{block}")(x))
        x = Reduction(_MIXED_6A, name="Mixed_6a")(x)
        for block in range(1, 11):
            x = nn.relu(Residual(_BLOCK17, name=f"block17_{block}")(x))
        x = Reduction(_MIXED_7A, name="Mixed_7a")(x)
        for block in range(1, 6):
            x = nn.relu(Residual(_BLOCK8, name=f"block8_{block}")(x))
        x = Residual(_BLOCK8, name="Block8")(x).mean((1, 2))
        x = nn.Dense(512, name="Bottleneck")(x)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-10))


def load_facenet(name: str):
    """Load a pretrained FaceNet, fetched into the cache if it is absent.

    Args:
      name: "facenet_casia" (20180408, CASIA-WebFace) or "facenet_vggface2" (20180402, VGGFace2).

    Returns:
      `apply(params, faces)` and `params`, a plain tree of float32 arrays. `apply` is pure, the same
      for both names, and maps faces `(N, 160, 160, 3)` float32 RGB, `(x - 127.5) / 128` of 8-bit
      values, to unit embeddings `(N, 512)` float32.

    Raises:
      UserError: the name is another, or the file cannot be fetched or is damaged.
    """
    one_of("FaceNet", name, NAMES)
    constants = graph_def.read_constants(cache.path(name))
    return _embed, jax.tree.map(jnp.asarray, convert(constants))


def convert(constants: Mapping[str, np.ndarray]) -> dict:
    """Turn the constants of a published FaceNet graph into parameters.

    Batch norms may be in the graph (`<layer>/BatchNorm/...`, without gain) or already folded
    (`<layer>/Conv2D_bn_offset`).

    Returns:
      Float32 numpy arrays as a tree for `InceptionResNetV1().apply({"params": tree}, faces)`.

    Raises:
      ValueError: the constants are not those of FaceNet.
    """
    params: dict = {}
    for name, kernel in constants.items():
        root, *scopes, kind = name.split("/")
        if (root, kind) != (_ROOT, "weights"):
            continue
        kernel, bias = _folded(constants, "/".join([root, *scopes]), kernel)
        node = params
        for scope in scopes:
            if not scope.startswith("Repeat"):  # groups of blocks
                node = node.setdefault(scope, {})
        node.update(kernel=kernel, bias=bias)
    expected = jax.eval_shape(InceptionResNetV1().init, jax.random.key(0), _FACE)["params"]
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, expected):
        raise ValueError("not the layers of FaceNet's Inception-ResNet-v1")
    return params


def _folded(constants: Mapping[str, np.ndarray], layer: str, kernel: np.ndarray) -> tuple:
    """Return the kernel and bias that a layer has together with what follows it."""
    block = layer.rsplit("/", 1)[0]
    try:
        if f"{layer}/biases" in constants:  # the end of a residual, which is then scaled
            scale = constants[f"{block}/mul/x"]
            return kernel * scale, constants[f"{layer}/biases"] * scale
        if f"{layer}/Conv2D_bn_offset" in constants:
            return kernel, constants[f"{layer}/Conv2D_bn_offset"]
        beta, mean, variance = (
            constants[f"{layer}/BatchNorm/{part}"]
            for part in ("beta", "moving_mean", "moving_variance")
        )
    except KeyError as error:
        raise ValueError(f"constant {error} is missing") from None
    scale = 1 / np.sqrt(variance.astype(np.float64) + _EPSILON)
    return (kernel * scale).astype(np.float32), (beta - mean * scale).astype(np.float32)


def _embed(params: dict, faces: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):  # the same distances on every backend
        return InceptionResNetV1().apply({"params": params}, faces)


def _concatenate(branches: Branches, x: jax.Array) -> jax.Array:
    """Run branches, named by their index, and put their features side by side."""
    maps = [Branch(layers, name=f"Branch_{i}")(x) for i, layers in enumerate(branches)]
    return jnp.concatenate(maps, axis=-1)


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), padding="VALID")
