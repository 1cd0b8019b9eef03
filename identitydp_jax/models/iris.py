"""MediaPipe's iris network: irises and eyelids of a face, differentiably, for losses and measures.

Ablavatski et al.: "Real-time Pupil Tracking from Monocular Video for Digital Puppetry" (arXiv
2006.11341), Apache-2.0. It knows the eye at the left of the picture; the other one is mirrored.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from identitydp_jax.models import blaze
from identitydp_jax.models.blaze import Residual, Stem
from identitydp_jax.models.layers import Conv, crop
from identitydp_jax.weights import cache, tflite_file

_SIDE = 64
# Features, squeezed channels and whether it halves the map, block by block.
_TRUNK = ((64, 32, False),) * 4 + ((128, 64, True),) + ((128, 64, False),) * 4 + ((128, 64, True),)
_BRANCH = tuple((128, 64, halves) for halves in (0, 0, 1, 0, 0, 1, 0, 0))
_CONTOUR, _IRIS, _LIDS = 71, 5, 16  # points; the lids are the first of the contour
# Outer and inner corner of the eye at the left and of the eye at the right, in the face mesh.
_CORNERS = ((33, 133), (263, 362))
_MARGIN = 2.3  # side of the window over the distance of the corners


class Eyes(NamedTuple):
    """What is found in both eyes, that at the left of the picture first.

    Attributes:
      iris: (N, 2, 5, 2), the centre and the rim: towards the nose, above, away from it, below.
      lids: (N, 2, 16, 2), the lower lid from the outer to the inner corner, nine points with both,
        then the upper lid between them, seven.
    """

    iris: jax.Array
    lids: jax.Array


class IrisNet(nn.Module):
    """Finds the points of crops of the eye at the left."""

    @nn.compact
    def __call__(self, crops):
        """Map crops (N, 64, 64, 3) in [-1, 1] to the contour (N, 71, 3) and the iris (N, 5, 3).

        x points right, y down, z away from the viewer, in shares of the crop.
        """
        x = _chain(Stem(64, name="stem")((crops + 1.0) / 2.0), _TRUNK, 0)
        contour = _chain(x, _BRANCH, len(_TRUNK))
        iris = _chain(x, _BRANCH, len(_TRUNK) + len(_BRANCH))
        contour = Conv(3 * _CONTOUR, size=2, name="contour")(contour)
        iris = Conv(3 * _IRIS, size=2, name="iris")(iris)
        return contour.reshape(-1, _CONTOUR, 3) / _SIDE, iris.reshape(-1, _IRIS, 3) / _SIDE


def _chain(x, blocks, first: int):
    """Apply blocks, numbered from `first`, inside a compact module."""
    for number, (features, squeezed, halves) in enumerate(blocks, first):
        x = Residual(features, squeezed, bool(halves), name=f"block{number}")(x)
    return x


def find(params, faces, mesh) -> Eyes:
    """Find irises and eyelids in faces of the model frame.

    The windows are upright, as the frame is. No gradient flows through their place: they follow the
    eye, so that what it would add is noise.

    Args:
      params: from `load`.
      faces: (N, R, R, 3) in [-1, 1].
      mesh: (N, 468, 2 or 3) from `face_mesh.find`.

    Returns:
      Points in shares of the frame's side.
    """
    full = faces.shape[1]
    mesh = lax.stop_gradient(mesh[..., :2])
    left, right = (mesh[:, jnp.array(pair)] for pair in _CORNERS)
    corners = jnp.concatenate([left, _mirror(right)])
    sides = _MARGIN * jnp.abs(corners[:, 0] - corners[:, 1]).max(1)
    origins = corners.mean(1) - sides[:, None] / 2

    def window(face, origin, side):
        x, y, width = full * origin[0], full * origin[1], full * side
        return crop(face[None], left=x, top=y, width=width, height=width, side=_SIDE)[0]

    crops = jax.vmap(window)(jnp.concatenate([faces, faces[:, :, ::-1]]), origins, sides)
    contour, iris = IrisNet().apply({"params": params}, crops)

    def to_frame(points):
        points = origins[:, None] + sides[:, None, None] * points[..., :2]
        left, right = jnp.split(points, 2)
        return jnp.stack([left, _mirror(right)], axis=1)

    return Eyes(to_frame(iris), to_frame(contour[:, :_LIDS]))


def load() -> dict:
    """Return `IrisNet`'s parameters, float32, fetched if absent.

    Raises:
      UserError: the file cannot be fetched or is not the pinned one.
    """
    weights = tflite_file.read_weights(cache.path("iris"))
    params = {
        "stem": {"conv": blaze.conv(weights, "conv2d"), "prelu": blaze.prelu(weights, "p_re_lu")},
        "contour": blaze.conv(weights, "conv_eyes_contours_and_brows"),
        "iris": blaze.conv(weights, "conv_iris"),
    }
    for block in range(len(_TRUNK) + 2 * len(_BRANCH)):
        depthwise = f"depthwise_conv2d_{block}" if block else "depthwise_conv2d"
        params[f"block{block}"] = {
            "squeeze": blaze.conv(weights, f"conv2d_{2 * block + 1}"),
            "squeeze_prelu": blaze.prelu(weights, f"p_re_lu_{2 * block + 1}"),
            "depthwise": blaze.depthwise(weights, depthwise),
            "expand": blaze.conv(weights, f"conv2d_{2 * block + 2}"),
            "prelu": blaze.prelu(weights, f"p_re_lu_{2 * block + 2}"),
        }
    return params


def _mirror(points):
    """Mirror points (N, K, 2), in shares of the frame, left to right."""
    return points.at[..., 0].set(1.0 - points[..., 0])
