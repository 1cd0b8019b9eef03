"""Where faces are drawn anew: whole over the face, nothing at the border, one edge for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from identitydp_jax.data import alignment
from identitydp_jax.models import cut_source, landmark_net
from identitydp_jax.models import face_region as regions
from identitydp_jax.models.face_region import blend, core_region, face_region, features_region

REGIONS = [face_region, features_region, core_region]


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_is_full_over_the_features_and_nothing_at_the_border(region):
    found = region(256)
    assert found.shape == (256, 256, 1) and found.dtype == np.float32
    assert found.min() == 0 and found.max() == 1
    for x, y in alignment.TEMPLATE:
        assert found[round(y), round(x)] == 1
    for line in (found[0], found[-1], found[:, 0], found[:, -1]):
        assert line.max() < 0.01  # pixels' centres lie half a pixel inside


def test_the_face_is_replaced_from_hairline_to_chin_and_the_corners_stay():
    found = face_region(256)[..., 0]
    # The inner 85 % of the detector's box in the median photo, in shares of the frame.
    angle = np.linspace(0, 2 * np.pi, 64)
    x, y = 0.5 + 0.26 * np.cos(angle), 0.56 + 0.30 * np.sin(angle)
    assert (found[(256 * y).astype(int), (256 * x).astype(int)] == 1).all()
    for corner in (found[:40, :40], found[:40, -40:], found[-40:, :40], found[-40:, -40:]):
        assert corner.max() == 0
    assert 0.35 < found.mean() < 0.45


@pytest.mark.parametrize("region", REGIONS)
def test_every_resolution_has_the_same_region(region):
    blocks = region(256).reshape(64, 4, 64, 4, 1).mean((1, 3))
    np.testing.assert_allclose(region(64), blocks, atol=0.05)


def test_the_features_end_where_the_edge_of_the_face_begins():
    face, features = face_region(512), features_region(512)
    assert (face[features > 0] == 1).all()
    # Nothing lies between the two but what rounds to all or nothing.
    assert ((features < 1e-6) & (face > 1 - 1e-6)).mean() < 0.002
    assert 0.5 * face.mean() < features.mean() < face.mean()


def test_the_core_lies_within_the_face_and_leaves_forehead_jaw_and_cheeks():
    core, face = core_region(256)[..., 0], face_region(256)[..., 0]
    assert (face[core >= 0.5] == 1).all() and (face[core > 0] > 0.8).all()
    assert 0.5 * face.mean() < core.mean() < 0.7 * face.mean()


@pytest.mark.network
def test_the_core_holds_brows_eyes_nose_and_mouth_of_generated_faces():
    params, root = jax.device_put(cut_source.load(128)), jax.random.key(7)
    draw = jax.jit(lambda key: cut_source.draw_twins(params, key[None], side=128)[0])
    faces = jnp.concatenate([draw(jax.random.fold_in(root, i)) for i in range(8)])
    points = np.asarray(landmark_net.find(landmark_net.load(), faces))[:, 17:]
    columns, rows = np.floor(128 * points).astype(int).transpose(2, 0, 1)
    assert (core_region(128)[rows, columns, 0] >= 0.5).mean() > 0.99


def test_depth_says_where_the_region_is_full_and_where_it_ends():
    along = (np.arange(64) + 0.5) / 64
    depth, region = regions.depth(along[None], along[:, None]), face_region(64)[..., 0]
    np.testing.assert_array_equal(region == 1, depth >= regions.FEATHER)
    np.testing.assert_array_equal(region == 0, depth == 0)
    assert regions.depth(0.5, 0.57) == 1
    steps = np.linspace(0, 1, 50)
    across = regions.depth(0.5 + 0.5 * steps, 0.57)
    assert (np.diff(across) <= 0).all() and (np.diff(regions.smooth(steps)) > 0).all()


def test_blending_leaves_what_is_outside_to_the_last_bit():
    faces, drawn = (jnp.asarray(tiny.faces(2, seed=s), jnp.float32) / 127.5 - 1 for s in (0, 1))
    region = face_region(64)
    found = np.asarray(blend(faces, drawn, region))
    outside, inside = region[..., 0] == 0, region[..., 0] == 1
    np.testing.assert_array_equal(found[:, outside], np.asarray(faces)[:, outside])
    np.testing.assert_allclose(found[:, inside], np.asarray(drawn)[:, inside], atol=1e-6)
    half = blend(faces, drawn, np.float32(0.5))
    np.testing.assert_allclose(half, (faces + drawn) / 2, atol=1e-6)
    assert blend(faces.astype(jnp.bfloat16), drawn.astype(jnp.bfloat16), region).dtype == "bfloat16"
