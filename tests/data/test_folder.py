import numpy as np
import pytest
import tiny
from PIL import Image

from identitydp_jax.checks import UserError
from identitydp_jax.data import folder as folders
from identitydp_jax.data.folder import FolderSource, read_face, training_batches


def _save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def test_source_lists_images_at_any_depth_by_name(tmp_path):
    face = tiny.faces(1)[0]
    for name in ("b.png", "a/z.JPG", "a/é.webp", "c.jpeg"):
        _save(tmp_path / name, face)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".d.png.part").write_bytes(b"")
    source = FolderSource(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in source]
    assert found == ["a/z.JPG", "a/é.webp", "b.png", "c.jpeg"]
    assert len(source) == 4
    assert str(tmp_path) in repr(source)
    assert read_face(source[1], 64).shape == (64, 64, 3)


def test_folders_without_images_are_named(tmp_path):
    for path, message in ((tmp_path, "holds no image"), (tmp_path / "none", "not a folder")):
        with pytest.raises(UserError, match=message) as caught:
            FolderSource(path)
        assert str(path) in str(caught.value)


def test_faces_of_the_right_size_are_read_as_they_are(tmp_path):
    face = tiny.faces(1)[0]
    np.testing.assert_array_equal(read_face(_save(tmp_path / "x.png", face), 64), face)


@pytest.mark.parametrize("side", [32, 65, 256])
def test_other_sizes_are_resized_in_colour(tmp_path, side):
    face = tiny.faces(1, side)[0]
    found = read_face(_save(tmp_path / "x.png", face), 64)
    assert found.shape == (64, 64, 3)
    assert found.dtype == np.uint8
    expected = Image.fromarray(face).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 4


def test_shrinking_does_not_alias(tmp_path):
    checkers = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    path = _save(tmp_path / "x.png", np.repeat(checkers[..., None], 3, axis=2))
    assert np.abs(read_face(path, 64).astype(int) - 127).max() <= 2


def test_grey_and_transparent_images_become_colour(tmp_path):
    grey = np.full((64, 64), 90, np.uint8)
    np.testing.assert_array_equal(read_face(_save(tmp_path / "g.png", grey), 64), 90)
    transparent = np.full((64, 64, 4), 90, np.uint8)
    assert read_face(_save(tmp_path / "a.png", transparent), 64).shape == (64, 64, 3)


def test_images_that_cannot_train_are_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    wide = _save(tmp_path / "wide.png", np.zeros((64, 80, 3), np.uint8))
    for path, message in (
        (tmp_path / "text.png", r"text.png: cannot be read as an image"),
        (wide, r"wide.png: is 80x64 pixels; training needs square"),
    ):
        with pytest.raises(UserError, match=message):
            read_face(path, 64)
    almost = _save(tmp_path / "almost.png", np.zeros((200, 201, 3), np.uint8))
    assert read_face(almost, 64).shape == (64, 64, 3)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return tiny.write_faces(tmp_path_factory.mktemp("faces"), 7)


def _batches(folder, start=0, stop=6, seed=0, size=4):
    return list(
        training_batches(folder, resolution=64, batch_size=size, seed=seed, start=start, stop=stop)
    )


def test_batches_have_the_size_asked_for_across_epochs(faces):
    batches = _batches(faces)
    assert len(batches) == 6
    assert all(x.shape == (4, 64, 64, 3) and x.dtype == np.uint8 for x in batches)


def test_a_run_that_resumes_sees_the_batches_that_it_would_have_seen(faces):
    whole = _batches(faces)
    np.testing.assert_array_equal(_batches(faces, start=4), whole[4:])
    np.testing.assert_array_equal(_batches(faces), whole)


def test_seeds_give_other_batches(faces):
    assert np.any(np.stack(_batches(faces, seed=1)) != np.stack(_batches(faces)))


@pytest.fixture
def without_augmentation(monkeypatch):
    monkeypatch.setattr(folders, "augment", lambda face, rng: face)


def _indices(folder, **settings):
    known = {tiny.faces(7)[i].tobytes(): i for i in range(7)}
    return [known[face.tobytes()] for batch in _batches(folder, **settings) for face in batch]


def test_every_epoch_shows_each_face_once_in_an_order_of_its_own(faces, without_augmentation):
    order = _indices(faces, stop=7)
    epochs = [order[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_may_be_larger_than_the_folder(faces, without_augmentation):
    order = _indices(faces, stop=1, size=21)
    assert sorted(order) == sorted(list(range(7)) * 3)


def test_a_face_is_augmented_anew_in_every_epoch(tmp_path):
    folder = tiny.write_faces(tmp_path, 1)
    drawn = [x.tobytes() for x in np.concatenate(_batches(folder))]
    assert len(set(drawn)) == len(drawn)
