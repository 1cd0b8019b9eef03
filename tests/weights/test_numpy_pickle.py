import os
import pickle

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.weights import numpy_pickle

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
TREE = {"conv": {"kernel": KERNEL, "bias": np.float32([0.5, -2, 7])}, "scale": KERNEL.T}


class Intruder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _file(folder, content):
    path = folder / "weights.ckpt"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=3))
    return path


@pytest.mark.parametrize("protocol", [3, 4])
def test_reads_the_tree_of_arrays(tmp_path, protocol):
    found = numpy_pickle.read(_file(tmp_path, pickle.dumps(TREE, protocol=protocol)))
    assert list(found) == ["conv", "scale"] and list(found["conv"]) == ["kernel", "bias"]
    np.testing.assert_array_equal(found["conv"]["kernel"], KERNEL)
    np.testing.assert_array_equal(found["conv"]["bias"], [0.5, -2, 7])
    np.testing.assert_array_equal(found["scale"], KERNEL.T)  # stored column by column
    assert found["scale"].dtype == np.float32 and not found["scale"].flags.writeable


def test_runs_nothing(tmp_path):
    made = tmp_path / "made"
    with pytest.raises(UserError, match=r"weights\.ckpt: not a weight file .*names posix\.mkdir"):
        numpy_pickle.read(_file(tmp_path, {"kernel": Intruder(str(made))}))
    assert not made.exists()


BAD = {
    "cut off": pickle.dumps(TREE, protocol=3)[:-40],
    "no pickle": b"PK\x03\x04",
    "empty": b"",
    "other numbers": {"kernel": KERNEL.astype(np.float64)},
    "other byte order": {"kernel": KERNEL.astype(">f4")},
    "objects": {"kernel": np.array([{}, "a"], dtype=object)},
    "no arrays": {"kernel": 5},
    "no names": {0: KERNEL},
    "a bare type": {"kernel": np.dtype("f4")},
    "a persistent id": b"Pelsewhere\n.",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_other_files_are_one_clear_line(tmp_path, content):
    with pytest.raises(UserError, match=r"weights\.ckpt: not a weight file") as error:
        numpy_pickle.read(_file(tmp_path, content))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"none\.ckpt: cannot be read"):
        numpy_pickle.read(tmp_path / "none.ckpt")
