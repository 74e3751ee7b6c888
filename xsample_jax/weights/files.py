"""A file of weights as {name: array}, by the ending of its name."""

import collections
import contextlib
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from xsample_jax.errors import DataError
from xsample_jax.io.files import atomic_write, open_zip, parse_npz
from xsample_jax.io.paths import as_path, in_bucket

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL")  # of a .safetensors file, as its format names them
FETCH = "Fetch or export the file again."


@contextlib.contextmanager
def _named_errors(path: Path, expected: str, fix: str) -> Iterator[None]:
    """Every failure to read a file, whichever of many parsers it comes from, as one DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError("weights", str(path), "an existing file", fix) from None
    except Exception as error:  # json, pickle, zipfile, zlib and numpy: they raise many exception types for damage
        found = f"{type(error).__name__}: {error}"[:200]
        raise DataError("weights", str(path), f"{expected} ({found})", fix) from error


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Returns {name: array}.

    Raises:
      DataError: the file is missing, is not of this format or is cut short, or holds a type that no weights have.
    """
    path = Path(path)
    with _named_errors(path, "a file in the safetensors format", FETCH), safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            dtype = file.get_slice(name).get_dtype()
            if dtype not in DTYPES:
                raise DataError(f"{name} in {path}", dtype, f"one of {', '.join(DTYPES)}")
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write_safetensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the whole file or, when killed, none of it. The library's own `save_file` lets its owner alone read it."""
    arrays = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    atomic_write(Path(path), lambda partial: partial.write_bytes(save(arrays, metadata or None)))


# Reading what torch.save wrote (.pth, .pt, .bin), without torch and without running anything that is in the file.
#
# Since torch 1.6 (2020) such a file is a zip: `data.pkl` describes the tensors, `data/0`, `data/1`, ... are their raw
# storages. The pickle is read by an unpickler that knows five names and replaces every other one by a blank, so that
# what training scripts put beside the weights (arguments, schedulers) neither runs nor is in the way.


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
    with _named_errors(path, "a state dict that can be read", CONVERT):
        content = _torch_content(path)
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


def _torch_content(path: Path):
    with open(path, "rb") as file:
        try:
            archive = open_zip(file)
        except zipfile.BadZipFile:
            raise DataError("weights", str(path), "a file that torch >= 1.6 wrote", CONVERT) from None
        root = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if root is None or any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise DataError("weights", str(path), "a state dict, not a TorchScript archive", CONVERT)
        return _Tensors(archive, root.removesuffix("data.pkl")).load()


class _Blank:
    """Replaces any object that is not a tensor: it can be made, called and given a state, and nothing happens."""

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
        content = archive.read(root + "data.pkl")
        for opcode, number, _ in pickletools.genops(content):  # pickle makes room for the memo of any number
            if "PUT" in opcode.name and not 0 <= number <= len(content):
                raise ValueError(f"an object of number {number}")
        super().__init__(io.BytesIO(content), encoding="utf-8")
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
        member = self._archive.getinfo(f"{self._root}data/{number}")
        if type(count) is not int or not 0 <= count * dtype.itemsize <= member.file_size:
            raise ValueError(f"a storage of {count} numbers in {member.file_size} bytes")
        return np.frombuffer(self._archive.read(member), dtype, count)


LARGEST_REPEATED = 1 << 24  # numbers in a tensor that repeats those of a smaller storage (stride 0)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_) -> np.ndarray:
    """A tensor as the view of its storage that it is; ValueError where the view would leave it."""
    if len(shape) != len(strides) or min(0, offset, *shape, *strides) < 0:
        raise ValueError(f"a tensor of shape {shape} with strides {strides} from {offset}")
    if math.prod(shape) > max(len(storage), LARGEST_REPEATED):
        raise ValueError(f"a tensor of shape {shape} out of {len(storage)} numbers")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides)) if all(shape) else offset - 1
    if last >= len(storage):
        raise ValueError(f"a tensor of shape {shape} that leaves its storage")
    steps = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with _named_errors(path, "an .npz file", FETCH), open(path, "rb") as file:
        arrays = parse_npz(file)
        for name, array in arrays.items():
            if array.dtype.kind not in "biuf" and array.dtype != "V2":  # bfloat16, as numpy writes it
                raise ValueError(f"{name[:80]} of type {array.dtype}")
    return arrays


READERS = {
    ".safetensors": read_safetensors,
    ".npz": _read_npz,
    ".pth": read_torch,
    ".pt": read_torch,
    ".bin": read_torch,
}


def read_weights(path: str | Path) -> Mapping[str, np.ndarray]:
    """Returns {name: array}; DataError for an unknown ending or what is wrong with the file."""
    path = as_path(path)
    if in_bucket(path):
        raise DataError("weights", str(path), "a local file", f"Copy it: gcloud storage cp {path} .")
    if path.suffix not in READERS:
        raise DataError("weights", str(path), f"a file whose name ends in {', '.join(READERS)}")
    return READERS[path.suffix](path)
