import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from identitydp_jax.privacy import chacha

ZERO, COUNTING = bytes(32), bytes(range(32))
LAST_ONE = bytes(31) + b"\x01"
JABBERWOCKY_KEY = "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0"

# RFC 8439, section 2.3.2 and appendix A.1: key, nonce, counter, words of the block.
BLOCKS = [
    (
        COUNTING,
        "000000090000004a00000000",
        1,
        "e4e7f110 15593bd1 1fdd0f50 c47120a3 c7f4d1c7 0368c033 9aaa2204 4e6cd4c3"
        "466482d2 09aa9f07 05d7c214 a2028bd9 d19c12b5 b94e16de e883d0cb 4e3c50a2",
    ),
    (
        ZERO,
        "000000000000000000000000",
        0,
        "ade0b876 903df1a0 e56a5d40 28bd8653 b819d2bd 1aed8da0 ccef36a8 c70d778b"
        "7c5941da 8d485751 3fe02477 374ad8b8 f4b8436a 1ca11815 69b687c3 8665eeb2",
    ),
    (
        ZERO,
        "000000000000000000000000",
        1,
        "bee7079f 7a385155 7c97ba98 0d082d73 a0290fcb 6965e348 3e53c612 ed7aee32"
        "7621b729 434ee69c b03371d5 d539d874 281fed31 45fb0a51 1f0ae1ac 6f4d794b",
    ),
    (
        LAST_ONE,
        "000000000000000000000000",
        1,
        "2452eb3a 9249f8ec 8d829d9b ddd4ceb1 e8252083 60818b01 f38422b8 5aaa49c9"
        "bb00ca8e da3ba7b4 c4b592d1 fdf2732f 4436274e 2561b3c8 ebdd4aa6 a0136c00",
    ),
    (
        b"\x00\xff" + bytes(30),
        "000000000000000000000000",
        2,
        "fb4dd572 4bc42ef1 df922636 327f1394 a78dea8f 5e269039 a1bebbc1 caf09aae"
        "a25ab213 48a6b46c 1b9d9bcb 092c5be6 546ca624 1bec45d5 87f47473 96f0992e",
    ),
    (
        ZERO,
        "000000000000000000000002",
        0,
        "374dc6c2 3736d58c b904e24a cd3f93ef 88228b1a 96a4dfb3 5b76ab72 c727ee54"
        "0e0e978a f3145c95 1b748ea8 f786c297 99c28f5f 628314e8 398a19fa 6ded1b53",
    ),
]

# RFC 8439, section 2.4.2 and appendices A.2 and A.4: key, nonce, counter, text, its encryption.
STREAMS = [
    (
        COUNTING,
        "000000000000004a00000000",
        1,
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        b"future, sunscreen would be it.",
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b"
        "f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8"
        "07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736"
        "5af90bbf74a35be6b40b8eedf2785e42874d",
    ),
    (
        LAST_ONE,
        "000000000000000000000002",
        1,
        b"Any submission to the IETF intended by the Contributor for publication as all or part of "
        b"an IETF Internet-Draft or RFC and any statement made within the context of an IETF "
        b'activity is considered an "IETF Contribution". Such statements include oral statements '
        b"in IETF sessions, as well as written and electronic communications made at any time or "
        b"place, which are addressed to",
        "a3fbf07df3fa2fde4f376ca23e82737041605d9f4f4f57bd8cff2c1d4b7955ec"
        "2a97948bd3722915c8f3d337f7d370050e9e96d647b7c39f56e031ca5eb6250d"
        "4042e02785ececfa4b4bb5e8ead0440e20b6e8db09d881a7c6132f420e527950"
        "42bdfa7773d8a9051447b3291ce1411c680465552aa6c405b7764d5e87bea85a"
        "d00f8449ed8f72d0d662ab052691ca66424bc86d2df80ea41f43abf937d3259d"
        "c4b2d0dfb48a6c9139ddd7f76966e928e635553ba76c5c879d7b35d49eb2e62b"
        "0871cdac638939e25e8a1e0ef9d5280fa8ca328b351c3c765989cbcf3daa8b6c"
        "cc3aaf9f3979c92b3720fc88dc95ed84a1be059c6499b9fda236e7e818b04b0b"
        "c39c1e876b193bfe5569753f88128cc08aaa9b63d1a16f80ef2554d7189c411f"
        "5869ca52c5b83fa36ff216b9c1d30062bebcfd2dc5bce0911934fda79a86f6e6"
        "98ced759c3ff9b6477338f3da4f9cd8514ea9982ccafb341b2384dd902f3d1ab"
        "7ac61dd29c6f21ba5b862f3730e37cfdc4fd806c22f221",
    ),
    (
        bytes.fromhex(JABBERWOCKY_KEY),
        "000000000000000000000002",
        42,
        b"'Twas brillig, and the slithy toves\nDid gyre and gimble in the wabe:\n"
        b"All mimsy were the borogoves,\nAnd the mome raths outgrabe.",
        "62e6347f95ed87a45ffae7426f27a1df5fb69110044c0d73118effa95b01e5cf"
        "166d3df2d721caf9b21e5fb14c616871fd84c54f9d65b283196c7fe4f60553eb"
        "f39c6402c42234e32a356b3e764312a61a5532055716ead6962568f87d3f3f77"
        "04c6a8d1bcd1bf4d50d6154b6da731b187b58dfd728afa36757a797ac188d1",
    ),
    (
        LAST_ONE,
        "000000000000000000000002",
        0,
        bytes(32),
        "ecfa254f845f647473d3cb140da9e87606cb33066c447b87bc2666dde3fbb739",
    ),
    (
        bytes.fromhex(JABBERWOCKY_KEY),
        "000000000000000000000002",
        0,
        bytes(32),
        "965e3bc6f9ec7ed9560808f4d229f94b137ff275ca9b3fcbdd59deaad23310ae",
    ),
]


