"""How much of what the devices can compute a training step uses (MFU).

    MFU = FLOPs of a step / (seconds of a step x matrix peak of a device x devices)

Model FLOPs utilization, PaLM, arXiv 2204.02311, appendix B, with a peak that is measured instead of
taken from a data sheet.
"""

import functools
import time

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from identitydp_jax.checks import UserError
from identitydp_jax.data.batches import picture_shape
from identitydp_jax.training.step import make_step

_SECONDS = 1.0  # of trying for the peak: whatever else the machine does only slows it


def utilization(flops: float, seconds: float, dtype: str) -> float:
    """Return the MFU, from 0 to about 1, of steps over all devices of all processes.

    Args:
      flops: of one step, from `step_flops`.
      seconds: of one step.
      dtype: `config.compute`, in which the step multiplies matrices.
    """
    return flops / (seconds * matrix_peak(dtype) * jax.device_count())


def step_flops(config, encode, state, encoder_params) -> float:
    """Count the floating-point operations of one step of `config.batch_size` faces on all devices.

    `state` and `encoder_params` may be arrays or shapes. See `program_flops`, also for its error.
    """
    pictures = jax.ShapeDtypeStruct((config.batch_size, *picture_shape(config)), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def build(config, mesh):
        return make_step(config, encode, mesh, frozen=False)

    return program_flops(build, config, state, encoder_params, pictures, key)


def program_flops(build, config, *args) -> float:
    """Count the floating-point operations that a part of the training step needs.

    They are those of XLA's cost analysis of the program before any optimization: sums and products
    of convolutions and matrix products, nearly all there is, and elementwise ones. Nothing is
    compiled or computed; lowering takes seconds. It is done for a CPU device, because other
    backends don't analyse what isn't compiled, and after compilation they hide their convolutions
    in calls that nobody counts. The convolutions are nevertheless those that `models.layers` gives
    the default backend: a CPU's own forms multiply padding too, about 6 % more in all.

    XLA counts the inside of a loop once however often it runs, so the batch is counted undivided
    (`accumulate` = 1); and nothing that is computed twice to save memory is counted twice
    (`remat` = False).

    Args:
      build: `build(config, mesh)` gives the function to count.
      config: a training configuration.
      *args: of the function, trees of global arrays or of `jax.ShapeDtypeStruct`.

    Raises:
      UserError: JAX was started without its CPU backend.
    """
    config = config.copy_and_resolve_references()
    config.accumulate, config.remat = 1, False
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        raise UserError(
            "FLOPs are counted on the CPU backend, which JAX_PLATFORMS leaves out: unset it or add"
            " ,cpu"
        ) from None
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=[device])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    with jax.default_device(device):
        return jax.jit(build(config, mesh)).lower(*shapes).cost_analysis()["flops"]


@functools.cache
def matrix_peak(dtype: str) -> float:
    """Measure the FLOP/s of one device in large matrix products, its best of a second.

    Products of float32 are those of JAX's default precision: on recent NVIDIA GPUs in TF32, as in
    the step. CPU devices share the cores of one machine; each counts as its equal part.

    Args:
      dtype: name of a floating dtype.
    """
    on_cpu = jax.default_backend() == "cpu"
    side, count = (1024, 1) if on_cpu else (8192, 8)

    @jax.jit
    def products(x, w):
        return jax.lax.fori_loop(0, count, lambda _, y: y @ w, x)

    # Of variance 1 / side, so that products neither grow nor vanish.
    w, x = jax.random.normal(jax.random.key(0), (2, side, side), dtype) * side**-0.5
    products(x, w).block_until_ready()
    best, stop = float("inf"), time.perf_counter() + _SECONDS
    while (since := time.perf_counter()) < stop:
        products(x, w).block_until_ready()
        best = min(best, time.perf_counter() - since)
    return count * 2 * side**3 / best / (jax.local_device_count() if on_cpu else 1)
