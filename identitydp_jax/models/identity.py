"""Identity encoders by name or file: the frozen r_id of the paper's Section 4.1."""

import dataclasses
import hashlib
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp

from identitydp_jax.checks import UserError
from identitydp_jax.models import iresnet, mobilefacenet, sface
from identitydp_jax.weights import cache, onnx_file, registry

_LAYOUTS = {"MobileFaceNet": mobilefacenet, "IResNet": iresnet, "SFace": sface}
_FACE = jax.ShapeDtypeStruct((1, 112, 112, 3), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An identity encoder as a pure function; two of one network are equal, so jit knows them.

    Attributes:
      network: takes `params`.
      sha256: hexadecimal digest of the pretrained file.
    """

    network: nn.Module
    sha256: str = dataclasses.field(compare=False)

    @property
    def dimension(self) -> int:
        """D, the length of an embedding."""
        return self.network.embedding_size

    def __call__(self, params: dict, faces: jax.Array) -> jax.Array:
        """Map aligned faces (N, 112, 112, 3) in [-1, 1] to unit embeddings (N, D)."""
        return self.network.apply({"params": params}, faces)

    def middle(self, params: dict, faces: jax.Array) -> jax.Array:
        """Map aligned faces as above to the last map of 7 x 7, (N, 7, 7, C), that blocks give."""

        def last(module, _):
            return module.name == self.network.last_block

        _, state = self.network.apply(
            {"params": params}, faces, capture_intermediates=last, mutable=["intermediates"]
        )
        (maps,) = jax.tree.leaves(state)
        return maps


def load_encoder(
    name_or_path: str | pathlib.Path = "w600k_mbf",
) -> tuple[Encoder, dict]:
    """Load a pretrained identity encoder.

    Args:
      name_or_path: a name that `identitydp weights list` shows as an encoder (fetched into the
        cache if it is absent), or the path of an ONNX file: ArcFace (MobileFaceNet, IResNet-50 or
        -100) or SFace.

    Returns:
      `apply(params, faces)` and `params`, a plain tree of float32 arrays. `apply` is pure and maps
      faces `(N, 112, 112, 3)` float32 RGB in [-1, 1], aligned to ArcFace's template (which is
      SFace's too), to L2-normalised embeddings `(N, D)` float32; `apply.dimension` is D, 512 for
      ArcFace and 128 for SFace, and `apply.sha256` names the file. Parameters and faces in
      bfloat16 give embeddings in bfloat16.

    Raises:
      UserError: the file is missing, damaged, or holds no network of a known layout.
    """
    if str(name_or_path) in registry.WEIGHTS:
        path = cache.path(str(name_or_path))
    else:
        path = pathlib.Path(name_or_path)
        if not path.is_file():
            names = ", ".join(encoder_names())
            raise UserError(f"{path}: neither a pretrained encoder ({names}) nor an ONNX file")
    network, params = _convert(onnx_file.read(path), path)
    params = jax.tree.map(jnp.asarray, params)
    return Encoder(network, hashlib.sha256(path.read_bytes()).hexdigest()), params


def _convert(model: onnx_file.OnnxModel, path: pathlib.Path) -> tuple:
    """Return the network and parameters of the layout that the graph has."""
    reasons = []
    for name, layout in _LAYOUTS.items():
        try:
            network, params = layout.convert(model)
            _check_shapes(network, params)
        except (ValueError, IndexError) as error:
            reasons.append(f"no {name}: {error}")
        else:
            return network, params
    raise UserError(f"{path}: not an identity encoder of a known layout ({'; '.join(reasons)})")


def _check_shapes(network, params: dict) -> None:
    """Raise ValueError unless `params` is what `network` initialises to."""
    expected = jax.eval_shape(network.init, jax.random.key(0), _FACE)["params"]
    found = jax.tree.map(jnp.shape, params)
    wanted = jax.tree.map(jnp.shape, expected)
    if found != wanted:
        raise ValueError("its weights have other shapes")


def encoder_names() -> tuple[str, ...]:
    """Return the names of the pretrained identity encoders."""
    files = registry.WEIGHTS.values()
    return tuple(file.name for file in files if "identity encoder" in file.purpose)
