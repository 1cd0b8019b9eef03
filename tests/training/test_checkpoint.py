import gc
import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax import sharding
from identitydp_jax.checks import UserError
from identitydp_jax.training.checkpoint import Checkpoints, read_run

CONFIG = tiny.training_config("data=faces")


@pytest.fixture
def collected():
    """Collect what the test leaves behind before the next one begins."""
    yield
    gc.collect()


def tears(test):
    """Mark a test that breaks files: orbax leaves behind what complains when it is collected."""
    ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    return ignored(pytest.mark.usefixtures("collected")(test))


def _state(value):
    kernel = np.random.default_rng(value).normal(size=(512, 64))
    return {"step": jnp.int32(value), "params": {"kernel": jnp.asarray(kernel, jnp.float32)}}


def _open(folder, config=CONFIG, keep=2):
    return Checkpoints(folder, keep=keep, config=config)


def _save(folder, *steps, keep=2, config=CONFIG, losses=()):
    """Save these steps; the first of them with these losses."""
    with _open(folder, config, keep) as checkpoints:
        for step, loss in itertools.zip_longest(steps, losses):
            metrics = None if loss is None else {"colour": 1.0, "loss": loss}
            checkpoints.save(step, _state(step), {"next_index": step}, metrics)


def _steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def _read(folder, **how):
    """Return the step of the state that `read_run` returns, after a look at all of it."""
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _state(0)
    )
    config, state = read_run(folder, lambda _: abstract, **how)
    assert config["network"] == CONFIG.network.to_dict()
    step = int(state["step"])
    np.testing.assert_array_equal(state["params"]["kernel"], _state(step)["params"]["kernel"])
    return step


def _restored_step(folder, config=CONFIG):
    with _open(folder, config) as checkpoints:
        state, batches = checkpoints.restore(_state(0))
    step = int(state["step"])
    assert batches == ({"next_index": step} if step else None)
    np.testing.assert_array_equal(state["params"]["kernel"], _state(step)["params"]["kernel"])
    return step


def test_an_empty_folder_leaves_the_state_alone(tmp_path):
    state = _state(0)
    with _open(tmp_path / "checkpoints") as checkpoints:
        restored, batches = checkpoints.restore(state)
    assert restored is state
    assert batches is None


@pytest.mark.parametrize("fsdp", [False, True])
def test_the_newest_is_restored_bit_for_bit_on_other_devices(tmp_path, fsdp):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    eight = sharding.state_shardings(_state(0), sharding.make_mesh(), fsdp=fsdp)
    assert eight["params"]["kernel"].is_fully_replicated != fsdp
    for folder, before, after in (("a", one, eight), ("b", eight, one)):
        with _open(tmp_path / folder) as checkpoints:
            checkpoints.save(3, jax.device_put(_state(3), before), {"next_index": 3})
            checkpoints.save(7, jax.device_put(_state(7), before), {"next_index": 7})
        with _open(tmp_path / folder) as checkpoints:
            found, batches = checkpoints.restore(jax.device_put(_state(0), after))
        assert batches == {"next_index": 7}
        assert int(found["step"]) == 7
        np.testing.assert_array_equal(found["params"]["kernel"], _state(7)["params"]["kernel"])
        wanted = after if after is one else after["params"]["kernel"]
        assert found["params"]["kernel"].sharding == wanted


def test_what_is_saved_is_the_state_at_the_call(tmp_path):
    """The loop donates a state's buffers to the next step while it is still being written."""
    change = jax.jit(lambda x: jax.tree.map(lambda a: a + 1, x), donate_argnums=0)
    state = {"kernel": jnp.zeros((512, 512))}
    with _open(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(5):
            state = change(state)
    with _open(tmp_path) as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore(state)[0]["kernel"], 0)


def test_only_the_newest_are_kept(tmp_path):
    _save(tmp_path, 1, 2, 3, 4, 5, keep=2)
    assert _steps(tmp_path) == [4, 5]


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ((3.0, 1.0, 2.0, 4.0, 4.0, 4.0), [2, 5, 6]),
        ((3.0, 1.0, 1.0, 4.0, 4.0, 4.0), [3, 5, 6]),  # of equal ones the newest
        ((3.0, 2.0, 4.0, 4.0, 4.0, 1.0), [5, 6]),
        ((float("nan"), 2.0, float("nan"), 4.0, 4.0, float("nan")), [2, 5, 6]),
        ((3.0, None, 4.0, None, None, None), [1, 5, 6]),
    ],
)
def test_the_best_is_kept_beside_the_newest(losses, kept, tmp_path):
    # Two runs: the second one learns from the files which is the best so far.
    _save(tmp_path, 1, 2, 3, keep=2, losses=losses[:3])
    _save(tmp_path, 4, 5, 6, keep=2, losses=losses[3:])
    assert _steps(tmp_path) == kept
    assert _restored_step(tmp_path) == 6
    assert _read(tmp_path) == 6
    assert _read(tmp_path, best=True) == (kept[0] if len(kept) == 3 else 6)


