"""TorchScript files as plain arrays: no code of theirs is run, and PyTorch is not needed."""

import math
import pathlib
import zipfile

import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.weights import restricted_pickle


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Read every tensor of a TorchScript module (zip layout, PyTorch 1.6 and later).

    Returns:
      The float32 tensors by dotted attribute name ("net.layers.conv.weight"), read-only, as
      `state_dict()` names them.

    Raises:
      UserError: the file is missing, is not TorchScript, is damaged, or holds tensors of other
        types or layouts.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (listing,) = [name for name in archive.namelist() if _is_listing(name)]
            folder = listing.removesuffix("data.pkl")
            with archive.open(listing) as file:
                module = restricted_pickle.load(
                    file,
                    path,
                    {
                        "__torch__.*": _Module,
                        "torch.FloatStorage": None,  # tensors of other types are not known
                        "torch._utils._rebuild_tensor_v2": _tensor,
                        "torch.jit._pickle.build_intlist": list,
                        "collections.OrderedDict": dict,
                    },
                    stored=lambda pid: _storage(archive, folder, pid),
                )
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (zipfile.BadZipFile, ValueError):
        raise UserError(f"{path}: not a TorchScript file (or cut off); fetch it again") from None
    tensors = dict(_tensors(module, ()))
    if not tensors:
        raise UserError(f"{path}: not a TorchScript file of a network (it holds no tensors)")
    return tensors


class _Module:
    """Stands for any module class of the file: a bag of attributes without behaviour."""

    def __setstate__(self, attributes: dict) -> None:
        self.attributes = dict(attributes)


def _is_listing(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


def _storage(archive: zipfile.ZipFile, folder: str, pid: tuple) -> np.ndarray:
    """Return the float32 values that ("storage", type, key, device, count) names."""
    _, _, key, _, count = pid
    values = np.frombuffer(archive.read(f"{folder}data/{key}"), "<f4")
    if len(values) != count:
        raise ValueError(f"storage {key} holds {len(values)} values in place of {count}")
    return values


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_) -> np.ndarray:
    """Return a tensor that lies row by row in its storage, as a view."""
    expected = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if offset < 0 or min(shape, default=1) < 1 or tuple(strides) != expected:
        raise ValueError(f"a tensor of shape {shape} has strides {strides}")
    return storage[offset : offset + math.prod(shape)].reshape(shape)


def _tensors(module, prefix: tuple[str, ...]):
    """Yield (dotted name, array) of a module and of the modules inside it."""
    for name, value in getattr(module, "attributes", {}).items():
        if isinstance(value, np.ndarray):
            yield ".".join((*prefix, name)), value
        elif isinstance(value, _Module):
            yield from _tensors(value, (*prefix, name))
