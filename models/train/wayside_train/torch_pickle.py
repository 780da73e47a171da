"""Reads the legacy torch pickle format with numpy alone: no torch, and no code from the file is run."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C

DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Tensor:
    """A view on a storage that follows later in the file."""

    def __init__(self, storage, offset, shape, strides, *_):
        self.kind, self.key = storage
        self.offset, self.shape, self.strides = offset, shape, strides


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"unexpected object {module}.{name}")

    def persistent_load(self, pid):
        _, kind, key, _location, _count, _view = pid
        return kind, key


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The state dictionary in `path`, each tensor contiguous.

    Raises `ValueError` for another file format and `pickle.UnpicklingError` for objects other than tensors.
    """
    with open(path, "rb") as file:
        if pickle.load(file) != MAGIC:
            raise ValueError(f"{path}: not a legacy torch pickle")
        _protocol, system = pickle.load(file), pickle.load(file)
        if not system["little_endian"]:
            raise ValueError(f"{path}: big endian")
        tensors = _Unpickler(file).load()
        storages = _read_storages(file, pickle.load(file), {t.key: DTYPES[t.kind] for t in tensors.values()})
    return {name: _gather(tensor, storages[tensor.key]) for name, tensor in tensors.items()}


def _read_storages(file, keys, dtypes):
    storages = {}
    for key in keys:
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key])
    return storages


def _gather(tensor, storage):
    strides = [stride * storage.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)
    return np.ascontiguousarray(view)
