"""Generated faces kept in the devices' memory and replaced while a model trains on them."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from tqdm import tqdm

from identitydp_jax import sharding
from identitydp_jax.checks import UserError, one_of
from identitydp_jax.data.batches import picture_shape
from identitydp_jax.models import face_source
from identitydp_jax.models.pixels import to_uint8

_CHUNK = 8  # faces that an accelerator generates at once: maps of 512 px take much memory


class FacePool:
    """An endless iterator of batches, drawn at random from a pool of generated faces.

    Row r of every batch is drawn from `config.pool` / N faces of its own, N = `config.batch_size`,
    which lie on the device that works on row r: no face moves between devices. Faces come in
    rounds of N, one for every row; the pool holds the newest `config.pool` / N rounds, and at step
    s that many plus floor(s `config.refresh` / N) rounds have been made, so that `config.refresh`
    faces are replaced per step. Face r of round t and the choice at step s are functions of
    (`config.seed`, t, r) and (`config.seed`, s, r): batches don't depend on the number of devices
    or processes (on accelerators up to the rounding of the generator's arithmetic), and a run that
    resumes makes the newest rounds again, which costs it `config.pool` generated faces.

    All processes have to take batches in step.
    """

    def __init__(self, config, mesh):
        """Prepare to draw batches from the first on; the pool is filled when it is drawn.

        Args:
          config: `batch_size`, `pool`, `refresh`, `held_out`, `seed`, what `picture_shape` reads.
          mesh: from `sharding.make_mesh`, of a size that divides the batch.

        Raises:
          UserError: the pool isn't a multiple of the batch, the generator doesn't draw at this
            resolution, or its weights can't be had.
        """
        side, rows = config.network.resolution, config.batch_size
        one_of("network.resolution", side, face_source.RESOLUTIONS)
        if config.pool % rows:
            nearest = max(1, round(config.pool / rows)) * rows
            raise UserError(
                f"pool is {config.pool}: make it a multiple of batch_size={rows}, as {nearest}"
            )
        self._rows, self._refresh, self._step = rows, config.refresh, 0
        self._rounds, self._held = 0, config.pool // rows
        self._mesh, self._resolution, self._twins = mesh, side, config.mixture.twin > 0
        root = jax.random.key(config.seed)
        self._face_root, self._draw_root, self._held_out_root = (
            _named(root, name) for name in ("faces", "draws", "held out")
        )
        self._held_out = config.held_out
        self._params = sharding.place(face_source.load(), sharding.replicated(mesh))
        self._pool = _empty(mesh, (rows, self._held, *picture_shape(config)))

    def __iter__(self):
        """Return itself."""
        return self

    def __next__(self) -> jax.Array:
        """Return the next batch: uint8 (N, R, K R, 3), split over the devices of the mesh."""
        self._make_rounds(self._held + self._step * self._refresh // self._rows)
        key = jax.random.fold_in(self._draw_root, self._step)
        self._step += 1
        return _draw(self._pool, key, mesh=self._mesh)

    def get_state(self) -> dict[str, int]:
        """Return the number of the next batch, which decides all that follows."""
        return {"next_index": self._step}

    def set_state(self, state: dict[str, int]) -> None:
        """Continue with the batch that `get_state` named, also in a pool on other devices."""
        self._step = state["next_index"]

    def held_out(self) -> np.ndarray:
        """Return faces of another root key than the pool's, the same in every process."""
        keys = jax.random.split(self._held_out_root, self._held_out)
        draw = functools.partial(_pictures, resolution=self._resolution, twins=self._twins)
        return np.asarray(jax.jit(draw)(face_source.load(), keys))

    def _make_rounds(self, until: int) -> None:
        """Fill the pool with rounds `until` - held to `until` - 1, unless it has them."""
        if until < self._rounds:
            self._rounds = 0
        missing = range(max(self._rounds, until - self._held), until)
        filling = len(missing) == self._held > 1 and jax.process_index() == 0
        for number in tqdm(missing, "faces", unit="round", disable=not filling):
            self._pool = _replace(
                self._pool, self._params, self._face_root, np.uint32(number * self._rows),
                number % self._held, mesh=self._mesh, resolution=self._resolution,
                twins=self._twins,
            )  # fmt: skip
        self._rounds = until


@functools.partial(jax.jit, static_argnames=("mesh", "resolution", "twins"), donate_argnums=0)
def _replace(pool, params, root, first, place, *, mesh, resolution, twins):
    """Put faces `first`, `first` + 1, ... into place `place` of every row of the pool."""

    def on_device(pool, params, root, first, place):
        index = first + _own_rows(pool).astype(jnp.uint32)
        keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(index)
        return pool.at[:, place].set(_pictures(params, keys, resolution=resolution, twins=twins))

    split, whole = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(split, whole, whole, whole, whole), out_specs=split,
        check_vma=False,
    )(pool, params, root, first, place)  # fmt: skip


def _pictures(params, keys, *, resolution, twins):
    """Generate uint8 pictures (N, R, K R, 3), one for every key: a face, or it and its twin."""

    def picture(key):
        if twins:
            pair = face_source.draw_twins(params, key[None], resolution=resolution)[0]
            return to_uint8(jnp.concatenate([*pair], axis=1))
        return to_uint8(face_source.draw(params, key[None], resolution=resolution)[0])

    # One at a time a CPU is as fast, and a face is the same to the last bit in any batch.
    chunk = None if jax.default_backend() == "cpu" else _CHUNK
    return jax.lax.map(picture, keys, batch_size=chunk)


@functools.partial(jax.jit, static_argnames="mesh")
def _draw(pool, key, *, mesh):
    """Draw one face of every row's own."""

    def on_device(pool, key):
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(_own_rows(pool))
        choice = jax.vmap(lambda k: jax.random.randint(k, (), 0, pool.shape[1]))(keys)
        return pool[jnp.arange(pool.shape[0]), choice]

    split = PartitionSpec("data")
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split, check_vma=False
    )(pool, key)


def _own_rows(pool):
    """Return the numbers of the rows that this device holds."""
    return jax.lax.axis_index("data") * pool.shape[0] + jnp.arange(pool.shape[0])


def _empty(mesh, shape):
    return jax.jit(lambda: jnp.zeros(shape, jnp.uint8), out_shardings=sharding.over_batch(mesh))()


def _named(root, name: str):
    """Return a key for one purpose; no step has a number as high as the names."""
    return jax.random.fold_in(root, zlib.crc32(name.encode()))
