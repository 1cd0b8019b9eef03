"""The training loop."""

import contextlib
import errno
import functools
import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax import sharding
from identitydp_jax.checks import UserError, writable_folder
from identitydp_jax.data.batches import picture_shape
from identitydp_jax.models.identity import load_encoder
from identitydp_jax.training import state as states
from identitydp_jax.training.checkpoint import Checkpoints
from identitydp_jax.training.configuration import check, check_dimension
from identitydp_jax.training.console import Console
from identitydp_jax.training.face_stream import open_stream
from identitydp_jax.training.held_out import make_evaluation
from identitydp_jax.training.processes import Preempted, preemption
from identitydp_jax.training.recorder import Recorder
from identitydp_jax.training.statistics import measure_identities, population_statistics
from identitydp_jax.training.step import make_step
from identitydp_jax.training.utilization import step_flops

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_STATISTICS_BATCH, _STATISTICS_BATCHES = 64, 16  # faces seen before the statistics are frozen
_TRACED_AFTER, _TRACED = 10, 3  # steps of this run that the profiler leaves out, and sees


def train(
    config, workdir, *, profile: bool = False, faces=None, start_from=None
) -> states.TrainState:
    """Train as `config` says until `config.steps`, continuing what `workdir` already holds.

    The devices of all processes work on one batch; process 0 writes metrics, pictures and lines.
    Statistics of batch norm are those of a whole (micro)batch, over all devices.

    Args:
      config: a training configuration (see `configs/`).
      workdir: folder for checkpoints, metrics and pictures, shared by all processes; made if it is
        missing.
      profile: write what JAX's profiler sees of three steps into the folder `profile`.
      faces: folder whose generated faces it uses, if other than `workdir`.
      start_from: model file that a run begins with, see `state.create`; None starts from nothing.

    Returns:
      The final state, as global arrays.

    Raises:
      UserError: a value of the configuration, the data or the folder can't be used, or a loss
        stopped being finite.
      Preempted: SIGTERM came; what is done has been saved, and the same call continues from it.
    """
    check(config)
    workdir = writable_folder(workdir, "--workdir")
    mesh = sharding.make_mesh()
    sharding.check_divisible(config.batch_size, mesh, accumulate=config.accumulate)
    encode, encoder_params = load_encoder(config.encoder)
    check_dimension(config, encode)
    encoder_params = sharding.place(encoder_params, sharding.replicated(mesh))
    state = states.create(config, start_from=start_from)
    state = sharding.place(state, sharding.state_shardings(state, mesh, fsdp=config.fsdp))
    root = jax.random.key(config.seed)
    with (
        _naming(workdir),
        Checkpoints(workdir / "checkpoints", keep=config.keep, config=config) as checkpoints,
        preemption() as asked_to_stop,
    ):
        state, seen = checkpoints.restore(state)
        start = int(state.step)
        if start >= config.steps:
            return state
        batches = open_stream(config, pathlib.Path(faces or workdir), mesh)
        if start == 0:
            state = _with_population(config, state, batches, encode, encoder_params, mesh)
        evaluate = _evaluation(config, encode, batches, mesh)
        if seen is not None:
            batches.set_state(seen)
        lower = functools.partial(lower_step, config, encode, mesh, encoder_params)
        flops = step_flops(config, encode, state, encoder_params)
        console = Console(config, start=start, flops=flops)
        traced = range(min(start + _TRACED_AFTER, config.steps - 1), config.steps)[:_TRACED]
        metrics = None
        with Recorder(workdir, start=start, writes=jax.process_index() == 0) as recorder:
            for i in range(start, config.steps):
                with console.pause():
                    if i == config.freeze_statistics_at:
                        state = _frozen(config, state, batches, encode, encoder_params, mesh)
                    if i in (start, config.freeze_statistics_at):
                        freeze_at = config.freeze_statistics_at
                        step = lower(frozen=freeze_at is not None and i >= freeze_at).compile()
                if profile and i == traced.start:
                    jax.profiler.start_trace(str(workdir / "profile"))
                with console.wait(metrics):
                    pictures = next(batches)
                state, metrics = step(state, encoder_params, pictures, jax.random.fold_in(root, i))
                done = i + 1
                last, stops = done == config.steps, asked_to_stop(done)
                logs, regular = (
                    last or done % every == 0
                    for every in (config.log_every, config.checkpoint_every)
                )
                if logs or regular or stops:
                    values = _checked({k: float(v) for k, v in metrics.items()}, done)
                if profile and done == traced.stop:
                    jax.block_until_ready(metrics)
                    jax.profiler.stop_trace()
                if logs:
                    values |= console.pace(done)
                    recorder.scalars("metrics", done, values)
                    console.line(done, values)
                if regular or stops:
                    with console.pause():
                        found = None
                        if regular:
                            found, grid = evaluate(state.variables, encoder_params)
                            recorder.scalars("held_out", done, found)
                            recorder.pictures(done, grid)
                        checkpoints.save(done, state, batches.get_state(), found)
                if stops and not last:
                    checkpoints.wait()
                    raise Preempted(f"asked to stop: saved step {done}, the same command continues")
    return state


