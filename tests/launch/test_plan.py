"""The scaling plan counts the real step and follows its formula."""

import dataclasses
import importlib.util
import pathlib
import shlex
import subprocess
import sys

import jax
import pytest
import tiny

from identitydp_jax.training import state as states

ROOT = pathlib.Path(__file__).parents[2]


def load():
    spec = importlib.util.spec_from_file_location("plan", ROOT / "launch" / "plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plan = load()
COST = plan.Cost(
    flops=1e11, activations=10**8, gradients=10**9, state=4 * 10**9, updated=10**10, norms=40,
    face=10**5,
)  # fmt: skip
MACHINE = plan.MACHINES[0]


def predict(faces=16, devices=8, fsdp=False, cost=COST):
    return plan.predict(cost, MACHINE, faces, devices=devices, fsdp=fsdp)


def step_cost(config):
    # Optax's bias correction mixes integers and floats; what is only counted draws no numbers.
    with jax.numpy_dtype_promotion("standard"), jax.debug_key_reuse(False):
        return plan.step_cost(config, tiny.encode, tiny.encoder_params())


def test_cost_is_that_of_the_step():
    config = tiny.training_config()
    cost = step_cost(config)
    state = states.create(config)
    count = sum(x.size for x in jax.tree.leaves((state.params, state.discriminator)))
    assert cost.gradients == 4 * count
    assert cost.state == sum(x.nbytes for x in jax.tree.leaves(state))
    # Both networks with two moments each, and the average of the first.
    population = sum(x.nbytes for x in jax.tree.leaves(state.population))
    assert 3 * cost.gradients < cost.state - population < 4.1 * cost.gradients
    assert 7 * cost.gradients < cost.updated < 10 * cost.gradients
    assert cost.face == 64 * 128 * 3
    # At 64 px: 9 in the encoder, passed twice; those of the generator normalise per pixel.
    assert cost.norms == 2 * 9
    # 2 in each of the first two blocks, 3 in each of the four that change the number of channels.
    assert step_cost(tiny.training_config("network.norm=batch")).norms == 2 * 9 + 2 * 2 + 4 * 3
    wide = tiny.training_config("network.width=0.0625", "discriminator.width=0.0625")
    wider = step_cost(wide)
    assert 1.05 < wider.flops / cost.flops < 4
    assert 1.2 < wider.activations / cost.activations < 2.5
    remat = tiny.training_config("remat=True")
    assert step_cost(remat).activations < cost.activations


def test_one_device_waits_for_nobody():
    alone = predict(devices=1)
    assert alone.reduce == alone.norm == 0
    assert alone.efficiency == 1
    assert alone.slowest == alone.fastest == alone.compute + alone.update


def test_a_ring_moves_the_gradients_almost_twice():
    seconds = COST.gradients / (plan.LINKS * MACHINE.link_rate)
    assert predict(devices=2).reduce == pytest.approx(seconds)
    assert predict(devices=8).reduce == pytest.approx(1.75 * seconds)


def test_larger_batches_hide_what_devices_exchange():
    predictions = [predict(faces=faces) for faces in (1, 4, 16, 64, 10_000)]
    efficiencies = [p.efficiency for p in predictions]
    assert efficiencies == sorted(efficiencies)
    assert efficiencies[0] < 0.9 and efficiencies[-1] > 0.99
    hidden = predictions[-1]
    assert hidden.slowest - hidden.fastest == pytest.approx(hidden.reduce)


def test_fsdp_divides_state_and_update():
    whole, split = predict(), predict(fsdp=True)
    assert split.update == whole.update / 8
    assert split.reduce == whole.reduce
    assert whole.memory - split.memory == COST.state * 7 / 8 - COST.gradients


def test_table_marks_what_does_not_fit():
    assert "too much" not in plan.tables(COST)
    large = dataclasses.replace(COST, activations=10**9)
    (line,) = [x for x in plan.tables(large).splitlines() if x.startswith("| TPU v5e-256, 16 ")]
    assert "of 16: too much" in line


@pytest.mark.slow
def test_readme_shows_what_its_command_prints():
    readme = (ROOT / "launch" / "README.md").read_text()
    joined = readme.replace("\\\n", " ").splitlines()
    (line,) = [x for x in joined if x.strip().startswith("python launch/plan.py")]
    command = [sys.executable, *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in readme
