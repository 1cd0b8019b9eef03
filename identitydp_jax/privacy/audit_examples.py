"""An example of what must not be done, for the audit to break: Laplace noise in float32.

Nothing but the audit imports this module, and nothing can be anonymized with it. It is the textbook
mechanism r + b Laplace(0, 1)^d as it is usually written, and it is not private: a float32 uniform
has 2^23 values, so a coordinate has at most that many outputs, and those of two inputs differ
(Mironov 2012).
"""

import jax
import jax.numpy as jnp
import numpy as np


def release_floats(embedding, key, scale: float) -> np.ndarray:
    """Return r + b Laplace(0, 1)^d in float32, one threefry key a row: broken.

    Args:
      embedding: float32 (n, d), rows of unit L2.
      key: typed threefry keys (n,).
      scale: b.

    Returns:
      float32 (n, d).
    """
    draw = jax.vmap(lambda row: jax.random.laplace(row, embedding.shape[-1:], jnp.float32))
    return embedding + np.float32(scale) * np.asarray(draw(key))


def every_output(value: float, scale: float) -> np.ndarray:
    """Return all float32 that `release_floats` can give a coordinate of that value, sorted."""
    # The uniform of jax.random.laplace: 23 random bits, scaled to (-1, 1).
    uniform = np.arange(2**23, dtype=np.float32) * np.float32(2**-22) + np.float32(-1 + 2**-24)
    noise = np.asarray(jnp.sign(uniform) * jnp.log1p(-abs(uniform)))
    return np.unique(np.float32(value) + np.float32(scale) * noise)


def possible(outputs: np.ndarray, every: np.ndarray) -> np.ndarray:
    """Return which outputs are among `every`, of `every_output`: bool of the outputs' shape."""
    place = np.minimum(np.searchsorted(every, outputs), len(every) - 1)
    return every[place] == outputs
