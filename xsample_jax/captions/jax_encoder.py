"""A sentence encoder in JAX: the folders that sentence-transformers saves, without torch, on all local devices."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xsample_jax.captions.bert import ACTIVATIONS, read_parameters, token_vectors
from xsample_jax.captions.model_identity import WEIGHTS, identify
from xsample_jax.captions.packing import pack, segments_per_row
from xsample_jax.captions.sentence_folder import OTHERWISE, find_folder, read_folder
from xsample_jax.errors import DataError
from xsample_jax.weights.safetensors_file import read_safetensors

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
