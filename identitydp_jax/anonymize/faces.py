"""Stages I to III on aligned faces: embed, release, draw."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.checks import UserError, shaped
from identitydp_jax.models import declared, pretrained
from identitydp_jax.models.aeinet import AEIConfig, AEINet
from identitydp_jax.models.face_region import face_region
from identitydp_jax.models.identity import encoder_names, load_encoder
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.layers import enlarge, reduce
from identitydp_jax.models.pixels import to_float, to_uint8
from identitydp_jax.models.population import anchor, condition, suitable, transport
from identitydp_jax.models.rim import match_rim
from identitydp_jax.privacy.checked_release import release_rows
from identitydp_jax.privacy.mechanism import decode
from identitydp_jax.privacy.setting import PrivacySetting
from identitydp_jax.sharding import map_rows


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained network with its frozen identity encoder.

    Attributes:
      name: as it was asked for.
      config: shape of the network.
      params: `network` and `encoder`, the variables of both.
      encode: `encode(params, crops)` of the encoder.
      sha256: hexadecimal digest of the network; see `models.pretrained.NetworkFile`.
      encoder_sha256: that of the encoder's file.
    """

    name: str
    config: AEIConfig
    params: Any
    encode: Any
    sha256: str
    encoder_sha256: str
    _populations: dict = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def attributes(self) -> tuple[str, ...]:
        """The declared attributes that it can preserve, of `models.declared.ATTRIBUTES`."""
        return declared.ATTRIBUTES if "declared" in self.params["network"] else ()

    def population(self, preserve: tuple[str, ...]):
        """Return the population whose members share these attributes with a face, for `transport`.

        It is computed once for each choice.
        """
        network = self.params["network"]
        if "declared" not in network:
            return network["population"]
        if preserve not in self._populations:
            self._populations[preserve] = jax.jit(condition)(
                network["population"], network["declared"], declared.preserved(preserve)
            )
        return self._populations[preserve]

    @property
    def resolution(self) -> int:
        """Side in pixels of the aligned faces that the model takes and gives."""
        return self.config.resolution

    @property
    def dimension(self) -> int:
        """D, the length of the identity embeddings: that of every setting for this model."""
        return self.config.identity_dimension


def load_model(name_or_path: str = "default") -> Model:
    """Load a model by name (`default` ships with the package) or from a file of `train --export`.

    The identity encoder comes from the weights cache, fetched on first use.

    Raises:
      UserError: there is no such model, or the encoder can't be had or gives other embeddings.
    """
    file = pretrained.load(name_or_path)
    if file.encoder not in encoder_names():  # a path would open any file that a stranger names
        raise UserError(
            f"{name_or_path}: needs the encoder {file.encoder!r}, which is none of"
            f" {', '.join(encoder_names())}"
        )
    encode, encoder_params = load_encoder(file.encoder)
    if encode.dimension != file.config.identity_dimension:
        raise UserError(
            f"{name_or_path}: takes embeddings of {file.config.identity_dimension} values, and its"
            f" encoder {file.encoder} gives {encode.dimension}: not a model of this encoder"
        )
    params = {"network": file.variables, "encoder": encoder_params}
    return Model(str(name_or_path), file.config, params, encode, file.sha256, encode.sha256)


def anonymize_faces(
    model: Model, faces, *, keys, setting: PrivacySetting, preserve: Sequence[str] | None = None
) -> np.ndarray:
    """Replace the identities of aligned faces (section III of the paper, stages I to III).

    Args:
      model: from `load_model`.
      faces: uint8 sRGB (N, R, R, 3), R = `model.resolution`, in the model frame (`align`).
      keys: N typed ChaCha20 keys, one per face, of `privacy.keys`; never use one for two faces.
      setting: the privacy mechanism and its budget. The guarantee is that of `privacy.mechanism`:
        it covers the identity embedding, given the attribute maps, the alignment and what is
        preserved.
      preserve: the declared attributes that the drawn faces share with the faces; None takes all
        that the model can preserve.

    Returns:
      what `draw_faces` returns. The pixels of a face depend on the face, its key, the model and the
      setting, and not on the batch that it is in.

    Raises:
      UserError: the faces have another shape or dtype, the keys are not one per face, the
        setting is for embeddings of another length, or the model can't preserve an attribute.
    """
    kept = check_preserve(model, preserve)
    codes = release_faces(model, faces, keys=keys, setting=setting)
    targets = target_identities(model, faces, codes, setting=setting, preserve=kept)
    return draw_faces(model, faces, targets)


def release_faces(model: Model, faces, *, keys, setting: PrivacySetting) -> np.ndarray:
    """Return the noised identities of aligned faces as int32 codes (N, D), stages I and II.

    Arguments and errors are those of `anonymize_faces`, and of `checked_release.release_rows`. The
    codes have the guarantee: all that is made of them and of the attribute maps has it too.
    """
    _check_faces(model, faces)
    check_setting(model, setting)
    if keys.shape != (len(faces),):
        raise UserError(
            f"keys have shape {keys.shape}: give one key for each of {len(faces)} faces"
        )
    return release_rows(embed_faces(model, faces), keys=keys, setting=setting)


def draw_faces(model: Model, faces, identities) -> np.ndarray:
    """Draw aligned faces with other identities, stage III.

    What lies outside the region that is pasted (`models.face_region`) is drawn too, and of no use.

    Args:
      model: from `load_model`.
      faces: uint8 sRGB (N, R, R, 3), for their attributes.
      identities: float32 (N, D), unit L2, of `target_identities`; or embeddings of other faces,
        which no noise protects.

    Returns:
      uint8 sRGB (N, S, S, 3), S = R; of models on a pretrained generator S is 2 R, and there is a
      fourth channel, the paste mask: 255 where the face is to be seen, 0 where the photo.

    Raises:
      UserError: the faces have another shape or dtype.
    """
    _check_faces(model, faces)
    network = model.params["network"]
    doubled = "double" in network
    return map_rows(_drawing(model.config, doubled), network, faces, identities)


