import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import metrics

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import image_quality

SHAPE = (4, 48, 40, 3)


def _pairs():
    """Noise, a smooth picture with a little noise, near-white flat areas, opposite pictures."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, SHAPE, np.uint8)
    b = rng.integers(0, 256, SHAPE, np.uint8)
    a[1] = np.linspace(20, 230, 40)[None, :, None]
    b[1] = np.clip(a[1] + rng.normal(0, 6, SHAPE[1:]), 0, 255)
    a[2], b[2] = 254, 253
    a[2, :20], b[2, 10:30] = 3, 1
    b[3] = 255 - a[3]
    return a, b


def _reference_ssim(a, b):
    return metrics.structural_similarity(
        a,
        b,
        data_range=255,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )


def test_psnr_is_that_of_scikit_image():
    a, b = _pairs()
    expected = [
        metrics.peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(image_quality.psnr(a, b), expected, atol=1e-4)


def test_ssim_is_that_of_scikit_image():
    a, b = _pairs()
    expected = [_reference_ssim(x, y) for x, y in zip(a, b, strict=True)]
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(image_quality.ssim(a, b), expected, atol=1e-4)


def test_bytes_and_floats_give_the_same_under_jit():
    a, b = _pairs()
    for measure in (image_quality.psnr, image_quality.ssim):
        as_floats = jax.jit(measure)(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
        np.testing.assert_allclose(as_floats, measure(a, b), rtol=1e-5, atol=1e-5)


def test_equal_pictures():
    a, _ = _pairs()
    assert np.isposinf(image_quality.psnr(a, a)).all()
    np.testing.assert_allclose(image_quality.ssim(a, a), 1, atol=1e-6)


def test_a_difference_of_one_level():
    a = np.full((1, 16, 16, 3), 100, np.uint8)
    np.testing.assert_allclose(image_quality.psnr(a, a + 1), 20 * np.log10(255), rtol=1e-6)


def test_more_noise_is_worse():
    a, _ = _pairs()
    noise = np.random.default_rng(1).normal(0, 1, SHAPE)
    noisy = [np.clip(a + sigma * noise, 0, 255).astype(np.float32) for sigma in (2, 8, 32)]
    for measure in (image_quality.psnr, image_quality.ssim):
        figures = np.array([measure(a, b) for b in noisy])
        assert (np.diff(figures, axis=0)[:, [0, 1, 3]] < 0).all()


def test_pictures_that_cannot_be_compared():
    a = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(UserError, match="one size"):
        image_quality.psnr(a, a[:, :15])
    with pytest.raises(UserError, match="16 x 10"):
        image_quality.ssim(a[:, :10], a[:, :10])
