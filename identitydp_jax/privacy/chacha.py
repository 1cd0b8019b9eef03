"""ChaCha20 (RFC 8439) as a type of JAX key: 256 bits, where threefry has 64.

A key made here goes wherever JAX takes a typed key: `jax.random.bits` and all that draws from it,
`split`, `fold_in`, `vmap`, `jit`, shardings, the key-reuse checker.

**Layout.** Every output is a block of 16 words of 32 bits, ChaCha20(key, counter, nonce). The
nonce names the use, so that no block serves two of them:

=========  ==============================  ===============================================
use        nonce, zero-padded to 12 bytes  counter
=========  ==============================  ===============================================
bits       ``draw``                        0, 1, ...: element i is word i mod 16 of block i // 16
split      ``split``                       i: child i is the first 8 words of block i
fold_in    ``fold in``                     the data: the new key is the first 8 words
=========  ==============================  ===============================================

So a draw is the cipher's key stream, a shorter draw begins a longer one, child i is the same
however many there are, and a number depends on its key and place alone: not on batch, order,
shards, devices, nor on jit or vmap. All arithmetic is modulo 2^32, the same on every device.

**How much.** The counter has 32 bits: 2^36 words (256 GiB) a draw, 2^32 children, 2^32 folds. A
draw is of 32-bit words; samplers that ask for others, and longer draws, raise `ValueError`.

**What is guaranteed.** If ChaCha20's block function is a pseudorandom function of (counter, nonce)
under a secret uniform key, as TLS assumes too, then whoever doesn't know the key can tell neither
draws nor derived keys from uniform bits; the best attack that is known tries 2^256 keys. Nothing is
erased from memory, and a key's array, its `repr` and a program that closes over it contain its
words: pass keys as arguments, and print none.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

_KEY_BYTES = 32
_WORDS = 16  # of a block
_CONSTANTS = np.frombuffer(b"expand 32-byte k", "<u4").astype(np.uint32)


def _nonce(use: bytes) -> np.ndarray:
    return np.frombuffer(use.ljust(12, b"\0"), "<u4").astype(np.uint32)


_DRAW, _SPLIT, _FOLD_IN = _nonce(b"draw"), _nonce(b"split"), _nonce(b"fold in")


def key_from_bytes(secret: bytes):
    """Return the typed key of shape () whose 256 bits are `secret`, 32 bytes as in RFC 8439.

    Raises:
      ValueError: `secret` has another length (the message doesn't show it).
    """
    if len(secret) != _KEY_BYTES:
        raise ValueError(f"a ChaCha20 key has {_KEY_BYTES} bytes, not {len(secret)}")
    return jax.random.wrap_key_data(np.frombuffer(secret, "<u4").astype(np.uint32), impl=CHACHA20)


def check_keys(key, shape: tuple[int, ...]) -> None:
    """Raise unless `key` is an array of typed ChaCha20 keys of a shape.

    Raises:
      TypeError: it holds no typed keys, or those of another implementation (64 bits of threefry can
        be searched, and the bits of rbg depend on the batch).
      ValueError: it has another shape.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(f"key has dtype {key.dtype}: give typed ChaCha20 keys, of privacy.keys")
    if jax.random.key_impl(key) != CHACHA20:
        raise TypeError(
            f"key is of {jax.random.key_impl(key)}: give typed ChaCha20 keys, of privacy.keys"
        )
    if key.shape != shape:
        raise ValueError(f"keys of shape {key.shape} for rows of shape {shape}: give one per row")


def stack(keys):
    """Return keys of shape () as one array (N,), N from 1."""
    # Through the bits: jnp.stack would compile for every count, and reads each key twice.
    bits = np.stack([jax.random.key_data(key) for key in keys])
    return jax.random.wrap_key_data(bits, impl=CHACHA20)


@jax.jit
def block(words, counter, nonce):
    """Return the blocks of RFC 8439, section 2.3.

    Args:
      words: uint32 (8,), the key's bytes as little-endian words.
      counter: uint32 of any shape.
      nonce: uint32 (3,), its 12 bytes as little-endian words.

    Returns:
      uint32 (*counter.shape, 16): the block for each counter, as little-endian words.
    """
    start = (*_CONSTANTS, *words, counter, *nonce)
    # What depends on nothing varies over no device: to be the loop's carry, every word has to.
    zero = counter ^ counter ^ words[0] ^ words[0]
    start = tuple(jnp.asarray(word, jnp.uint32) | zero for word in start)
    end = jax.lax.fori_loop(0, 20, lambda _, state: _round(state), start, unroll=2)
    return jnp.stack([a + b for a, b in zip(end, start, strict=True)], axis=-1)


def _round(state):
    """Do four quarter rounds on columns, and relabel so that the next round's are columns too.

    Rows b, c, d get their columns mirrored and turned by 1, 2, 3, row a mirrored alone. That turns
    columns into diagonals and, as mirroring undoes itself, diagonals back into columns.
    """
    columns = [_quarter_round(*state[i::4]) for i in range(4)]
    return tuple(columns[(row - i) % 4][row] for row in range(4) for i in range(4))


def _quarter_round(a, b, c, d):
    """RFC 8439, section 2.1."""
    a = a + b
    d = _rotate(d ^ a, 16)
    c = c + d
    b = _rotate(b ^ c, 12)
    a = a + b
    d = _rotate(d ^ a, 8)
    c = c + d
    b = _rotate(b ^ c, 7)
    return a, b, c, d


def _rotate(word, bits: int):
    return (word << np.uint32(bits)) | (word >> np.uint32(32 - bits))


def _seed(seed):
    raise TypeError(
        "an integer seed makes no ChaCha20 key, as all seeds can be tried: "
        "use privacy.keys (audit_master, if everybody is to repeat it)"
    )


def _random_bits(words, bit_width: int, shape: tuple[int, ...]):
    if bit_width != 32:
        raise ValueError(f"ChaCha20 keys draw words of 32 bits, not {bit_width}: take parts")
    size = math.prod(shape)
    blocks = _counters(-(-size // _WORDS))
    return block(words, blocks, _DRAW).reshape(-1)[:size].reshape(shape)


def _split(words, shape: tuple[int, ...]):
    return block(words, _counters(math.prod(shape)).reshape(shape), _SPLIT)[..., :8]


def _fold_in(words, data):
    return block(words, jnp.asarray(data, jnp.uint32), _FOLD_IN)[..., :8]


def _counters(count: int):
    if count > 2**32:
        raise ValueError(f"{count} blocks of one ChaCha20 key: the counter ends at 2^32")
    return jnp.arange(count, dtype=jnp.uint32)


CHACHA20 = define_prng_impl(
    key_shape=(8,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="chacha20",
    tag="chacha20",
)
