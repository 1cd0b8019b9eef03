import numpy as np
import pytest

from identitydp_jax.baselines import k_same


@pytest.fixture(scope="module")
def gallery():
    faces, _ = k_same.load_gallery()
    return faces.astype(np.float32) / 127.5 - 1


def test_the_gallery_ships_small_and_whole(gallery):
    faces, sha256 = k_same.load_gallery()
    assert faces.shape == (64, 128, 128, 3) and faces.dtype == np.uint8
    assert k_same._MOSAIC.stat().st_size < 600_000 and len(sha256) == 64
    # Tiles, not stripes: within a face neighbours are alike, at a seam they are not.
    mosaic = faces.astype(int).mean(-1)
    assert (
        np.abs(np.diff(mosaic, axis=1)).mean()
        < 12
        < np.abs(mosaic[1:, :, 0] - mosaic[:-1, :, -1]).mean()
    )
    assert len(np.unique(faces.reshape(64, -1), axis=0)) == 64


def test_a_face_of_the_gallery_is_nearest_to_itself(gallery):
    result = np.asarray(k_same.k_same(gallery[:5], gallery, k=1))
    np.testing.assert_allclose(result, gallery[:5], atol=1e-5)


def test_it_averages_the_k_nearest_by_the_face_and_not_by_what_is_around():
    grey = np.zeros((4, 64, 64, 3), np.float32)
    gallery = grey + np.array([-0.8, -0.5, 0.1, 0.4], np.float32)[:, None, None, None]
    face = grey[:1] + np.float32(0.3)
    face[:, :16], face[:, :, :16], face[:, :, 48:] = -0.8, -0.8, -0.8
    result = np.asarray(k_same.k_same(face, gallery, k=2))
    np.testing.assert_allclose(result, 0.25, atol=1e-5)


def test_no_pixel_of_the_face_is_in_the_result(gallery):
    faces = np.repeat(gallery[7:8], 2, 0).repeat(2, 1).repeat(2, 2)
    faces[1] += np.random.default_rng(0).uniform(-0.02, 0.02, faces[1].shape).astype(np.float32)
    one, other = np.asarray(k_same.k_same(faces, gallery, k=10))
    assert one.shape == (256, 256, 3)
    np.testing.assert_array_equal(one, other)
