"""Ways to replace aligned faces, IdentityDP and what it is compared with, under one interface."""

import dataclasses
import functools
from typing import Protocol

import numpy as np

from identitydp_jax.anonymize import compositing, faces
from identitydp_jax.baselines import filters, k_same
from identitydp_jax.checks import UserError
from identitydp_jax.data import alignment
from identitydp_jax.models.pixels import to_float, to_uint8
from identitydp_jax.privacy import PrivacySetting
from identitydp_jax.sharding import map_rows

CHOICES = (
    "identitydp, identitydp:EPSILON, identitydp:random, pixelate:8, noise:49, blur:19, mask, "
    "k-same:10, or another number for 8, 49, 19 and 10"
)
# What the number of a baseline says, and its bounds.
_AMOUNTS = {
    "pixelate": ("pixels of a block", 2, 128),
    "noise": ("sigma, of 255", 1, 255),
    "blur": ("factor of reduction", 2, 128),
    "k-same": ("faces averaged", 2, k_same.GALLERY_SIZE),
}


class Method(Protocol):
    """What replaces faces.

    Attributes:
      name: as `parse` takes it, for example `pixelate:8`.
      resolution: side R in pixels of the aligned faces that it takes and gives.
      policy: canonical text of everything but the key that decides the result; keys and the tags
        of manifests are bound to it.
      summary: what it is and what it guarantees, in one line for the user.
      record: what a manifest says of it for a photo.
      face_record: what a manifest says of it for a face that it replaced.
    """

    name: str
    resolution: int
    policy: str
    summary: str
    record: dict
    face_record: dict

    def draw(self, aligned: np.ndarray, *, keys) -> np.ndarray:
        """Replace aligned faces.

        Args:
          aligned: uint8 sRGB (N, R, R, 3) in the model frame.
          keys: N typed threefry keys, one per face; never one for two faces.

        Returns:
          uint8 sRGB (N, R, R, 3); a row depends on its face and key and on no other row.

        Raises:
          UserError: the faces have another shape or dtype, or the keys are not one per face.
        """


