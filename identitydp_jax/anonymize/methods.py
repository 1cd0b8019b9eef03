"""Ways to replace aligned faces, IdentityDP and what it is compared with, under one interface."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from identitydp_jax.anonymize import compositing, faces
from identitydp_jax.baselines import filters, k_same
from identitydp_jax.checks import UserError, shaped
from identitydp_jax.data import alignment
from identitydp_jax.models.pixels import to_float, to_uint8
from identitydp_jax.privacy import ledger
from identitydp_jax.privacy.calibration import EMBEDDING_DIM
from identitydp_jax.privacy.setting import DELTA, MECHANISMS, PrivacySetting
from identitydp_jax.sharding import map_rows

CHOICES = (
    "identitydp, identitydp:EPSILON, identitydp:MECHANISM:EPSILON, identitydp:random, pixelate:8, "
    "noise:49, blur:19, mask, k-same:10, or another number for 8, 49, 19 and 10"
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
      policy: canonical text of what a key is used for; keys and the ledger are bound to it.
      recipe: canonical text of everything but the key that decides the result; the tags of
        manifests are bound to it.
      summary: what it is and what it guarantees, in one line for the user.
      record: what a manifest says of it for a photo.
      face_record: what a manifest says of it for a face that it replaced.
    """

    name: str
    resolution: int
    policy: str
    recipe: str
    summary: str
    record: dict
    face_record: dict

    def draw(self, aligned: np.ndarray, *, keys) -> np.ndarray:
        """Replace aligned faces.

        Args:
          aligned: uint8 sRGB (N, R, R, 3) in the model frame.
          keys: N typed ChaCha20 keys, one per face; never one for two faces.

        Returns:
          uint8 sRGB (N, R, R, 3); a row depends on its face and key and on no other row.

        Raises:
          UserError: the faces have another shape or dtype, or the keys are not one per face.
        """


