"""The parts of a step add up to it, and stand beside what the devices can do."""

import jax
import jax.numpy as jnp
import pytest
import tiny

from identitydp_jax import sharding
from identitydp_jax.benchmarks import step_parts, timing
from identitydp_jax.benchmarks.step_parts import Cost, Limits
from identitydp_jax.training import state as states
from identitydp_jax.training.utilization import program_flops

LIMITS = Limits(peak=100.0, rate=10.0, devices=2)
WHOLE = Cost(seconds=4.0, flops=400.0, bytes=20.0)


def test_every_program_does_the_one_before_and_more():
    config = tiny.training_config()
    state = states.shapes(config)
    pictures = jax.ShapeDtypeStruct((config.batch_size, 64, 128, 3), jnp.uint8)
    args = (state, tiny.encoder_params(), pictures, jax.random.key(0))

    def flops(name):
        return program_flops(
            lambda config, mesh: step_parts._programs(config, tiny.encode, mesh)[name],
            config, *args,
        )  # fmt: skip

    with jax.debug_key_reuse(False):
        augmentation = flops("augmentation")
        own = flops("identity of the faces")
        network = flops("gradient of the network")
        both = flops("gradient of the discriminator")
        forward = flops(step_parts._FORWARD)
    assert own - augmentation > 2 * 8 * 768 * 512  # of the faces or their twins
    # Two networks, their gradients, and the attributes of what was drawn.
    assert network - own > 3 * forward
    assert 0 < both - network < (network - own) / 3


def test_a_part_is_what_its_program_takes_beyond_the_one_before():
    part = WHOLE.beyond(Cost(1.0, 100.0, 5.0), times=3)
    assert part == Cost(3.0, 300.0, 45.0)
    assert WHOLE.beyond(Cost(1.0, 100.0, 25.0), times=3).bytes == 0
    assert Cost(1.0, 1.0, None).beyond(Cost(0.0, 0.0, None), times=1).bytes is None


def test_a_row_says_what_limits_the_part():
    row = step_parts._row("part", Cost(2.0, 100.0, 15.0), WHOLE, LIMITS)
    assert row["ms"] == 2000 and row["% of the step"] == 50
    assert row["% of the peak"] == 25
    assert row["at least, ms"] == 1500 and row["for"] == "memory"
    row = step_parts._row("part", Cost(2.0, 400.0, None), WHOLE, LIMITS)
    assert row["at least, ms"] == 2000 and row["for"] == "arithmetic"
    assert row["GB on a device"] is None


@pytest.mark.parametrize("accumulate", [1, 4])
def test_parts_are_measured_in_the_order_of_the_programs(monkeypatch, accumulate):
    def programs(config, encode, mesh):
        def product(count):
            return lambda state, *rest: jnp.linalg.matrix_power(state["x"], count)

        def step(state, *rest):
            return {"x": jnp.linalg.matrix_power(state["x"], 16)}, {"total": state["x"].sum()}

        names = ("augmentation", "identity of the faces", "gradient of the network")
        parts = {name: product(2 ** (i + 1)) for i, name in enumerate(names)}
        return {**parts, "update": step, step_parts._FORWARD: product(4)}

    monkeypatch.setattr(step_parts, "_programs", programs)
    monkeypatch.setattr(timing, "_SECONDS", 0.0)
    config = tiny.training_config(f"accumulate={accumulate}")
    args = ({"x": jnp.eye(64)}, {}, jnp.zeros(()), jax.random.key(0))
    step = jax.jit(programs(config, None, None)["update"], donate_argnums=0)
    step = step.lower(*args).compile()
    rows = step_parts.measure(config, None, sharding.make_mesh(), step, args, LIMITS)
    by_name = {row["part"]: row for row in rows}
    product = 2 * 64**3 / 1e9
    expected = [product, product, product, product, 4 * product, 2 * product]
    found = [row["GFLOP"] for row in rows]
    assert found == pytest.approx(expected, rel=0.1)
    *parts, whole, _ = rows
    for what in ("ms", "GFLOP"):
        assert sum(row[what] for row in parts) == pytest.approx(whole[what])
    bytes_of = {name: row["GB on a device"] for name, row in by_name.items()}
    one = bytes_of["identity of the faces"]
    assert bytes_of["gradient of the network"] == pytest.approx(accumulate * one, rel=0.3)
    assert args[0]["x"].is_deleted()
