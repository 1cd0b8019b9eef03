"""Weights of TensorFlow.js as plain arrays: a manifest names what lies in a file of raw bytes."""

import json
import math
import pathlib

import numpy as np

from identitydp_jax.checks import UserError


def read_weights(manifest: str | pathlib.Path, weights: str | pathlib.Path) -> dict:
    """Read weights that are stored in 8 bits each: value = scale * byte + min.

    Args:
      manifest: the JSON that lists name, shape and scaling of every array, in one group.
      weights: the bytes of all arrays, one after the other.

    Returns:
      float32 arrays by name.

    Raises:
      UserError: a file is missing or unreadable, or one is not what the other says.
    """
    manifest, weights = pathlib.Path(manifest), pathlib.Path(weights)
    try:
        (group,) = json.loads(manifest.read_bytes())
        content, at, arrays = weights.read_bytes(), 0, {}
        for entry in group["weights"]:
            shape, packing = entry["shape"], entry["quantization"]
            if packing["dtype"] != "uint8":
                raise ValueError(f"{entry['name']} is of {packing['dtype']}")
            count = math.prod(shape)
            values = np.frombuffer(content, np.uint8, count, at).reshape(shape)
            arrays[entry["name"]] = np.float32(values * packing["scale"] + packing["min"])
            at += count
        if at != len(content):
            raise ValueError(f"{len(content) - at} bytes belong to nothing")
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{manifest} and {weights}: not TensorFlow.js weights ({error})") from None
    return arrays
