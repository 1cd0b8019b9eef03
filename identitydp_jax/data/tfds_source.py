"""Data sets of TensorFlow Datasets, read from array_record files without TensorFlow."""

import os
import re

from identitydp_jax.checks import UserError

_SPEC = re.compile(r"tfds:(?P<name>[^:\[]+(:\d+\.[\d*]+\.[\d*]+)?)(:(?P<split>.+))?")


class TfdsSource:
    """The images of a data set in the order of its records; several threads may read.

    Attributes:
      spec: what it was opened with.
      split: the split that is read.
      features: tfds' features by name.
      image: name of the feature with the image.
    """

    def __init__(self, spec: str):
        """Open `tfds:NAME[:SPLIT]`.

        `NAME` is what `tfds.builder` takes (``lfw``, ``celeb_a:2.1.0``, ``celeb_a_hq/256``) and
        `SPLIT` ``test`` or ``train[:10%]``, needed if there are several. The data set lies in
        `TFDS_DATA_DIR` (default ``~/tensorflow_datasets``) as array_record, which `tfds build NAME
        --file_format=array_record` makes; only that needs TensorFlow.

        Raises:
          UserError: there is no such data set, split or image in it, or it is empty.
        """
        import tensorflow_datasets as tfds  # a second to import, for a source that few use

        match = _SPEC.fullmatch(spec)
        if not match:
            raise UserError(f"{spec}: give tfds:NAME or tfds:NAME:SPLIT")
        self.spec = spec
        builder = _prepared(match["name"])
        self.split = _split(builder, match["split"], spec)
        self.features = dict(builder.info.features.items())
        self.image = _image_feature(self.features, tfds.features.Image, spec)
        try:
            # The file as it is: our decoder says what is wrong with a damaged one.
            self._records = builder.as_data_source(
                self.split, decoders={self.image: tfds.decode.SkipDecoding()}
            )
        except Exception as error:  # tfds has no common base class
            raise UserError(f"{spec}: {_first_line(error)}") from error
        if not len(self._records):
            raise UserError(f"{spec}: holds no photo")

    def __len__(self):
        """Return the number of records."""
        return len(self._records)

    def record(self, index) -> dict:
        """Return one record, its image as the bytes of its file.

        Raises `UserError` if it is damaged.
        """
        try:
            return self._records[index]
        except Exception as error:  # array_record raises RuntimeError, tfds others
            raise UserError(
                f"{self.spec}: record {index} is damaged ({_first_line(error)}); build it again"
            ) from error

    def name(self, index) -> str:
        """Return split and number of one record."""
        return f"{self.split}/{index:06d}"

    def __getitem__(self, index) -> bytes:
        """Return the image file of one record; raise `UserError` if the record is damaged."""
        return self.record(index)[self.image]

    def __repr__(self):
        """Name the data set; grain shows this in its errors."""
        return f"TfdsSource({self.spec!r})"


def _prepared(name: str):
    """Return tfds' builder of a data set that lies ready on disk."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
        splits = builder.info.splits
    except Exception as error:  # tfds has no common base class
        builder, splits, reason = None, {}, _first_line(error)
    else:
        reason = f"not prepared in {builder.data_path}"
    formats = {each.value for each in builder.info.available_file_formats()} if splits else set()
    if splits and "array_record" not in formats:
        reason = f"{builder.data_path} is in the format {', '.join(sorted(formats))}"
    elif splits:
        return builder
    raise UserError(
        f"tfds:{name}: {reason}: run `tfds build {name} --file_format=array_record` once, where"
        " TensorFlow is installed, and point TFDS_DATA_DIR to its data_dir"
    )


def _split(builder, split: str | None, spec: str) -> str:
    names = sorted(builder.info.splits)
    if split is None and len(names) > 1:
        raise UserError(f"{spec}: name a split, as {spec}:{names[0]} ({', '.join(names)})")
    return split or names[0]


def _image_feature(features, kind: type, spec: str) -> str:
    names = [name for name, feature in features.items() if isinstance(feature, kind)]
    if "image" in names:
        return "image"
    if len(names) != 1:
        raise UserError(f"{spec}: has no feature `image` ({', '.join(features)})")
    return names[0]


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
