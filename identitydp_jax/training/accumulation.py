"""A large batch as several smaller ones, one after the other."""

import jax
import jax.numpy as jnp


def over_parts(function, batch, count: int):
    """Apply a function to `count` equal parts of a batch in turn, within one compiled program.

    Only one part's intermediate values are in memory at a time.

    Args:
      function: maps a part to `(means, rows)`: a tree of means over its rows, which are averaged
        over the parts, and a tree of arrays (N / count, ...) with something for every row.
      batch: tree of arrays (N, ...), N a multiple of `count`.
      count: number of parts. Part j holds the rows j, j + count, j + 2 count and so on, so that a
        batch that is split over devices needs no exchange between them.

    Returns:
      `(means, rows)` of the whole batch, the rows in its order. With one part this is
      `function(batch)`; with more the means differ by rounding, and in what is no mean over rows,
      such as statistics that the function takes of the part as a whole.
    """
    if count == 1:
        return function(batch)

    def split(x):
        return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

    def join(x):
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    def add(sums, part):
        means, rows = function(part)
        return jax.tree.map(jnp.add, sums, means), rows

    parts = jax.tree.map(split, batch)
    means, _ = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), means)
    sums, rows = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda x: x / count, sums), jax.tree.map(join, rows)
