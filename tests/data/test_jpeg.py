import io

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from identitydp_jax.data.jpeg import _CHROMINANCE, _LUMINANCE, _scaled, compress


def _textured(side=128):
    noise = np.random.default_rng(0).normal(0, 12, (side, side, 1))
    return np.clip(tiny.faces(1, side)[0] + noise, 0, 255).astype(np.uint8)


def _opencv(image, quality):
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(float)


@pytest.mark.parametrize("quality", [10, 40, 75, 94])
def test_what_is_lost_is_what_libjpeg_loses(quality):
    image = _textured()
    expected = _opencv(image, quality)
    found = 255 * np.asarray(jax.jit(compress)(image / np.float32(255), jnp.float32(quality)))
    lost = np.abs(expected - image).mean()
    # Another table or another way to halve and double the colours differs by 1.5 to 10.
    assert np.abs(found - expected).mean() < 1.2
    assert np.abs(found - image).mean() == pytest.approx(lost, rel=0.1)


@pytest.mark.parametrize("quality", [10, 40, 75, 94])
def test_tables_are_those_that_pillow_writes(quality):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    tables = Image.open(file).quantization
    for table, number in ((_LUMINANCE, 0), (_CHROMINANCE, 1)):
        scaled = np.asarray(_scaled(table, jnp.float32(quality)))
        np.testing.assert_array_equal(scaled.ravel(), tables[number])


def test_quality_of_a_hundred_keeps_grey_to_a_level():
    grey = np.repeat(_textured()[..., :1], 3, axis=2) / np.float32(255)
    found = jax.jit(compress)(grey, jnp.float32(100))
    assert np.abs(found - grey).max() < 2.1 / 255
