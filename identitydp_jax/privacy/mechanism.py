"""Random perturbation of identity embeddings (stage II of arXiv 2103.01745), exactly.

**What is guaranteed.** `release` turns an embedding into integer codes. For any two embeddings at
all and any set S of codes, P[M(r) in S] <= exp(epsilon) P[M(r') in S], epsilon being
`PrivacySetting.certified_epsilon`: *epsilon-local differential privacy of the identity embedding,
given the attribute maps, the declared attributes that are preserved, the alignment and the
detector's output*, with delta 0. (``gaussian``: rho-zero-concentrated differential privacy
instead.) That is proved for the very integers that run, in `privacy.lattice`, `privacy.privunit`
and `privacy.discrete_gaussian`; the one assumption is that the bits of a secret ChaCha20 key are
uniform and independent for whoever lacks it. Decoding codes, and drawing an image from them, is
post-processing and costs nothing.

**What is not.**

- The image is not epsilon-differentially private: it also depends on the attribute maps, on the
  declared attributes (`models.declared`), on where the detector found the face and how it was
  aligned, and on all around it, which carry no noise.
- Calibration ``paper`` takes Delta from a finite set of faces, which bounds no face outside it: its
  nominal epsilon is the paper's, its certified one is larger.
- A key used twice, for two embeddings at one setting, reveals their difference. `privacy.keys`
  binds every key to the very pixels that are noised, so one key has one embedding.
- Each independent release of one person adds its loss: `privacy.ledger` keeps account.
- Whoever has the key and the codes has the embedding.
"""

import jax
import jax.numpy as jnp

from identitydp_jax.privacy import chacha, discrete_gaussian, discrete_laplace, privunit
from identitydp_jax.privacy.discrete_laplace import decode
from identitydp_jax.privacy.sensitivity import MAX_DIMENSION

__all__ = ["decode", "release"]


def release(embedding, *, key, mechanism: str, arrays):
    """Return codes that hide identity embeddings as a `PrivacySetting` says.

    Args:
      embedding: (..., d) floating, any values at all; d is the setting's dimension (with rows of
        another one the guarantee holds, but less is kept of them). Rows are normalised to unit L2
        here; one without a direction (zero or subnormal, NaN, infinite) releases noise alone.
      key: typed ChaCha20 keys, one per row, of shape `embedding.shape[:-1]`, each used once.
      mechanism: of the setting, static under jit.
      arrays: `setting.noise.arrays()`, may be traced, so that one compilation serves every budget;
        None for ``random``.

    Returns:
      int32 (..., d), for `decode`. A row is a function of that row, its key, the mechanism and
      the arrays alone: the same on every device, for any batch, order and sharding, jitted or not.

    Raises:
      TypeError: `key` is not an array of typed ChaCha20 keys.
      ValueError: d is above 512 or, for ``privunit``, no power of two from 64; or the keys are not
        one per row.
    """
    if jnp.shape(embedding)[-1] > MAX_DIMENSION:
        raise ValueError(
            f"embedding has shape {jnp.shape(embedding)}: 32 bits hold the sums of "
            f"{MAX_DIMENSION} coordinates at most"
        )
    if mechanism == "random":
        return random_codes(jnp.shape(embedding), key=key)
    if mechanism == "privunit":
        return privunit.release(embedding, key=key, arrays=arrays)
    if mechanism == "gaussian":
        return discrete_gaussian.release(embedding, key=key, arrays=arrays)
    return discrete_laplace.release(embedding, key=key, lattice=arrays)


def random_codes(shape: tuple[int, ...], *, key):
    """Return codes of an identity that never saw the input, int32 of `shape`, one key per row.

    The line that every mechanism must beat: epsilon is 0 on this channel. Each code is the number
    of ones among 64 random bits, less 32: nearly normal, so `decode` gives nearly uniform
    directions. Raises like `release`.
    """
    chacha.check_keys(key, shape[:-1])
    draw = jax.vmap(lambda row: jax.random.bits(row, (2, *shape[-1:]), jnp.uint32))
    ones = jax.lax.population_count(draw(key.reshape(-1))).sum(axis=1, dtype=jnp.uint32)
    return ones.reshape(shape).astype(jnp.int32) - 32
