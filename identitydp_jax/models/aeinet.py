"""The adaptive embedding integration network: attribute encoder and AAD generator.

Section III of IdentityDP (arXiv 2103.01745) takes the network of FaceShifter (arXiv 1912.13457):
a U-Net turns a face into attribute maps, and a generator of adaptive attentional
denormalization (AAD) blocks draws a face from an identity embedding and those maps.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from identitydp_jax.checks import UserError, one_of, positive
from identitydp_jax.models.face_region import blend, features_region
from identitydp_jax.models.layers import (
    Conv,
    at_least_float32,
    coarsen,
    double,
    enlarge,
    normalise,
)
from identitydp_jax.models.prior import PasteMask, PriorGenerator

STATISTICS_MOMENTUM = 0.98  # of the running batch-norm statistics, per training step
_DIMENSION = 512
_GROUPS = 8
# Adam moves the output of a dense layer by its rate times the sum of the inputs' sizes: with 512 of
# size 1 what one batch happened to need is on every face of the next, as a cast of colour.
_IDENTITY_SCALE = 0.5


@dataclasses.dataclass(frozen=True)
class AEIConfig:
    """Shape of the network; the defaults are the paper's size in its 1x1 variant.

    Attributes:
      resolution: side of the square face in pixels: 64, 128, 256 or 512.
      width: multiplies every channel count.
      widest: the most channels of a layer, before they are multiplied.
      attribute_kernel: size of the convolutions that read attribute maps and draw masks, 1 or 3.
      mask: `"one"` attention channel for all features or one per `"channel"`.
      norm: normalisation of the AAD layers, `"instance"`, `"batch"` or `"pixel"`: over the channels
        of every pixel, so that no spike grows from layer to layer.
      output: last activation, `"tanh"` or `"sigmoid"` (rescaled to [-1, 1]).
      identity_dimension: length of the identity embedding.
      attribute_resolution: side in pixels, a power of two, at which the attribute encoder sees what
        is inside `models.face_region.features_region`: enough for pose, expression and light, and
        little of whose features they are. From `resolution` on it sees all, as the paper's does.
      coarse: side in pixels, a power of two, of a coarse face that the finer blocks add to; from
        `resolution` on there is none, as in the paper.
      finer: whether there are finer blocks; without them the coarse face is enlarged. What it shows
        is learned in less time so, see `training.coarse`.
      fusion: what draws, `"aad"`, the paper's generator, or `"prior"`, a pretrained one, see
        `models.prior`, which `widest`, `mask`, `norm` and `output` leave as it is.
      encoder_norm: normalisation in the attribute encoder: `"batch"`, the paper's, or `"group"`,
        over eight groups of channels of one face.
    """

    resolution: int = 256
    width: float = 1.0
    widest: int = 1024
    attribute_kernel: int = 1
    mask: str = "one"
    norm: str = "instance"
    output: str = "tanh"
    identity_dimension: int = _DIMENSION
    attribute_resolution: int = 1024
    coarse: int = 1024
    finer: bool = True
    fusion: str = "aad"
    encoder_norm: str = "batch"

    def __post_init__(self):
        """Raise `UserError` on a value that no network has."""
        if self.resolution not in (64, 128, 256, 512):
            raise UserError(f"resolution is {self.resolution}: choose 64, 128, 256 or 512")
        positive("width", self.width)
        positive("widest", self.widest)
        if self.attribute_kernel not in (1, 3):
            raise UserError(f"attribute_kernel is {self.attribute_kernel}: choose 1 or 3")
        one_of("mask", self.mask, ("one", "channel"))
        one_of("norm", self.norm, ("instance", "batch", "pixel"))
        one_of("output", self.output, ("tanh", "sigmoid"))
        one_of("fusion", self.fusion, ("aad", "prior"))
        one_of("encoder_norm", self.encoder_norm, ("batch", "group"))
        for name in ("attribute_resolution", "coarse"):
            one_of(name, getattr(self, name), (8, 16, 32, 64, 128, 256, 1024))

    @property
    def levels(self) -> int:
        """Number of halvings from the face to the 2x2 bottleneck."""
        return int(math.log2(self.resolution)) - 1

    @property
    def blocks(self) -> int:
        """Number of blocks that draw, one for every doubling from 2x2 on."""
        side = self.resolution if self.finer else min(self.coarse, self.resolution)
        return int(math.log2(side))

    @property
    def has_mask(self) -> bool:
        """Whether it says where a drawn face is to be seen, see `AEINet.mask`."""
        return self.fusion == "prior"

    @property
    def has_coarse(self) -> bool:
        """Whether there is a coarse face."""
        return self.coarse < self.resolution

    def channels(self, count: int) -> int:
        """Scale a full-width channel count by `width`, at least 1."""
        return max(1, round(count * self.width))


class BatchNorm(nn.Module):
    """Batch normalisation over (N, H, W): batch statistics when `train`, else running ones."""

    affine: bool = True

    @nn.compact
    def __call__(self, x, *, train: bool):
        """Map (N, H, W, C) to the same shape; `train` also updates `batch_stats` when mutable.

        Statistics are those of the whole array, over however many devices it is spread. Computed
        in float32 at least, returned in the dtype of `x`.
        """
        normalised = nn.BatchNorm(
            use_running_average=not train, momentum=STATISTICS_MOMENTUM, epsilon=1e-5,
            use_bias=self.affine, use_scale=self.affine, name="norm",
        )(at_least_float32(x))  # fmt: skip
        return normalised.astype(x.dtype)


class GroupNorm(nn.Module):
    """Normalisation over (H, W) and the channels of each of eight groups, face by face."""

    @nn.compact
    def __call__(self, x, *, train: bool):
        """Map (N, H, W, C) to the same shape; the same whether `train` or not."""
        groups = math.gcd(_GROUPS, x.shape[-1])
        return nn.GroupNorm(groups, name="norm")(at_least_float32(x)).astype(x.dtype)


class AttributeEncoder(nn.Module):
    """U-Net of 4x4 convolutions; its bottleneck and decoder maps are the attribute maps."""

    config: AEIConfig

    @nn.compact
    def __call__(self, faces, *, train: bool):
        """Map faces (N, R, R, 3) in [-1, 1] to `blocks` maps of sides 2, 4, 8, ..."""
        config = self.config
        norm = BatchNorm if config.encoder_norm == "batch" else GroupNorm
        widths = [config.channels(min(32 * 2**i, config.widest)) for i in range(config.levels)]
        x, skips = faces, []
        for i, features in enumerate(widths):
            x = Conv(features, 4, 2, 1, use_bias=False, name=f"down{i}")(x)
            x = norm(name=f"down{i}_norm")(x, train=train)
            x = nn.leaky_relu(x, 0.1)
            skips.append(x)
        maps = [skips.pop()]
        for i, skip in enumerate(skips[::-1][: config.blocks - 1]):
            x = Conv(skip.shape[-1], 4, use_bias=False, transpose=True, name=f"up{i}")(maps[-1])
            x = norm(name=f"up{i}_norm")(x, train=train)
            maps.append(jnp.concatenate([nn.leaky_relu(x, 0.1), skip], axis=-1))
        return maps if len(maps) == config.blocks else [*maps, double(maps[-1])]


class AADLayer(nn.Module):
    """Adaptive attentional denormalization (FaceShifter, equations 2 to 5)."""

    config: AEIConfig

    @nn.compact
    def __call__(self, h, attribute, identity, *, train: bool):
        """Blend attribute- and identity-denormalised features h (N, S, S, C) by a learned mask."""
        config, features = self.config, h.shape[-1]
        size = config.attribute_kernel
        if config.norm == "batch":
            h = BatchNorm(affine=False, name="norm")(h, train=train)
        else:
            h = normalise(h, (1, 2) if config.norm == "instance" else -1)
        att = Conv(2 * features, size, padding=size // 2, name="attribute")(attribute)
        gamma_att, beta_att = jnp.split(att, 2, axis=-1)
        # From zero: random identities would otherwise begin as random casts of colour, in as many
        # directions as the embedding has, each to be unlearned.
        modulate = nn.Dense(
            2 * features, dtype=h.dtype, kernel_init=nn.initializers.zeros, name="identity"
        )
        idt = modulate(identity)
        gamma_id, beta_id = jnp.split(idt[:, None, None], 2, axis=-1)
        mask_features = 1 if config.mask == "one" else features
        mask = nn.sigmoid(Conv(mask_features, size, padding=size // 2, name="mask")(h))
        by_attribute = gamma_att * h + beta_att
        by_identity = (1.0 + gamma_id) * h + beta_id
        return by_attribute + mask * (by_identity - by_attribute)


class AADBlock(nn.Module):
    """Residual block of AAD layers; the skip is learned where the channel count changes."""

    config: AEIConfig
    features: int

    @nn.compact
    def __call__(self, h, attribute, identity, train: bool):
        """Map h (N, S, S, C) to (N, S, S, features)."""

        def layer(x, features, name):
            x = AADLayer(self.config, name=f"{name}_aad")(x, attribute, identity, train=train)
            return Conv(features, 3, padding=1, use_bias=False, name=f"{name}_conv")(nn.relu(x))

        x = layer(h, h.shape[-1], "first")
        x = layer(x, self.features, "second")
        skip = h if h.shape[-1] == self.features else layer(h, self.features, "skip")
        return x + skip


class Generator(nn.Module):
    """AAD generator: identity embedding and attribute maps to a face.

    With `remat` a backward pass keeps only what each block reads and computes its inside again.
    XLA's CPU backend joins both computations, so that it saves memory on accelerators alone.
    """

    config: AEIConfig
    remat: bool = False

    @nn.compact
    def __call__(self, identity, attributes, *, train: bool):
        """Map unit identities (N, D) and the encoder's maps to faces (N, R, R, 3) in [-1, 1]."""
        config = self.config
        # Read from the last block back: 3, 64, 128, ... up to the widest.
        widths = [config.channels(min(64 * 2**i, config.widest)) for i in range(config.levels)]
        widths = [3, *widths][::-1][: config.blocks]
        lift = config.channels(config.widest)
        # A unit vector of D entries has entries near D^-1/2; see `_IDENTITY_SCALE`.
        identity = identity * (_IDENTITY_SCALE * math.sqrt(config.identity_dimension))
        h = nn.Dense(4 * lift, dtype=identity.dtype, name="lift")(identity).reshape(-1, 2, 2, lift)
        # `train`, counted from the module itself, is no array.
        block = nn.remat(AADBlock, static_argnums=(4,)) if self.remat else AADBlock
        for i, (features, attribute) in enumerate(zip(widths, attributes, strict=True)):
            h = block(config, features, name=f"block{i}")(h, attribute, identity, train)
            if config.has_coarse and h.shape[1] == config.coarse:
                coarse = Conv(3, name="coarse")(h)
            if i + 1 < config.blocks:
                h = double(h)
        if config.has_coarse:
            coarse = enlarge(coarse, config.resolution)
            # From nothing, so that the coarse face that was learned first isn't lost.
            if config.finer:
                gain = self.param("gain", nn.initializers.zeros, (3,))
                coarse = coarse + gain.astype(h.dtype) * h
            h = coarse
        return jnp.tanh(h) if config.output == "tanh" else 2 * nn.sigmoid(h) - 1


