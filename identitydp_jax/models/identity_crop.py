"""The fixed window of a model-framed face that identity encoders look at."""

from identitydp_jax.models.layers import crop

# Where ArcFace's 112 px template lies inside the model frame of 256 px: left, top, side. OpenCV
# aligns faces for SFace by the same template. Measured on synthetic faces in FFHQ framing, whose
# five landmarks have these medians.
_LEFT, _TOP, _SIDE = 33.1 / 256, 29.7 / 256, 192.6 / 256
_ENCODER_SIDE = 112


def identity_crop(faces):
    """Cut and resize faces (N, R, R, 3) to the encoder's input (N, 112, 112, 3), same range."""
    full = faces.shape[1]
    width = full * _SIDE
    return crop(
        faces, left=_LEFT * full, top=_TOP * full, width=width, height=width, side=_ENCODER_SIDE
    )
