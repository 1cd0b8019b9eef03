"""How much is hidden of an identity embedding: what a user chooses, and what it costs."""

import dataclasses
import functools
import hashlib
import math

import jax
import numpy as np

from identitydp_jax.checks import UserError, one_of, positive
from identitydp_jax.privacy import accounting, discrete_gaussian, lattice, privunit
from identitydp_jax.privacy.calibration import EMBEDDING_DIM, Calibration, parse
from identitydp_jax.privacy.sensitivity import MAX_DIMENSION

MECHANISMS = ("laplace", "privunit", "gaussian", "random")
DELTA = 1e-6  # of every epsilon that is stated at a delta
_BOUNDS = (0.01, 10_000.0)  # of epsilon
_MIN_DIMENSION = 16  # fewer, and the expected cosines are off
_LENGTH = 1.001  # a unit vector's after rounding is below this; see test_discrete_laplace


@dataclasses.dataclass(frozen=True)
class PrivacySetting:
    """A mechanism and its budget; hashable, equal by value.

    What is guaranteed for one release: for any two faces and any set of released codes, the
    probabilities under the one and the other differ at most by the factor exp(`certified_epsilon`)
    (with ``gaussian``: as `rho` says), given the attribute maps, the declared attributes, the
    alignment and the detector's output; see `privacy.mechanism`.

    Attributes:
      mechanism: ``laplace``, the paper's; ``privunit``, which keeps more likeness for its budget;
        ``gaussian``, which costs least where many releases add up; or ``random``, an identity
        that never saw the input, whose epsilon is 0 whatever was given.
      epsilon: the nominal budget, 0.01 to 10,000. ``laplace`` means it in the terms of
        `calibration`, ``gaussian`` at delta 1e-6.
      calibration: ``certified-l2``, ``certified-l1:S``, ``paper`` or ``paper:FILE``, for
        ``laplace``; see `privacy.calibration.parse`. The others are certified by themselves.
      dimension: length of the embeddings, which is the encoder's: 512 for ArcFace, 128 for SFace;
        16 to 512, for ``privunit`` a power of two from 64.

    Raises:
      UserError: a value is another, or 32-bit integers can't represent the noise.
    """

    mechanism: str = "laplace"
    epsilon: float = 6.0
    calibration: Calibration | str = "certified-l2"
    dimension: int = EMBEDDING_DIM

    def __post_init__(self):
        """Validate; make values that mean the same equal."""
        one_of("mechanism", self.mechanism, MECHANISMS)
        if not _MIN_DIMENSION <= self.dimension <= MAX_DIMENSION:
            raise UserError(
                f"dimension is {self.dimension}: give one from {_MIN_DIMENSION} to {MAX_DIMENSION}"
            )
        measure = self.calibration
        if isinstance(measure, str):
            measure = parse(measure, self.dimension)
        measure = measure.at(self.dimension)
        if self.mechanism != "laplace" and measure.name != "certified-l2":
            raise UserError(
                f"calibration {measure.name} goes with the mechanism laplace alone,"
                f" not with {self.mechanism}: leave one of them out"
            )
        epsilon = 0.0 if self.mechanism == "random" else positive("epsilon", self.epsilon)
        low, high = _BOUNDS
        if self.mechanism != "random" and not low <= epsilon <= high:
            raise UserError(f"epsilon is {epsilon:g}: give one from {low:g} to {high:g}")
        object.__setattr__(self, "epsilon", epsilon)
        object.__setattr__(self, "calibration", measure)
        _ = self.noise  # so that what can't be represented is refused here

    def at(self, dimension: int) -> "PrivacySetting":
        """Return the setting of the same names and numbers for embeddings of another length."""
        return dataclasses.replace(self, dimension=dimension)

    @property
    def noise(self):
        """The integers of the mechanism: a `Lattice`, `PrivUnit`, `DiscreteGaussian` or None."""
        return _noise(self)

    @property
    def arrays(self):
        """What `mechanism.release` takes; None for ``random``."""
        return None if self.noise is None else self.noise.arrays()

    @property
    def loss(self) -> accounting.Loss:
        """What one release costs its subject, for `accounting` and the ledger."""
        return _loss(self)

    @property
    def certified_epsilon(self) -> float | None:
        """The exact pure epsilon, delta 0, for any two faces; None for ``gaussian``."""
        loss = self.loss
        return loss.epsilon if isinstance(loss, accounting.PureLoss) else None

    @property
    def rho(self) -> float:
        """Zero-concentrated differential privacy of one release."""
        return self.loss.rho

    @property
    def epsilon_at_delta(self) -> float:
        """The epsilon of one release at delta 1e-6."""
        return accounting.epsilon_at(DELTA, [self.loss])

    @property
    def paper_epsilon(self) -> float | None:
        """The epsilon by the paper's definition, an empirical Delta over b; of ``laplace``.

        None where no Delta is known: the shipped one is of embeddings of 512 values.
        """
        measured = self.calibration.measured
        if measured is None and self.dimension == EMBEDDING_DIM:
            measured = parse("paper").measured
        if self.mechanism != "laplace" or measured is None:
            return None
        return measured.value / self.scale

    @property
    def scale(self) -> float:
        """Laplace scale b = Delta / epsilon of a coordinate of the unit embedding."""
        return self.calibration.sensitivity / self.epsilon

    @property
    def expected_cosine(self) -> float:
        """Mean cosine between an embedding and what is released of it, over keys."""
        if self.mechanism == "random":
            return 0.0
        if self.mechanism == "laplace":
            return laplace_cosine(self.scale, self.dimension)
        if self.mechanism == "privunit":
            return privunit.expected_cosine(self.noise)
        return discrete_gaussian.expected_cosine(self.noise, self.dimension)

    def policy(self, model_sha256: str, encoder_sha256: str) -> str:
        """Return the canonical text of this setting with a model, for keys, ledger and receipts.

        It names everything that changes what a key is used for, and nothing else: the network's
        digest is of what it is, not of how a file has it, and the encoder's is pinned.
        """
        text = f"{self.mechanism};"
        if self.noise is not None:
            words = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(self.arrays))
            name, noise = self.calibration.name, hashlib.sha256(words).hexdigest()
            text += f"epsilon={self.epsilon!r};calibration={name};noise={noise};"
        return text + f"model={model_sha256};encoder={encoder_sha256}"

    def check_disjoint(self, content: bytes) -> None:
        """Raise `UserError` if a photo is in the set that the calibration was measured on.

        Args:
          content: `photos.content_digest` of the photo.
        """
        measured = self.calibration.measured
        if measured is not None and measured.contains(content):
            raise UserError(
                f"the photo is in the set that calibration {self.calibration.name} was measured on,"
                " so its epsilon would not hold: use certified-l2, or calibrate on other photos"
            )