def lower_step(config, encode, mesh, encoder_params, *, frozen: bool):
    """Lower `make_step`'s step over all devices of a mesh, in place of the state it is given.

    Args:
      config: a training configuration.
      encode: `encode(params, crops)` of the frozen identity encoder.
      mesh: from `sharding.make_mesh`.
      encoder_params: of the encoder, or their shapes.
      frozen: as `make_step` takes it.

    Returns:
      JAX's lowered program: `compile()` it, or ask for its cost.
    """
    everywhere = sharding.replicated(mesh)
    state = states.shapes(config)
    shardings = sharding.state_shardings(state, mesh, fsdp=config.fsdp)
    step = jax.jit(
        make_step(config, encode, mesh, frozen=frozen),
        in_shardings=(shardings, everywhere, sharding.over_batch(mesh), everywhere),
        out_shardings=(shardings, everywhere),
        donate_argnums=0,
    )
    pictures = jax.ShapeDtypeStruct((config.batch_size, *picture_shape(config)), jnp.uint8)
    return step.lower(state, encoder_params, pictures, jax.eval_shape(lambda: jax.random.key(0)))


@contextlib.contextmanager
def _naming(workdir):
    """Turn a disk that takes no more metrics and pictures into one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(
            f"{workdir}: cannot be written ({error.strerror}): stopped; make room and run the same "
            "command to continue from the last checkpoint"
        ) from None


def _evaluation(config, encode, batches, mesh):
    """Return `evaluate(variables, encoder_params) -> (values, pictures)` on the held-out faces."""
    everywhere = sharding.replicated(mesh)
    split = sharding.over_batch(mesh) if config.held_out % mesh.size == 0 else everywhere
    pictures = sharding.place(batches.held_out(), split)
    program = jax.jit(make_evaluation(config, encode), out_shardings=everywhere)

    def evaluate(variables, encoder_params):
        values, grid = program(variables, encoder_params, pictures)
        return {name: float(value) for name, value in values.items()}, np.asarray(grid)

    return evaluate


def _with_population(config, state, batches, encode, encoder_params, mesh):
    """Return the state with what the identities of the first faces are like."""
    some = itertools.islice(batches, -(-config.population // config.batch_size))
    population = measure_identities(some, encode, encoder_params, mesh)
    shardings = sharding.state_shardings(population, mesh, fsdp=config.fsdp)
    return state.replace(population=jax.device_put(population, shardings))


def _frozen(config, state, batches, encode, encoder_params, mesh):
    """Return the state with the statistics of many faces, which then stay as they are."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    joined = -(-_STATISTICS_BATCH // config.batch_size)
    join = jax.jit(lambda *parts: jnp.concatenate(parts), out_shardings=sharding.over_batch(mesh))
    some = (join(*itertools.islice(batches, joined)) for _ in range(_STATISTICS_BATCHES))
    statistics = population_statistics(
        config, variables, state.population, some, encode, encoder_params, mesh
    )
    # Each gets buffers of its own: the step donates both.
    copy = jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=sharding.replicated(mesh))
    own, averaged = copy(statistics), copy(statistics)
    return state.replace(batch_stats=own, average={**state.average, "batch_stats": averaged})


def on_host(tree):
    """Return global arrays as numpy arrays, whole in every process; all processes must call it."""
    everywhere = sharding.replicated(sharding.make_mesh())
    return jax.tree.map(np.asarray, jax.jit(lambda x: x, out_shardings=everywhere)(tree))


def _checked(values: dict[str, float], step: int) -> dict[str, float]:
    """Return finite metrics, or stop the run before it saves what is broken."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} at step {step}: stopped; the last checkpoint is sound, "
                "run the same command with a lower learning_rate to continue from it"
            )
    return values
