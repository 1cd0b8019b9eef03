import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import metrics

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import image_quality
from identitydp_jax.models import layers
from identitydp_jax.models.face_region import face_region
from identitydp_jax.training import losses

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


def _face(seed: int = 0):
    """A shaded picture with grain, float32 (1, 256, 256, 3), in 60..200."""
    rng = np.random.default_rng(seed)
    shade = np.linspace(80, 180, 256)[None, None, :, None]
    return (shade + rng.normal(0, 6, (1, 256, 256, 3))).astype(np.float32)


def test_detail_doubles_with_the_grain_and_goes_with_a_blur():
    region, face = face_region(256), _face()
    smooth = np.asarray(layers.coarsen(face, 64))
    double = smooth + 2 * (face - smooth)
    np.testing.assert_allclose(image_quality.detail_ratio(face, face, region), 1, rtol=1e-6)
    np.testing.assert_allclose(image_quality.detail_ratio(face, double, region), 2, rtol=0.05)
    assert image_quality.detail_ratio(face, smooth, region) < 0.3


def test_detail_is_that_of_the_losses():
    # losses.detail is 0 up to the truth's detail and rises by what is beyond it, everywhere alike.
    face, whole = _face() / 127.5 - 1, np.ones((256, 256, 1), np.float32)
    flat, sharp = np.zeros_like(face), np.asarray(2 * face)
    amounts = [float(losses.detail(x, flat)) for x in (face, sharp)]
    ratio = image_quality.detail_ratio(127.5 * face + 127.5, 127.5 * sharp + 127.5, whole)
    np.testing.assert_allclose(ratio, amounts[1] / amounts[0], rtol=0.03)


def test_detail_outside_the_region_does_not_count():
    region, face = face_region(256), _face()
    blurred = np.where(region > 0, face, np.asarray(layers.coarsen(face, 32)))
    np.testing.assert_allclose(image_quality.detail_ratio(face, blurred, region), 1, rtol=1e-2)


def test_a_flat_original_has_a_ratio_that_is_a_number():
    flat, region = np.full((1, 256, 256, 3), 90, np.float32), face_region(256)
    np.testing.assert_allclose(image_quality.detail_ratio(flat, flat, region), 1)


def test_rim_tells_the_levels_that_the_inside_was_lifted_by():
    region, face = face_region(256), _face()
    lifted = face + 20 * region
    np.testing.assert_allclose(image_quality.rim_jump(face, lifted, region), 20, rtol=1e-4)
    np.testing.assert_allclose(image_quality.rim_jump(face, face, region), 0)
    np.testing.assert_allclose(image_quality.rim_jump(face, face + 20, region), 0, atol=1e-4)


def test_a_seam_on_one_side_counts_for_its_share():
    region, face = face_region(256), _face()
    left = face + 20 * region * (np.arange(256) < 128)[None, :, None]
    np.testing.assert_allclose(image_quality.rim_jump(face, left, region), 10, rtol=0.1)
