"""Three-scale patch discriminator (pix2pixHD, arXiv 1711.11585, as FaceShifter uses it)."""

import flax.linen as nn

from identitydp_jax.models.layers import Conv, average_pool, normalise


class PatchDiscriminator(nn.Module):
    """4x4 convolutions, `layers` of them halving the map, then one score per patch."""

    layers: int = 3
    width: float = 1.0

    @nn.compact
    def __call__(self, x):
        """Map faces (N, S, S, 3) in [-1, 1] to logits (N, S', S', 1) and the list of features."""
        features_of = []
        for i in range(self.layers + 1):
            features = max(1, round(min(64 * 2**i, 512) * self.width))
            stride = 2 if i < self.layers else 1
            normalised = i > 0
            x = Conv(features, 4, stride, 2, use_bias=not normalised, name=f"conv{i}")(x)
            if normalised:
                x = normalise(x, (1, 2))
            x = nn.leaky_relu(x, 0.2)
            features_of.append(x)
        return Conv(1, 4, 1, 2, name="score")(x), features_of


class Discriminator(nn.Module):
    """The same discriminator on the face, its half and its quarter, with separate parameters."""

    layers: int = 3
    width: float = 1.0
    scales: int = 3

    @nn.compact
    def __call__(self, x):
        """Map faces (N, R, R, 3) in [-1, 1] to two lists: `scales` logit maps, and all features."""
        logits, features = [], []
        for i in range(self.scales):
            if i:
                x = average_pool(x)
            patches = PatchDiscriminator(self.layers, self.width, name=f"scale{i}")
            scores, inside = patches(x)
            logits.append(scores)
            features += inside
        return logits, features
