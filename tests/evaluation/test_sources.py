import io
import pathlib
import sys
import types

import numpy as np
import pytest
from PIL import Image

from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import sources


def _save(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(len(name)))
    return folder


def _png(shade):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def _listed(source):
    return [(photo.name, photo.identity) for photo in source]


def test_subfolders_are_people(tmp_path):
    _save(tmp_path, "b b/2.jpg", "b b/1.PNG", "a/9.webp", "a/notes.txt", "a/.x.jpg", ".c/3.jpg")
    source = sources.open_source(str(tmp_path))
    assert _listed(source) == [("a/9.webp", "a"), ("b b/1.PNG", "b b"), ("b b/2.jpg", "b b")]
    assert source.spec == str(tmp_path)
    np.testing.assert_array_equal(source[1].read(), np.full((4, 6, 3), 9, np.uint8))


def test_linked_people_are_people(tmp_path):
    _save(tmp_path, "elsewhere/1.jpg")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ann").symlink_to(tmp_path / "elsewhere")
    assert _listed(sources.open_source(str(tmp_path / "data"))) == [("ann/1.jpg", "ann")]


def test_in_a_flat_folder_nobody_is_known(tmp_path):
    _save(tmp_path, "b.jpg", "a.jpg")
    assert _listed(sources.open_source(str(tmp_path))) == [("a.jpg", None), ("b.jpg", None)]


def test_identities_csv(tmp_path):
    _save(tmp_path, "z.jpg", "y.jpg", "deep/er/x.jpg", "w.jpg", "v.jpg")
    rows = "7,,z.jpg\n10,,./y.jpg\n7,,deep/er/x.jpg\n10,,gone.jpg\n ,,v.jpg\n"
    (tmp_path / "identities.csv").write_text(f"\ufeffidentity,more,file\n{rows}", "utf-8")
    source = sources.open_source(str(tmp_path))
    assert _listed(source) == [
        ("gone.jpg", "10"),
        ("y.jpg", "10"),
        ("deep/er/x.jpg", "7"),
        ("z.jpg", "7"),
        ("v.jpg", None),
        ("w.jpg", None),
    ]
    with pytest.raises(UserError, match="no such file"):
        source[0].read()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("photo,person\na.jpg,1\n", r"identities\.csv: its first line has to name .*file,identity"),
        ("", "its first line"),
        ("file,identity\na.jpg,1\nb.jpg,2\na.jpg,3\n", r"line 4: a\.jpg has a second identity, 3"),
        ("file,identity\n,1\n", "line 2: names no file"),
        ("file,identity\n\xff\n", "not a table"),
    ],
)
def test_other_tables_are_refused(tmp_path, table, message):
    _save(tmp_path, "a.jpg")
    (tmp_path / "identities.csv").write_bytes(table.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        sources.open_source(str(tmp_path))


@pytest.mark.parametrize("names", [("a.jpg", "ann/1.jpg"), ("train/ann/1.jpg", "train/bob/1.jpg")])
def test_unclear_depths_are_refused(tmp_path, names):
    with pytest.raises(UserError, match=r"other depths .* as (ann|train/bob)/1\.jpg: give"):
        sources.open_source(str(_save(tmp_path, *names)))


def test_folders_without_photos_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="holds no photo"):
        sources.open_source(str(tmp_path))
    with pytest.raises(UserError, match="missing: no such folder"):
        sources.open_source(str(tmp_path / "missing"))


def test_damaged_and_foreign_images_are_photos_that_cannot_be_read(tmp_path):
    _save(tmp_path, "a.jpg", "b.png")
    (tmp_path / "a.jpg").write_bytes(_png(3)[:50])
    (tmp_path / "c.bmp").write_bytes(b"no bitmap")
    source = sources.open_source(str(tmp_path))
    assert len(source) == 3
    with pytest.raises(UserError, match="damaged"):
        source[0].read()
    with pytest.raises(UserError, match="not a JPEG"):
        source[2].read()


def test_data_of_one_source(tmp_path):
    source, folders = sources.open_data([str(_save(tmp_path / "a=b", "a.jpg"))])
    assert len(source) == 1 and folders == {}


