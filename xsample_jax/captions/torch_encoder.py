"""The reference encoder: sentence-transformers on torch. It runs every model of that library, CLIP's text side too."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.captions.model_identity import identify
from xsample_jax.errors import ConfigError, DataError


class TorchEncoder:
    """Texts to vectors with a sentence-transformers model (a name on the hub, or a folder).

    Attributes:
      info: {"name", "revision", "pooling", "dim"} for the manifest; "max_length" where texts are cut, "prompt" where
        one is put before them, "dtype" if it is not float32.

    Raises:
      ImportError: the extra `text` is not installed.
      ConfigError: torch has no such device.
      DataError: the model cannot be loaded.
    """

    def __init__(self, model: str, *, device: str | None = None, batch_size: int = 64):
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError(
                "The torch backend needs sentence-transformers: pip install 'xsample_jax[text]' "
                "(on a machine without GPU install a CPU build of torch first). The jax backend needs neither."
            ) from error
        try:
            # Moved afterwards: what then fails is the device, not the model.
            self._encoder = SentenceTransformer(model, device=device and "cpu")
        except ImportError:
            raise
        except Exception as error:  # damaged weights: torch, pickle and safetensors have each their own
            fix = "Give a folder with a downloaded model, or a name of the hub and a network."
            found = f"{type(error).__name__}: {error}"[:200]
            raise DataError("model", model, f"a sentence-transformers model ({found})", fix) from error
        if device:
            self._move(device)
        self._encoder.eval()
        self._batch_size = batch_size
        name, revision = identify(model, _folder(model))
        dim = int(self._encode([""]).shape[1])
        self.info = {"name": name, "revision": revision, "pooling": _pooling(self._encoder), "dim": dim}
        about = {
            "max_length": self._encoder.get_max_seq_length(),
            "prompt": self._encoder.prompts.get(self._encoder.default_prompt_name),
            "dtype": str(self._encoder.dtype).removeprefix("torch.").replace("float32", ""),
        }
        self.info |= {key: value for key, value in about.items() if value}

    def _move(self, device: str) -> None:
        try:
            self._encoder.to(device)
        except Exception as error:  # RuntimeError, AssertionError, NotImplementedError: as the device may have it
            expected = "a device that torch has here, as cpu, cuda or cuda:1"
            raise ConfigError("--device", device, expected, str(error).split("\n")[0][:200]) from error

    def encode(self, texts: Sequence[str], advance: Callable[[int], None] = lambda texts: None) -> np.ndarray:
        """Returns float32 [n, dim], of any length. `advance(k)` is called when k more texts are done."""
        rows = [np.zeros((0, self.info["dim"]), np.float32)]
        for start in range(0, len(texts), 64 * self._batch_size):  # the library sorts by length within a call
            part = list(texts[start : start + 64 * self._batch_size])
            rows.append(self._encode(part))
            advance(len(part))
        return np.concatenate(rows)

    def _encode(self, texts: list[str]) -> np.ndarray:
        rows = self._encoder.encode(texts, batch_size=self._batch_size, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(rows, np.float32)


def _folder(model: str) -> Path | None:
    """Where a model that was loaded lies."""
    from huggingface_hub import snapshot_download

    if Path(model).is_dir():
        return Path(model)
    for name in (model, f"sentence-transformers/{model}"):  # the library knows its own by short names
        with contextlib.suppress(OSError, ValueError):
            return Path(snapshot_download(name, local_files_only=True))
    return None


def _pooling(encoder) -> str:
    """How token vectors become one: mean, cls, max, ..."""
    for module in encoder:
        mode = getattr(module, "pooling_mode", None)
        if isinstance(mode, str):
            return mode
        if hasattr(module, "get_pooling_mode_str"):
            return module.get_pooling_mode_str()
    return "unknown"
