"""A coarser network first."""

import numpy as np
import pytest
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.models import pretrained
from identitydp_jax.training import coarse
from identitydp_jax.training import state as states
from identitydp_jax.training.configuration import check


@pytest.fixture
def runs(monkeypatch):
    """Replace training by its start; return what it was called with."""
    calls = []

    def train(config, workdir, *, profile=False, faces=None, start_from=None):
        calls.append((config, workdir, faces, start_from))
        return states.create(config, start_from=start_from)

    monkeypatch.setattr(coarse, "train", train)
    return calls


def test_a_coarser_network_is_trained_first_and_the_whole_one_starts_from_it(runs, tmp_path):
    config = tiny.training_config("coarse_steps=4", "coarse_rate=3.0", "seed=3")
    state = coarse.train_in_stages(config, tmp_path)
    (first, folder, faces, start), (whole, workdir, own, start_from) = runs
    check(first)
    assert (first.steps, first.network.finer, first.coarse_steps) == (4, False, 0)
    assert first.learning_rate == 3 * whole.learning_rate
    assert first.loss.adversarial == first.loss.attributes == 0 < first.loss.identity
    assert folder == tmp_path / "coarse" and faces == tmp_path and start is None
    assert whole == config and whole.loss.adversarial > 0  # as it was given
    assert workdir == tmp_path and own is None
    given = pretrained.load(start_from).variables["params"]
    np.testing.assert_array_equal(
        state.params["generator"]["coarse"]["kernel"], given["generator"]["coarse"]["kernel"]
    )
    assert not np.any(state.params["generator"]["gain"])


def test_without_coarse_steps_there_is_one_run(runs, tmp_path):
    config = tiny.training_config()
    coarse.train_in_stages(config, tmp_path)
    assert [call[0] for call in runs] == [config] and runs[0][3] is None


def test_a_run_that_starts_from_a_model_leaves_out_the_first_stages(runs, tmp_path):
    config = tiny.training_config("coarse_steps=4")
    file = tmp_path / "given.safetensors"
    pretrained.save(
        file, states.network_config(config), states.create(config).variables, encoder="w600k_mbf"
    )
    coarse.train_in_stages(config, tmp_path, start_from=file)
    assert [(call[0], call[3]) for call in runs] == [(config, file)]


def test_a_network_without_a_coarse_face_has_no_coarse_steps():
    with pytest.raises(UserError, match="coarse_steps is 4, but the network draws no coarse face"):
        check(tiny.training_config("coarse_steps=4", "network.coarse=64"))
