"""Reading what torch.save wrote (.pth, .pt, .bin), without torch and without running anything that is in the file.

Since torch 1.6 (2020) such a file is a zip: `data.pkl` describes the tensors, `data/0`, `data/1`, ... are their raw
storages. The pickle is read by an unpickler that knows five names and replaces every other one by a blank, so that what
training scripts put beside the weights (arguments, schedulers) neither runs nor is in the way.
"""

import collections
import io
import pickle
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from xsample_jax.errors import DataError

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(bool),
}
CONVERT = (
    "Convert it where torch is: python -c \"import torch, safetensors.torch as s; w = torch.load('IN'); "
    "s.save_file(w.state_dict() if hasattr(w, 'state_dict') else w, 'OUT.safetensors')\""
)
NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts keep the weights
WRAPPED = ("module.", "_orig_mod.")  # put before every name by DataParallel and torch.compile


def read_torch(path: str | Path) -> dict[str, np.ndarray]:
    """Returns {name: array} of a state dict, or of the one inside a training checkpoint.

    Raises:
      DataError: the file is missing, damaged, older than torch 1.6, a TorchScript archive, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("weights", str(path), "an existing file")
    try:
        with zipfile.ZipFile(path) as archive:
            root = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if root is None or any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise DataError("weights", str(path), "a state dict, not a TorchScript archive", CONVERT)
            content = _Tensors(archive, root.removesuffix("data.pkl")).load()
    except zipfile.BadZipFile:
        raise DataError("weights", str(path), "a file that torch >= 1.6 wrote", CONVERT) from None
    except (pickle.UnpicklingError, KeyError, ValueError, TypeError, AttributeError, EOFError, IndexError) as error:
        raise DataError("weights", str(path), f"a state dict that can be read ({error})", CONVERT) from error
    for name in NESTED:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    tensors = {str(k): v for k, v in content.items() if isinstance(v, np.ndarray)} if isinstance(content, dict) else {}
    if not tensors:
        raise DataError("weights", str(path), "a state dict: names with tensors", CONVERT)
    for prefix in WRAPPED:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


class _Blank:
    """Stands for any object that is no tensor: it can be made, called and given a state, and nothing happens."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return _Blank()

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass


class _Tensors(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(root + "data.pkl")), encoding="utf-8")
        self._archive, self._root = archive, root
        if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder") != b"little":
            raise ValueError("the tensors are big-endian")

    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) in (("torch._utils", "_rebuild_parameter"), ("torch.nn.parameter", "Parameter")):
            return lambda data, *rest: data
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return _Blank

    def persistent_load(self, key: tuple) -> np.ndarray:
        kind, dtype, number, _, count = key
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ValueError(f"a storage of kind {key[:2]}")
        return np.frombuffer(self._archive.read(f"{self._root}data/{number}"), dtype, count)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_) -> np.ndarray:
    """A tensor as the view of its storage that it is; ValueError where the view would leave it."""
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides)) if all(shape) else offset - 1
    if min(offset, *strides, 0) < 0 or last >= len(storage):
        raise ValueError(f"a tensor of shape {shape} that leaves its storage")
    steps = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
