"""MobileStyleGAN cut at a low resolution: faces of nobody at a tenth of the cost, and their styles.

Its blocks run up to features of the side that is wanted; the blocks beyond are collapsed to that
side, see `Tail`. The faces are those of `models.face_source` up to 26 dB at 64 px and 29 dB at 128.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.models import face_source
from identitydp_jax.models.face_source import StyledConv, stem, synthesis_block
from identitydp_jax.models.pixels import to_uint8

_BLOCKS = len(face_source.WIDTHS)
_LAYERS = (("up", ""), ("conv", "_a"), ("conv", "_b"))
FEATURE_CODES = (2, 3)  # of 16 and 32 px, see `face_source.draw_twins`


class Tail(nn.Module):
    """The rest of the generator, collapsed to the resolution where it was cut.

    Beyond the cut only the low bands are computed, by the same layers at the cut's own resolution,
    each 3x3 depthwise kernel K replaced by M K M^T, see `collapse`. `skip` adds what low bands
    don't carry.
    """

    @nn.compact
    def __call__(self, x, style):
        """Map features (N, S, S, C) of the cut and styles (N, 512) to faces (N, S, S, 3)."""
        init = nn.initializers.zeros
        skip = nn.Dense(3, use_bias=False, kernel_init=init, name="skip")(x)
        x = x[..., : x.shape[-1] // 4]
        for index in _beyond(x.shape[1]):
            width = face_source.WIDTHS[index]
            x = x * nn.Dense(x.shape[-1], name=f"up_{index}")(style)[:, None, None]
            x = StyledConv(width, name=f"conv_{index}_a")(x, style)
            x = StyledConv(_kept(index), name=f"conv_{index}_b")(x, style)
        x = x * nn.Dense(x.shape[-1], name="head_style")(style)[:, None, None]
        return nn.Dense(3, name="head")(x) + skip


class CutSource(nn.Module):
    """Faces of nobody by the generator as it is cut for `PriorGenerator`.

    Attributes:
      side: of the cut and of the faces.
    """

    side: int

    @nn.compact
    def __call__(self, styles):
        """Map styles (N, count, 512) to faces (N, side, side, 3), nominally in [-1, 1]."""
        x, block = synthesise(self, styles, self.side, lambda x: x)
        return Tail(name=f"tail{self.side}")(x, styles[:, block])


def synthesise(module, styles, side: int, modulate):
    """Return features of `side` px from styles (N, count, 512), and the number of the next block.

    The layers belong to `module`; `modulate` changes features (N, S, S, C) after each of them.
    """
    x = modulate(stem(module, styles[:, 0]))
    blocks = int(np.log2(side)) - 2
    for index in range(blocks):
        x = modulate(synthesis_block(x, styles[:, index + 1], index))
    return x, blocks


def draw_twins(params, keys, *, side: int):
    """Draw per key a face and its twin, as `face_source.draw_twins` does, by the cut generator.

    Args:
      params: of `load`.
      keys: (N,) typed keys; a face is a function of its key alone.
      side: of the faces and of the cut that `params` is for.

    Returns:
      (N, 2, side, side, 3) float32 in [-1, 1].
    """
    pair = [_draw(params, codes, side) for codes in twin_styles(params, keys, side=side)]
    return jnp.stack(pair, axis=1)


def twin_styles(params, keys, *, side: int):
    """Return the styles of the faces of `draw_twins` and of their twins, each (N, count, 512)."""
    own, psi = face_source.latents(keys)
    features, _ = face_source.latents(jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))
    mapping = face_source.StyleMapping()

    def style(latents):
        mapped = mapping.apply({"params": params["mapping"]}, latents)
        return params["mean_style"] + psi[:, None] * (mapped - params["mean_style"])

    count = style_count(side)
    own = jnp.repeat(style(own)[:, None], count, axis=1)
    features = style(features)[:, None]
    taken = np.isin(np.arange(count), FEATURE_CODES)[:, None]
    return own, jnp.where(taken, features, own)


@functools.partial(jax.jit, static_argnames="side")
def twins(params, *, key, side: int):
    """Draw a pair of `draw_twins` as one uint8 sRGB picture (side, 2 side, 3)."""
    return to_uint8(jnp.concatenate([*draw_twins(params, key[None], side=side)[0]], axis=1))


def _draw(params, styles, side):
    kept = {name: value for name, value in params.items() if name not in ("mapping", "mean_style")}
    return jnp.clip(CutSource(side).apply({"params": kept}, styles), -1.0, 1.0)


def load(side: int) -> dict:
    """Return `CutSource`'s parameters with `mapping` and `mean_style`, fetched if absent.

    Raises:
      UserError: the files cannot be fetched or are not the pinned ones.
    """
    source = face_source.load()
    shared = {name: source[name] for name in ("mapping", "mean_style")}
    return {**shared, **pretrained(source, side)}


def style_count(side: int) -> int:
    """Return how many style codes a face of `side` px has: the stem's and one per block."""
    return int(np.log2(side)) - 1


def collapse(source, side: int) -> dict:
    """Return `Tail`'s parameters for a cut at `side` px from those of `FaceSource`.

    A kernel at f times the resolution, K, becomes M K M^T, M = [[1/f, 0, 0], [1 - 1/f, 1, 1 - 1/f],
    [0, 0, 1/f]]: what it would do to a map whose values are the same over blocks of f, averaged
    over them.
    """
    params, low = {}, face_source.WIDTHS[_first_beyond(side) - 1] // 4
    for index in _beyond(side):
        up = source[f"up_{index}"]
        params[f"up_{index}"] = {name: 0.5 * value[..., :low] for name, value in up.items()}
        factor = 2 ** (index + 3) // side
        edge = np.float32(1 / factor)
        spread = np.array([[edge, 0, 0], [1 - edge, 1, 1 - edge], [0, 0, edge]], np.float32)
        kept = _kept(index)
        for part, width in (("a", face_source.WIDTHS[index]), ("b", kept)):
            layer = source[f"conv_{index}_{part}"]
            noise = layer["noise"].reshape(side, factor, side, factor, 1).mean((1, 3))
            params[f"conv_{index}_{part}"] = {
                "style": layer["style"],
                "depthwise": np.einsum("ab,bcij,dc->adij", spread, layer["depthwise"], spread),
                "pointwise": layer["pointwise"][:, :width],
                "noise": noise,
                "bias": layer["bias"][:width],
            }
        low = kept
    head = {"kernel": 0.5 * source["head_kernel"][:, :3], "bias": 0.5 * source["head_bias"][:3]}
    features = face_source.WIDTHS[_first_beyond(side) - 1]
    skip = {"kernel": np.zeros((features, 3), np.float32)}
    return {**params, "head_style": source["head_style"], "head": head, "skip": skip}


def pretrained(source, side: int) -> dict:
    """Return the parameters that a generator cut at `side` px takes over from `FaceSource`'s."""
    blocks = range(_first_beyond(side))
    names = [f"{layer}_{i}{part}" for i in blocks for layer, part in _LAYERS]
    kept = {name: source[name] for name in ("constant", "stem", *names)}
    return {**kept, f"tail{side}": collapse(source, side)}


def _first_beyond(side: int) -> int:
    return int(np.log2(side)) - 2


def _beyond(side: int) -> range:
    """Return the numbers of the generator's blocks beyond a cut at `side` px."""
    return range(_first_beyond(side), _BLOCKS)


def _kept(index: int) -> int:
    """Return how many channels the tail keeps of a block: low bands, of the last one all."""
    width = face_source.WIDTHS[index]
    return width if index == _BLOCKS - 1 else width // 4