def words(data):
    return np.frombuffer(data, "<u4").astype(np.uint32)


def octets(block):
    return np.asarray(block).astype("<u4").tobytes()


def data(keys):
    """The words of keys, (..., 8), as integers that reading doesn't consume."""
    return np.asarray(jax.random.key_data(jax.random.clone(keys)))


def reference(secret, counter, use):
    """One block in Python's integers, as the RFC writes it, with a nonce that names its use."""

    def turn(value, bits):
        return (value << bits | value >> 32 - bits) & 0xFFFFFFFF

    start = [int(w) for w in words(b"expand 32-byte k" + secret)]
    start += [counter, *(int(w) for w in words(use.ljust(12, b"\0")))]
    x = list(start)
    diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    columns = [(i, 4 + i, 8 + i, 12 + i) for i in range(4)]
    for a, b, c, d in 10 * (columns + diagonals):
        for p, q, r, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[p] = (x[p] + x[q]) & 0xFFFFFFFF
            x[r] = turn(x[r] ^ x[p], bits)
    return [(one + two) & 0xFFFFFFFF for one, two in zip(x, start, strict=True)]


def draw(key):
    return jax.random.bits(key, (3, 7), jnp.uint32)


@pytest.mark.parametrize(("key", "nonce", "counter", "expected"), BLOCKS)
def test_the_block_function_is_that_of_the_rfc(key, nonce, counter, expected):
    block = chacha.block(words(key), jnp.uint32(counter), words(bytes.fromhex(nonce)))
    expected = expected.replace(" ", "")
    assert [f"{w:08x}" for w in block.tolist()] == [expected[i : i + 8] for i in range(0, 128, 8)]


