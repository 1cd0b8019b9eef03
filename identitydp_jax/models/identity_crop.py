"""The fixed window of a model-framed face that identity encoders look at."""

import jax
import jax.numpy as jnp

# Where ArcFace's 112 px template lies inside the model frame of 256 px: left, top, side. OpenCV
# aligns faces for SFace by the same template. Measured on synthetic faces in FFHQ framing, whose
# five landmarks have these medians.
_LEFT, _TOP, _SIDE = 33.1 / 256, 29.7 / 256, 192.6 / 256
_ENCODER_SIDE = 112


def identity_crop(faces):
    """Cut and resize faces (N, R, R, 3) to the encoder's input (N, 112, 112, 3), same range."""
    side = faces.shape[1]
    zoom = _ENCODER_SIDE / (side * _SIDE)
    return jax.image.scale_and_translate(
        faces,
        (faces.shape[0], _ENCODER_SIDE, _ENCODER_SIDE, faces.shape[3]),
        (1, 2),
        jnp.array([zoom, zoom], faces.dtype),
        jnp.array([-_TOP * side * zoom, -_LEFT * side * zoom], faces.dtype),
        method="linear",
        antialias=True,
    )
