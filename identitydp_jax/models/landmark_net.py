"""The landmark network of face-api: 68 points of a face, differentiably, for a loss.

Mühler's face-api.js (MIT licence): four blocks of four 3x3 convolutions, depthwise-separable but
for the very first, of which the first halves the map; what they find is summed layer by layer. A
dense layer turns the mean of the last map into points. It does not judge: the evaluation finds its
points by dlib.
"""

import flax.linen as nn
import jax.numpy as jnp

from identitydp_jax.models.depthwise import depthwise_conv
from identitydp_jax.models.layers import conv, crop
from identitydp_jax.weights import cache, tfjs_file

_SIDE = 112
_WIDTHS = (32, 64, 128, 256)
_LAYERS = 4
_MEAN = (122.782, 117.001, 104.298)
# The window of the model frame that it looks at, in shares: left, top, side. Of windows in steps of
# .04 and .05 this one agrees best with dlib's points on 147 generated faces: openings of mouths
# correlate by .93, widths by .96.
_LEFT, _TOP, _SHARE = 0.15, 0.34, 0.7


class LandmarkNet(nn.Module):
    """Finds the points of crops."""

    @nn.compact
    def __call__(self, crops):
        """Map crops (N, 112, 112, 3) in [-1, 1] to points (N, 68, 2), shares of the crop."""
        x = (127.5 * (crops + 1.0) - jnp.array(_MEAN, crops.dtype)) / 255.0
        for block, width in enumerate(_WIDTHS):
            total = 0.0
            for layer in range(_LAYERS):
                found = _Layer(width, halves=layer == 0, name=f"dense{block}/conv{layer}")(x)
                # What halves the map is rectified before the others add to it.
                total = nn.relu(found) if layer == 0 else total + found
                x = nn.relu(total)
        points = nn.Dense(136, name="fc")(x.mean((1, 2)))
        return points.reshape(-1, 68, 2)


class _Layer(nn.Module):
    """3x3 convolution with TensorFlow's SAME padding: below and right if it halves an even map."""

    features: int
    halves: bool

    @nn.compact
    def __call__(self, x):
        init, channels = nn.initializers.lecun_normal(), x.shape[-1]
        stride, pads = (2, (0, 1)) if self.halves else (1, (1, 1))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if channels == 3:
            filters = self.param("filters", init, (3, 3, channels, self.features))
            return conv(jnp.pad(x, ((0, 0), pads, pads, (0, 0))), filters, stride=stride) + bias
        depthwise = self.param("depthwise_filter", init, (3, 3, channels, 1))
        pointwise = self.param("pointwise_filter", init, (1, 1, channels, self.features))
        depthwise = jnp.swapaxes(depthwise, 2, 3)
        x = depthwise_conv(x, depthwise, strides=(stride, stride), padding=(pads, pads))
        return x @ pointwise[0, 0] + bias


def find(params, faces):
    """Find the 68 points of iBUG 300-W in faces of the model frame.

    Args:
      params: from `load`.
      faces: (N, R, R, 3) in [-1, 1].

    Returns:
      (N, 68, 2): x and y in shares of the frame's side.
    """
    full = faces.shape[1]
    width = _SHARE * full
    crops = crop(faces, left=_LEFT * full, top=_TOP * full, width=width, height=width, side=_SIDE)
    points = LandmarkNet().apply({"params": params}, crops)
    return _SHARE * points + jnp.array([_LEFT, _TOP], points.dtype)


def load() -> dict:
    """Return `LandmarkNet`'s parameters, float32, fetched if absent.

    Raises:
      UserError: the files cannot be fetched or are not the pinned ones.
    """
    arrays = tfjs_file.read_weights(cache.path("landmarks68_manifest"), cache.path("landmarks68"))
    params = {}
    for name, value in arrays.items():
        layer, leaf = name.rsplit("/", 1)
        params.setdefault(layer, {})["kernel" if leaf == "weights" else leaf] = value
    return params
