"""Reading a .safetensors file: 8 bytes with the length of a JSON header, the header, then the raw tensors."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from xsample_jax.errors import DataError

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.dtype(jnp.bfloat16), "I64": np.int64}


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Returns {name: read-only array, mapped from the file and not yet read}.

    Raises:
      DataError: the file is missing, is not of this format or is cut short, or holds a type that no weights have.
    """
    path = Path(path)
    fix = "Fetch the model again: a folder saved by sentence-transformers has this file."
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
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
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
