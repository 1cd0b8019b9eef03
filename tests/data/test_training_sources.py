import io

import numpy as np
import pytest
import tiny
from PIL import Image

from identitydp_jax.checks import UserError
from identitydp_jax.data import shards, sources
from identitydp_jax.data.sources import decode_face


def _bytes(array, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def test_faces_of_the_right_size_are_read_as_they_are():
    face = tiny.faces(1)[0]
    np.testing.assert_array_equal(decode_face(_bytes(face), "x", 64, 64), face)


@pytest.mark.parametrize("side", [32, 65, 256])
def test_other_sizes_are_resized_in_colour(side):
    face = tiny.faces(1, side)[0]
    found = decode_face(_bytes(face), "x", 64, 64)
    assert found.shape == (64, 64, 3)
    assert found.dtype == np.uint8
    expected = Image.fromarray(face).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 4


def test_shrinking_does_not_alias():
    checkers = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    found = decode_face(_bytes(np.repeat(checkers[..., None], 3, axis=2)), "x", 64, 64)
    assert np.abs(found.astype(int) - 127).max() <= 2


def test_grey_and_transparent_images_become_colour():
    grey = np.full((64, 64), 90, np.uint8)
    np.testing.assert_array_equal(decode_face(_bytes(grey), "x", 64, 64), 90)
    transparent = np.full((64, 64, 4), 90, np.uint8)
    assert decode_face(_bytes(transparent), "x", 64, 64).shape == (64, 64, 3)


def test_photos_come_upright():
    wide = np.zeros((64, 80, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    assert sources.decode(_bytes(wide, "JPEG", exif=turned), "x").shape == (80, 64, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.png: cannot be read as an image"),
        (b"no image", "a.png: cannot be read as an image"),
        (_bytes(tiny.faces(1)[0], "JPEG")[:-200], "a.png: cannot be read as an image"),
        (_bytes(np.zeros((64, 80, 3), np.uint8)), "a.png: is 80x64 pixels; .*data prepare"),
    ],
)
def test_images_that_cannot_train_are_named(data, message):
    with pytest.raises(UserError, match=message):
        decode_face(data, "a.png", 64, 64)


def test_almost_square_is_square():
    almost = np.zeros((200, 201, 3), np.uint8)
    assert decode_face(_bytes(almost), "x", 64, 64).shape == (64, 64, 3)


def test_faces_side_by_side_are_read_as_one_picture():
    picture = tiny.pictures(1, 128)[0]
    assert decode_face(_bytes(picture), "x", 128, 256).tolist() == picture.tolist()
    found = decode_face(_bytes(picture), "x", 64, 128)
    halves = [decode_face(_bytes(half), "x", 64, 64) for half in np.split(picture, 2, axis=1)]
    np.testing.assert_array_equal(found, np.concatenate(halves, axis=1))
    with pytest.raises(UserError, match="x: is 256x128 pixels"):
        decode_face(_bytes(picture), "x", 64, 64)
    with pytest.raises(UserError, match="x: is 128x128 pixels"):
        decode_face(_bytes(picture[:, :128]), "x", 64, 128)


def test_specs_name_folders_shards_and_archives(tmp_path):
    tiny.write_faces(tmp_path / "faces", 3)
    assert len(sources.open_faces(str(tmp_path / "faces"))) == 3
    (tmp_path / "shards").mkdir()
    shards.write_shard(tmp_path / "shards" / "a.array_record", [b"x"] * 2)
    assert len(sources.open_faces(f"array_record:{tmp_path}/shards")) == 2
    assert len(sources.open_photos(str(tmp_path / "faces"))) == 3
    with pytest.raises(UserError, match="none: no such folder or archive"):
        sources.open_photos(str(tmp_path / "none"))
