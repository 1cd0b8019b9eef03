"""What the identity embeddings of people are like, and noised ones brought to look alike.

The embeddings of faces fill a small part of the unit sphere, noised ones all of it: a generator
asked for such an identity can't draw it as a face. `transport` moves them to where faces are, or
to where those of faces with the same declared attributes are. It reads the noised embedding, public
numbers and the declared attributes alone, so it is post-processing: whatever privacy the noised
embedding has given the attributes, the result has too.
"""

import jax.numpy as jnp

_CANDIDATES = 24
_LEAST = 0.05  # of the largest deviation: what varies less decides as if it varied so much
_RIDGE = 1e-6  # so that an answer that all people share can be divided by
# What is linear in the answers leaves out what they do together: this much more of it and targets
# are as like a face (cosine .127 on 2,500 generated ones) as other faces with the same answers.
_EMPHASIS = 1.3


def zeros(dimension: int) -> dict:
    """Return what `measure` does for embeddings of this length, all zero, as jax arrays."""
    axes = {"mean": 1, "basis": 2, "deviation": 1}
    return {name: jnp.zeros((dimension,) * count, jnp.float32) for name, count in axes.items()}


def measure(embeddings) -> dict:
    """Return mean and principal axes of embeddings (N, D) of many people, N at least 2.

    Returns:
      float32 `mean` (D,), `basis` (D, D), one axis per column, orthonormal, and `deviation` (D,),
      the standard deviation along each.
    """
    mean = embeddings.mean(0)
    centred = embeddings - mean
    covariance = jnp.matmul(centred.T, centred, precision="highest") / len(embeddings)
    variance, basis = jnp.linalg.eigh(covariance)
    return {"mean": mean, "basis": basis, "deviation": jnp.sqrt(jnp.maximum(variance, 0.0))}


def anchor(faces, moved, *, cosine):
    """Bring moved identities to those of faces, the less of the original is left in them.

    `transport` gives what is likely for a Gaussian, which lies beside every face. With c the
    cosine between r and what is noised, this is unit(c moved + sqrt(1 - c^2) face).

    Args:
      faces: float32 (N, D), unit identities of faces that a generator can draw.
      moved: float32 (N, D), unit rows, of `transport`.
      cosine: float32 () or (N,), as `transport` takes it.

    Returns:
      float32 (N, D), unit rows.
    """
    c = jnp.reshape(jnp.asarray(cosine, jnp.float32), (-1, 1))
    anchored = c * moved + jnp.sqrt(jnp.maximum(1.0 - c * c, 0.0)) * faces
    return anchored / jnp.linalg.norm(anchored, axis=-1, keepdims=True)


def condition(population, declared, chosen):
    """Return the population of those people whose chosen declared attributes are known.

    Identities r and answers a are read as jointly Gaussian: of people with the answers a,
    identities have the mean m + (a - E a) B with B = Cov(a)^-1 Cov(a, r), and the covariance
    Cov(r) - Cov(r, a) B. So answers that are rare together are as good as frequent ones. The mean
    is moved 1.3 times as far.

    Args:
      population: of `measure`.
      declared: with the statistics of `declared.measure`.
      chosen: bool (A,), of `declared.preserved`; the other answers say nothing.

    Returns:
      What `measure` does, mean m, but the covariance that the answers leave; and float32 `shift`
      (A, D), 1.3 B, with `answers` (A,), E a.
    """
    count = len(chosen)
    both = chosen[:, None] & chosen[None, :]
    among = jnp.where(both, declared["covariance"], jnp.eye(count)) + _RIDGE * jnp.eye(count)
    cross = jnp.where(chosen[:, None], declared["cross"], 0.0)
    shift = jnp.linalg.solve(among, cross)
    scaled = population["basis"] * population["deviation"]
    covariance = jnp.matmul(scaled, scaled.T, precision="highest")
    left = covariance - jnp.matmul(cross.T, shift, precision="highest")
    variance, basis = jnp.linalg.eigh((left + left.T) / 2)
    deviation = jnp.sqrt(jnp.maximum(variance, 0.0))
    fitted = {"basis": basis, "deviation": deviation, "shift": _EMPHASIS * shift}
    return {"mean": population["mean"], "answers": declared["mean"], **fitted}


def suitable(population, declared, moved, answers, chosen):
    """Return for each moved identity a face of nobody that suits it, (N, D) of unit norm.

    Of the gallery's faces those are candidates that share the chosen declared attributes, or most
    of them: at least 24 faces. The one is taken that lies most in the moved identity's direction
    from what faces with these answers are like, in standard deviations. It reads what `transport`
    reads.

    Args:
      population: of `condition`.
      declared: with the gallery of `declared.zeros`.
      moved: (N, D), of `transport`.
      answers: (N, A), as `transport` takes them.
      chosen: bool (A,), as `condition` takes it.
    """
    gallery, theirs = declared["gallery"], declared["gallery_answers"]
    different = jnp.abs(answers[:, None] - theirs) @ jnp.where(chosen, 1.0, 0.0)
    least = jnp.sort(different, axis=1)[:, _CANDIDATES - 1 : _CANDIDATES]
    deviation = population["deviation"]
    scale = jnp.maximum(deviation, _LEAST * deviation.max())

    def white(x, answers):
        rows = ((x - _mean(population, answers)) @ population["basis"]) / scale
        return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)

    likeness = white(moved, answers) @ white(gallery, theirs).T
    return gallery[jnp.argmax(jnp.where(different <= least, likeness, -2.0), axis=1)]


def transport(population, noised, *, cosine, answers=None):
    """Move noised identities to where the identities of people are.

    If identities r have mean m and covariance C = V diag(d^2) V^T, and c r + sqrt(1 - c^2) u is
    noised with u of mean 0 and covariance I / D, this is the optimal transport between Gaussians of
    the moments of both: x -> m + V diag(g) V^T (x - c m), g^2 = d^2 / (c^2 d^2 + (1 - c^2) / D),
    and then onto the unit sphere. Without noise, c = 1, nothing moves.

    Args:
      population: of `measure`; or of `condition`, with which m depends on the answers.
      noised: float32 (N, D), unit rows.
      cosine: float32 () or (N,), the mechanism's expected cosine c between r and what is noised.
      answers: (N, A), of `declared.find` on the faces that were noised; for `condition` alone.

    Returns:
      float32 (N, D), unit rows.
    """
    basis, variance = population["basis"], population["deviation"] ** 2
    mean = population["mean"] if answers is None else _mean(population, answers)
    c = jnp.reshape(jnp.asarray(cosine, jnp.float32), (-1, 1))
    noise = jnp.maximum(1.0 - c * c, 0.0) / mean.shape[-1]
    tiny = jnp.float32(1e-12)  # where neither faces nor noise vary, nothing moves
    gain = jnp.sqrt((variance + tiny) / (c * c * variance + noise + tiny))
    moved = noised + (1.0 - c) * mean + ((gain - 1.0) * ((noised - c * mean) @ basis)) @ basis.T
    return moved / jnp.linalg.norm(moved, axis=-1, keepdims=True)


def _mean(population, answers):
    return population["mean"] + (answers - population["answers"]) @ population["shift"]
