"""Random perturbation of identity embeddings (stage II of arXiv 2103.01745).

**What is guaranteed.** In exact arithmetic, `laplace` with scale Delta / epsilon is
epsilon-locally differentially private for the *identity embedding, given the attribute maps*: for
any two unit embeddings r, r' with ||r - r'||_1 <= Delta and any set S of outputs,
P[M(r) in S] <= exp(epsilon) P[M(r') in S]. Renormalising the output is post-processing and costs
nothing. With calibration ``certified-l2``, Delta = 2 sqrt(d) bounds *every* pair of unit vectors
(L1 <= sqrt(d) L2), so the bound holds for any face.

**What is not.**

- The image is not epsilon-differentially private: it also depends on the attribute maps, which
  carry no noise.
- Calibration ``paper`` takes Delta from a finite set of faces, which bounds no face outside it;
  its certified epsilon is the larger `PrivacySetting.certified_epsilon`.
- The noise here is sampled in **float32**. It has 2^23 possible values a coordinate, so sums that
  are possible under one embedding are impossible under another, and whoever reads the low-order
  bits of r + noise can tell them apart whatever epsilon says. The stated epsilon is that of the
  ideal real-valued mechanism; this sampler does not attain it formally. Renormalising and drawing
  an image blur those bits, which is no proof. An exact integer sampler is what closes this.
- A threefry key has 64 bits, however long the secret it comes from: against somebody who can
  search 2^64 keys the noise is no secret.
- A key used twice, for two embeddings at one scale, reveals their difference. `privacy.keys`
  derives keys that differ whenever photo, face or policy do.
- Each independent release of one person adds its epsilon. Nothing here keeps account of that.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.checks import UserError, one_of, positive
from identitydp_jax.privacy.calibration import CALIBRATIONS, EMBEDDING_DIM, PAPER, l1_sensitivity

MECHANISMS = ("laplace", "random")


@dataclasses.dataclass(frozen=True)
class PrivacySetting:
    """How much is hidden of an identity embedding; hashable, so it can be a static jit argument.

    Attributes:
      mechanism: ``laplace``, or ``random`` for an identity that never saw the input.
      epsilon: the nominal budget, finite and above 0, meant in the terms of `calibration`. The
        mechanism ``random`` spends nothing: its epsilon becomes 0, whatever was given.
      calibration: which sensitivity Delta divides by epsilon: ``certified-l2`` or ``paper``.

    Raises `UserError` for any other value.
    """

    mechanism: str = "laplace"
    epsilon: float = 6.0
    calibration: str = "certified-l2"

    def __post_init__(self):
        """Validate; turn epsilon into a Python float so that equal settings hash alike."""
        one_of("mechanism", self.mechanism, MECHANISMS)
        one_of("calibration", self.calibration, CALIBRATIONS)
        epsilon = 0.0 if self.mechanism == "random" else positive("epsilon", self.epsilon)
        object.__setattr__(self, "epsilon", epsilon)
        if not (epsilon == 0.0 or 1e-30 <= self.scale <= 1e30):
            raise UserError(f"epsilon is {epsilon}: give one between 1e-28 and 1e+28")

    @property
    def sensitivity(self) -> float:
        """Delta, the L1 distance between two unit embeddings that epsilon is spread over."""
        return l1_sensitivity(self.calibration)

    @property
    def scale(self) -> float:
        """Laplace scale b = Delta / epsilon of one coordinate; infinite for ``random``."""
        return self.sensitivity / self.epsilon if self.epsilon else math.inf

    @property
    def certified_epsilon(self) -> float:
        """The epsilon that holds for any two faces: 2 sqrt(512) / b."""
        return l1_sensitivity("certified-l2") / self.scale

    @property
    def paper_epsilon(self) -> float:
        """The epsilon that the paper's definition, an empirical Delta, gives this noise."""
        return l1_sensitivity("paper") / self.scale

    @property
    def expected_cosine(self) -> float:
        """Mean cosine between an embedding and its perturbation; see `expected_cosine`."""
        return expected_cosine(self.scale)

    def policy(self, model_sha256: str) -> str:
        """Return the canonical text of this setting with a model, for deriving keys and receipts.

        It names everything that changes what a key is used for, Delta included, and nothing else.
        """
        if self.mechanism == "random":
            return f"random;model={model_sha256}"
        calibration = self.calibration
        if calibration == "paper":
            calibration += f":{PAPER.files_sha256}"
        return (
            f"{self.mechanism};epsilon={self.epsilon!r};calibration={calibration};"
            f"sensitivity={self.sensitivity!r};model={model_sha256}"
        )


