import json

import numpy as np
import pytest
from PIL import Image

from identitydp_jax.checks import UserError
from identitydp_jax.data import synthetic

RECIPE = {"generator": "a test", "seed": 1, "resolution": 8}


def draw(index):
    return np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def write(directory, count=4, draw=draw, recipe=RECIPE, image_format="png"):
    return synthetic.write_faces(
        directory, count=count, draw=draw, recipe=recipe, image_format=image_format
    )


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_writes_every_face_exactly(tmp_path):
    assert write(tmp_path / "új" / "faces") == 4
    faces = tmp_path / "új" / "faces"
    assert names(faces) == [*(f"00000{index}.png" for index in range(4)), "synthetic.json"]
    for index in range(4):
        np.testing.assert_array_equal(
            np.asarray(Image.open(faces / f"00000{index}.png")), draw(index)
        )
    assert json.loads((faces / "synthetic.json").read_text()) == {**RECIPE, "format": "png"}


def test_jpeg_is_close(tmp_path):
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[:, None, None], (32, 32, 3))
    write(tmp_path, count=1, draw=lambda index: ramp, image_format="jpeg")
    read = np.asarray(Image.open(tmp_path / "000000.jpg")).astype(int)
    assert np.abs(read - ramp).max() < 8


def test_a_stopped_run_is_resumed(tmp_path):
    def stopping(index):
        if index == 2:
            raise KeyboardInterrupt
        return draw(index)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, draw=stopping)
    (tmp_path / "000000.png").unlink()
    (tmp_path / ".0123456789abcdef.part").write_bytes(b"half a fi")
    drawn = []
    assert write(tmp_path, draw=lambda index: drawn.append(index) or draw(index)) == 3
    assert drawn == [0, 2, 3]
    assert names(tmp_path) == [*(f"00000{index}.png" for index in range(4)), "synthetic.json"]
    assert write(tmp_path) == 0


def test_a_face_that_fails_leaves_no_file(tmp_path, monkeypatch):
    def half(self, file, **options):
        file.write(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(UserError, match="No space left on device"):
        write(tmp_path)
    assert not (tmp_path / "000000.png").exists()


@pytest.mark.parametrize("change", [{"seed": 2}, {"resolution": 16}])
def test_another_recipe_is_not_mixed_in(tmp_path, change):
    write(tmp_path, count=1)
    with pytest.raises(UserError, match="holds faces made with"):
        write(tmp_path, recipe={**RECIPE, **change})
    with pytest.raises(UserError, match="holds faces made with"):
        write(tmp_path, image_format="jpeg")
    assert names(tmp_path) == ["000000.png", "synthetic.json"]


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "000000.png").write_bytes(b"somebody's photo")
    with pytest.raises(UserError, match="not empty"):
        write(tmp_path)
    assert names(tmp_path) == ["000000.png"]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "faces").write_text("not a folder")
    with pytest.raises(UserError, match="faces: cannot be written"):
        write(tmp_path / "faces")
