"""A coarser network first: what an identity looks like is learned in a fraction of the time."""

import pathlib

import jax
from jax.experimental import multihost_utils

from identitydp_jax import sharding
from identitydp_jax.models.identity import load_encoder
from identitydp_jax.models.pretrained import save
from identitydp_jax.training import state as states
from identitydp_jax.training.face_stream import open_stream
from identitydp_jax.training.loop import on_host, train
from identitydp_jax.training.styles import train_styles


def coarse_config(config):
    """Return the configuration of the coarser network that a run begins with.

    It enlarges the coarse faces of the network, for `config.coarse_steps` steps at
    `config.coarse_rate` times the learning rate, without a discriminator, which would only see that
    they are blurred, and without L_att.
    """
    coarse = config.copy_and_resolve_references()
    coarse.unlock()
    coarse.network.finer = False
    coarse.steps = config.coarse_steps
    coarse.learning_rate *= config.coarse_rate
    coarse.freeze_statistics_at = config.coarse_steps
    coarse.loss.adversarial = coarse.loss.attributes = 0.0
    coarse.coarse_steps = 0
    return coarse


def train_in_stages(
    config, workdir, *, profile: bool = False, start_from=None
) -> states.TrainState:
    """Train as `loop.train` does, which see, after a coarser network if `config.coarse_steps`.

    The coarser one is trained in the folder `coarse` of `workdir` and saved there; the whole one
    starts from it. The same call continues either.
    """
    if start_from is not None:
        return train(config, workdir, profile=profile, start_from=start_from)
    start = _styles_first(config, workdir) if config.styles_steps else None
    if not config.coarse_steps:
        return train(config, workdir, profile=profile, start_from=start)
    first, folder = coarse_config(config), pathlib.Path(workdir) / "coarse"
    state = train(first, folder, faces=workdir, start_from=start)
    start = folder / "coarse.safetensors"
    variables = on_host(state.variables)
    if jax.process_index() == 0:
        save(start, states.network_config(first), variables, encoder=config.encoder)
    multihost_utils.sync_global_devices("coarse")
    return train(config, workdir, profile=profile, start_from=start)


def _styles_first(config, workdir):
    """Train the styles of a network on a pretrained generator; return its file."""
    coarse = coarse_config(config)
    folder = pathlib.Path(workdir) / "styles"
    start = folder / "styles.safetensors"
    if start.exists():
        return start
    open_stream(config, pathlib.Path(workdir), sharding.make_mesh())  # makes the faces
    encode, encoder_params = load_encoder(config.encoder)
    state = train_styles(
        coarse, folder, pathlib.Path(workdir) / "faces", encode=encode,
        encoder_params=encoder_params,
    )  # fmt: skip
    save(start, states.network_config(coarse), state.variables, encoder=config.encoder)
    return start