def perturb(embedding, *, key, mechanism: str, scale):
    """Perturb identity embeddings with the mechanism and the scale of a `PrivacySetting`.

    Args:
      embedding: (512,) or (..., 512) floating, any length; rows are normalised to unit L2 here,
        because the sensitivity holds for unit vectors alone. Rows that are zero or not finite
        give a direction of pure noise.
      key: typed threefry keys, one per row, of shape `embedding.shape[:-1]`.
      mechanism: of the setting, static under jit.
      scale: of the setting, may be traced, so that one compilation serves every budget.

    Returns:
      float32 of the same shape, unit L2 rows, always finite. A row is a function of that row, its
      key, mechanism and scale, not of the batch: random bits exactly, values to float32 rounding.

    Raises:
      TypeError: `key` is not an array of typed threefry keys.
      ValueError: the last axis is not 512, or the keys are not one per row.
    """
    if jnp.shape(embedding)[-1:] != (EMBEDDING_DIM,):
        raise ValueError(
            f"embedding has shape {jnp.shape(embedding)}: the sensitivity is that of "
            f"{EMBEDDING_DIM} dimensions, give (..., {EMBEDDING_DIM})"
        )
    if mechanism == "random":
        return random_identity(jnp.shape(embedding), key=key)
    return laplace(embedding, key=key, scale=scale)


def laplace(embedding, *, key, scale):
    """Return r + b Laplace(0, 1)^d, renormalised to unit L2, stage II of the paper.

    Args:
      embedding: (..., d) floating; rows are normalised to unit L2 first. A row that has no
        direction (zero or subnormal, NaN, infinite) gives the direction of its noise alone.
      key: typed threefry keys, one per row, of shape `embedding.shape[:-1]`.
      scale: b, scalar or of shape `embedding.shape[:-1]`, may be traced. 0 adds no noise; a
        negative or NaN scale counts as infinite, which leaves the noise alone.

    Returns:
      float32 (..., d), unit L2 rows, always finite. Differentiable in `embedding`.

    Raises:
      TypeError: `key` is not an array of typed threefry keys.
      ValueError: the keys are not one per row.
    """
    with np.errstate(over="ignore"):  # float64 beyond float32 is infinite, handled below
        unit, usable = _normalise(jnp.asarray(embedding, jnp.float32))
        b = jnp.asarray(scale, jnp.float32)[..., None]
    noise = _per_row(jax.random.laplace, key, unit.shape)
    b = jnp.where(usable & (b >= 0), b, jnp.inf)
    # (r + b L) / max(1, b): the same direction, and no overflow however large b is.
    noised = unit / jnp.maximum(b, 1.0) + noise * jnp.minimum(b, 1.0)
    return _unit_or_diagonal(noised)


def random_identity(shape: tuple[int, ...], *, key):
    """Return uniformly random unit vectors, float32 of `shape`, one key per row.

    The line that every mechanism must beat: no input, so epsilon is 0 on this channel.
    Raises like `laplace`.
    """
    return _unit_or_diagonal(_per_row(jax.random.normal, key, shape))


def expected_cosine(scale: float, dimensions: int = EMBEDDING_DIM) -> float:
    """Return E[cos(r, r + b L)] to first order, 1 / sqrt(1 + 2 d b^2), as E[L^2] = 2.

    Within 0.001 of the mean of 30,000 draws at 512 dimensions, whatever the scale. A single draw
    has a standard deviation of up to 1 / sqrt(d) = 0.044: near 0 it may well be negative.
    """
    return 1.0 / math.hypot(1.0, math.sqrt(2.0 * dimensions) * scale)


def _per_row(draw, key, shape):
    """Draw a float32 array of `shape` with one key per row, whatever the batch."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(f"key has dtype {key.dtype}: give typed keys, made by jax.random.key")
    if str(jax.random.key_impl(key)) != "threefry2x32":  # others depend on the batch under vmap
        raise TypeError(f"key is of {jax.random.key_impl(key)}: give threefry2x32 keys")
    if key.shape != shape[:-1]:
        raise ValueError(f"keys of shape {key.shape} for rows of shape {shape[:-1]}: one per row")
    rows = jax.vmap(lambda row_key: draw(row_key, shape[-1:], jnp.float32))(key.reshape(-1))
    return rows.reshape(shape)


def _normalise(vectors):
    """Return rows of unit L2, and (..., 1) whether each had a direction (if not, it is zero)."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=-1, keepdims=True))
    usable = jnp.isfinite(largest) & (largest >= jnp.finfo(jnp.float32).tiny)
    # Dividing by the largest first: squares neither overflow nor vanish.
    scaled = jnp.where(usable, vectors, 0.0) / jnp.where(usable, largest, 1.0)
    squares = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(usable, squares, 1.0)), usable


def _unit_or_diagonal(vectors):
    """Normalise rows; one that sums to exactly zero becomes (1, ..., 1) / sqrt(d)."""
    unit, usable = _normalise(vectors)
    return jnp.where(usable, unit, 1.0 / math.sqrt(vectors.shape[-1]))