class AEINet(nn.Module):
    """Attribute encoder and generator as one network with parameters `encoder`, `generator`.

    It computes in the dtype of its inputs, whatever that of its parameters, and its normalisations
    in float32 at least. `remat` trades time for memory in the backward pass, see `Generator`; the
    parameters are the same. `doubled` draws with a pretrained generator at twice the resolution,
    see `PriorGenerator`.
    """

    config: AEIConfig
    remat: bool = False
    doubled: bool = False

    def setup(self):
        """Name the parts."""
        self.encoder = AttributeEncoder(self.config, name="encoder")
        if self.config.fusion == "prior":
            self.generator = PriorGenerator(self.config, self.doubled, name="generator")
            self.paste_mask = PasteMask(name="paste_mask")
        else:
            self.generator = Generator(self.config, self.remat, name="generator")

    def attributes(self, faces, *, train: bool = False):
        """Attribute maps of faces (N, R, R, 3) in [-1, 1]."""
        side = self.config.resolution
        if self.config.attribute_resolution < side:
            coarse = coarsen(faces, self.config.attribute_resolution)
            faces = blend(faces, coarse, features_region(side))
        return self.encoder(faces, train=train)

    def draw(self, identity, attributes, *, train: bool = False):
        """Faces (N, R, R, 3) in [-1, 1] from unit embeddings (N, D) and attribute maps."""
        return self.generator(identity, attributes, train=train)

    def mask(self, attributes):
        """Share of the drawn face that is pasted within `face_region`, (N, R, R, 1) in [0, 1]."""
        side = self.config.resolution
        if self.config.has_mask:
            return self.paste_mask(attributes, side)
        return jnp.ones((len(attributes[0]), side, side, 1), attributes[0].dtype)

    def __call__(self, faces, identity, *, train: bool = False):
        """Draw the faces again with another identity."""
        attributes = self.attributes(faces, train=train)
        if self.is_initializing():
            self.mask(attributes)
        return self.draw(identity, attributes, train=train)


def variable_shapes(config: AEIConfig, *, doubled: bool = False):
    """Shapes and dtypes of all variables, without computing anything."""
    side = config.resolution
    variables = jax.eval_shape(
        AEINet(config, doubled=doubled).init,
        jax.random.key(0),
        jnp.zeros((1, side, side, 3)),
        jnp.zeros((1, config.identity_dimension)),
    )
    return {name: variables[name] for name in ("params", "batch_stats") if name in variables}


def double_shapes(config: AEIConfig):
    """Shapes and dtypes of what `doubled` adds to the generator's parameters."""
    few, many = (
        variable_shapes(config, doubled=doubled)["params"]["generator"] for doubled in (False, True)
    )
    return {name: value for name, value in many.items() if name not in few}