@pytest.mark.parametrize(("key", "nonce", "counter", "text", "expected"), STREAMS)
def test_the_key_stream_is_that_of_the_rfc(key, nonce, counter, text, expected):
    counters = counter + jnp.arange(-(-len(text) // 64), dtype=jnp.uint32)
    blocks = chacha.block(words(key), counters, words(bytes.fromhex(nonce)))
    assert blocks.shape == (len(counters), 16) and blocks.dtype == jnp.uint32
    stream = octets(blocks)
    assert bytes(a ^ b for a, b in zip(text, stream, strict=False)).hex() == expected


def test_the_quarter_round_is_that_of_the_rfc():  # section 2.1.1
    given = [np.uint32(w) for w in (0x11111111, 0x01020304, 0x9B8D6F43, 0x01234567)]
    with np.errstate(over="ignore"):
        found = [int(w) for w in chacha._quarter_round(*given)]
    assert found == [0xEA2A92F4, 0xCB1CF8CE, 0x4581472E, 0x5881C4BB]


@settings(max_examples=40, deadline=None)
@given(
    secret=st.binary(min_size=32, max_size=32),
    nonce=st.binary(min_size=12, max_size=12),
    counters=st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3),
)
def test_any_block_is_that_of_plain_integers(secret, nonce, counters):
    found = chacha.block(words(secret), np.uint32(counters), words(nonce))
    assert found.tolist() == [reference(secret, counter, nonce) for counter in counters]


@settings(max_examples=20, deadline=None)
@given(secret=st.binary(min_size=32, max_size=32), data_=st.integers(0, 2**32 - 1))
def test_bits_children_and_folds_are_blocks_of_three_uses(secret, data_):
    key = chacha.key_from_bytes(secret)
    bits = jax.random.bits(jax.random.clone(key), (3, 7), jnp.uint32)
    stream = reference(secret, 0, b"draw") + reference(secret, 1, b"draw")
    assert bits.reshape(-1).tolist() == stream[:21]
    children = data(jax.random.split(jax.random.clone(key), (2, 2))).reshape(4, 8)
    assert children.tolist() == [reference(secret, i, b"split")[:8] for i in range(4)]
    folded = data(jax.random.fold_in(key, data_))
    assert folded.tolist() == reference(secret, data_, b"fold in")[:8]


@pytest.mark.parametrize("shape", [(), (0,), (1,), (16,), (17,), (2, 0, 3), (5, 4, 3)])
def test_a_draw_is_the_head_of_one_stream(shape):
    stream = jax.random.bits(chacha.key_from_bytes(COUNTING), (100,), jnp.uint32)
    found = jax.random.bits(chacha.key_from_bytes(COUNTING), shape, jnp.uint32)
    assert found.shape == shape and found.dtype == jnp.uint32
    assert (found.reshape(-1) == stream[: math.prod(shape)]).all()


def test_a_typed_key_keeps_all_its_256_bits():
    key = chacha.key_from_bytes(COUNTING)
    assert key.shape == () and jax.random.key_impl(key) == chacha.CHACHA20
    assert str(key.dtype) == "key<chacha20>"
    assert octets(data(key)) == COUNTING
    flipped = np.frombuffer(COUNTING, np.uint8) ^ np.packbits(np.eye(256, dtype=bool), axis=1)
    neighbours = jax.random.wrap_key_data(flipped.view("<u4"), impl=chacha.CHACHA20)
    changed = np.asarray(jax.vmap(draw)(neighbours)) ^ np.asarray(draw(key))
    shares = np.bitwise_count(changed).reshape(256, -1).sum(axis=1) / (21 * 32)
    assert shares.min() > 0.4 and shares.max() < 0.6  # 0.5 with standard deviation 0.019


def test_no_word_serves_two_uses():
    key = chacha.key_from_bytes(COUNTING)
    drawn = jax.random.bits(jax.random.clone(key), (16, 8), jnp.uint32)
    children = jax.random.split(jax.random.clone(key), 16)
    grandchildren = jax.vmap(lambda k: jax.random.split(k, 3))(jax.random.clone(children))
    folded = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(16, dtype=jnp.uint32))
    every = [drawn, data(children), data(grandchildren).reshape(-1, 8), data(folded)]
    every = np.concatenate([*every, words(COUNTING)[None]]).reshape(-1)
    # 912 random words: two are equal with probability 1e-4, and these never change.
    assert len(np.unique(every)) == every.size


@pytest.fixture
def keys():
    return jax.random.split(chacha.key_from_bytes(COUNTING), 16)


@pytest.fixture
def expected(keys):
    return np.stack([draw(key) for key in jax.random.clone(keys)])


def test_jit_vmap_map_and_order_change_nothing(keys, expected):
    clone = jax.random.clone
    assert (jax.vmap(draw)(clone(keys)) == expected).all()
    assert (jax.jit(jax.vmap(draw))(clone(keys)) == expected).all()
    assert (jax.lax.map(draw, clone(keys)) == expected).all()
    nested = jax.jit(jax.vmap(jax.vmap(draw)))(clone(keys).reshape(4, 4))
    assert (nested.reshape(expected.shape) == expected).all()
    order = np.random.default_rng(0).permutation(16)
    assert (jax.vmap(draw)(clone(keys)[order]) == expected[order]).all()
    assert (jax.vmap(draw)(clone(keys)[3:4]) == expected[3:4]).all()


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("how", ["jit", "shard_map"])
def test_devices_change_nothing(keys, expected, kind, how):
    mesh, split = jax.make_mesh((8,), ("data",), axis_types=(kind,)), PartitionSpec("data")
    assert mesh.size == 8
    batch = jax.vmap(draw)
    if how == "shard_map":
        batch = jax.shard_map(batch, mesh=mesh, in_specs=split, out_specs=split)
    spread = jax.device_put(keys, NamedSharding(mesh, split))
    found = jax.jit(batch)(spread)
    assert len(found.devices()) == 8
    assert (np.asarray(found) == expected).all()