@dataclasses.dataclass(frozen=True)
class IdentityDP:
    """The paper's method: a trained model, and how much of the identity it hides."""

    model: faces.Model
    setting: PrivacySetting

    @property
    def name(self) -> str:
        """`identitydp:random`, or `identitydp:` with the nominal epsilon."""
        if self.setting.mechanism == "random":
            return "identitydp:random"
        return f"identitydp:{self.setting.epsilon!r}".removesuffix(".0")

    @property
    def resolution(self) -> int:
        """That of the model."""
        return self.model.resolution

    @property
    def policy(self) -> str:
        """That of the setting with the model."""
        return self.setting.policy(self.model.sha256)

    @property
    def summary(self) -> str:
        """Mechanism, budget and model."""
        setting, model = self.setting, f"model {self.model.name}"
        if setting.mechanism == "random":
            return f"{setting.mechanism}, {model}"
        return (
            f"{setting.mechanism}, epsilon {setting.epsilon:g} {setting.calibration}"
            f" (certified {setting.certified_epsilon:.3g}, paper {setting.paper_epsilon:.3g})"
            f" per face, {model}"
        )

    @property
    def record(self) -> dict:
        """Mechanism and model."""
        mechanism, model = self.setting.mechanism, self.model
        return {"mechanism": mechanism, "model": model.name, "model_sha256": model.sha256}

    @property
    def face_record(self) -> dict:
        """The budget that the face spent."""
        setting = self.setting
        return {
            "epsilon": setting.epsilon,
            "calibration": setting.calibration,
            "certified_epsilon": setting.certified_epsilon,
            "paper_epsilon": setting.paper_epsilon,
        }

    def draw(self, aligned: np.ndarray, *, keys) -> np.ndarray:
        """Replace aligned faces by `faces.anonymize_faces`, with its guarantee."""
        return faces.anonymize_faces(self.model, aligned, keys=keys, setting=self.setting)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One of `baselines`, on faces of 256 px; private in no formal sense.

    Attributes:
      kind: `pixelate`, `noise`, `blur`, `mask` or `k-same`.
      amount: its number, as in `parse`; None for `mask`.
    """

    kind: str
    amount: int | None = None
    resolution = alignment.FRAME

    @property
    def name(self) -> str:
        """Kind and number."""
        return self.kind if self.amount is None else f"{self.kind}:{self.amount}"

    @property
    def policy(self) -> str:
        """The name, and of k-Same the gallery."""
        gallery = f";gallery={k_same.load_gallery()[1]}" if self.kind == "k-same" else ""
        return f"baseline;{self.name}{gallery}"

    @property
    def summary(self) -> str:
        """The name, and that it guarantees nothing."""
        return f"{self.name}, a baseline without any privacy guarantee"

    @property
    def record(self) -> dict:
        """Nothing beyond the name: there is no model."""
        return {}

    @property
    def face_record(self) -> dict:
        """Nothing: there is no budget."""
        return {}

    def draw(self, aligned: np.ndarray, *, keys) -> np.ndarray:
        """Replace aligned faces; only `noise` uses the keys."""
        _check_aligned(aligned, self.resolution)
        if keys.shape != (len(aligned),):
            raise UserError(f"keys have shape {keys.shape}: give one for each of {len(aligned)}")
        gallery = k_same.load_gallery()[0] if self.kind == "k-same" else None
        return map_rows(_drawing(self.kind, self.amount), gallery, aligned, keys)


def parse(spec: str, *, model: str, setting: PrivacySetting) -> Method:
    """Return the method that a user names.

    Args:
      spec: `identitydp` (with `setting`), `identitydp:EPSILON` (with that budget),
        `identitydp:random`; `pixelate:N` (blocks of N px in a frame of 256), `noise:N` (sigma, of
        255), `blur:N` (reduced N times and enlarged again), `mask` (grey), `k-same:N` (the mean
        of the N nearest of 64 generated faces).
      model: name or file of the model, for `identitydp` alone.
      setting: the privacy setting that `identitydp` starts from.

    Raises:
      UserError: there is no such method, its number is out of bounds, or the model can't be had.
    """
    kind, colon, number = spec.partition(":")
    if kind == "identitydp":
        setting = _changed(setting, number, spec) if colon else setting
        return IdentityDP(faces.load_model(model), setting)
    if spec == "mask":
        return Baseline("mask")
    if kind not in _AMOUNTS:
        raise UserError(f"method is {spec!r}: choose one of {CHOICES}")
    meaning, least, most = _AMOUNTS[kind]
    if not (number.isascii() and number.isdecimal() and least <= int(number) <= most):
        bounds = f"a whole number from {least} to {most} ({meaning})"
        raise UserError(f"method is {spec!r}: give {kind}:N, N {bounds}")
    return Baseline(kind, int(number))


def replace(method: Method, frames: np.ndarray, *, keys) -> np.ndarray:
    """Replace the faces in crops of the model frame, as `anonymize_photo` does in photos.

    Args:
      method: of `parse`.
      frames: uint8 sRGB (N, 256, 256, 3), one aligned face each.
      keys: N typed threefry keys, one per face.

    Returns:
      uint8 sRGB (N, 256, 256, 3): the method's faces, pasted under the feathered mask.

    Raises:
      UserError: the frames have another shape or dtype, or the keys are not one per face.
    """
    _check_aligned(frames, alignment.FRAME)
    drawn = method.draw(fit(frames, method.resolution), keys=keys)
    result = frames.copy()
    for frame, face in zip(result, drawn, strict=True):
        compositing.paste(frame, face[None], _scaling(method.resolution)[None])
    return result


def fit(frames: np.ndarray, side: int) -> np.ndarray:
    """Return faces of the model frame uint8 (N, 256, 256, 3) as uint8 (N, side, side, 3)."""
    crops = [alignment.crop(frame, _scaling(side), side) for frame in frames]
    return np.array(crops, np.uint8).reshape(-1, side, side, 3)


def _scaling(side: int) -> np.ndarray:
    return np.eye(2, 3) * (side / alignment.FRAME)


def _changed(setting: PrivacySetting, text: str, spec: str) -> PrivacySetting:
    if text == "random":
        return dataclasses.replace(setting, mechanism="random")
    try:
        epsilon = float(text)
    except ValueError:
        raise UserError(f"method is {spec!r}: choose one of {CHOICES}") from None
    return dataclasses.replace(setting, mechanism="laplace", epsilon=epsilon)


def _check_aligned(aligned: np.ndarray, side: int) -> None:
    if aligned.dtype != np.uint8 or aligned.ndim != 4 or aligned.shape[1:] != (side, side, 3):
        raise UserError(
            f"faces are {aligned.dtype} {aligned.shape}: give uint8 (N, {side}, {side}, 3)"
        )


@functools.cache
def _drawing(kind: str, amount: int | None):
    """Return one baseline as a function for `map_rows`, the same object every time."""

    def draw(gallery, aligned, keys):
        x = to_float(aligned)
        if kind == "pixelate":
            y = filters.pixelate(x, block=amount)
        elif kind == "noise":
            y = filters.add_noise(x, key=keys, sigma=amount)
        elif kind == "blur":
            y = filters.blur(x, factor=amount)
        elif kind == "mask":
            y = filters.mask(x)
        else:
            y = k_same.k_same(x, to_float(gallery), k=amount)
        return to_uint8(y)

    return draw
