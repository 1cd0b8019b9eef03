import pytest
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.data.folder import FolderSource


def test_source_lists_images_at_any_depth_by_name(tmp_path):
    for name in ("b.png", "a/z.JPG", "a/é.webp", "c.jpeg", "notes.txt", ".d.png", ".e.png.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    source = FolderSource(tmp_path)
    names = ["a/z.JPG", "a/é.webp", "b.png", "c.jpeg"]
    assert [source.name(i) for i in range(len(source))] == names
    assert [source[i].decode() for i in range(len(source))] == names
    assert str(tmp_path) in repr(source)


def test_folders_without_images_are_named(tmp_path):
    for path, message in ((tmp_path, "holds no image"), (tmp_path / "none", "not a folder")):
        with pytest.raises(UserError, match=message) as caught:
            FolderSource(path)
        assert str(path) in str(caught.value)


def test_an_image_that_has_gone_is_named(tmp_path):
    source = FolderSource(tiny.write_faces(tmp_path, 2))
    (tmp_path / "001.png").unlink()
    with pytest.raises(UserError, match=r"001\.png: cannot be read \(No such file"):
        source[1]
