"""Networks and faces small enough for tests."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from identitydp_jax.models import declared, population
from identitydp_jax.models.aeinet import AEIConfig, variable_shapes
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.privacy import chacha
from identitydp_jax.training.configuration import read_config

CONFIG = AEIConfig(64, 1 / 32)


def keys(count: int, seed: int = 0):
    """Typed ChaCha20 keys (count,) that everybody can make."""
    return jax.random.split(chacha.key_from_bytes(bytes([seed]) * 32), count)


def filled(shapes, seed: int = 0):
    """Fill a tree of shapes: kernels of variance 1 / fan-in, ones for scales, zeros otherwise."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        name = path[-1].key
        if name == "kernel":
            value = rng.normal(0, np.prod(shape.shape[:-1]) ** -0.5, shape.shape)
        else:
            value = np.full(shape.shape, float(name in ("scale", "var")))
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def variables(config=CONFIG, seed: int = 0):
    """Random parameters and fresh statistics of an `AEINet`; a population that moves nothing."""
    return {
        **filled(variable_shapes(config), seed),
        "population": population.zeros(config.identity_dimension),
    }


def faces(count: int, resolution: int = 64, seed: int = 0):
    """Smooth random pictures, uint8 (count, resolution, resolution, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    size = (resolution, resolution)
    smooth = [Image.fromarray(x).resize(size, Image.Resampling.BICUBIC) for x in coarse]
    return np.stack([np.asarray(x) for x in smooth])


def pictures(count: int, resolution: int = 64, seed: int = 0):
    """Each of `faces` beside a twin of another seed, uint8 (count, resolution, 2 resolution, 3)."""
    both = (faces(count, resolution, s) for s in (seed, seed + 1000))
    return np.concatenate([*both], axis=2)


def encode(params, crops):
    """Stand for an identity encoder: unit embeddings (N, 512) of crops (N, 112, 112, 3)."""
    blocks = crops.reshape(-1, 16, 7, 16, 7, 3).mean((2, 4)).reshape(-1, 768)
    embedding = blocks @ params["kernel"]
    return embedding / jnp.linalg.norm(embedding, axis=-1, keepdims=True)


def middle(params, crops):
    """Stand for an encoder's last map, (N, 7, 7, 3): the crops, coarsely."""
    return crops.reshape(-1, 7, 16, 7, 16, 3).mean((2, 4))


encode.dimension = 512  # as an `identity.Encoder` has it
encode.middle = middle


def declared_attributes(dimension: int = 512):
    """Heads that ask where faces are bright, and how embeddings go with that."""
    rng, empty = np.random.default_rng(2), declared.zeros(dimension, 7 * 7 * 3)
    kernel = jnp.asarray(rng.normal(size=empty["kernel"].shape), jnp.float32)
    pictures = to_float(faces(300, seed=6))
    crops = identity_crop(pictures)
    answers = declared.find({**empty, "kernel": kernel}, middle({}, crops))
    known = declared.measure(encode(encoder_params(), crops), answers)
    nobodies = rng.normal(size=empty["gallery"].shape)
    gallery = {
        "gallery": jnp.asarray(nobodies / np.linalg.norm(nobodies, axis=1)[:, None], jnp.float32),
        "gallery_answers": jnp.asarray(
            rng.random(empty["gallery_answers"].shape) < 0.5, jnp.float32
        ),
    }
    return {**empty, "kernel": kernel, **known, **gallery}


def encoder_params():
    """Parameters of `encode`."""
    kernel = np.random.default_rng(1).normal(size=(768, 512)).astype(np.float32)
    return {"kernel": jnp.asarray(kernel)}


def write_faces(folder, count: int, resolution: int = 64):
    """Write `faces` into a folder as PNG files and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, face in enumerate(faces(count, resolution)):
        Image.fromarray(face).save(folder / f"{i:03d}.png")
    return folder


def training_config(*overrides: str, name: str = "synthetic128"):
    """The configuration that ships, or another, shrunk to a network that trains in seconds."""
    path = pathlib.Path(__file__).parents[1] / "configs" / f"{name}.py"
    small = (
        "network.resolution=64", "network.width=0.03125", "discriminator.width=0.03125",
        "discriminator.layers=1", "batch_size=8", "steps=6", "log_every=1", "checkpoint_every=3",
        "held_out=3", "population=8", "network.coarse=16", "coarse_steps=0",
        "loss.attributes=2.0", "loss.landmarks=0",
    )  # fmt: skip
    return read_config(path, (*small, *overrides))
