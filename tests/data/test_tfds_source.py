import io
import os
import subprocess
import sys

import numpy as np
import pytest
import tfds_sets
from PIL import Image

from identitydp_jax.checks import UserError
from identitydp_jax.data import sources
from identitydp_jax.data.tfds_source import TfdsSource


def _image(height, width, shade, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), shade, np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    shades = range(0, 200, 40)
    people = [{"label": "Ann", "image": _image(250, 250, s, "JPEG")} for s in shades]
    tfds_sets.write(folder, "lfw", people)
    photos = [tfds_sets.celeb_a(_image(218, 178, s, "JPEG")) for s in shades]
    tfds_sets.write(folder, "celeb_a", photos, "test")
    faces = [{"image": _image(64, 64, s), "image/filename": f"{s}.png"} for s in shades]
    return tfds_sets.write(folder, "celeb_a_hq/64", faces)


@pytest.fixture(autouse=True)
def data_dir(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))


@pytest.mark.parametrize(
    ("spec", "count", "shape", "name"),
    [
        ("tfds:lfw", 5, (250, 250, 3), "train/000001"),
        ("tfds:celeb_a:test[:3]", 3, (218, 178, 3), "test[:3]/000001"),
        ("tfds:celeb_a_hq/64:train", 5, (64, 64, 3), "train/000001"),
    ],
)
def test_the_real_schemas_are_read(spec, count, shape, name):
    source = TfdsSource(spec)
    assert len(source) == count
    assert source.name(1) == name
    images = [sources.decode(source[i], "") for i in range(count)]
    assert all(image.shape == shape for image in images)
    assert len({int(image[0, 0, 0]) for image in images}) == count
    assert spec in repr(source)


@pytest.mark.parametrize("spec", ["tfds:lfw", "tfds:celeb_a:test", "tfds:celeb_a:2.1.0:test"])
def test_photos_out_of_frame_have_to_be_prepared_first(spec):
    with pytest.raises(UserError, match=f"data prepare --source {spec} --output FOLDER"):
        sources.open_faces(spec)
    assert len(sources.open_faces("tfds:celeb_a_hq/64")) == 5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:", "give tfds:NAME"),
        ("tfds:nowhere", r"tfds:nowhere: .* run `tfds build nowhere --file_format=array_record`"),
        ("tfds:celeb_a_hq/128", r"not prepared in .*: run `tfds build celeb_a_hq/128"),
        ("tfds:celeb_a_hq/64:test", "celeb_a_hq/64:test: Unknown split 'test'"),
    ],
)
def test_what_is_missing_is_said_in_one_line(spec, message):
    with pytest.raises(UserError, match=message) as error:
        sources.open_faces(spec)
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_said_in_one_line(folder, tmp_path, monkeypatch):
    tfds_sets.write(tmp_path, "lfw", [{"label": "A", "image": os.urandom(9999)}] * 2)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (shard,) = tmp_path.glob("lfw/*/*-00000-of-00001")
    data = bytearray(shard.read_bytes())
    data[5000] ^= 255
    shard.write_bytes(data)
    source = TfdsSource("tfds:lfw")
    with pytest.raises(UserError, match=r"tfds:lfw: record \d is damaged") as error:
        [source[i] for i in range(2)]
    assert "\n" not in str(error.value)


def test_training_batches_never_import_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('tensorflow was imported')")
    program = """
import sys
from ml_collections import ConfigDict
from identitydp_jax.data.batches import open_batches
config = ConfigDict({"data": "tfds:celeb_a_hq/64", "batch_size": 4, "seed": 0, "held_out": 1,
                     "network": {"resolution": 32}, "mixture": {"twin": 0.0}})
batch = next(open_batches(config, process_index=0, process_count=1))
assert batch.shape == (4, 32, 32, 3), batch.shape
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)
"""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