def test_data_with_the_results_of_other_tools(tmp_path):
    for folder in ("in", "out/tool", "x:y"):
        _save(tmp_path / folder, "a.jpg")
    given = [f"anonymized={tmp_path}/out/tool/", f"original={tmp_path}/in"]
    given += [f"anonymized=CIAGAN:{tmp_path}/out/tool", f"anonymized={tmp_path}/x:y"]
    source, folders = sources.open_data(given)
    assert source.spec == f"{tmp_path}/in"
    tool = tmp_path / "out/tool"
    assert folders == {"tool": tool, "CIAGAN": tool, "x:y": tmp_path / "x:y"}
    assert isinstance(folders["tool"], pathlib.Path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["in", "in"], "--data in: give one SOURCE, or original="),
        (["original=in"], "--data original=in: give one SOURCE"),
        (["anonymized=out"], "give one SOURCE"),
        (["original=in", "original=in", "anonymized=out"], "give one SOURCE"),
        (["original=", "anonymized=out"], "--data original=: give one"),
        (["original=in", "anonymized=missing"], "missing: no such folder"),
        (["original=in", "anonymized=X:missing"], "missing: no such folder"),
        (["original=in", "anonymized=out", "anonymized=in/../out"], "are both called out"),
    ],
)
def test_other_words_are_refused(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    for folder in ("in", "out"):
        _save(tmp_path / folder, "a.jpg")
    with pytest.raises(UserError, match=message):
        sources.open_data(given)


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    """Write a data set as `tfds build --file_format=array_record` does, without TensorFlow."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")

    def write(dataset, feature, labels, splits=("test", "train"), called="label"):
        def split(builder, count):
            for index in range(count):
                image = io.BytesIO(_png(50 * index) if index < 2 else b"damaged")
                yield index, {"image": image, called: labels[index]}

        features = tfds.features.FeaturesDict({"image": tfds.features.Image(), called: feature})
        members = {
            "VERSION": tfds.core.Version("1.0.0"),
            "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=features),
            "_split_generators": lambda self, _: {name: split(self, 3) for name in splits},
            "_generate_examples": split,
        }
        base = tfds.core.GeneratorBasedBuilder
        unknown = {"skip_registration": True}  # as to a user's program, which only sees the files
        builder = types.new_class(dataset, (base,), unknown, lambda body: body.update(members))
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
        return folder

    return write


def test_tfds_reads_what_was_prepared_without_tensorflow(prepare, monkeypatch):
    import tensorflow_datasets as tfds

    people = tfds.features.ClassLabel(names=["ann", "bob"])
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepare("TwoPeople", people, [1, 0, 1])))
    source = sources.open_source("tfds:two_people:train")
    by_shade = {}
    unreadable = []
    for photo in source:
        try:
            by_shade[photo.read()[0, 0, 0]] = photo.identity
        except UserError as error:
            unreadable.append((photo.identity, str(error)))
    assert by_shade == {0: "bob", 50: "ann"}
    ((name, reason),) = unreadable
    assert name == "bob" and reason.endswith("JPEG XL image but a text file")
    assert len({photo.name for photo in source}) == len(source) == 3
    with pytest.raises(IndexError):
        source[3]
    assert len(sources.open_source("tfds:two_people:1.0.0:train[:2]")) == 2
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("kind", ["Text", "Scalar"])
def test_tfds_identities_of_other_kinds(prepare, monkeypatch, kind):
    import tensorflow_datasets as tfds

    if kind == "Text":
        label, labels = tfds.features.Text(), ["Zoë", "b", ""]
        expected = ["Zoë", "b", None]
    else:
        label, labels = tfds.features.Scalar(np.int64), [7, 12, 0]
        expected = ["7", "12", "0"]
    folder = prepare(f"Of{kind}", label, labels, splits=["all_of_it"])
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    found = [photo.identity for photo in sources.open_source(f"tfds:of_{kind.lower()}")]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_tfds_without_a_label_knows_nobody(prepare, monkeypatch):
    import tensorflow_datasets as tfds

    folder = prepare("Attributes", tfds.features.Text(), ["a", "b", "c"], called="hair")
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    source = sources.open_source("tfds:attributes:test")
    assert [photo.identity for photo in source] == [None] * 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:", "give tfds:NAME"),
        ("tfds:nowhere", r"tfds:nowhere: .* run `tfds build nowhere --file_format=array_record`"),
        ("tfds:lfw", r"run `tfds build lfw --file_format=array_record` once, where TensorFlow"),
        ("tfds:a b", "tfds:a b: .*tfds build"),
        ("tfds:here", r"name a split, as tfds:here:test \(test, train\)"),
        ("tfds:here:other", "tfds:here:other: Unknown split 'other'"),
    ],
)
def test_tfds_says_what_is_missing(prepare, monkeypatch, spec, message):
    import tensorflow_datasets as tfds

    folder = prepare("Here", tfds.features.Text(), ["a", "b", "c"])
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    with pytest.raises(UserError, match=message) as error:
        sources.open_source(spec)
    assert "\n" not in str(error.value)


def test_tfds_in_another_format_is_not_read(prepare, monkeypatch):
    import tensorflow_datasets as tfds

    folder = prepare("Streamed", tfds.features.Text(), ["a", "b", "c"])
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    info = folder / "streamed/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError, match=r"tfds:streamed: .* is in the format tfrecord: run `tfds"):
        sources.open_source("tfds:streamed:test")
