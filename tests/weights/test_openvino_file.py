import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.weights.openvino_file import read_constants

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
VALUES = KERNEL.tobytes() + np.int64(-7).tobytes() + np.float16([0.5, 2]).tobytes()
LAYERS = """
<layer id="0" name="x" type="Parameter"><data shape="1, 3" element_type="f32"/></layer>
<layer id="1" name="kernel" type="Const">
  <data element_type="f32" shape="2, 3" offset="0" size="24"/></layer>
<layer id="2" name="axis" type="Const">
  <data element_type="i64" shape="" offset="24" size="8"/></layer>
<layer id="3" name="half" type="Const">
  <data element_type="f16" shape="2" offset="32" size="4"/></layer>
"""


def _files(folder, layers=LAYERS, values=VALUES, head=""):
    (folder / "n.xml").write_text(f'{head}<net name="n"><layers>{layers}</layers></net>')
    (folder / "n.bin").write_bytes(values)
    return folder / "n.xml", folder / "n.bin"


def test_reads_every_constant_in_its_type_and_shape(tmp_path):
    found = read_constants(*_files(tmp_path))
    assert list(found) == ["kernel", "axis", "half"]
    assert [array.dtype for array in found.values()] == [np.float32, np.int64, np.float16]
    assert [array.shape for array in found.values()] == [(2, 3), (), (2,)]
    np.testing.assert_array_equal(found["kernel"], KERNEL)
    assert found["axis"] == -7
    np.testing.assert_array_equal(found["half"], [0.5, 2])


BAD = {
    "a bin that is cut off": {"values": VALUES[:-1]},
    "a size that the shape does not fill": {"layers": LAYERS.replace('"2, 3"', '"3, 3"')},
    "a negative offset": {"layers": LAYERS.replace('offset="24"', 'offset="-8"')},
    "a negative shape": {"layers": LAYERS.replace('"2, 3"', '"-1"').replace('"24"/>', '"-4"/>')},
    "an unknown type": {"layers": LAYERS.replace("f16", "u4")},
    "a constant without data": {"layers": '<layer name="a" type="Const"/>'},
    "no constants": {"layers": ""},
    "broken xml": {"layers": "<layer>"},
    "xml entities": {"head": '<!DOCTYPE n [<!ENTITY a "aaaa">]>'},
}


@pytest.mark.parametrize("files", BAD.values(), ids=BAD)
def test_other_files_are_one_clear_line(tmp_path, files):
    with pytest.raises(UserError, match="not an OpenVINO") as error:
        read_constants(*_files(tmp_path, **files))
    assert "\n" not in str(error.value)


def test_a_missing_bin_is_one_clear_line(tmp_path):
    xml, bin = _files(tmp_path)
    bin.unlink()
    with pytest.raises(UserError, match=r"n\.bin: cannot be read"):
        read_constants(xml, bin)