def for_similarity(
    cosine: float, mechanism: str = "privunit", dimension: int = EMBEDDING_DIM
) -> PrivacySetting:
    """Return the setting of least epsilon whose expected cosine is `cosine`, within 0.005.

    Raises:
      UserError: no epsilon of the mechanism reaches it, or it is not above 0.
    """
    low, high = (math.log(bound) for bound in _BOUNDS)

    def setting(epsilon):
        return PrivacySetting(mechanism, epsilon, dimension=dimension)

    reach = [setting(bound).expected_cosine for bound in _BOUNDS]
    if not reach[0] <= cosine <= reach[1]:
        raise UserError(
            f"similarity is {cosine:g}: {mechanism} reaches {reach[0]:.3g} to {reach[1]:.3g}"
        )
    for _ in range(30):
        middle = (low + high) / 2
        enough = setting(math.exp(middle)).expected_cosine >= cosine
        low, high = (low, middle) if enough else (middle, high)
    return setting(float(f"{math.exp(high):.4g}"))


def laplace_cosine(scale: float, dimension: int) -> float:
    """Return E[cos(r, r + b L)] to first order, 1 / sqrt(1 + 2 d b^2), as E[L^2] = 2.

    Within 0.001 of the mean of 30,000 draws at 512 dimensions, whatever the scale. A single draw
    has a standard deviation of up to 1 / sqrt(d), 0.044 there: near 0 it may well be negative.
    """
    return 1.0 / math.hypot(1.0, math.sqrt(2.0 * dimension) * scale)


@functools.lru_cache(maxsize=256)
def _noise(setting: PrivacySetting):
    if setting.mechanism == "laplace":
        return lattice.design(setting.scale, setting.calibration.l1_norm)
    if setting.mechanism == "privunit":
        return privunit.design(setting.epsilon, setting.dimension)
    if setting.mechanism == "gaussian":
        return discrete_gaussian.design(_rho(setting.epsilon))
    return None


@functools.lru_cache(maxsize=256)
def _loss(setting: PrivacySetting) -> accounting.Loss:
    noise = setting.noise
    if setting.mechanism == "laplace":
        length = 2.0 * _LENGTH * noise.resolution
        return accounting.laplace(lattice.exact_epsilon(noise), l1=noise.sensitivity, l2=length)
    if setting.mechanism == "privunit":
        return accounting.PureLoss(privunit.exact_epsilon(noise), coordinates=noise.rounds)
    if setting.mechanism == "gaussian":
        return accounting.GaussianLoss(discrete_gaussian.exact_rho(noise))
    return accounting.PureLoss(0.0)


def _rho(epsilon: float) -> float:
    """Return the largest rho (within 1e-9) that is (epsilon, 1e-6)-differentially private."""
    low, high = 0.0, epsilon + 1.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        fits = accounting.epsilon_at(DELTA, [accounting.GaussianLoss(middle)]) <= epsilon
        low, high = (middle, high) if fits else (low, middle)
    return low


# Settings by a word; the README has their expected cosines and measured recognition.
LEVELS = {
    "anonymous": PrivacySetting("random"),
    "strong": PrivacySetting("privunit", 3.0),
    "similar": PrivacySetting("privunit", 40.0),
}
