"""Training with SFace's embeddings of 128 values."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax import sharding
from identitydp_jax.checks import UserError
from identitydp_jax.models.identity import Encoder
from identitydp_jax.models.sface import SFace
from identitydp_jax.privacy.setting import PrivacySetting
from identitydp_jax.training import loop
from identitydp_jax.training import state as states
from identitydp_jax.training.configuration import check, check_dimension
from identitydp_jax.training.noise import add_laplace

small = functools.partial(tiny.training_config, name="synthetic128_sface")


def test_the_noise_of_training_has_the_scale_of_128_values():
    rows = np.random.default_rng(0).normal(size=(300, 128)).astype(np.float32)
    rows = jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    epsilon = jnp.full(300, 100.0, jnp.float32)
    noised, cosine = add_laplace(rows, key=jax.random.key(0), epsilon=epsilon)
    setting = PrivacySetting("laplace", 100.0, dimension=128)
    assert float(cosine[0]) == pytest.approx(setting.expected_cosine, rel=1e-5)
    assert float((noised * rows).sum(1).mean()) == pytest.approx(setting.expected_cosine, abs=0.02)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_the_step_is_one_of_128_values_in_every_precision(compute):
    config = small(f"compute={compute}")
    check(config)
    encode = Encoder(SFace(), "0" * 64)
    check_dimension(config, encode)
    face = jax.ShapeDtypeStruct((1, 112, 112, 3), jnp.float32)
    params = jax.eval_shape(encode.network.init, jax.random.key(0), face)["params"]
    mesh = sharding.make_mesh()
    loop.lower_step(config, encode, mesh, params, frozen=False)
    assert states.shapes(config).population["mean"].shape == (128,)


@pytest.mark.parametrize(
    ("name", "dimension"), [("synthetic128_sface", 512), ("synthetic128", 128)]
)
def test_an_encoder_of_other_embeddings_is_refused(name, dimension, tmp_path, monkeypatch):
    encode = types.SimpleNamespace(dimension=dimension)
    monkeypatch.setattr(loop, "load_encoder", lambda _: (encode, {}))
    with pytest.raises(UserError, match=f"identity_dimension is .*: set it to {dimension}$") as e:
        loop.train(tiny.training_config(name=name), tmp_path)
    assert "\n" not in str(e.value)
