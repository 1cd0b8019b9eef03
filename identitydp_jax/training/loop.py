"""The training loop."""

import math
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from identitydp_jax import sharding
from identitydp_jax.checks import UserError
from identitydp_jax.data.folder import training_batches
from identitydp_jax.models.aeinet import AEINet
from identitydp_jax.models.identity import load_encoder
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float, to_uint8
from identitydp_jax.training import state as states
from identitydp_jax.training.checkpoint import Checkpoints
from identitydp_jax.training.configuration import check
from identitydp_jax.training.noise import draw_identities
from identitydp_jax.training.recorder import Recorder
from identitydp_jax.training.statistics import population_statistics
from identitydp_jax.training.step import make_step
from identitydp_jax.training.synthetic_source import write_folder

_SHOWN = 8
_STATISTICS_BATCH, _STATISTICS_BATCHES = 64, 16  # faces seen before the statistics are frozen


def train(config, workdir) -> states.TrainState:
    """Train as `config` says until `config.steps`, continuing what `workdir` already holds.

    Args:
      config: a training configuration (see `configs/`).
      workdir: folder for checkpoints, metrics and pictures; made if it is missing.

    Returns:
      The final state.

    Raises:
      UserError: a value of the configuration, the data or the folder can't be used, or a loss
        stopped being finite.
    """
    check(config)
    workdir = _made(workdir)
    mesh = sharding.make_mesh()
    sharding.check_divisible(config.batch_size, mesh)
    everywhere, split = sharding.replicated(mesh), sharding.over_batch(mesh)
    encode, encoder_params = load_encoder(config.encoder)
    encoder_params = jax.device_put(encoder_params, everywhere)
    step, frozen_step = (
        jax.jit(
            make_step(config, encode, frozen=frozen),
            in_shardings=(everywhere, everywhere, split, everywhere),
            out_shardings=everywhere,
            donate_argnums=0,
        )
        for frozen in (False, True)
    )
    show = jax.jit(_make_show(config, encode))
    root = jax.random.key(config.seed)
    network = {"network": dict(config.network), "discriminator": dict(config.discriminator)}
    with Checkpoints(workdir / "checkpoints", keep=config.keep, network=network) as checkpoints:
        state = checkpoints.restore(jax.device_put(states.create(config), everywhere))
        start = int(state.step)
        if start >= config.steps:
            return state
        folder = _folder(config, workdir)
        batches = _batches(config, folder, config.batch_size, start, config.steps)
        with Recorder(workdir, start=start) as recorder:
            since, counted = time.perf_counter(), start
            progress = tqdm(
                range(start, config.steps), initial=start, total=config.steps, unit="step",
                mininterval=10,
            )
            for i in progress:
                if i == config.freeze_statistics_at:
                    state = jax.device_put(
                        _frozen(config, state, folder, encode, encoder_params), everywhere
                    )
                if i >= config.freeze_statistics_at:
                    step = frozen_step
                faces = jax.device_put(next(batches), split)
                state, metrics = step(state, encoder_params, faces, jax.random.fold_in(root, i))
                done = i + 1
                last = done == config.steps
                logs = last or done % config.log_every == 0
                saves = last or done % config.checkpoint_every == 0
                if logs or saves:
                    values = _checked({k: float(v) for k, v in metrics.items()}, done)
                if logs:
                    now = time.perf_counter()
                    values["images_per_second"] = (
                        (done - counted) * config.batch_size / (now - since)
                    )
                    since, counted = now, done
                    recorder.scalars(done, values)
                    progress.set_postfix(
                        total=f"{values['total']:.3f}", cosine=f"{values['cosine_target']:.3f}"
                    )
                if last or done % config.picture_every == 0:
                    rows = show(state.average, encoder_params, faces[:_SHOWN])
                    recorder.pictures(done, [np.asarray(row) for row in rows])
                if saves:
                    checkpoints.save(done, state)
    return state


def _made(workdir) -> pathlib.Path:
    """Make the folder if it is missing, and see that files can be made in it."""
    workdir = pathlib.Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(
            f"{workdir}: cannot be written ({error.strerror}); give another --workdir"
        ) from None
    return workdir


def _folder(config, workdir) -> pathlib.Path:
    """Return the folder of training faces; `synthetic` is written into the workdir first."""
    if config.data != "synthetic":
        return pathlib.Path(config.data)
    folder = workdir / "faces"
    write_folder(
        folder,
        count=config.synthetic_faces,
        resolution=config.network.resolution,
        seed=config.seed,
        image_format="png",
    )
    return folder


def _batches(config, folder, batch_size: int, start: int, stop: int):
    """Return batches `start` to `stop` of the training faces."""
    return training_batches(
        folder, resolution=config.network.resolution, batch_size=batch_size, seed=config.seed,
        start=start, stop=stop,
    )


def _frozen(config, state, folder, encode, encoder_params):
    """Return the state with the statistics of many faces, which then stay as they are."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    batches = _batches(config, folder, _STATISTICS_BATCH, 0, _STATISTICS_BATCHES)
    statistics = population_statistics(config, variables, batches, encode, encoder_params)
    # A copy: the step donates both.
    average = {**state.average, "batch_stats": jax.tree.map(jnp.copy, statistics)}
    return state.replace(batch_stats=statistics, average=average)


def _checked(values: dict[str, float], step: int) -> dict[str, float]:
    """Return finite metrics, or stop the run before it saves what is broken."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} at step {step}: stopped; the last checkpoint is sound, "
                "run the same command with a lower learning_rate to continue from it"
            )
    return values


def _make_show(config, encode):
    """Build rows of pictures: faces, redrawn, with the next face's identity, with random ones."""
    net = AEINet(states.network_config(config))

    def show(variables, encoder_params, faces):
        x = to_float(faces)
        own = encode(encoder_params, identity_crop(x))
        maps = net.apply(variables, x, method="attributes")
        keys = jax.random.split(jax.random.key(0))
        targets = [own, jnp.roll(own, 1, 0), *(draw_identities(own.shape, key=k) for k in keys)]
        drawn = [net.apply(variables, t, maps, method="draw") for t in targets]
        return [faces, *map(to_uint8, drawn)]

    return show


