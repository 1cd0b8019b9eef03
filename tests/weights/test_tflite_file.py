import flatbuffers
import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.weights.tflite_file import read_weights

KERNEL = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
TENSORS = {  # type, shape and bytes; the first is what flows through the network
    "input": (0, (1, 4), b""),
    "conv/Kernel": (0, KERNEL.shape, KERNEL.tobytes()),
    "conv/Bias": (1, (2,), np.float16([0.5, -2]).tobytes()),
    "pad/Paddings": (2, (2,), np.int32([1, 2]).tobytes()),
}


def _vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _table(builder, **fields):
    """Write a table of references, numbers (field "n1") and types (field "t1")."""
    builder.StartObject(5)
    for name, value in fields.items():
        slot = int(name[1:])
        match name[0]:
            case "f":
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
            case "n":
                builder.PrependUint32Slot(slot, value, 0)
            case "t":
                builder.PrependInt8Slot(slot, value, 0)
    return builder.EndObject()


def _network(tensors=TENSORS, graphs=1):
    """Return a file of TensorFlow Lite without operators."""
    builder = flatbuffers.Builder()
    tables, buffers = [], []
    for number, (name, (kind, shape, content)) in enumerate(tensors.items()):
        shape = builder.CreateNumpyVector(np.int32(shape))
        data = {"f0": builder.CreateByteVector(content)} if content else {}
        buffers.append(_table(builder, **data))
        tables.append(_table(builder, f0=shape, t1=kind, n2=number, f3=builder.CreateString(name)))
    graph = _table(builder, f0=_vector(builder, tables))
    fields = {"f2": _vector(builder, [graph] * graphs), "f4": _vector(builder, buffers)}
    builder.Finish(_table(builder, **fields), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_constants_become_float32_arrays_by_name(tmp_path):
    (tmp_path / "net.tflite").write_bytes(_network())
    found = read_weights(tmp_path / "net.tflite")
    assert list(found) == ["conv/Kernel", "conv/Bias"]
    np.testing.assert_array_equal(found["conv/Kernel"], KERNEL)
    np.testing.assert_array_equal(found["conv/Bias"], [0.5, -2])
    assert {value.dtype for value in found.values()} == {np.dtype("float32")}


BAD = {
    "empty": b"",
    "another format": b"\x08\x00\x00\x00TFL2" + _network()[8:],
    "cut off": _network()[:-60],
    "nothing but the head": _network()[:8],
    "two networks": _network(graphs=2),
    "none": _network(graphs=0),
    "fewer bytes than the shape has": _network({"a": (0, (3,), bytes(8))}),
    "half a number": _network({"a": (0, (1,), bytes(5))}),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_other_files_are_one_clear_line(tmp_path, content):
    (tmp_path / "net.tflite").write_bytes(content)
    with pytest.raises(UserError, match=r"net\.tflite: not a network of TensorFlow Lite") as error:
        read_weights(tmp_path / "net.tflite")
    assert "\n" not in str(error.value)


def test_a_file_cut_off_anywhere_is_refused_or_whole(tmp_path):
    whole = _network()
    for end in range(0, len(whole), 7):
        (tmp_path / "net.tflite").write_bytes(whole[:end])
        try:
            found = read_weights(tmp_path / "net.tflite")
        except UserError:
            continue
        np.testing.assert_array_equal(found["conv/Kernel"], KERNEL)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"net\.tflite: cannot be read"):
        read_weights(tmp_path / "net.tflite")
