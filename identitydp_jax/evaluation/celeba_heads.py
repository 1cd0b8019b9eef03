"""What an onlooker would say of a face: gender, age group, glasses, beard, smile, open mouth.

Linear heads on the last map of the frozen encoder MobileFaceNet, before the embedding is made of
it, trained on CelebA's labels for judging alone: no model here is trained with them.
`celeba_heads.md` beside this file says how they were made, how often they are right, and that their
labels are for research alone.
"""

import dataclasses
import functools
import hashlib
import math
import pathlib

import jax
import numpy as np
import safetensors.numpy

from identitydp_jax import storage
from identitydp_jax.evaluation import face_analysis
from identitydp_jax.models.identity import load_encoder
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.sharding import map_rows
from identitydp_jax.weights.registry import WEIGHTS

# `Beard` is any of CelebA's three labels of hair on chin or lip, see `celeba_heads.md`.
ATTRIBUTES = ("Male", "Young", "Eyeglasses", "Beard", "Smiling", "Mouth_Slightly_Open")
FILE = pathlib.Path(__file__).with_suffix(".safetensors")
_ENCODER, _LAST_STAGE = "w600k_mbf", "stage3"


@dataclasses.dataclass(frozen=True, eq=False)
class Heads:
    """Trained heads.

    Attributes:
      weights: SHA-256 of the encoder's file and of the heads', by name.
      kernel: float32 (D, 6), of `maps` and `ATTRIBUTES`.
      bias: float32 (6,).
    """

    weights: dict[str, str]
    kernel: np.ndarray
    bias: np.ndarray

    def scores(self, faces: np.ndarray) -> np.ndarray:
        """Return float32 (N, 6), above 0 where a face looks as if it had the attribute.

        Args:
          faces: uint8 (N, 256, 256, 3) in the model frame.

        Raises:
          UserError: the faces have another shape or dtype, or the encoder can't be had.
        """
        return maps(faces) @ self.kernel + self.bias


@functools.cache
def load() -> Heads:
    """Load the heads that come with the package."""
    data = FILE.read_bytes()
    tensors = safetensors.numpy.load(data)
    weights = {
        _ENCODER: WEIGHTS[_ENCODER].sha256,
        FILE.stem: hashlib.sha256(data).hexdigest(),
    }
    # Half precision has no room for values of all sizes: each head has a scale of its own.
    kernel = tensors["kernel"].astype(np.float32) * tensors["scale"]
    return Heads(weights, kernel, tensors["bias"])


def save(path: pathlib.Path, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Write heads as `load` reads them, the kernel (D, 6) in half precision."""
    scale = np.abs(kernel).max(axis=0)
    tensors = {
        "kernel": (kernel / scale).astype(np.float16),
        "scale": scale.astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    storage.write(path, safetensors.numpy.save(tensors, {"attributes": " ".join(ATTRIBUTES)}))


def maps(faces: np.ndarray) -> np.ndarray:
    """Return what the heads look at, float32 (N, D), of uint8 faces (N, 256, 256, 3)."""
    face_analysis.check(faces)
    function, params = _encoder()
    found = map_rows(function, params, faces)
    return found.reshape(len(faces), math.prod(found.shape[1:]))


@functools.cache
def _encoder():
    encode, params = load_encoder(_ENCODER)

    def last_map(params, faces):
        _, state = encode.network.apply(
            {"params": params},
            identity_crop(to_float(faces)),
            capture_intermediates=lambda module, _: (module.name or "").startswith(_LAST_STAGE),
            mutable=["intermediates"],
        )
        return sum(jax.tree.leaves(state))  # its blocks are residual

    return last_map, params
