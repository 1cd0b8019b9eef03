"""Calibrations: the L1 distance between embeddings that a nominal epsilon is spread over.

Laplace noise of scale b = Delta / epsilon hides differences of up to Delta. A calibration says what
Delta is, and what the mechanism makes of an embedding beforehand:

``certified-l2``: Delta = 2 sqrt(d), as ||r - r'||_1 <= sqrt(d) ||r - r'||_2 <= 2 sqrt(d). It holds
for any two unit vectors; d is the encoder's, and Delta 45.25 for 512 (ArcFace), 22.63 for 128.

``certified-l1:S``: embeddings whose L1 norm is above S are scaled down to it, so Delta = 2 S, which
holds for any two as well. S = 19 clips almost no face of the shipped encoder, S = 10 almost none
of SFace: of 1,600 faces of nobody the norms are 9.05 +- 0.21 there, at most 9.93.

``paper``: the largest distance within a stated set of faces, as in the paper (arXiv 2103.01745,
section IV-B). It bounds the faces it was measured on and no others, so the nominal epsilon holds
for no face outside the set; what holds for any face is the certified epsilon, larger by
2 sqrt(d) / Delta. The mechanism is built and certified without trusting Delta.

The shipped set of ``paper`` is 5,000 faces of nobody, drawn by MobileStyleGAN (arXiv 2104.04767):
for every even N below 10,000 a latent from numpy.random.RandomState(1000 + N), 512 normals, then
truncation psi = uniform(0.75, 1) towards the mean of 4,096 mapped latents of RandomState(0);
1024 px reduced to 256 by area, JPEG quality 92. `identitydp calibrate` finds 29.98724 there: 28.06
among the first 100, 29.00 among 1,000. (Without looking for the face, the 256 px picture being the
frame, it is 29.86004.)
"""

import dataclasses
import functools
import math
import pathlib

from identitydp_jax.checks import UserError, given_path
from identitydp_jax.privacy import sensitivity
from identitydp_jax.privacy.sensitivity import EMBEDDING_DIM, EmpiricalSensitivity

_SHIPPED = pathlib.Path(__file__).parent / "paper_calibration.json"


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a nominal epsilon is spread over; hashable, equal by value.

    Attributes:
      name: ``certified-l2``, ``certified-l1:19``, or ``paper:`` and 12 digits of the set's hash.
      sensitivity: Delta, the L1 distance that the nominal epsilon is spread over.
      l1_norm: what embeddings are clipped to in L1; sqrt(d), which clips no unit vector, except
        in ``certified-l1``.
      measured: the set behind ``paper``, else None.
      dimension: d, the length of the embeddings.
    """

    name: str
    sensitivity: float
    l1_norm: float
    measured: EmpiricalSensitivity | None = None
    dimension: int = EMBEDDING_DIM

    @property
    def certified_sensitivity(self) -> float:
        """2 `l1_norm`, the L1 distance that no two clipped embeddings exceed."""
        return 2.0 * self.l1_norm

    def at(self, dimension: int) -> "Calibration":
        """Return the calibration of the same name for embeddings of another length; see `parse`."""
        if dimension == self.dimension:
            return self
        return _of(self.measured, dimension) if self.measured else parse(self.name, dimension)


def parse(spec: str, dimension: int = EMBEDDING_DIM) -> Calibration:
    """Return the calibration that a user names.

    Args:
      spec: ``certified-l2``; ``certified-l1:S``, S from 1 to sqrt(d); ``paper``, the shipped set
        (its full `Calibration.name` is taken too); or ``paper:FILE``, of `identitydp calibrate`.
      dimension: d, the length of the embeddings.

    Raises:
      UserError: it is none of these, S is out of range, or the file is no intact calibration.
    """
    kind, colon, rest = spec.partition(":")
    if spec == "certified-l2":
        longest = _longest(dimension)
        return Calibration(spec, 2.0 * longest, longest, dimension=dimension)
    if kind == "certified-l1" and colon:
        return _certified_l1(rest, dimension)
    if spec in ("paper", shipped().name):
        return shipped().at(dimension)
    if kind == "paper" and rest:
        return _of(sensitivity.read(given_path(rest)), dimension)
    raise UserError(
        f"calibration is {spec!r}: choose one of certified-l2, certified-l1:S, paper, paper:FILE"
    )


@functools.cache
def shipped() -> Calibration:
    """Return the calibration ``paper`` of the package."""
    return _of(sensitivity.read(_SHIPPED), EMBEDDING_DIM)


def _of(measured: EmpiricalSensitivity, dimension: int) -> Calibration:
    return Calibration(measured.name, measured.value, _longest(dimension), measured, dimension)


def _longest(dimension: int) -> float:
    """Return the largest L1 norm of a unit vector; the smallest is 1."""
    return math.sqrt(dimension)


def _certified_l1(text: str, dimension: int) -> Calibration:
    try:
        norm = float(text)
    except ValueError:
        norm = math.nan
    if not 1.0 <= norm <= _longest(dimension):
        few = 1 + math.sqrt(2 * dimension / math.pi)  # the mean norm, and five deviations
        raise UserError(
            f"calibration is 'certified-l1:{text}': give an S from 1 to {_longest(dimension):.4f},"
            f" the L1 norms of unit vectors; {few:.2g} clips almost no face"
        )
    name = f"certified-l1:{norm!r}".removesuffix(".0")
    return Calibration(name, 2.0 * norm, norm, dimension=dimension)
