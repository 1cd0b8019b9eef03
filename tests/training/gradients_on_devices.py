"""Print how far the gradients of a batch differ between ways to lay it over devices, as JSON.

    python gradients_on_devices.py float64

Every way computes the same batch; each is compared with one device that computes it at once.
Needs eight devices and the folder above on the path; float64 needs JAX_ENABLE_X64=1.
"""

import json
import sys

import jax
import numpy as np
import tiny
from jax.sharding import AxisType

from identitydp_jax import sharding
from identitydp_jax.training import state as states
from identitydp_jax.training import step as steps

_COMPUTE = sys.argv[1]
jax.config.update("jax_disable_most_optimizations", True)
# What draws and changes pixels computes in float32, and rounds as its loops happen to be cut.
steps.augment = lambda faces, *, key: faces.astype(_COMPUTE) / 127.5 - 1.0
_EXACT = ("mixture.same=0.3", "mixture.twin=0.4", "mixture.other=0.3", "mixture.noised=0")

_LOSSES = (
    "total", "adversarial", "identity", "leak", "attributes", "reconstruction", "texture",
    "colour", "discriminator",
)  # fmt: skip
# Name: devices, whether statistics are frozen, and what differs from the configuration.
_WAYS = {
    "one": (1, False, {}),
    "eight": (8, False, {}),
    "eight, fsdp, remat": (8, False, {"fsdp": True, "remat": True}),
    "one, frozen": (1, True, {}),
    "eight, frozen, fsdp, remat, in two parts": (
        8, True, {"fsdp": True, "remat": True, "accumulate": 2},
    ),
}  # fmt: skip


def _gradients(devices: int, frozen: bool, changes: dict):
    config = tiny.training_config("batch_size=16", *_EXACT)
    with config.unlocked():
        config.update({"compute": _COMPUTE, **changes})
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    state = jax.tree.map(_wide, states.create(config))
    held = sharding.state_shardings(state, mesh, fsdp=config.fsdp)
    everywhere, split = sharding.replicated(mesh), sharding.over_batch(mesh)
    gradients = jax.jit(
        steps.make_gradients(config, tiny.encode, mesh, frozen=frozen),
        in_shardings=(held, everywhere, split, everywhere),
    )
    found = gradients(
        sharding.place(state, held),
        sharding.place(jax.tree.map(_wide, tiny.encoder_params()), everywhere),
        sharding.global_batch(tiny.pictures(16), mesh),
        jax.random.key(0),
    )
    return [jax.tree.map(np.asarray, part) for part in found]


def _wide(x):
    return x.astype(_COMPUTE) if np.issubdtype(x.dtype, np.floating) else x


def _apart(found, expected) -> float:
    """Return the largest difference, over the largest value of the array that it is in."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return float(max(abs(a - b).max() / (abs(b).max() or 1.0) for a, b in pairs))


def main():
    found = {name: _gradients(*way) for name, way in _WAYS.items()}
    result = {}
    for name, (grads, statistics, metrics) in found.items():
        base_grads, base_statistics, base_metrics = found[
            "one, frozen" if "frozen" in name else "one"
        ]
        result[name] = {
            "network": _apart(grads[0], base_grads[0]),
            "discriminator": _apart(grads[1], base_grads[1]),
            "statistics": _apart(statistics, base_statistics),
            "losses": _apart(*({k: m[k] for k in _LOSSES} for m in (metrics, base_metrics))),
            "dtype": str(jax.tree.leaves(grads)[0].dtype),
        }
    print(json.dumps(result, indent=1, default=float))


main()
