"""MediaPipe's face mesh: 468 points of a face in space, differentiably, for losses and measures.

Kartynnik et al.: "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs" (arXiv
1907.06724), Apache-2.0. Its output for whether there is a face at all isn't read.
"""

import flax.linen as nn
import jax.numpy as jnp

from identitydp_jax.models import blaze
from identitydp_jax.models.blaze import Residual, Stem
from identitydp_jax.models.layers import Conv, crop
from identitydp_jax.models.mobilefacenet import PReLU
from identitydp_jax.weights import cache, tflite_file

POINTS = 468
_SIDE = 192
# Channels of the blocks; the first of every group but the first halves the map.
_GROUPS = ((16, 16), (32, 32, 32), (64, 64, 64), (128, 128, 128), (128, 128, 128), (128, 128, 128))
_SQUEEZED = 32
# The window of the model frame that it looks at, in shares: left, top, side.
_LEFT, _TOP, _SHARE = 0.03, 0.06, 0.94


class FaceMesh(nn.Module):
    """Finds the points of crops."""

    @nn.compact
    def __call__(self, crops):
        """Map crops (N, 192, 192, 3) in [-1, 1] to points (N, 468, 3), shares of the crop.

        x points right, y down, z away from the viewer in the unit of x, zero near the middle of the
        head.
        """
        x = Stem(16, name="stem")((crops + 1.0) / 2.0)
        blocks = [(f, g > 0 and i == 0) for g, fs in enumerate(_GROUPS) for i, f in enumerate(fs)]
        for number, (features, halves) in enumerate(blocks):
            x = Residual(features, halves=halves, name=f"block{number}")(x)
        x = PReLU(name="squeeze_prelu")(Conv(_SQUEEZED, name="squeeze")(x))
        x = Residual(_SQUEEZED, name=f"block{len(blocks)}")(x)
        points = Conv(3 * POINTS, size=3, name="points")(x)
        return points.reshape(-1, POINTS, 3) / _SIDE


def find(params, faces):
    """Find the points of MediaPipe's face mesh in faces of the model frame.

    Args:
      params: from `load`.
      faces: (N, R, R, 3) in [-1, 1].

    Returns:
      (N, 468, 3): x to the right, y down and z away from the viewer, in shares of the frame's side.
    """
    full = faces.shape[1]
    width = _SHARE * full
    crops = crop(faces, left=_LEFT * full, top=_TOP * full, width=width, height=width, side=_SIDE)
    points = FaceMesh().apply({"params": params}, crops)
    return _SHARE * points + jnp.array([_LEFT, _TOP, 0.0], points.dtype)


def load() -> dict:
    """Return `FaceMesh`'s parameters, float32, fetched if absent.

    Raises:
      UserError: the file cannot be fetched or is not the pinned one.
    """
    weights = tflite_file.read_weights(cache.path("face_mesh"))
    count = sum(map(len, _GROUPS))
    params = {
        "stem": {
            "conv": blaze.conv(weights, "conv2d_1"),
            "prelu": blaze.prelu(weights, "p_re_lu_1"),
        },
        "squeeze": blaze.conv(weights, f"conv2d_{count + 2}"),
        "squeeze_prelu": blaze.prelu(weights, f"p_re_lu_{count + 2}"),
        "points": blaze.conv(weights, f"conv2d_{count + 4}"),
    }
    for number in range(count + 1):
        after = number + 2 + (number == count)  # the squeezing layer comes between
        params[f"block{number}"] = {
            "depthwise": blaze.depthwise(weights, f"depthwise_conv2d_{number + 1}"),
            "expand": blaze.conv(weights, f"conv2d_{after}"),
            "prelu": blaze.prelu(weights, f"p_re_lu_{after}"),
        }
    return params
