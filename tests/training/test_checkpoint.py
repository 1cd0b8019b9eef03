import jax
import jax.numpy as jnp
import numpy as np
import pytest

from identitydp_jax import sharding
from identitydp_jax.checks import UserError
from identitydp_jax.training.checkpoint import Checkpoints

NETWORK = {"network": {"resolution": 64, "width": 0.03125, "norm": "batch"}}


def _state(value):
    return {"step": jnp.int32(value), "params": {"kernel": jnp.full((16, 3), value, jnp.float32)}}


def _open(folder, network=NETWORK, keep=2):
    return Checkpoints(folder, keep=keep, network=network)


def test_an_empty_folder_leaves_the_state_alone(tmp_path):
    state = _state(0)
    with _open(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.restore(state) is state


def test_the_newest_is_restored_bit_for_bit_with_the_shardings_asked_for(tmp_path):
    saved = _state(7)
    kernel = np.random.default_rng(0).normal(size=(16, 3))
    saved["params"]["kernel"] = jnp.asarray(kernel, jnp.float32)
    with _open(tmp_path) as checkpoints:
        checkpoints.save(3, _state(3))
        checkpoints.save(7, saved)
    mesh = sharding.make_mesh()
    wanted = jax.device_put(_state(0), sharding.replicated(mesh))
    with _open(tmp_path) as checkpoints:
        found = checkpoints.restore(wanted)
    assert int(found["step"]) == 7
    np.testing.assert_array_equal(found["params"]["kernel"], saved["params"]["kernel"])
    assert found["params"]["kernel"].sharding == sharding.replicated(mesh)


def test_what_is_saved_is_the_state_at_the_call(tmp_path):
    """The loop donates a state's buffers to the next step while it is still being written."""
    change = jax.jit(lambda x: jax.tree.map(lambda a: a + 1, x), donate_argnums=0)
    state = {"kernel": jnp.zeros((512, 512))}
    with _open(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(5):
            state = change(state)
    with _open(tmp_path) as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore(state)["kernel"], 0)


def test_only_the_newest_are_kept(tmp_path):
    with _open(tmp_path, keep=2) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, _state(step))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["4", "5"]


def test_other_networks_are_refused_in_one_line(tmp_path):
    with _open(tmp_path) as checkpoints:
        checkpoints.save(1, _state(1))
    wider = {"network": {**NETWORK["network"], "width": 0.0625}}
    with (
        _open(tmp_path, network=wider) as checkpoints,
        pytest.raises(UserError, match="holds a run of other networks") as caught,
    ):
        checkpoints.restore(_state(0))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_half_a_checkpoint_is_passed_over(tmp_path):
    with _open(tmp_path) as checkpoints:
        checkpoints.save(1, _state(1))
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with _open(tmp_path) as checkpoints:
        assert int(checkpoints.restore(_state(0))["step"]) == 1