def test_a_device_can_fold_in_its_place():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def draw_here(key):
        here = jax.random.fold_in(key, jax.lax.axis_index("data"))
        return draw(jax.random.split(here, 1)[0])

    everywhere = jax.shard_map(
        draw_here, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec("data")
    )
    found = jax.jit(everywhere)(chacha.key_from_bytes(COUNTING)).reshape(8, 3, 7)
    for i in range(8):
        here = jax.random.fold_in(chacha.key_from_bytes(COUNTING), i)
        assert (found[i] == draw(jax.random.split(here, 1)[0])).all()


def test_splitting_and_folding_are_the_same_under_jit_and_vmap(keys):
    clone = jax.random.clone
    places = jnp.arange(16, dtype=jnp.uint32)
    folds = np.stack([data(jax.random.fold_in(key, i)) for i, key in enumerate(clone(keys))])
    assert (data(jax.jit(jax.vmap(jax.random.fold_in))(clone(keys), places)) == folds).all()
    children = np.stack([data(jax.random.split(key, 3)) for key in clone(keys)])
    found = jax.jit(jax.vmap(lambda key: jax.random.split(key, 3)))(clone(keys))
    assert (data(found) == children).all()
    assert (data(jax.random.split(clone(keys)[0], 2)) == children[0, :2]).all()


def test_samplers_work_with_it(keys):
    sample = jax.jit(lambda key: jax.random.laplace(key, (4096,), jnp.float32))
    noise = np.asarray(sample(keys[0]))
    assert abs(np.abs(noise).mean() - 1) < 0.08 and abs(noise.mean()) < 0.11  # 5 standard errors
    assert sorted(jax.random.permutation(keys[1], 50).tolist()) == list(range(50))


@pytest.mark.parametrize("first", [draw, jax.random.split])
@pytest.mark.parametrize("second", [draw, jax.random.split])
def test_using_a_key_twice_is_caught(first, second):
    key = chacha.key_from_bytes(COUNTING)
    first(key)
    with pytest.raises(jax.errors.KeyReuseError) as caught:
        second(key)
    with pytest.raises(jax.errors.KeyReuseError):
        jax.jit(lambda key: (first(key), second(key)))(chacha.key_from_bytes(COUNTING))
    assert not any(str(word) in str(caught.value) for word in words(COUNTING))


@pytest.mark.parametrize("seed", [0, 2**31, np.uint32(7), jnp.int32(7)])
@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_an_integer_seed_makes_no_key(seed, make):
    with pytest.raises(TypeError, match="integer seed makes no ChaCha20 key"):
        make(seed, impl=chacha.CHACHA20)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.uint16])
def test_other_widths_are_refused(dtype):
    with pytest.raises(ValueError, match="words of 32 bits, not"):
        jax.random.bits(chacha.key_from_bytes(COUNTING), (4,), dtype)


def test_more_than_the_counter_counts_is_refused():
    with pytest.raises(ValueError, match="counter ends at"):
        jax.random.bits(chacha.key_from_bytes(COUNTING), (2**36 + 1,), jnp.uint32)
    with pytest.raises(ValueError, match="counter ends at"):
        jax.random.split(chacha.key_from_bytes(COUNTING), 2**32 + 1)
    assert chacha.block(words(ZERO), jnp.uint32(2**32 - 1), words(bytes(12))).shape == (16,)


@pytest.mark.parametrize("secret", [b"", COUNTING[:31], COUNTING + b"\n"])
def test_a_key_of_another_length_is_refused_without_showing_it(secret):
    with pytest.raises(ValueError, match=f"has 32 bytes, not {len(secret)}") as caught:
        chacha.key_from_bytes(secret)
    assert str(caught.value) == f"a ChaCha20 key has 32 bytes, not {len(secret)}"
