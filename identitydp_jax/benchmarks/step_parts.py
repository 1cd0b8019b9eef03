"""What a training step is made of: time, arithmetic and memory traffic of its parts.

What a part costs is the difference between two programs, of which the second does that part in
addition. The programs are cut from the step itself: asked for some of its results alone, JAX leaves
out what only the others need.
"""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp

from identitydp_jax.benchmarks import timing
from identitydp_jax.models.aeinet import AEINet
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.training import state as states
from identitydp_jax.training.noise import draw_identities
from identitydp_jax.training.step import (
    draw_rows,
    learned_faces,
    make_gradients,
    make_step,
    split_twins,
)
from identitydp_jax.training.utilization import program_flops

NOTES = (
    "Parts add up to the whole step; each is the difference of two programs, the second of which"
    " does the part in addition. The forward pass is a program of its own. All took turns, each"
    " waited for, and the fastest call counts; the loop queues one step behind the other.",
    "`at least` is what the arithmetic would take at the measured matrix peak, or the bytes at the"
    " measured memory rate, whichever is longer. Bytes are XLA's count for the compiled program, as"
    " if none stayed in a cache. FLOPs are those that the step needs: nothing computed again for"
    " lack of memory.",
)  # fmt: skip
_FORWARD = "forward pass of the two networks, alone"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one device does at best, FLOP/s and bytes/s, and how many devices there are."""

    peak: float
    rate: float
    devices: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a program, or a part of one, takes.

    Attributes:
      seconds: of one call.
      flops: over all devices.
      bytes: that each device accesses; None where the backend doesn't tell.
    """

    seconds: float
    flops: float
    bytes: float | None

    def beyond(self, other: "Cost", *, times: int) -> "Cost":
        """Return what this program takes beyond another.

        `times` is how often a loop in this one, but not in the other, runs: XLA counts it once.
        """
        more = None if self.bytes is None else times * max(0.0, self.bytes - other.bytes)
        return Cost(self.seconds - other.seconds, self.flops - other.flops, more)


def measure(config, encode, mesh, step, args, limits: Limits) -> list[dict]:
    """Return a table of the step's parts, and donate the state.

    Args:
      config: a training configuration.
      encode: `encode(params, crops)` of the identity encoder.
      mesh: from `sharding.make_mesh`.
      step: the compiled step.
      args: its arguments.
      limits: of the devices.
    """
    costs = _costs(config, encode, mesh, step, args)
    forward, whole = costs.pop(_FORWARD), costs["update"]
    rows, before = [], Cost(0.0, 0.0, 0.0)
    for name, cost in costs.items():
        times = config.accumulate if name.startswith("gradient") else 1
        rows.append(_row(name, cost.beyond(before, times=times), whole, limits))
        before = cost
    return [
        *rows,
        _row("whole step", whole, whole, limits),
        _row(_FORWARD, forward, whole, limits),
    ]


def _costs(config, encode, mesh, step, args) -> dict[str, Cost]:
    compiled, flops = {"update": step}, {}
    for name, program in _programs(config, encode, mesh).items():
        print(f"identitydp: compiling: {name}", file=sys.stderr, flush=True)
        if name not in compiled:
            compiled[name] = jax.jit(program).lower(*args).compile()
        flops[name] = program_flops(
            lambda config, mesh, name=name: _programs(config, encode, mesh)[name], config, *args
        )
    state, *rest = args

    def run(name):
        nonlocal state
        if name != "update":
            return compiled[name](state, *rest)
        state, metrics = step(state, *rest)
        return metrics

    seconds = timing.take_turns({name: functools.partial(run, name) for name in flops})
    return {
        name: Cost(min(taken), flops[name], _bytes(compiled[name]))
        for name, taken in seconds.items()
    }


def _programs(config, encode, mesh) -> dict:
    """Return functions of a step's arguments, each doing what the one before does and more.

    The fifth is the step itself. The last, the forward pass, stands for itself.
    """
    dtype = jnp.dtype(config.compute)
    gradients = make_gradients(config, encode, mesh, frozen=False)
    net = AEINet(states.network_config(config))

    def augmented(state, encoder_params, pictures, key):
        return learned_faces(pictures, key=key, config=config)

    def embedded(state, encoder_params, pictures, key):
        faces, twins = augmented(state, encoder_params, pictures, key)
        rows = draw_rows(len(faces), key=key, mixture=config.mixture)
        params = jax.tree.map(lambda x: x.astype(dtype), encoder_params)
        return encode(params, identity_crop(rows.truth(faces, twins)).astype(dtype))

    def forward(state, encoder_params, pictures, key):
        faces = split_twins(pictures)[:, 0]
        identity = draw_identities((len(faces), net.config.identity_dimension), key=key)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        faces = to_float(faces).astype(dtype)
        return net.apply(
            variables, faces, identity.astype(dtype), train=True, mutable=["batch_stats"]
        )

    return {
        "augmentation": augmented,
        "identity of the faces": embedded,
        "gradient of the network": lambda *args: gradients(*args)[0][0],
        "gradient of the discriminator": lambda *args: gradients(*args)[0],
        "update": make_step(config, encode, mesh, frozen=False),
        _FORWARD: forward,
    }


def _row(name: str, cost: Cost, whole: Cost, limits: Limits) -> dict:
    arithmetic = cost.flops / (limits.peak * limits.devices)
    memory = 0.0 if cost.bytes is None else cost.bytes / limits.rate
    return {
        "part": name,
        "ms": 1e3 * cost.seconds,
        "% of the step": 100 * cost.seconds / whole.seconds,
        "GFLOP": cost.flops / 1e9,
        "% of the peak": 100 * arithmetic / cost.seconds,
        "GB on a device": None if cost.bytes is None else cost.bytes / 1e9,
        "at least, ms": 1e3 * max(arithmetic, memory),
        "for": "arithmetic" if arithmetic > memory else "memory",
    }


def _bytes(program) -> float | None:
    """Return the bytes that a compiled program accesses on each device, if XLA tells."""
    return (program.cost_analysis() or {}).get("bytes accessed")
