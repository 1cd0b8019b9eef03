"""Stages I to III on aligned faces: embed, perturb, draw."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.models import pretrained
from identitydp_jax.models.aeinet import AEIConfig, AEINet
from identitydp_jax.models.identity import load_encoder
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float, to_uint8
from identitydp_jax.privacy import PrivacySetting, perturb
from identitydp_jax.sharding import map_rows


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained network with its frozen identity encoder.

    Attributes:
      name: as it was asked for.
      config: shape of the network.
      params: `network` and `encoder`, the variables of both.
      encode: `encode(params, crops)` of the encoder.
      sha256: hexadecimal digest of the network's file.
    """

    name: str
    config: AEIConfig
    params: Any
    encode: Any
    sha256: str

    @property
    def resolution(self) -> int:
        """Side in pixels of the aligned faces that the model takes and gives."""
        return self.config.resolution


def load_model(name_or_path: str = "default") -> Model:
    """Load a model by name (`default` ships with the package) or from a file of `train --export`.

    The identity encoder comes from the weights cache, fetched on first use.

    Raises:
      UserError: there is no such model, or the encoder can't be had.
    """
    file = pretrained.load(name_or_path)
    encode, encoder_params = load_encoder(file.encoder)
    params = {"network": file.variables, "encoder": encoder_params}
    return Model(str(name_or_path), file.config, params, encode, file.sha256)


def anonymize_faces(model: Model, faces, *, keys, setting: PrivacySetting) -> np.ndarray:
    """Replace the identities of aligned faces (section III of the paper, stages I to III).

    Args:
      model: from `load_model`.
      faces: uint8 sRGB (N, R, R, 3), R = `model.resolution`, in the model frame (`align`).
      keys: N typed threefry keys, one per face; never use one for two faces.
      setting: the privacy mechanism and its budget. The guarantee is that of `privacy.perturb`:
        it covers the identity embedding, given the attribute maps.

    Returns:
      uint8 sRGB (N, R, R, 3). The pixels of a face depend on the face, its key, the model and the
      setting, and not on the batch that it is in.

    Raises:
      UserError: the faces have another shape or dtype, or the keys are not one per face.
    """
    side = model.resolution
    if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != (side, side, 3):
        raise UserError(
            f"faces are {faces.dtype} {faces.shape}: this model takes uint8 (N, {side}, {side}, 3)"
        )
    if keys.shape != (len(faces),):
        raise UserError(
            f"keys have shape {keys.shape}: give one key for each of {len(faces)} faces"
        )
    scale = np.float32(setting.scale)
    draw = _drawing(model.config, model.encode, setting.mechanism)
    return map_rows(draw, {**model.params, "scale": scale}, faces, keys)


def embed_faces(model: Model, faces) -> np.ndarray:
    """Identity embeddings (N, 512), unit L2, of aligned uint8 faces (N, R, R, 3)."""
    return map_rows(_embedding(model.encode), model.params, faces)


def perturb_faces(model: Model, faces, *, keys, setting: PrivacySetting):
    """Return identity embeddings and what `anonymize_faces` makes of them with the same keys.

    For evaluation: whoever has the first knows the face.

    Args:
      model: from `load_model`.
      faces: uint8 (N, R, R, 3) in the model frame.
      keys: N typed keys, one per face.
      setting: mechanism and budget.

    Returns:
      The embeddings and the noised embeddings, both float32 (N, 512), unit L2.
    """
    perturbing = _perturbing(model.encode, setting.mechanism)
    return map_rows(perturbing, {**model.params, "scale": np.float32(setting.scale)}, faces, keys)


def attributes_of_faces(model: Model, faces, side: int = 8) -> np.ndarray:
    """Return the attribute maps of aligned uint8 faces (N, R, R, 3) as vectors, float32 (N, D).

    Every map larger than `side` is averaged down to (side, side) first.
    """
    return map_rows(_attributes(model.config, side), model.params, faces)


@functools.cache
def _drawing(config, encode, mechanism):
    net = AEINet(config)

    def draw(params, faces, keys):
        x = to_float(faces)
        identity = encode(params["encoder"], identity_crop(x))
        noised = perturb(identity, key=keys, mechanism=mechanism, scale=params["scale"])
        return to_uint8(net.apply(params["network"], x, noised))

    return draw


@functools.cache
def _perturbing(encode, mechanism):
    def embed(params, faces, keys):
        identity = encode(params["encoder"], identity_crop(to_float(faces)))
        return identity, perturb(identity, key=keys, mechanism=mechanism, scale=params["scale"])

    return embed


@functools.cache
def _attributes(config, side):
    net = AEINet(config)

    def describe(params, faces):
        maps = net.apply(params["network"], to_float(faces), method=net.attributes)
        return jnp.concatenate([_pooled(x, side).reshape(len(faces), -1) for x in maps], axis=1)

    return describe


def _pooled(x, side: int):
    count, height, _, channels = x.shape
    size = min(side, height)
    return x.reshape(count, size, height // size, size, height // size, channels).mean((2, 4))


@functools.cache
def _embedding(encode):
    return lambda params, faces: encode(params["encoder"], identity_crop(to_float(faces)))
