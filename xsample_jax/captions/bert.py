"""The forward pass of BERT (Devlin et al., arXiv 1810.04805; MiniLM has its shape) and MPNet (arXiv 2004.09297).

Layers come after each other in one scan, so a model of 12 layers compiles as fast as one of 1. Both families differ in
three things only: names in the file, where positions start, and MPNet's bias per distance between two tokens.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.errors import DataError

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}

_BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "norm2": "output.LayerNorm",
}
_MPNET = _BERT | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "out": "attention.attn.o",
    "norm1": "attention.LayerNorm",
}
LAYER_NAMES = {"bert": _BERT, "mpnet": _MPNET}


def read_parameters(tensors: Mapping[str, np.ndarray], config: Mapping) -> dict:
    """Parameters for `token_vectors` from the tensors of a file and its config.json, float32, layers stacked.

    Raises DataError when a tensor is missing or has another shape than the config says.
    """
    family, width, layers = config["model_type"], config["hidden_size"], config["num_hidden_layers"]
    headed = f"{family}.embeddings.word_embeddings.weight" in tensors  # saved with a head on top
    prefix = f"{family}." if headed else ""

    def tensor(name, *shape):
        value = tensors.get(prefix + name)
        if value is None or value.shape != shape:
            found = None if value is None else value.shape
            raise DataError(f"weights {prefix + name}", found, f"a tensor of shape {shape}, by config.json")
        return np.asarray(value, np.float32)

    def stacked(part, *shape):
        names = [f"encoder.layer.{layer}.{LAYER_NAMES[family][part]}" for layer in range(layers)]
        if part.startswith("norm"):
            return {key: np.stack([tensor(f"{name}.{key}", *shape) for name in names]) for key in ("weight", "bias")}
        weights = np.stack([tensor(f"{name}.weight", *shape).T for name in names])
        return {"weight": weights, "bias": np.stack([tensor(f"{name}.bias", shape[0]) for name in names])}

    inner, norm = config["intermediate_size"], "embeddings.LayerNorm"
    mixing = [stacked(part, width, width) for part in ("query", "key", "value")]
    positions = tensor("embeddings.position_embeddings.weight", config["max_position_embeddings"], width)
    if family == "bert":  # all our tokens are of the first of its two types
        positions = positions + tensor("embeddings.token_type_embeddings.weight", config["type_vocab_size"], width)[0]
    parameters = {
        "words": tensor("embeddings.word_embeddings.weight", config["vocab_size"], width),
        "positions": positions,
        "norm": {"weight": tensor(f"{norm}.weight", width), "bias": tensor(f"{norm}.bias", width)},
        "layers": {
            "qkv": {key: np.concatenate([part[key] for part in mixing], axis=-1) for key in ("weight", "bias")},
            "out": stacked("out", width, width),
            "norm1": stacked("norm1", width),
            "expand": stacked("expand", inner, width),
            "contract": stacked("contract", width, inner),
            "norm2": stacked("norm2", width),
        },
    }
    if family == "mpnet":
        shape = (config["relative_attention_num_buckets"], config["num_attention_heads"])
        parameters["distances"] = tensor("encoder.relative_attention_bias.weight", *shape)
    return parameters


def token_vectors(parameters: dict, tokens: jax.Array, segments: jax.Array, config: Mapping) -> jax.Array:
    """Vectors of all tokens [n, t, width] in the type of the parameters; norms and softmax in float32.

    Args:
      parameters: of `read_parameters`.
      tokens: int [n, t].
      segments: int [n, t], equal for the tokens of one text, which stand side by side; 0 = padding. A token sees those
        of its own text only, and positions count from the start of its text.
      config: of config.json.
    """
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]
    dtype = parameters["words"].dtype
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    activation = ACTIVATIONS[config["hidden_act"]]
    n, t = tokens.shape

    def linear(x, weights):
        return jnp.dot(x, weights["weight"], precision=precision) + weights["bias"]

    product = functools.partial(jnp.matmul, precision=precision, preferred_element_type=jnp.float32)

    def norm(x, weights):
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon)
        return (x * weights["weight"] + weights["bias"]).astype(dtype)

    scores_add = jnp.where(segments[:, None, :, None] == segments[:, None, None, :], 0.0, -1e30)  # [n, 1, t, t]
    if "distances" in parameters:
        bias = parameters["distances"][distance_buckets(t, parameters["distances"].shape[0])]
        scores_add = scores_add + jnp.moveaxis(bias, -1, 0).astype(jnp.float32)

    def layer(x, weights):
        # Heads to the front first: on CPUs the products of [t, head] matrices are then twice as fast.
        query, key, value = jnp.transpose(linear(x, weights["qkv"]).reshape(n, t, 3, heads, -1), (2, 0, 3, 1, 4))
        scores = product(query * (query.shape[-1] ** -0.5), jnp.swapaxes(key, -1, -2)) + scores_add
        shares = jnp.exp(scores - scores.max(-1, keepdims=True))
        mixed = product(shares.astype(dtype), value) / shares.sum(-1, keepdims=True)
        mixed = jnp.transpose(mixed.astype(dtype), (0, 2, 1, 3)).reshape(n, t, -1)
        x = norm(linear(mixed, weights["out"]) + x, weights["norm1"])
        inner = activation(linear(x, weights["expand"]))
        return norm(linear(inner, weights["contract"]) + x, weights["norm2"]), None

    x = parameters["words"][tokens] + parameters["positions"][_positions(tokens, segments, config)]
    return jax.lax.scan(layer, norm(x, parameters["norm"]), parameters["layers"])[0]


def _positions(tokens: jax.Array, segments: jax.Array, config: Mapping) -> jax.Array:
    """Place of each token in its text [n, t]. MPNet counts from 2; its padding id has the place 1 even in a text."""
    counted = segments > 0
    if config["model_type"] == "mpnet":
        counted = counted & (tokens != config["pad_token_id"])
    running = jnp.cumsum(counted, axis=1)
    before = running - counted
    starts = jnp.concatenate([jnp.ones_like(segments[:, :1]), segments[:, 1:] != segments[:, :-1]], axis=1) > 0
    start = jax.lax.cummax(jnp.where(starts, before, 0), axis=1)  # tokens counted before this text began
    if config["model_type"] == "mpnet":
        return jnp.where(counted, running - start + 1, 1)
    return jnp.where(counted, before - start, 0)


def distance_buckets(t: int, buckets: int, farthest: int = 128) -> np.ndarray:
    """int [t, t]: bucket of each (query, key) distance: half for each side, exact when near, logarithmic when far."""
    offset = np.arange(t)[:, None] - np.arange(t)[None, :]
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # In float32 as the model was trained with: 16, 32, 64 lie on edges.
    logarithm = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    share = logarithm / np.float32(math.log(farthest / exact))
    far = np.minimum(exact + (share * np.float32(half - exact)).astype(np.int64), half - 1)
    return np.where(offset < 0, half, 0) + np.where(distance < exact, distance, far)
