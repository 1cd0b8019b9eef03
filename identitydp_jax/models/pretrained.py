"""Network files: parameters as safetensors, the configuration in their metadata."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from identitydp_jax import storage
from identitydp_jax.checks import UserError, parse_json
from identitydp_jax.models import declared, population
from identitydp_jax.models.aeinet import AEIConfig, double_shapes, variable_shapes
from identitydp_jax.weights import cache
from identitydp_jax.weights.registry import DEFAULT_MODEL, MODELS

# What comes of a configuration that describes no network, or one without end.
_UNREADABLE = (
    ArithmeticError, KeyError, MemoryError, RecursionError, TypeError, UserError, ValueError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class NetworkFile:
    """A network as read from its file.

    Attributes:
      config: shape of the network.
      variables: `params`, `batch_stats` and `population`, float32; and `declared`, of
        `models.declared`, if the model can preserve declared attributes.
      encoder: name or path of the identity encoder that it was trained with.
      sha256: hexadecimal digest of configuration, encoder and tensors. Files of one network differ
        in the order of their headers; this does not.
    """

    config: AEIConfig
    variables: Any
    encoder: str
    sha256: str


def save(path, config: AEIConfig, variables, *, encoder: str) -> None:
    """Write a network in half precision, whole or not at all.

    Raises `UserError` if a value is not finite in half precision, or the file can't be written.
    """
    path = pathlib.Path(path)
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    # Half precision ends at 65,504; running variances are the only values that may come near.
    with np.errstate(over="ignore"):
        tensors = {name: np.asarray(value).astype(np.float16) for name, value in flat.items()}
    broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: not written, {broken[0]} is beyond half precision or not finite")
    metadata = {"config": json.dumps(dataclasses.asdict(config)), "encoder": encoder}
    data = safetensors.numpy.save(tensors, metadata)
    try:
        storage.write(path, data)
    except OSError as error:
        raise UserError(f"{path}: the model cannot be written ({error.strerror})") from None


def load(name_or_path="default") -> NetworkFile:
    """Read a shipped network by name, or a file written by `save`.

    Raises `UserError` if there is none, or if what it holds is not the network it describes.
    """
    name = DEFAULT_MODEL if name_or_path == "default" else str(name_or_path)
    path = cache.model_path(name) if name in MODELS else pathlib.Path(name_or_path)
    try:
        data = storage.read(path)
    except OSError as error:
        names = ", ".join(("default", *MODELS))
        raise UserError(
            f"{path}: no model can be read here ({error.strerror}); give a file or one of {names}"
        ) from None
    try:
        tensors = safetensors.numpy.load(data)
        metadata = _metadata(data)
        config = AEIConfig(**parse_json(metadata["config"]))
        encoder = metadata["encoder"]
        empty = population.zeros(config.identity_dimension)
        expected = {**variable_shapes(config), "population": empty}
        if any(name.startswith("double/") for name in tensors):
            expected["double"] = double_shapes(config)
        if any(name.startswith("declared/") for name in tensors):
            inputs = len(tensors["declared/kernel"])
            expected["declared"] = declared.zeros(config.identity_dimension, inputs)
        expected = jax.tree.map(lambda leaf: leaf.shape, expected)
    except (safetensors.SafetensorError, *_UNREADABLE):
        raise UserError(f"{path}: not a model file of `identitydp train --export`") from None
    # Before their names are split at "/": one may be a part of another.
    if {name: value.shape for name, value in tensors.items()} != _flat(expected):
        raise UserError(f"{path}: its parameters are not those of the network it describes")
    _check_values(path, tensors)
    flat = {name: jnp.asarray(value, jnp.float32) for name, value in tensors.items()}
    variables = flax.traverse_util.unflatten_dict(flat, sep="/")
    return NetworkFile(config, variables, encoder, _digest(config, encoder, tensors))


def _metadata(data: bytes) -> dict:
    """Return the texts beside the tensors: the file begins with a length and that much JSON."""
    length = int.from_bytes(data[:8], "little")
    return parse_json(data[8 : 8 + length]).get("__metadata__", {})


def _flat(shapes) -> dict[str, tuple[int, ...]]:
    return flax.traverse_util.flatten_dict(shapes, sep="/")


def _check_values(path, tensors: dict[str, np.ndarray]) -> None:
    """Raise `UserError` for numbers that draw nothing."""
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise UserError(f"{path}: {name} is not finite, so the model can draw nothing")
    if not any(value.any() for name, value in tensors.items() if name.startswith("params/")):
        raise UserError(f"{path}: all its parameters are zero, so the model can draw nothing")


def _digest(config: AEIConfig, encoder: str, tensors: dict[str, np.ndarray]) -> str:
    """Return SHA-256 of a network, each part after its length so that no two make one message."""
    parts = [json.dumps(dataclasses.asdict(config), sort_keys=True).encode(), encoder.encode()]
    for name, value in sorted(tensors.items()):
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        parts += [name.encode(), value.dtype.name.encode(), repr(value.shape).encode(), data]
    digest = hashlib.sha256(b"identitydp network v1\0")
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
