"""What a training step costs and how it would scale, on paper: prints the tables of README.md.

    python launch/plan.py --config configs/paper_celebahq256.py

Counts the floating-point operations of the real step by lowering it, without compiling or running
it (about a minute, no accelerator), and puts them into the formula of `predict`. Nothing here is
measured on the machines that it speaks of.
"""

import argparse
import dataclasses
import math
import sys

import jax
import jax.numpy as jnp

from identitydp_jax.checks import UserError
from identitydp_jax.data.batches import picture_shape
from identitydp_jax.models.aeinet import AEINet
from identitydp_jax.models.identity import load_encoder
from identitydp_jax.training import state as states
from identitydp_jax.training.configuration import (
    add_arguments,
    check,
    check_dimension,
    read_config,
)
from identitydp_jax.training.utilization import step_flops

# Assumed, all of them: none was measured.
MFU = 0.4  # share of the peak that the step's matrix work reaches, whatever the batch
LINKS = 0.7  # share of the published link bandwidth that a large all-reduce reaches
OVERLAP = 0.5  # share of the computing time under which the gradients' all-reduce can hide
_BATCHES = (1, 4, 16, 64)  # faces per device


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine as its maker describes it, and one assumption, the latency.

    Attributes:
      name: of the machine.
      devices, hosts: how many.
      peak: dense bfloat16 FLOP/s of a device.
      memory, memory_rate: bytes and bytes/s of a device's memory.
      link_rate: bytes/s that a device sends over all its links together, one way.
      latency: assumed seconds of a small all-reduce over all devices.
    """

    name: str
    devices: int
    hosts: int
    peak: float
    memory: float
    memory_rate: float
    link_rate: float
    latency: float


# H200: NVIDIA's data sheet of the H200 SXM, without sparsity; NVLink 900 GB/s, half of it each way.
# TPUs: cloud.google.com/tpu/docs/v5e and /v5p; links 400 and 1200 GB/s, half of it each way. v5p
# counts two cores per chip: v5p-512 has 256 chips.
MACHINES = (
    Machine("8 H200", 8, 1, 989e12, 141e9, 4.8e12, 450e9, 20e-6),
    Machine("TPU v5e-256", 256, 64, 197e12, 16e9, 819e9, 200e9, 50e-6),
    Machine("TPU v5p-512", 256, 64, 459e12, 95e9, 2765e9, 600e9, 50e-6),
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one step costs on paper.

    Attributes:
      flops: per face.
      activations: bytes per face that the backward pass reads, before XLA joins or drops any.
      gradients: bytes of both players' gradients, what an all-reduce sums.
      state: bytes of parameters, their average, running statistics, population and both moments.
      updated: bytes that the optimizers and the average read and write.
      norms: batch-norm layers that a step passes through, each time counted.
      face: bytes of one face as it arrives, with its twin if it has one.
    """

    flops: float
    activations: int
    gradients: int
    state: int
    updated: int
    norms: int
    face: int


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of a step, with and without overlap, and what follows from them.

    Attributes:
      compute, update, reduce, norm: seconds of the parts.
      slowest, fastest: seconds of a step without overlap and with `OVERLAP`.
      efficiency: weak scaling, one device's step over the fastest of all devices.
      memory: bytes that a device holds.
    """

    compute: float
    update: float
    reduce: float
    norm: float
    slowest: float
    fastest: float
    efficiency: float
    memory: float


def step_cost(config, encode, encoder_params) -> Cost:
    """Count the cost of the step that `make_step` builds for a training configuration.

    Nothing is compiled or computed: FLOPs are those of `step_flops`, their slope over the number of
    faces; bytes come from shapes. `encoder_params` may be shapes. On a CPU the FLOPs are those of a
    CPU's convolutions, 6 % more than accelerators need.
    """
    state = states.shapes(config)

    def flops(count):
        sized = config.copy_and_resolve_references()
        sized.batch_size = count
        return step_flops(sized, encode, state, encoder_params)

    trained = _size((state.params, state.discriminator))
    means = [x for path, x in jax.tree.leaves_with_path(state.batch_stats) if "mean" in str(path)]
    inside = len(jax.tree.leaves(state.batch_stats["encoder"])) // 2
    return Cost(
        flops=flops(2) - flops(1),
        activations=_residual_bytes(config, state, 2) - _residual_bytes(config, state, 1),
        gradients=trained,
        state=_size(state),
        # Gradient, parameter and both moments are read, all but the first written; the network's
        # average is read and written, its parameter read again.
        updated=7 * trained + 3 * _size(state.params),
        norms=len(means) + inside,  # the attribute encoder sees the drawn face, too
        face=math.prod(picture_shape(config)),
    )


def predict(cost: Cost, machine: Machine, faces: int, *, devices: int, fsdp: bool) -> Prediction:
    """Predict a step of `faces` per device on n `devices` of a machine.

    compute    = faces flops / (MFU peak)
    update     = updated / memory_rate                         with fsdp the n-th part of it
    reduce     = 2 (n - 1) / n gradients / (LINKS link_rate)   with fsdp, gathered and scattered
    norm       = 2 norms latency                               forward and backward; 0 if n = 1
    slowest    = compute + update + norm + reduce
    fastest    = compute + update + norm + max(0, reduce - OVERLAP compute)
    efficiency = step of one device / fastest                  weak scaling
    """
    n = devices
    compute = faces * cost.flops / (MFU * machine.peak)
    whole = cost.updated / machine.memory_rate
    update = whole / n if fsdp else whole
    reduce = 2 * (n - 1) / n * cost.gradients / (LINKS * machine.link_rate)
    norm = 2 * cost.norms * machine.latency if n > 1 else 0.0
    fastest = compute + update + norm + max(0.0, reduce - OVERLAP * compute)
    return Prediction(
        compute=compute,
        update=update,
        reduce=reduce,
        norm=norm,
        slowest=compute + update + norm + reduce,
        fastest=fastest,
        efficiency=(compute + whole) / fastest,
        # Of a split state a device still holds both networks whole during the step.
        memory=(cost.state / n + cost.gradients if fsdp else cost.state)
        + cost.gradients
        + faces * cost.activations,
    )


def tables(cost: Cost) -> str:
    """Return the cost and the predictions as Markdown."""
    lines = [
        "| per step, computed | |",
        "|---|---|",
        f"| FLOPs per face | {cost.flops / 1e9:.0f} G |",
        f"| activations kept per face, unfused | {cost.activations / 1e6:.0f} MB |",
        f"| training state | {cost.state / 1e9:.2f} GB |",
        f"| read and written by the update | {cost.updated / 1e9:.2f} GB |",
        f"| gradients to sum | {cost.gradients / 1e9:.2f} GB |",
        f"| batch-norm layers passed | {cost.norms} |",
        f"| FLOPs per byte of activations | {cost.flops / (2 * cost.activations):.0f} |",
        f"| input per face | {cost.face / 1e3:.0f} KB |",
        "",
        "| machine, faces/device | memory, GB | compute | update | all-reduce | norm, ms "
        "| images/s | without overlap | fsdp | efficiency | input/host |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for machine in MACHINES:
        lines += (_row(cost, machine, faces) for faces in _BATCHES)
    return "\n".join(lines)


def _row(cost: Cost, machine: Machine, faces: int) -> str:
    n = machine.devices
    p = predict(cost, machine, faces, devices=n, fsdp=False)
    split = predict(cost, machine, faces, devices=n, fsdp=True)
    rate = n * faces / p.fastest
    full = "" if p.memory <= machine.memory else f" of {machine.memory / 1e9:.0f}: too much"
    cells = (
        f"{machine.name}, {faces}",
        f"{p.memory / 1e9:.1f}{full}",
        *(f"{1e3 * seconds:.1f}" for seconds in (p.compute, p.update, p.reduce, p.norm)),
        f"{rate:,.0f}",
        f"{n * faces / p.slowest:,.0f}",
        f"{n * faces / split.fastest:,.0f}",
        f"{p.efficiency:.0%}",
        f"{rate * cost.face / machine.hosts / 1e6:.0f} MB/s",
    )
    return f"| {' | '.join(cells)} |"


def _residual_bytes(config, state, count: int) -> int:
    """Count what the backward pass of the two networks keeps of a batch, with the parameters."""
    net = AEINet(states.network_config(config), remat=config.remat)
    judge = states.discriminator_network(config)
    side, dtype = config.network.resolution, jnp.dtype(config.compute)

    def kept(params, discriminator, batch_stats, faces, identity):
        def forward(params, discriminator):
            variables = {"params": params, "batch_stats": batch_stats}
            train = {"train": True, "mutable": ["batch_stats"]}
            maps, _ = net.apply(variables, faces, method="attributes", **train)
            drawn, _ = net.apply(variables, identity, maps, method="draw", **train)
            again, _ = net.apply(variables, drawn, method="attributes", **train)
            return again, judge.apply({"params": discriminator}, drawn)

        return jax.vjp(forward, params, discriminator)[1]

    faces = jax.ShapeDtypeStruct((count, side, side, 3), dtype)
    identity = jax.ShapeDtypeStruct((count, config.network.get("identity_dimension", 512)), dtype)
    shapes = (state.params, state.discriminator, state.batch_stats, faces, identity)
    return _size(jax.eval_shape(kept, *shapes))


def _size(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def main() -> int:
    """Print the tables for a configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args()
    try:
        config = read_config(args.config, args.set)
        check(config)
        encode, params = load_encoder(config.encoder)
        check_dimension(config, encode)
    except UserError as error:
        print(f"plan.py: error: {error}", file=sys.stderr)
        return 2
    print(tables(step_cost(config, encode, params)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
