import collections
import io
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.weights import torch_file

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
STORED = np.concatenate([KERNEL.reshape(-1), np.float32([0.5, -2])])


class Call:
    """Pickled as a call of anything."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def foreign(monkeypatch):
    """Make the names that TorchScript's pickles use."""
    made: dict[str, types.ModuleType] = {}

    def name(module, attribute):
        thing = type(attribute, (), {"__module__": module})
        packages = module.split(".")
        for depth in range(1, len(packages) + 1):
            package = ".".join(packages[:depth])
            if package not in made:
                made[package] = types.ModuleType(package)
                monkeypatch.setitem(sys.modules, package, made[package])
        setattr(made[module], attribute, thing)
        return thing

    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return types.SimpleNamespace(
        network=name("__torch__.network", "Network"),
        layer=name("__torch__.nn.___torch_mangle_0", "Layer"),
        rebuild=rebuild,
        floats=name("torch", "FloatStorage"),
        doubles=name("torch", "DoubleStorage"),
        integers=name("torch.jit._pickle", "build_intlist"),
    )


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return thing if isinstance(thing, tuple) and thing[:1] == ("storage",) else None


def _tensor(foreign, offset, shape, strides, *, kind=None, count=8):
    storage = ("storage", kind or foreign.floats, "0", "cpu", count)
    hooks = Call(collections.OrderedDict)
    return Call(foreign.rebuild, storage, offset, shape, strides, False, hooks)


def _file(folder, foreign, **attributes):
    """Write a network with one layer that has the attributes."""
    network, layer = foreign.network(), foreign.layer()
    vars(network).update(training=False, layer=layer)
    vars(layer).update(attributes, padding=Call(foreign.integers, [0, 1]), hook=None)
    content = io.BytesIO()
    Pickler(content, protocol=2).dump(network)
    path = folder / "network.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("module/data.pkl", content.getvalue())
        archive.writestr("module/code/__torch__/network.py", "raise SystemExit")
        archive.writestr("module/data/0", STORED.tobytes())
    return path


def test_reads_the_tensors_by_name(tmp_path, foreign):
    kernel = _tensor(foreign, 0, (2, 3), (3, 1))
    bias, scalar = _tensor(foreign, 6, (2,), (1,)), _tensor(foreign, 7, (), ())
    path = _file(tmp_path, foreign, kernel=kernel, bias=bias, scalar=scalar)
    found = torch_file.read(path)
    assert list(found) == ["layer.kernel", "layer.bias", "layer.scalar"]
    np.testing.assert_array_equal(found["layer.kernel"], KERNEL)
    np.testing.assert_array_equal(found["layer.bias"], [0.5, -2])
    assert found["layer.scalar"] == -2
    assert all(array.dtype == np.float32 for array in found.values())
    assert not found["layer.kernel"].flags.writeable


def test_runs_nothing(tmp_path, foreign):
    made = tmp_path / "made"
    path = _file(tmp_path, foreign, kernel=Call(os.mkdir, str(made)))
    with pytest.raises(UserError, match=r"network\.pt: not a weight file .*names posix\.mkdir"):
        torch_file.read(path)
    assert not made.exists()


BAD = {
    "transposed": {"shape": (3, 2), "strides": (1, 3)},
    "beyond its storage": {"offset": 3},
    "a negative offset": {"offset": -1},
    "a negative shape": {"shape": (-2, 3), "strides": (3, 1)},
    "a storage of another length": {"count": 9},
}


@pytest.mark.parametrize("tensor", BAD.values(), ids=BAD)
def test_other_tensors_are_one_clear_line(tmp_path, foreign, tensor):
    tensor = {"offset": 0, "shape": (2, 3), "strides": (3, 1)} | tensor
    path = _file(tmp_path, foreign, kernel=_tensor(foreign, **tensor))
    with pytest.raises(UserError, match=r"network\.pt: not a weight file") as error:
        torch_file.read(path)
    assert "\n" not in str(error.value)


def test_other_numbers_are_refused(tmp_path, foreign):
    kernel = _tensor(foreign, 0, (2, 3), (3, 1), kind=foreign.doubles)
    with pytest.raises(UserError, match=r"names torch\.DoubleStorage"):
        torch_file.read(_file(tmp_path, foreign, kernel=kernel))


def test_a_file_without_tensors_is_refused(tmp_path, foreign):
    with pytest.raises(UserError, match="holds no tensors"):
        torch_file.read(_file(tmp_path, foreign))


def test_other_archives_and_files_are_one_clear_line(tmp_path, foreign):
    path = _file(tmp_path, foreign, kernel=_tensor(foreign, 0, (2, 3), (3, 1)))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="not a TorchScript file"):
        torch_file.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("module/constants.pkl", b"")
    with pytest.raises(UserError, match="not a TorchScript file"):
        torch_file.read(path)
    with pytest.raises(UserError, match=r"none\.pt: cannot be read"):
        torch_file.read(tmp_path / "none.pt")
