"""Labels in CelebA's layout, heads trained on them, and the tone of skin."""

import importlib.util
import pathlib
import zipfile

import numpy as np
import pytest
from PIL import Image
from skimage import color

import identitydp_jax
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import celeba, celeba_heads, measures, skin
from identitydp_jax.evaluation.protocols import kept

TABLE = "3\nEyeglasses Male Young \n1.jpg -1  1 -1\n2.jpg  1  1  1\n10.jpg -1 -1  1\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "list_attr_celeba.txt"
    path.write_text(TABLE)
    return path


def test_labels_are_found_by_file_name(table):
    labels = celeba.read_labels(str(table))
    assert labels.attributes == ("Eyeglasses", "Male", "Young")
    photos = ["somebody/10.jpg", "1.jpg", "a/b/2.jpg"]
    assert labels.of(photos, "Male").tolist() == [False, True, True]
    assert labels.of(photos, "Young").tolist() == [True, False, True]


def test_a_zip_of_the_file_is_read_too(table, tmp_path):
    with zipfile.ZipFile(tmp_path / "labels.zip", "w") as archive:
        archive.write(table, table.name)
    zipped = celeba.read_labels(str(tmp_path / "labels.zip"))
    np.testing.assert_array_equal(zipped.values, celeba.read_labels(str(table)).values)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "not in the layout"),
        ("1.jpg,1,-1\n", "not in the layout"),
        (TABLE.replace("3", "4", 1), "not in the layout"),
        (TABLE.replace("2.jpg  1", "2.jpg"), "line 4: give a file name and 3 times 1 or -1"),
        (TABLE.replace("2.jpg  1", "2.jpg  2"), "line 4: give a file name and 3 times 1 or -1"),
        ("\xff\xfe", "not in the layout"),
    ],
)
def test_another_layout_is_refused(table, text, line):
    table.write_text(text)
    with pytest.raises(UserError, match=line):
        celeba.read_labels(str(table))


def test_what_is_missing_is_named(table, tmp_path):
    labels = celeba.read_labels(str(table))
    with pytest.raises(UserError, match="no attribute Beard, only Eyeglasses, Male, Young"):
        labels.of(["1.jpg"], "Beard")
    with pytest.raises(UserError, match=r"no labels for 1 of 2 photos, the first is 3\.jpg"):
        labels.of(["1.jpg", "x/3.jpg"], "Male")
    with pytest.raises(UserError, match="No such file"):
        celeba.read_labels(str(tmp_path / "nowhere.txt"))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text in UTF-8"):
        celeba.read_labels(str(tmp_path / "binary.txt"))


def test_the_heads_that_ship_fit_the_encoder_and_are_numbers():
    heads = celeba_heads.load()
    assert heads.kernel.shape == (7 * 7 * 256, len(celeba_heads.ATTRIBUTES))
    assert np.isfinite(heads.kernel).all() and (np.abs(heads.kernel).max(axis=0) > 0).all()
    assert heads.bias.shape == (len(celeba_heads.ATTRIBUTES),)
    assert set(heads.weights) == {"w600k_mbf", "celeba_heads"}


def test_heads_come_back_as_they_were_written(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(50, 6)) * 10.0 ** -np.arange(1, 13, 2)  # beyond half precision
    celeba_heads.save(tmp_path / "heads.safetensors", kernel, np.arange(6.0))
    monkeypatch.setattr(celeba_heads, "FILE", tmp_path / "heads.safetensors")
    heads = celeba_heads.load.__wrapped__()
    largest = np.abs(kernel).max(axis=0)
    np.testing.assert_allclose(heads.kernel / largest, kernel / largest, atol=1e-3)
    np.testing.assert_array_equal(heads.bias, np.arange(6.0))


def _trainer():
    path = pathlib.Path(__file__).parents[1] / "benchmarks" / "train_celeba_heads.py"
    spec = importlib.util.spec_from_file_location("train_celeba_heads", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_finds_what_is_linear_and_errs_alike_on_rare_and_common():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 30)) * np.linspace(0.1, 10, 30) + 5
    people = np.arange(1200) // 6
    score = (x[:, [0]] - 5) / 0.1 + 0.5 * rng.normal(size=(1200, 1))
    shown = np.concatenate([score > 0, score > 1.3], axis=1)
    kernel, bias, _ = _trainer().fit(x[:900], shown[:900], people[:900])
    right = (x[900:] @ kernel + bias > 0) == shown[900:]
    assert shown[:, 1].mean() < 0.15
    for k in (0, 1):
        have, lack = right[shown[900:, k], k].mean(), right[~shown[900:, k], k].mean()
        assert min(have, lack) > 0.75 and abs(have - lack) < 0.15


def _points(side=256):
    """A mesh whose points all lie in the corner, but those of the cheeks."""
    points = np.full((1, 468, 3), 2 / side, np.float32)
    angle = np.linspace(0, 2 * np.pi, 7, endpoint=False)
    for cheek, x in zip(skin._CHEEKS, (0.35, 0.65), strict=True):
        circle = np.stack([x + 0.05 * np.cos(angle), 0.6 + 0.05 * np.sin(angle)], axis=1)
        points[0, list(cheek), :2] = circle
    return points


@pytest.mark.parametrize(("lightness", "yellow"), [(70, 15), (45, 18), (60, 20), (30, 8)])
def test_tone_is_the_angle_of_the_cheeks(lightness, yellow):
    face = np.zeros((1, 256, 256, 3), np.uint8)
    rgb = 255 * color.lab2rgb([float(lightness), 12.0, yellow])
    face[:, 130:180, 60:200] = np.rint(rgb)
    expected = np.degrees(np.arctan2(lightness - 50, yellow))
    np.testing.assert_allclose(skin.tone(face, _points()), expected, atol=1.5)


def test_groups_go_from_dark_to_very_light():
    angles = np.array([-60, -29, 11, 30, 50, 56])
    assert skin.groups(angles).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.network
def test_heads_and_mesh_see_what_the_demo_faces_show():
    folder = pathlib.Path(identitydp_jax.__file__).parent / "demo_faces"
    paths = sorted(folder.glob("*.jpg"))
    faces = np.stack([np.asarray(Image.open(path).resize((256, 256))) for path in paths])
    loaded, missing = measures.load(kept.MEASURES)
    assert not missing
    found, mirrored = (
        {measure.name: measure.rows(faces, others) for measure in loaded}
        for others in (faces, faces[:, :, ::-1])
    )
    said = kept.answers(found)
    # A grey man with glasses, a laughing one, a bald one of dark skin, two women, one with glasses.
    assert said["gender"].tolist() == [True, True, True, False, False]
    assert said["glasses"].tolist() == [True, False, False, True, False]
    assert not said["age group"][0] and said["age group"][1]
    assert said["smile"][1] and said["mouth open"][1] and not said["mouth open"][3]
    assert said["eyes open"].tolist() == [True, False, True, True, True]  # he laughs
    assert said["skin"].argmin() == 2
    # Mirrored faces look the other way; the fourth head is turned most, the last one is straight.
    right, left = (each["eyes"][..., 1:].mean(axis=1) for each in (found, mirrored))
    np.testing.assert_allclose(right * [-1, 1], left, atol=0.1)
    yaw = found["pose"][:, 0]
    np.testing.assert_allclose(yaw, -mirrored["pose"][:, 0], atol=0.1)
    assert np.abs(yaw).argmax() == 3 and 0.15 < np.abs(yaw[3]) < 0.35 and np.abs(yaw[4]) < 0.1