def test_without_a_measured_checkpoint_there_is_no_best(tmp_path):
    _save(tmp_path, 1)
    with pytest.raises(UserError, match="no checkpoint has been measured") as caught:
        _read(tmp_path, best=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="holds no checkpoint"):
        _read(tmp_path / "none", best=True)


@tears
def test_the_next_best_takes_the_place_of_a_torn_best(tmp_path, capsys):
    _save(tmp_path, 1, 2, 3, 4, keep=4, losses=(4.0, 1.0, 2.0, 3.0))
    (tmp_path / "2" / "state" / "manifest.ocdbt").unlink()
    assert _read(tmp_path, best=True) == 3
    assert f"{tmp_path / '2'}: passed over" in capsys.readouterr().err


def test_torn_metrics_are_named_and_repaired_by_the_run(tmp_path):
    _save(tmp_path, 1, 2, losses=(1.0, 2.0))
    (tmp_path / "1" / "metrics" / "metrics").write_bytes(b"{")
    with pytest.raises(UserError, match="the metrics of a checkpoint cannot be read; continue"):
        _read(tmp_path)
    assert _restored_step(tmp_path) == 2
    assert _read(tmp_path, best=True) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("network.width=0.0625", "a run with network.width=0.03125, not 0.0625"),
        ("discriminator.layers=2", "a run with discriminator.layers=1, not 2"),
        ("batch_size=16", "a run with batch_size=8, not 16"),
        ("seed=5", "a run with seed=0, not 5"),
        ("data=others", "a run with data=faces, not others"),
    ],
)
def test_another_run_is_refused_in_one_line(tmp_path, change, words):
    _save(tmp_path, 1)
    with pytest.raises(UserError, match=words) as caught:
        _restored_step(tmp_path, tiny.training_config("data=faces", change))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_how_it_goes_on_may_change(tmp_path):
    _save(tmp_path, 1)
    changes = ("learning_rate=1e-5", "steps=99", "fsdp=true", "accumulate=2", "loss.leak=1.0")
    assert _restored_step(tmp_path, tiny.training_config("data=faces", *changes)) == 1


def test_half_a_checkpoint_is_passed_over(tmp_path):
    _save(tmp_path, 1)
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    assert _restored_step(tmp_path) == 1


def _files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


@tears
def test_a_torn_newest_checkpoint_is_passed_over_or_read_whole(tmp_path, capsys):
    """Delete or cut every file in turn: never a wrong state, never less than the one before."""
    whole = tmp_path / "whole"
    _save(whole, 3, 6, losses=(2.0, 1.0))
    passed_over = 0
    for file in _files(whole / "6"):
        for cut in (None, 0, 0.5):
            folder = tmp_path / "torn"
            shutil.copytree(whole, folder)
            torn = folder / "6" / file
            content = torn.read_bytes()
            torn.unlink() if cut is None else torn.write_bytes(content[: int(cut * len(content))])
            step = _restored_step(folder)
            lines = [line for line in capsys.readouterr().err.splitlines() if "passed" in line]
            if step == 3:
                passed_over += 1
                (line,) = lines
                assert f"{folder / '6'}: passed over, it cannot be read" in line
                assert (folder / "unreadable-6").is_dir()
                # The step that is moved aside can be saved again, and keeps nothing from staying.
                _save(folder, 4, 6, keep=1)
                assert _restored_step(folder) == 6
            else:
                assert step == 6
                assert lines == []
            shutil.rmtree(folder)
    assert passed_over >= 10


@tears
def test_a_run_is_not_begun_anew_when_no_checkpoint_can_be_read(tmp_path):
    _save(tmp_path, 3, 6)
    for step in "36":
        (tmp_path / step / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(UserError, match="none of its checkpoints can be read") as caught:
        _restored_step(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "3").is_dir()
    assert (tmp_path / "6").is_dir()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(28, "No space left on device", "part of a checkpoint"),
        ValueError(
            "RESOURCE_EXHAUSTED: Failed writing: Failed to write 9 bytes to file 7: "
            "No space left on device [os_error_code='28']"
        ),
    ],
)
def test_a_full_disk_stops_in_one_line_and_harms_nothing(tmp_path, monkeypatch, error):
    _save(tmp_path, 3)
    with _open(tmp_path) as checkpoints:

        def full(*args, **kwargs):
            raise error

        monkeypatch.setattr(checkpoints._checkpointer, "wait", full)
        with pytest.raises(
            UserError, match=r"cannot be written \(No space left on device\): stopped"
        ) as caught:
            checkpoints.wait()
    assert "\n" not in str(caught.value)
    assert _restored_step(tmp_path) == 3


def test_reading_a_run_changes_nothing(tmp_path):
    _save(tmp_path, 3, losses=(1.0,))
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    before = _files(tmp_path)
    assert _read(tmp_path) == _read(tmp_path, best=True) == 3
    assert _files(tmp_path) == before
    assert (tmp_path / "4.orbax-checkpoint-tmp").is_dir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        _read(tmp_path / "none")
    assert not (tmp_path / "none").exists()
