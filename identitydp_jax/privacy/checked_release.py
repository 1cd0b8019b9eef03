"""Releases by compiled programs that have given known answers.

What runs is a compiled program, maybe one that an earlier run left in a folder. So before the first
release of a process the program is run on embeddings and keys that everybody knows, and its codes
compared with those that `privacy.mechanism` is known to give: integers, the same everywhere. A
program that leaves out the noise, or a device that computes wrongly, is found. Not found is one
made to pass: who may write to that folder, or to this package, is trusted.

There is one program per mechanism and length of embeddings, for rows in blocks of one size: the one
that is checked is the one that releases.
"""

import functools
import hashlib

import jax
import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import chacha, keys, mechanism
from identitydp_jax.privacy.discrete_gaussian import design
from identitydp_jax.privacy.privunit import PrivUnit
from identitydp_jax.privacy.setting import PrivacySetting
from identitydp_jax.sharding import map_rows

_BLOCK = 8  # rows: a photo's faces seldom are more, and one takes a millisecond
# The first 16 digits of the SHA-256 of the codes, for embeddings as long as those of the encoders.
_ANSWERS = {
    ("laplace", 512): "30317ceb3c4bbbf8",
    ("laplace", 128): "9a5cd8d563f882bb",
    ("privunit", 512): "ef27da2386b3adf8",
    ("privunit", 128): "572f795449622e2c",
    ("gaussian", 512): "a1e5b5e0f0c25613",
    ("gaussian", 128): "33b8cb44723ce198",
    ("random", 512): "06eb9086c7f90b38",
    ("random", 128): "44ea681d5049f5c7",
}


def release_rows(embedding: np.ndarray, *, keys, setting: PrivacySetting) -> np.ndarray:
    """Return the codes of `mechanism.release`, int32 (N, d), after `check_answers`.

    Args:
      embedding: float32 (N, d), d the setting's dimension.
      keys: N typed ChaCha20 keys, each used once.
      setting: the mechanism and its budget.

    Raises:
      UserError: the compiled mechanism does not give the known answers.
    """
    check_answers(setting.mechanism, setting.dimension)
    return _release(setting.mechanism, setting.arrays, embedding, keys)


@functools.cache
def check_answers(name: str, dimension: int) -> None:
    """Raise `UserError` unless a compiled mechanism gives the codes that it must; once a process.

    Args:
      name: of the mechanism, one of `setting.MECHANISMS`.
      dimension: length of the embeddings; codes are known for 128 and 512 alone.
    """
    answer = _ANSWERS.get((name, dimension))
    if answer is None:
        return
    codes = _release(name, _arrays(name, dimension), *_questions(dimension))
    if hashlib.sha256(codes.astype("<i4").tobytes()).hexdigest()[:16] != answer:
        folder = jax.config.jax_compilation_cache_dir
        raise UserError(
            f"the compiled mechanism {name} gives other codes than it must, so nothing is released:"
            f" {f'empty {folder}, which keeps compiled programs' if folder else 'update JAX'}"
        )


def _release(name: str, arrays, embedding, keys) -> np.ndarray:
    """Return codes (N, d), the rows in blocks that all have one shape."""
    blocks = [np.zeros((0, embedding.shape[1]), np.int32)]
    for start in range(0, len(embedding), _BLOCK):
        index = np.minimum(np.arange(start, start + _BLOCK), len(embedding) - 1)
        block = map_rows(_program(name), arrays, embedding[index], keys[index])
        blocks.append(block[: len(embedding) - start])
    return np.concatenate(blocks)


@functools.cache
def _program(name: str):
    """Return a mechanism as a function for `map_rows`, the same object every time."""
    return lambda arrays, rows, keys: mechanism.release(
        rows, key=keys, mechanism=name, arrays=arrays
    )


def _arrays(name: str, dimension: int):
    """Return the noise of the known answers."""
    if name == "privunit":
        return PrivUnit(2, 64, 2**63, dimension).arrays()  # as `design` takes a second
    if name == "gaussian":
        return design(1.0).arrays()
    return PrivacySetting(name, dimension=dimension).arrays


def _questions(dimension: int):
    """Return a block of embeddings, and keys that are no secrets."""
    rows = np.arange(_BLOCK * dimension, dtype=np.uint32) * np.uint32(2654435761) >> 16
    master = keys.audit_master(0)
    digests = [hashlib.sha256(bytes([row])).digest() for row in range(_BLOCK)]
    known = [keys.image_key(master, digest=digest, policy="known answer") for digest in digests]
    embedding = rows.astype(np.float32).reshape(_BLOCK, dimension) - np.float32(2**15)
    return embedding, chacha.stack(known)
