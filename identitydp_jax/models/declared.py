"""Declared attributes of a face: the few bits of it that a drawn face may be asked to share.

Gender, age group, skin, glasses and beard, as they look to somebody who has only the picture. Each
is read off by a linear head on the middle map of the frozen identity encoder, far before its
embedding, and only the answer, yes or no, goes on: whoever knows what was preserved and sees the
result knows these bits of the original and, of its embedding, nothing else.
"""

import pathlib
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from identitydp_jax.checks import UserError

ATTRIBUTES = ("gender", "age", "skin", "glasses", "beard")
# What is asked about a face: the attribute, and the answer yes. Somebody who is neither a child nor
# a senior is an adult, and a skin that isn't at least medium is light.
QUESTIONS = (
    ("gender", "male"),
    ("age", "child"),
    ("age", "senior"),
    ("skin", "medium or darker"),
    ("skin", "dark"),
    ("glasses", "worn"),
    ("beard", "worn"),
)
_CHILD, _SENIOR, _MEDIUM, _DARK = 1, 2, 3, 4
GALLERY_SIZE = 1024
FOLDER = pathlib.Path(__file__).parent / "shipped" / "declared"


def zeros(dimension: int, inputs: int) -> dict:
    """Return heads and statistics of this shape, all zero, as jax arrays.

    Args:
      dimension: D, the length of an embedding.
      inputs: P, the number of values of an encoder's middle map.

    Returns:
      float32 `kernel` (P, A) and `bias` (A,) of the heads, A = len(QUESTIONS), the statistics of
      `measure`, and the `gallery` (GALLERY_SIZE, D), unit embeddings of faces of nobody, with their
      answers, `gallery_answers` (GALLERY_SIZE, A).
    """
    count = len(QUESTIONS)
    shapes = {
        "kernel": (inputs, count),
        "bias": (count,),
        "mean": (count,),
        "covariance": (count, count),
        "cross": (count, dimension),
        "gallery": (GALLERY_SIZE, dimension),
        "gallery_answers": (GALLERY_SIZE, count),
    }
    return {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}


def load(encoder: str) -> dict | None:
    """Return heads and statistics for an encoder by its name; None if none come with the package.

    They are what `zeros` describes, float32 numpy arrays.
    """
    path = FOLDER / f"{encoder}.safetensors"
    if not path.is_file():
        return None
    tensors = safetensors.numpy.load(path.read_bytes())
    return {name: np.float32(value) for name, value in tensors.items()}


def find(declared, maps):
    """Answer the questions about faces.

    Args:
      declared: with the `kernel` and `bias` of `load`.
      maps: (N, H, W, C), of `Encoder.middle`.

    Returns:
      float32 (N, A), 1 for yes and 0 for no. Nobody is a child and a senior at once, and dark is
      at least medium.
    """
    scores = maps.reshape(len(maps), -1) @ declared["kernel"] + declared["bias"]
    yes = scores > 0
    yes = yes.at[:, _SENIOR].set(yes[:, _SENIOR] & ~yes[:, _CHILD])
    yes = yes.at[:, _DARK].set(yes[:, _DARK] & yes[:, _MEDIUM])
    return yes.astype(jnp.float32)


def measure(embeddings, answers) -> dict:
    """Return what answers say of embeddings: `mean`, `covariance` and `cross`.

    Args:
      embeddings: (N, D) of many people.
      answers: (N, A) of `find` on the same faces.

    Returns:
      float32 mean (A,) and covariance (A, A) of the answers, and their covariance with the
      embeddings, `cross` (A, D).
    """
    mean = answers.mean(0)
    centred = (answers - mean) / len(answers)
    return {
        "mean": mean,
        "covariance": jnp.matmul(centred.T, answers - mean, precision="highest"),
        "cross": jnp.matmul(centred.T, embeddings - embeddings.mean(0), precision="highest"),
    }


def preserved(names: Iterable[str]) -> np.ndarray:
    """Return which questions belong to the attributes of these names, bool (A,)."""
    chosen = set(names)
    return np.array([attribute in chosen for attribute, _ in QUESTIONS])


def parse(text: str) -> tuple[str, ...]:
    """Return the attributes that a user lists, in the order of `ATTRIBUTES`; `none` is none.

    Raises:
      UserError: one of them isn't known.
    """
    names = [] if text.strip() == "none" else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in ATTRIBUTES]:
        raise UserError(
            f"preserve is {text!r}: there is no attribute {unknown[0]!r}; give none, or some of"
            f" {','.join(ATTRIBUTES)}"
        )
    return tuple(name for name in ATTRIBUTES if name in names)