def target_identities(
    model: Model, faces, codes, *, setting: PrivacySetting, preserve: tuple[str, ...]
) -> np.ndarray:
    """Return the identities float32 (N, D), unit L2, that the generator is asked for.

    Noised identities are moved to where those of people are who share the preserved attributes of
    the faces, as far as the setting's noise moved them away, see `models.population`:
    post-processing of the codes and of these attributes.

    Args:
      model: from `load_model`.
      faces: uint8 sRGB (N, R, R, 3), for their declared attributes.
      codes: int32 (N, D), of `release_faces` or remembered by a ledger.
      setting: that they were released with.
      preserve: from `check_preserve`.
    """
    params = {
        "population": model.population(preserve),
        "cosine": np.float32(setting.expected_cosine),
    }
    if "declared" not in model.params["network"]:
        return map_rows(_moved, params, codes)
    params["declared"] = {
        name: model.params["network"]["declared"][name] for name in ("gallery", "gallery_answers")
    }
    params["chosen"] = declared.preserved(preserve)
    return map_rows(_suited, params, codes, declared_attributes(model, faces))


def declared_attributes(model: Model, faces) -> np.ndarray:
    """Return what `models.declared` finds in aligned uint8 faces (N, R, R, 3), float32 (N, A)."""
    heads = {name: model.params["network"]["declared"][name] for name in ("kernel", "bias")}
    params = {"encoder": model.params["encoder"], "heads": heads}
    return map_rows(_declaring(model.encode), params, faces)


def embed_faces(model: Model, faces) -> np.ndarray:
    """Identity embeddings (N, D), unit L2, of aligned uint8 faces (N, R, R, 3)."""
    return map_rows(_embedding(model.encode), model.params["encoder"], faces)


def attributes_of_faces(model: Model, faces, side: int = 8) -> np.ndarray:
    """Return the attribute maps of aligned uint8 faces (N, R, R, 3) as vectors, float32 (N, D).

    Every map larger than `side` is averaged down to (side, side) first.
    """
    return map_rows(_attributes(model.config, side), model.params["network"], faces)


def check_preserve(model: Model, preserve: Sequence[str] | None) -> tuple[str, ...]:
    """Return the attributes to preserve in their fixed order; None is all that the model can.

    Raises:
      UserError: the model can't preserve one of them.
    """
    wanted = declared.parse(",".join(preserve) or "none") if preserve is not None else ()
    if missing := [name for name in wanted if name not in model.attributes]:
        raise UserError(
            f"model {model.name} can't preserve {','.join(missing)}: it knows"
            f" {','.join(model.attributes) or 'none'} (preserve)"
        )
    return model.attributes if preserve is None else wanted


def check_setting(model: Model, setting: PrivacySetting) -> None:
    """Raise `UserError` unless a setting is for embeddings as long as those of a model."""
    if setting.dimension != model.dimension:
        raise UserError(
            f"the setting is for embeddings of {setting.dimension} values, those of model"
            f" {model.name} have {model.dimension}: give PrivacySetting dimension={model.dimension}"
        )


def _check_faces(model: Model, faces) -> None:
    side = model.resolution
    shaped("faces", faces)
    if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != (side, side, 3):
        raise UserError(
            f"faces are {faces.dtype} {faces.shape}: this model takes uint8 (N, {side}, {side}, 3)"
        )


@functools.cache
def _drawing(config, doubled: bool):
    net = AEINet(config, doubled=doubled)

    def draw(variables, faces, identities):
        params = variables["params"]
        if doubled:
            params = {**params, "generator": {**params["generator"], **variables["double"]}}
        variables = {**variables, "params": params}
        faces = to_float(faces)
        maps = net.apply(variables, faces, method="attributes")
        drawn = net.apply(variables, identities, maps, method="draw")
        if not config.has_mask:
            return to_uint8(drawn)
        mask = net.apply(variables, maps, method="mask")
        coarse = reduce(drawn, config.resolution)
        light = match_rim(faces, coarse, mask * face_region(config.resolution)) - coarse
        drawn = to_uint8(drawn + enlarge(light, drawn.shape[1]))
        mask = enlarge(mask, drawn.shape[1])
        return jnp.concatenate([drawn, jnp.round(255.0 * mask).astype(jnp.uint8)], axis=-1)

    return draw


def _moved(params, codes):
    return transport(params["population"], decode(codes), cosine=params["cosine"])


def _suited(params, codes, answers):
    population, cosine = params["population"], params["cosine"]
    moved = transport(population, decode(codes), cosine=cosine, answers=answers)
    faces = suitable(population, params["declared"], moved, answers, params["chosen"])
    return anchor(faces, moved, cosine=cosine)


@functools.cache
def _declaring(encode):
    def answers(params, faces):
        maps = encode.middle(params["encoder"], identity_crop(to_float(faces)))
        return declared.find(params["heads"], maps)

    return answers


@functools.cache
def _attributes(config, side):
    net = AEINet(config)

    def pooled(x):
        return reduce(x, min(side, x.shape[1]))

    def describe(params, faces):
        maps = net.apply(params, to_float(faces), method=net.attributes)
        return jnp.concatenate([pooled(x).reshape(len(faces), -1) for x in maps], axis=1)

    return describe


@functools.cache
def _embedding(encode):
    return lambda params, faces: encode(params, identity_crop(to_float(faces)))
