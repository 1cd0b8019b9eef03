import json

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.weights.tfjs_file import read_weights

ENTRIES = [
    {"name": "a", "shape": [2, 3], "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0}},
    {"name": "b", "shape": [], "quantization": {"dtype": "uint8", "scale": 2.0, "min": 0.25}},
]


def _files(folder, entries=ENTRIES, content=bytes([0, 1, 2, 3, 4, 255, 7]), text=None):
    manifest, weights = folder / "manifest.json", folder / "weights.bin"
    manifest.write_text(json.dumps([{"paths": [], "weights": entries}]) if text is None else text)
    weights.write_bytes(content)
    return manifest, weights


def test_bytes_become_scaled_arrays(tmp_path):
    found = read_weights(*_files(tmp_path))
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"], [[-1, -0.5, 0], [0.5, 1, 126.5]])
    np.testing.assert_array_equal(found["b"], 14.25)
    assert {value.dtype for value in found.values()} == {np.dtype("float32")}


@pytest.mark.parametrize(
    "change",
    [
        {"content": bytes(6)},
        {"content": bytes(8)},
        {"text": "not json"},
        {"text": "[]"},
        {"text": "[{}]"},
        {"text": '[{"weights": [{"name": "a", "shape": [1], "dtype": "float32"}]}]'},
        {"entries": [{**ENTRIES[0], "quantization": {"dtype": "uint16", "scale": 1, "min": 0}}]},
    ],
    ids=["too short", "too long", "no json", "no group", "no list", "not packed", "16 bits"],
)
def test_other_files_are_one_clear_line(tmp_path, change):
    with pytest.raises(UserError, match=r"^\S+manifest.json and \S+weights.bin: not TensorFlow.js"):
        read_weights(*_files(tmp_path, **change))


@pytest.mark.parametrize("missing", ["manifest.json", "weights.bin"])
def test_a_missing_file_is_named(tmp_path, missing):
    files = _files(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=f"{missing}: cannot be read"):
        read_weights(*files)
