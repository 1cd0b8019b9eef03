import struct

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.weights import dlib_file


def _integer(value):
    size = max(1, (value.bit_length() + 7) // 8)
    return bytes([size]) + value.to_bytes(size, "little")


def _tensor(values, version=2):
    header = b"".join(map(_integer, (version, len(values), 1, 1, 1)))
    return header + struct.pack(f"<{len(values)}f", *values)


def _network(path, version=2):
    # A value that spells a layer's name must not be taken for one.
    name = np.frombuffer(b"con_4\1\2\0", "<f4").tolist()
    content = b"\1\1\rloss_metric_2\3" + b"\5con_4" + _tensor([1.5, *name, -2.0] * 100, version)
    content += b"\7affine_" + _tensor([0.5, 3.0]) + b"\4relu"
    content += b"\4fc_2" + _integer(128) + _integer(256) + _tensor([7.0])
    path.write_bytes(content)
    return path, name


def test_layers_in_order(tmp_path):
    path, name = _network(tmp_path / "net.dat")
    conv, affine, dense = dlib_file.read(path)
    assert (conv[0], affine[0], dense[0]) == ("con", "affine", "fc")
    np.testing.assert_array_equal(conv[1], np.float32([1.5, *name, -2.0] * 100))
    np.testing.assert_array_equal(affine[1], [0.5, 3.0])
    np.testing.assert_array_equal(dense[1], [7.0])
    assert conv[1].dtype == np.float32


@pytest.mark.parametrize("length", [30, 700, -3])
def test_a_cut_off_file(tmp_path, length):
    path, _ = _network(tmp_path / "net.dat")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"net\.dat: damaged dlib network"):
        dlib_file.read(path)


def test_a_tensor_of_another_version(tmp_path):
    path, _ = _network(tmp_path / "net.dat", version=1)
    with pytest.raises(UserError, match="tensor of version 1"):
        dlib_file.read(path)


def test_no_network(tmp_path):
    path = tmp_path / "net.dat"
    with pytest.raises(UserError, match="cannot be read"):
        dlib_file.read(path)
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="not a dlib network"):
        dlib_file.read(path)
