"""Identity and styles first, without images: most of what a pretrained generator has to be told.

Generated faces come with the styles that drew them. Before any loss on drawn faces the network
learns by regression, at a fraction of the cost, to read the styles off a face, and the identity's
part in them off an embedding.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from identitydp_jax import sharding
from identitydp_jax.data.augmentation import recolour
from identitydp_jax.data.batches import picture_shape
from identitydp_jax.data.sources import decode_face, open_faces
from identitydp_jax.models import cut_source
from identitydp_jax.models.aeinet import AEINet
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.models.prior import IdentityStyle, hold
from identitydp_jax.training import state as states
from identitydp_jax.training.checkpoint import Checkpoints
from identitydp_jax.training.recorder import Recorder
from identitydp_jax.training.step import split_twins

_CHUNK = 64  # pictures embedded at once
_PAIRS = 256  # embeddings a step whose styles are compared
_RIDGE = 1.0  # of the ridge regression of deviations on embeddings of unit norm
_SPREAD = 0.3  # length of the noise on embeddings, so that no pair is learned by heart


def train_styles(config, workdir, faces, *, encode, encoder_params):
    """Train a network to read styles for `config.styles_steps` steps; resumes in `workdir`.

    The loss is the mean square of the errors of codes in standard deviations: of a face drawn with
    its own identity or its twin's (config.batch_size faces), and of the identity's code alone.

    Args:
      config: a training configuration whose `network.fusion` is `prior`.
      workdir: folder for checkpoints and metrics.
      faces: folder of the generated faces of the run, with twins.
      encode: `encode(params, crops)` of the frozen identity encoder.
      encoder_params: its parameters.

    Returns:
      The final state.
    """
    workdir, everywhere = pathlib.Path(workdir), sharding.replicated(sharding.make_mesh())
    state = sharding.place(states.create(config), everywhere)
    with Checkpoints(workdir / "checkpoints", keep=1, config=config) as checkpoints:
        state, _ = checkpoints.restore(state)
        start = int(state.step)
        if start >= config.styles_steps:
            return state
        pictures, styles = read_pairs(config, faces)
        embeddings = embed_pairs(pictures, encode, encoder_params)
        if start == 0:
            state = _with_ridge(state, embeddings, styles)
        state = sharding.place(state, everywhere)
        step = jax.jit(_make_step(config), donate_argnums=0)
        root, rng = jax.random.key(config.seed), np.random.default_rng
        with Recorder(workdir, start=start, writes=jax.process_index() == 0) as recorder:
            for i in range(start, config.styles_steps):
                draw = rng([config.seed, i])
                rows = draw.integers(len(pictures), size=2 * config.batch_size)
                pairs = draw.integers(len(pictures), size=_PAIRS)
                state, metrics = step(
                    state, pictures[rows], embeddings[rows], styles[rows], embeddings[pairs],
                    styles[pairs], jax.random.fold_in(root, i),
                )  # fmt: skip
                done = i + 1
                logs = done % config.log_every == 0
                saves = done % config.checkpoint_every == 0 or done == config.styles_steps
                if logs or saves:
                    values = {name: float(value) for name, value in metrics.items()}
                if logs:
                    recorder.scalars("metrics", done, values)
                    print(f"styles {done}/{config.styles_steps} {values}", flush=True)
                if saves:
                    checkpoints.save(done, state, {"next_index": done}, {"loss": values["total"]})
    return state


def read_pairs(config, folder) -> tuple[np.ndarray, np.ndarray]:
    """Return the generated pictures of a run and the styles that drew them.

    Returns:
      uint8 (N, R, 2 R, 3), and float32 (N, 2, count, 512) of each face and of its twin.
    """
    source, side = open_faces(str(folder)), config.network.resolution
    count = len(source) - config.held_out
    pictures = np.empty((count, *picture_shape(config)), np.uint8)
    for i in range(count):
        pictures[i] = decode_face(source[i], source.name(i), *pictures.shape[1:3])
    params, root = jax.device_put(cut_source.load(side)), jax.random.key(config.seed)

    @jax.jit
    def styles(index):
        keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(index)
        return jnp.stack(cut_source.twin_styles(params, keys, side=side), axis=1)

    return pictures, _in_chunks(styles, np.arange(count, dtype=np.uint32))


def embed_pairs(pictures, encode, encoder_params) -> np.ndarray:
    """Return the unit embeddings (N, 2, D) of pictures uint8 (N, R, 2 R, 3)."""

    @jax.jit
    def embed(pictures):
        pairs = to_float(split_twins(pictures))
        rows = encode(encoder_params, identity_crop(pairs.reshape(-1, *pairs.shape[2:])))
        return rows.reshape(*pairs.shape[:2], -1)

    return _in_chunks(embed, pictures)


def _in_chunks(function, rows):
    parts = range(0, len(rows), _CHUNK)
    return np.concatenate([np.asarray(function(rows[i : i + _CHUNK])) for i in parts])


def _make_step(config):
    """Build the step `(state, ..., key) -> (state, metrics)`, on rows and then on pairs."""
    net, code = AEINet(states.network_config(config)), cut_source.FEATURE_CODES[0]
    transform = states.optimizer(config)

    def loss(params, pictures, embeddings, styles, many, their_styles, key):
        colour_key, face_key, identity_key, noise_key = jax.random.split(key, 4)
        rows, count = jnp.arange(len(pictures)), (len(pictures),)
        faces = recolour(split_twins(pictures), key=colour_key)
        shown = faces[rows, jax.random.randint(face_key, count, 0, 2)]
        asked = jax.random.randint(identity_key, count, 0, 2)
        params = {**params, "generator": hold(params["generator"])}
        variables = {"params": params, "batch_stats": {}}
        _, sown = net.apply(variables, shown, embeddings[rows, asked], mutable=["penalties"])
        (codes,) = sown["penalties"]["generator"]["codes"]
        generator = params["generator"]
        deviation = generator["style_deviation"]
        mean = generator["style_mean"]
        error = jnp.mean(((codes - styles[rows, asked]) / deviation) ** 2, axis=(0, 2))
        many = many.reshape(-1, many.shape[-1])
        noise = jax.random.normal(noise_key, many.shape) * (_SPREAD * many.shape[-1] ** -0.5)
        many = many + noise
        many = many / jnp.linalg.norm(many, axis=-1, keepdims=True)
        found = IdentityStyle().apply({"params": generator["styles"]["identity"]}, many)
        wanted = (their_styles[:, :, code].reshape(found.shape) - mean) / deviation
        identity = jnp.mean((found - wanted) ** 2)
        terms = {f"code{i}": value for i, value in enumerate(error)}
        total = error.mean() + identity
        return total, {"total": total, "identity": identity, **terms}

    def step(state, *batch):
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, *batch)
        updates, moments = transform.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        average = states.averaged(config, state, params, state.batch_stats)
        state = state.replace(
            step=state.step + 1, params=params, average=average, optimizer=moments
        )
        return state, metrics

    return step


def _with_ridge(state, embeddings, styles):
    """Return the state with the linear part of `IdentityStyle` fitted to the pairs."""
    generator = state.params["generator"]
    mean, deviation = (np.asarray(generator[f"style_{x}"]) for x in ("mean", "deviation"))
    x = embeddings.reshape(-1, embeddings.shape[-1]).astype(np.float64)
    y = (styles[:, :, cut_source.FEATURE_CODES[0]].reshape(len(x), -1) - mean) / deviation
    centre, offset = x.mean(0), y.mean(0)
    gram = (x - centre).T @ (x - centre) + _RIDGE * np.eye(x.shape[1])
    kernel = np.linalg.solve(gram, (x - centre).T @ (y - offset))
    linear = {
        "kernel": jnp.asarray(kernel * x.shape[1] ** -0.5, jnp.float32),
        "bias": jnp.asarray(offset - centre @ kernel, jnp.float32),
    }
    identity = {**generator["styles"]["identity"], "linear": linear}
    generator = {**generator, "styles": {**generator["styles"], "identity": identity}}
    return state.replace(params={**state.params, "generator": generator})
