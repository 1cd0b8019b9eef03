import jax.numpy as jnp
import numpy as np

from identitydp_jax.models.pixels import to_float, to_uint8


def test_every_pixel_value_comes_back():
    values = np.arange(256, dtype=np.uint8)
    inside = to_float(values)
    assert inside.dtype == jnp.float32
    assert inside[0] == -1
    assert inside[255] == 1
    np.testing.assert_array_equal(to_uint8(inside), values)


def test_rounds_to_the_nearest_pixel():
    inside = to_float(np.arange(256, dtype=np.uint8))
    for shift in (-0.49, 0.49):
        np.testing.assert_array_equal(to_uint8(inside + shift / 127.5), np.arange(256))


def test_clips_what_lies_outside():
    found = to_uint8(jnp.array([-1.5, -1.001, 1.001, 7.0], jnp.float32))
    np.testing.assert_array_equal(found, [0, 0, 255, 255])
    assert found.dtype == jnp.uint8
