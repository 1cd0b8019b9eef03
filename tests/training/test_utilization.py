"""FLOPs are those of the step, whatever it runs on, and the peak is that of one device."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.training import state as states
from identitydp_jax.training import step as steps
from identitydp_jax.training import utilization


def _count(*overrides):
    """Count the step of a network in which convolutions are nearly all."""
    wide = ("network.width=0.25", "discriminator.width=0.25")
    config = tiny.training_config(*wide, *overrides)
    state = states.shapes(config)
    with jax.debug_key_reuse(False):
        return utilization.step_flops(config, tiny.encode, state, tiny.encoder_params())


@pytest.fixture(scope="module")
def counted():
    """FLOPs of the step, and those of all its products by a count of our own."""
    jaxprs = []
    make_step = steps.make_step

    def spying(*args, **options):
        step = make_step(*args, **options)

        def traced(*args):
            assert args[2].shape == (8, 64, 128, 3)
            jaxprs.append(jax.make_jaxpr(step)(*args).jaxpr)
            return step(*args)

        return traced

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilization, "make_step", spying)
        return _count(), _products(jaxprs[0])


def _products(jaxpr) -> int:
    """Count multiplications and additions of dot products and convolutions, loops not unrolled."""
    total = 0
    for equation in jaxpr.eqns:
        total += sum(_products(sub) for sub in jax._src.core.jaxprs_in_params(equation.params))
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(left[i] for i in contracted)
        if equation.primitive.name == "conv_general_dilated":
            total += _convolution(equation)
    return total


def _convolution(equation) -> int:
    layout, (left, right) = equation.params["dimension_numbers"], (x.aval for x in equation.invars)
    out = equation.outvars[0].aval.shape
    total = 2 * out[layout.out_spec[0]] * out[layout.out_spec[1]] * right.shape[layout.rhs_spec[1]]
    for i in range(2):
        at = np.arange(out[layout.out_spec[2 + i]])[:, None] * equation.params["window_strides"][i]
        taps = np.arange(right.shape[layout.rhs_spec[2 + i]]) * equation.params["rhs_dilation"][i]
        at = at + taps - equation.params["padding"][i][0]
        spread = equation.params["lhs_dilation"][i]
        size = left.shape[layout.lhs_spec[2 + i]]
        total *= int(((at >= 0) & (at % spread == 0) & (at <= (size - 1) * spread)).sum())
    return total


def test_a_matrix_product_takes_two_flops_per_multiplication():
    a, b = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((32, 16), jnp.float32)
    config = tiny.training_config()
    count = utilization.program_flops(lambda config, mesh: lambda a, b: a @ b, config, a, b)
    assert count == 2 * 64 * 32 * 16


def test_the_step_is_counted_once_and_whole(counted):
    flops, products = counted
    assert products < flops < 1.15 * products


def test_neither_parts_nor_recomputation_nor_devices_change_the_count(counted):
    assert _count("accumulate=4", "remat=True", "fsdp=True") == counted[0]


def test_what_lies_on_the_devices_can_be_counted():
    x = jax.device_put(jnp.ones((8, 8)), jax.devices()[3])
    build = lambda config, mesh: lambda x: x @ x  # noqa: E731
    assert utilization.program_flops(build, tiny.training_config(), x) == 2 * 8**3


def test_without_the_cpu_backend_one_line_says_what_to_do(monkeypatch):
    def missing(backend):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "local_devices", missing)
    with pytest.raises(UserError, match="JAX_PLATFORMS") as caught:
        utilization.program_flops(None, tiny.training_config())
    assert "\n" not in str(caught.value)


def test_the_peak_is_one_devices_part_of_the_machine(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(utilization.time, "perf_counter", lambda: 0.25 * next(ticks))
    assert utilization.matrix_peak.__wrapped__("float32") == 2 * 1024**3 / 0.25 / 8


def test_the_peak_is_that_of_the_steps_own_dtype(monkeypatch):
    seen, normal = [], jax.random.normal

    def spy(key, shape, dtype):
        seen.append(normal(key, shape, dtype))
        return seen[-1]

    monkeypatch.setattr(jax.random, "normal", spy)
    monkeypatch.setattr(utilization, "_SECONDS", 0.05)
    assert utilization.matrix_peak.__wrapped__("bfloat16") > 0
    assert seen[0].dtype == jnp.bfloat16


def test_utilization_is_that_of_all_devices(monkeypatch):
    monkeypatch.setattr(utilization, "matrix_peak", {"bfloat16": 50.0}.get)
    assert utilization.utilization(600.0, 3.0, "bfloat16") == 600 / (3 * 50 * 8)
