"""Captions to unit vectors with a frozen sentence encoder. Runs when a set is prepared, never while a model trains."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xsample_jax.captions.bert import ACTIVATIONS, read_parameters, token_vectors
from xsample_jax.captions.sentence_model import (
    DEFAULT_ENCODER,
    OTHERWISE,
    WEIGHTS,
    WIDTHS,
    find_folder,
    identify,
    read_folder,
)
from xsample_jax.data.records import unit_rows
from xsample_jax.errors import ConfigError, DataError, lookup
from xsample_jax.weights.files import read_safetensors

# The reference encoder: sentence-transformers on torch. It runs every model of that library, CLIP's text side too.


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

    def count_known(self, texts: Sequence[str]) -> np.ndarray | None:
        """int [n, 2]: tokens of each text that the model has a vector for, and all its tokens.

        None where the tokenizer is not one of transformers, as CLIP's.
        """
        tokenizer = self._encoder.tokenizer
        if not hasattr(tokenizer, "all_special_ids"):
            return None
        special = set(tokenizer.all_special_ids)  # the unknown token is one of them
        longest = self._encoder.get_max_seq_length()
        ids = [tokenizer(text, truncation=longest is not None, max_length=longest)["input_ids"] for text in texts]
        counts = [(sum(token not in special for token in row), len(row)) for row in ids]
        return np.array(counts, np.int64).reshape(-1, 2)


def _folder(model: str) -> Path | None:
    """The folder of a loaded model."""
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


# Texts of all lengths side by side in rows of equal width, so that little is computed for padding.
#
# A caption has 10 to 30 tokens, the longest 20 times that. Sorting into batches of like length needs a compiled program
# per length; packing several texts into a row needs one per width, and wastes less (Krell et al., arXiv 2107.02027).


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """Several texts in rows.

    Attributes:
      tokens: int32 [rows, width].
      segments: int32 [rows, width]: which text of the row a token belongs to, from 1; 0 = padding.
      places: (row, segment - 1) of each text [texts, 2].
      texts: index of each text [texts].
    """

    tokens: np.ndarray
    segments: np.ndarray
    places: np.ndarray
    texts: np.ndarray


def segments_per_row(width: int) -> int:
    """Most texts that a row takes: as many as it holds of 4 tokens, start and end included."""
    return width // 4


def pack(token_ids: Sequence[Sequence[int]], budget: int, multiple: int = 1, padding: int = 0) -> Iterator[PackedBatch]:
    """Packs texts into batches of at most `budget` tokens. Equal input gives equal batches.

    A text goes to the narrowest width that holds two of it (the widest that there is, for long ones), and there into
    the fullest row that still has room, longest texts first.

    Args:
      token_ids: of each text, at most 512.
      budget: tokens in a batch, padding included; one row per device is the least whatever it says.
      multiple: rows of a batch divide by it (the number of devices).
      padding: the id in unused places.
    """
    lengths = np.array([len(ids) for ids in token_ids], np.int64)
    narrowest = np.searchsorted(WIDTHS, np.minimum(2 * lengths, WIDTHS[-1]))
    for which, width in enumerate(WIDTHS):
        chosen = np.flatnonzero(narrowest == which)
        if not chosen.size:
            continue
        rows = _fill_rows(chosen[np.argsort(-lengths[chosen], kind="stable")], lengths, width)
        size = batch_rows(len(rows), max(budget // width, 1), multiple)
        for start in range(0, len(rows), size):
            yield _batch(rows[start : start + size], token_ids, size, width, padding)


def batch_rows(rows: int, most: int, multiple: int) -> int:
    """Rows per batch: as few batches as `most` allows, of equal size, from a ladder of 16 sizes (each is compiled)."""
    step = math.ceil(max(most // 16, 1) / multiple) * multiple
    each = math.ceil(rows / math.ceil(rows / most))
    return math.ceil(each / step) * step


def _fill_rows(texts: np.ndarray, lengths: np.ndarray, width: int) -> list[list[int]]:
    """Best fit, longest first: rows as lists of texts."""
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(width + 1)]  # free tokens -> rows
    most = segments_per_row(width)
    for text in texts.tolist():
        need = int(lengths[text])
        room = next((free for free in range(need, width) if with_room[free]), None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, width
        else:
            row = with_room[room].pop()
        rows[row].append(text)
        if len(rows[row]) < most:
            with_room[room - need].append(row)
    return rows


def _batch(rows, token_ids, size: int, width: int, padding: int) -> PackedBatch:
    tokens = np.full((size, width), padding, np.int32)
    segments = np.zeros((size, width), np.int32)
    places, texts = [], []
    for row, members in enumerate(rows):
        start = 0
        for segment, text in enumerate(members):
            end = start + len(token_ids[text])
            tokens[row, start:end] = token_ids[text]
            segments[row, start:end] = segment + 1
            places.append((row, segment))
            texts.append(text)
            start = end
    return PackedBatch(tokens, segments, np.array(places, np.int64), np.array(texts, np.int64))


# A sentence encoder in JAX: the folders that sentence-transformers saves, without torch, on all local devices.


# Tokens in a batch on one device: enough to fill its matrix units, little enough to stay in a CPU's cache.
BUDGETS = {"cpu": 1024}
BUDGET = 32_768


class JaxEncoder:
    """Texts to vectors. Rows of a batch are split over the devices, every device holds the model.

    Attributes:
      info: {"name", "revision", "pooling", "dim", "max_length"} for the manifest, and "dtype" if it is not float32.
      tokens, padded: tokens of all texts so far, and what was computed for them with padding.
    """

    def __init__(self, model: str, *, devices: Sequence | None = None, dtype=None, budget: int | None = None):
        """
        Args:
          model: a folder, or a name on the hub.
          devices: default: all local ones.
          dtype: of weights and activations; default bfloat16, float32 on CPUs. The mean over tokens is float32.
          budget: tokens in a batch on one device.

        Raises:
          DataError: no such model, or one that this code does not run.
        """
        folder = read_folder(find_folder(model))
        if folder.config["hidden_act"] not in ACTIVATIONS:
            raise DataError("hidden_act", folder.config["hidden_act"], f"one of {', '.join(ACTIVATIONS)}", OTHERWISE)
        devices = list(devices or jax.local_devices())
        platform = devices[0].platform
        dtype = jnp.dtype(dtype or (jnp.float32 if platform == "cpu" else jnp.bfloat16))
        mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        parameters = read_parameters(read_safetensors(folder.path / WEIGHTS), folder.config)
        name, revision = identify(model, folder.path)
        self.info = {
            "name": name,
            "revision": revision,
            "pooling": folder.pooling,
            "dim": folder.config["hidden_size"],
            "max_length": folder.max_length,
        } | ({} if dtype == jnp.float32 else {"dtype": dtype.name})
        self.tokens = self.padded = 0
        self._folder, self._devices = folder, len(devices)
        self._budget = (budget or BUDGETS.get(platform, BUDGET)) * len(devices)
        self._parameters = jax.device_put(
            jax.tree.map(lambda leaf: leaf.astype(dtype), parameters), NamedSharding(mesh, PartitionSpec())
        )
        self._rows = NamedSharding(mesh, PartitionSpec("data"))
        self._forward = jax.jit(
            functools.partial(text_vectors, config=folder.config, pooling=folder.pooling), out_shardings=self._rows
        )

    def encode(self, texts: Sequence[str], advance: Callable[[int], None] = lambda texts: None) -> np.ndarray:
        """Returns float32 [n, dim], not scaled to unit length. `advance(k)` is called when k more texts are done."""
        ids = list(self._folder.tokenize(texts))
        vectors = np.empty((len(texts), self.info["dim"]), np.float32)
        pending = None
        padding = self._folder.config.get("pad_token_id") or 0
        for batch in pack(ids, self._budget, self._devices, padding):
            rows = self._forward(self._parameters, *jax.device_put((batch.tokens, batch.segments), self._rows))
            self.tokens += int((batch.segments > 0).sum())
            self.padded += batch.segments.size
            if pending is not None:  # fetched while the devices work on the next batch
                advance(_store(vectors, *pending))
            pending = batch, rows
        if pending is not None:
            advance(_store(vectors, *pending))
        return vectors

    def count_known(self, texts: Sequence[str]) -> np.ndarray:
        """int [n, 2]: tokens of each text that the model has a vector for, and all its tokens."""
        return self._folder.count_known(texts)


def _store(vectors: np.ndarray, batch, rows: jax.Array) -> int:
    vectors[batch.texts] = np.asarray(rows)[batch.places[:, 0], batch.places[:, 1]]
    return len(batch.texts)


def text_vectors(parameters: dict, tokens: jax.Array, segments: jax.Array, *, config, pooling: str) -> jax.Array:
    """Vectors of all texts of all rows, float32 [rows, segments_per_row, dim]; where there is no text they are zero."""
    vectors = token_vectors(parameters, tokens, segments, config).astype(jnp.float32)
    member = segments[:, None, :] == jnp.arange(1, segments_per_row(segments.shape[1]) + 1)[:, None]  # [n, s, t]
    if pooling == "cls":
        member = member & (jnp.cumsum(member, axis=-1) == 1)
    weight = member / jnp.maximum(member.sum(-1, keepdims=True), 1)
    return jnp.einsum("nst,ntd->nsd", weight, vectors, precision=jax.lax.Precision.HIGHEST)


BACKENDS = {"jax": JaxEncoder, "torch": TorchEncoder}
PROBE = "\ue000\ue001"  # of no template


def open_encoder(model: str = DEFAULT_ENCODER, backend: str = "jax", **options) -> JaxEncoder | TorchEncoder:
    """Loads a sentence encoder; both kinds have `info` (for the manifest) and `encode(texts, advance)`.

    Args:
      model: name on the model hub, or a folder with a saved model (no network needed).
      backend: "jax" (BERT and MPNet families, no torch), or "torch" (all of sentence-transformers, extra `text`).
      options: of that encoder.

    Raises:
      ImportError: the torch backend is not installed.
      DataError: the model cannot be loaded, or not by this backend.
    """
    return lookup(BACKENDS, backend, "backend")(model, **options)


def encode_texts(
    texts: Sequence[str], model: str = DEFAULT_ENCODER, backend: str = "jax", template: str = "{caption}", **options
) -> tuple[np.ndarray, dict]:
    """Encodes texts, each distinct one once.

    Args:
      texts: n texts.
      model, backend, options: as for `open_encoder`.
      template: a format string with `{caption}` that each text is put into first, as "a photo of {caption}".

    Returns:
      (float32 [n, E] rows of unit length, description for the manifest's `text_encoder`).

    Raises:
      ImportError, DataError: as `open_encoder`; or an embedding is zero or not finite.
    """
    encoder = open_encoder(model, backend, **options)
    return encode_unique(encoder, fill_template(template, texts)), describe(encoder, template)


def describe(encoder, template: str) -> dict:
    """What a manifest says about the embeddings of an encoder: its `text_encoder`."""
    return {**encoder.info, "normalised": True, "template": template}


def fill_template(template: str, texts: Sequence[str]) -> list[str]:
    """Puts each text into a template; DataError when it has no {caption}, or something else in braces."""
    try:
        if PROBE not in template.format(caption=PROBE):
            raise KeyError("caption")
        return [template.format(caption=text) for text in texts]
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        fix = "Double a literal brace."
        raise DataError("template", template, "a text with {caption} in it, and no other field", fix) from None


def encode_unique(encoder, texts: Sequence[str], advance: Callable[[int], None] = lambda texts: None) -> np.ndarray:
    """Unit rows of all texts, float32 [n, E]; a text that occurs again is not computed again."""
    number = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    rows = checked_unit_rows(encoder.encode(list(number), advance), list(number))
    return rows[[number[text] for text in texts]] if texts else rows


def checked_unit_rows(rows: np.ndarray, texts: Sequence[str] = ()) -> np.ndarray:
    """Returns float32 rows [n, E] scaled to unit length; DataError where a row is zero or not finite.

    `texts`: of the rows, for that message.
    """
    units = unit_rows(rows)
    bad = np.flatnonzero(~(np.isfinite(units).all(axis=1) & units.any(axis=1)))
    if bad.size:
        which = repr(texts[bad[0]][:200]) if texts else f"row {bad[0]}"
        found = f"length {np.linalg.norm(rows[bad[0]])}"
        raise DataError(f"embedding of {which}", found, "a finite vector that is not zero")
    return units


def round_rows(rows: np.ndarray, step: float) -> np.ndarray:
    """Rounds embeddings to multiples of `step`, as float16 [n, E].

    Coordinates of a unit vector in E dimensions are about 1/sqrt(E), so float16 spends most of its bits on noise.
    Rounding makes the rows compress, and equal on machines whose floating-point sums differ in the last digits (unless
    a value falls on the edge of two steps). Cosines move by about step / sqrt(6): 0.0008 for 1/512.
    """
    return (np.round(rows.astype(np.float64) / step) * step).astype(np.float16)
