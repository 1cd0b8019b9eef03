"""Target identities for training: float noise on faces of nobody, which protects nothing.

What protects is `privacy.mechanism`. Training shows the network the same directions, at random
budgets, without its proofs and without its keys.
"""

import jax
import jax.numpy as jnp

from identitydp_jax.privacy.calibration import parse


def add_laplace(embedding, *, key, epsilon):
    """Return unit(r + b Laplace(0, 1)^d) and its expected cosine with r.

    b = Delta / epsilon, Delta that of ``certified-l2``; the cosine is 1 / sqrt(1 + 2 D b^2), see
    `privacy.setting.laplace_cosine`.

    Args:
      embedding: float32 (N, D), unit rows.
      key: typed key.
      epsilon: float32 (N,), above 0.

    Returns:
      float32 (N, D), unit rows, and float32 (N,).
    """
    scale = parse("certified-l2", embedding.shape[1]).sensitivity / epsilon
    noise = jax.random.laplace(key, embedding.shape, jnp.float32)
    cosine = jax.lax.rsqrt(1.0 + 2.0 * embedding.shape[1] * scale**2)
    return _unit(embedding + scale[:, None] * noise), cosine


def draw_identities(shape: tuple[int, int], *, key):
    """Return uniformly random unit vectors, float32 of `shape`."""
    return _unit(jax.random.normal(key, shape, jnp.float32))


def _unit(rows):
    return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