@dataclasses.dataclass(frozen=True)
class IdentityDP:
    """The paper's method: a trained model, and how much of the identity it hides.

    Attributes:
      model: from `faces.load_model`.
      setting: the privacy mechanism and its budget.
      preserve: declared attributes that drawn faces share with the originals; given as None it
        becomes all that the model can preserve.
    """

    model: faces.Model
    setting: PrivacySetting
    preserve: Sequence[str] | None = None

    def __post_init__(self):
        """Raise `UserError` if setting, encoder or attributes are none of the model's."""
        kept = faces.check_preserve(self.model, self.preserve)
        object.__setattr__(self, "preserve", kept)
        measured = self.setting.calibration.measured
        if measured is not None and measured.encoder_sha256 != self.model.encoder_sha256:
            raise UserError(
                f"calibration {measured.name} was measured with another identity encoder than that"
                f" of model {self.model.name}: use certified-l2, or calibrate with that model's"
            )
        faces.check_setting(self.model, self.setting)

    @property
    def name(self) -> str:
        """As `parse` takes it; the mechanism is left out if it is the paper's."""
        setting, parts = self.setting, ["identitydp"]
        if setting.mechanism != "laplace":
            parts.append(setting.mechanism)
        if setting.mechanism != "random":
            parts.append(repr(setting.epsilon).removesuffix(".0"))
        return ":".join(parts)

    @property
    def resolution(self) -> int:
        """That of the model."""
        return self.model.resolution

    @property
    def policy(self) -> str:
        """That of the setting with the model and its encoder."""
        return self.setting.policy(self.model.sha256, self.model.encoder_sha256)

    @property
    def recipe(self) -> str:
        """The policy, and what is preserved: codes don't depend on that, faces do."""
        return f"{self.policy};preserve={','.join(self.preserve)}" if self.preserve else self.policy

    @property
    def summary(self) -> str:
        """Mechanism, budget, model and what is preserved."""
        setting, model = self.setting, f"model {self.model.name}"
        if self.preserve:
            model += f", preserves {', '.join(self.preserve)}"
        if setting.mechanism == "random":
            return f"random, {model}"
        text = f"{setting.mechanism}, epsilon {setting.epsilon:g}"
        if setting.mechanism == "gaussian":
            text += f" at delta {DELTA:g} (rho {setting.rho:.3g})"
        elif setting.mechanism == "laplace":
            text += f" {setting.calibration.name} (certified {setting.certified_epsilon:.3g}"
            if setting.paper_epsilon is not None:
                text += f", by the paper's definition {setting.paper_epsilon:.3g}"
            text += ")"
        return f"{text} per face, {model}"

    @property
    def record(self) -> dict:
        """Mechanism, model and the attributes that are preserved."""
        return {
            "mechanism": self.setting.mechanism,
            "model": self.model.name,
            "model_sha256": self.model.sha256,
            "preserve": list(self.preserve),
        }

    @property
    def face_record(self) -> dict:
        """The budget that the face spent, as claimed and as certified.

        Of encoders other than ArcFace's also how long their embeddings are, and for ``laplace`` the
        L1 distance, Delta, that the nominal epsilon is spread over.
        """
        setting, others = self.setting, {}
        if setting.dimension != EMBEDDING_DIM:
            others["dimension"] = setting.dimension
            if setting.mechanism == "laplace":
                others["sensitivity"] = setting.calibration.sensitivity
        return others | {
            "epsilon": setting.epsilon,
            "calibration": setting.calibration.name,
            "certified_epsilon": setting.certified_epsilon,
            "paper_epsilon": setting.paper_epsilon,
            "rho": setting.rho,
            "delta": DELTA,
            "epsilon_at_delta": setting.epsilon_at_delta,
        }

    def charge(self, key: str) -> ledger.Charge:
        """Return what a ledger charges for a face, under the key of that commitment."""
        setting = self.setting
        claimed = setting.epsilon if setting.paper_epsilon is None else setting.paper_epsilon
        return ledger.Charge(
            policy=self.policy,
            mechanism=setting.mechanism,
            calibration=setting.calibration.name,
            claimed_epsilon=claimed,
            loss=setting.loss,
            key=key,
            dimension=setting.dimension,
        )

    def release(self, aligned: np.ndarray, *, keys) -> np.ndarray:
        """Return the noised identities, int32 (N, D); see `faces.release_faces`."""
        return faces.release_faces(self.model, aligned, keys=keys, setting=self.setting)

    def draw_codes(self, aligned: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Draw the faces with the identities of codes; see `faces.draw_faces`."""
        identities = faces.target_identities(
            self.model, aligned, codes, setting=self.setting, preserve=self.preserve
        )
        return faces.draw_faces(self.model, aligned, identities)

    def draw(self, aligned: np.ndarray, *, keys) -> np.ndarray:
        """Replace aligned faces by `faces.anonymize_faces`, with its guarantee."""
        return faces.anonymize_faces(
            self.model, aligned, keys=keys, setting=self.setting, preserve=self.preserve
        )


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
    def recipe(self) -> str:
        """The policy."""
        return self.policy

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


def parse(
    spec: str,
    *,
    model: str,
    setting: Callable[[int], PrivacySetting],
    preserve: Sequence[str] | None = None,
) -> Method:
    """Return the method that a user names.

    Args:
      spec: `identitydp` (with `setting`), `identitydp:EPSILON` (the mechanism laplace with that
        budget, by the calibration of `setting`), `identitydp:MECHANISM:EPSILON`,
        `identitydp:random`; `pixelate:N` (blocks of N px in a frame of 256), `noise:N` (sigma, of
        255), `blur:N` (reduced N times and enlarged again), `mask` (grey), `k-same:N` (the mean
        of the N nearest of 64 generated faces).
      model: name or file of the model, for `identitydp` alone.
      setting: gives the privacy setting that `identitydp` starts from, for embeddings of a length,
        which is the model's: `PrivacySetting.at` of one, for example.
      preserve: of `IdentityDP`, for `identitydp` alone.

    Raises:
      UserError: there is no such method, its number is out of bounds, the model can't be had or
        can't preserve an attribute.
    """
    kind, colon, number = spec.partition(":")
    if kind == "identitydp":
        loaded = faces.load_model(model)
        start = setting(loaded.dimension)
        chosen = _changed(start, number, spec) if colon else start
        return IdentityDP(loaded, chosen, preserve)
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
      keys: N typed ChaCha20 keys, one per face.

    Returns:
      uint8 sRGB (N, 256, 256, 3): the method's faces, pasted in the region of the face.

    Raises:
      UserError: the frames have another shape or dtype, or the keys are not one per face.
    """
    _check_aligned(frames, alignment.FRAME)
    return paste_back(frames, method.draw(fit(frames, method.resolution), keys=keys))


def paste_back(frames: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return frames uint8 (N, 256, 256, 3) with their faces replaced by uint8 (N, R, R, 3)."""
    result = frames.copy()
    for frame, face in zip(result, drawn, strict=True):
        compositing.paste(frame, face[None], _scaling(len(face))[None])
    return result


def fit(frames: np.ndarray, side: int) -> np.ndarray:
    """Return faces of the model frame uint8 (N, 256, 256, 3) as uint8 (N, side, side, 3)."""
    crops = [alignment.crop(frame, _scaling(side), side) for frame in frames]
    return np.array(crops, np.uint8).reshape(-1, side, side, 3)


def _scaling(side: int) -> np.ndarray:
    return np.eye(2, 3) * (side / alignment.FRAME)


def _changed(setting: PrivacySetting, text: str, spec: str) -> PrivacySetting:
    if text == "random":
        return PrivacySetting("random", dimension=setting.dimension)
    mechanism, colon, number = text.rpartition(":")
    mechanism = mechanism if colon else "laplace"
    try:
        epsilon = float(number)
    except ValueError:
        raise UserError(f"method is {spec!r}: choose one of {CHOICES}") from None
    if mechanism == "random" or mechanism not in MECHANISMS:
        raise UserError(f"method is {spec!r}: choose one of {CHOICES}")
    if mechanism == "laplace":
        return PrivacySetting(mechanism, epsilon, setting.calibration, setting.dimension)
    return PrivacySetting(mechanism, epsilon, dimension=setting.dimension)


def _check_aligned(aligned: np.ndarray, side: int) -> None:
    shaped("faces", aligned)
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
