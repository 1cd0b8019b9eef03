"""Pixels outside (uint8 sRGB) and inside (float32 in [-1, 1]) the networks."""

import jax.numpy as jnp


def to_float(pixels):
    """Map uint8 pixels of any shape to float32 in [-1, 1]."""
    return pixels.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(values):
    """Map floats of any shape to the nearest uint8 pixels, clipping what lies outside [-1, 1]."""
    return jnp.round((jnp.clip(values, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
