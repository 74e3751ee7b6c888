"""A .safetensors file: 8 bytes with the length of a JSON header, the header, then the raw tensors."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from xsample_jax.data.whole_file import write_whole
from xsample_jax.errors import DataError

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(bool),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8  # of the first tensor, as the format's own writer has it


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Returns {name: read-only array, mapped from the file and not yet read}.

    Raises:
      DataError: the file is missing, is not of this format or is cut short, or holds a type that no weights have.
    """
    path = Path(path)
    fix = "Fetch or export the file again."
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < path.stat().st_size else None
    except FileNotFoundError:
        raise DataError("weights", str(path), "an existing file", fix) from None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise DataError("weights", str(path), "a file in the safetensors format", fix)
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r", offset=8 + size) if path.stat().st_size > 8 + size else np.empty(0, np.uint8)
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        if end > data.size:
            there = f"{8 + size + data.size} bytes"
            raise DataError(f"weights {path}", there, f"{name} up to byte {8 + size + end}", fix)
        if entry["dtype"] not in DTYPES:
            raise DataError(f"{name} in {path}", entry["dtype"], f"one of {', '.join(DTYPES)}")
        tensors[name] = data[start:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def write_safetensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the whole file or, when killed, none of it. Tensors are in the order of their names."""
    header, place, path = {}, 0, Path(path)
    if metadata:
        header["__metadata__"] = dict(metadata)
    arrays = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    for name, array in arrays.items():
        span = [place, place + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": span}
        place += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(array.tobytes())

    write_whole(path, write)
