"""A run small enough for tests: quickstart shrunk, and batches of random images with random captions."""

import jax
import numpy as np
from flax import nnx

from xsample_jax.config import default_config, resolve, smoke
from xsample_jax.encoder import Encoder
from xsample_jax.models.towers import build_model
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.setup import DatasetSpec, RunSetup
from xsample_jax.sharding import fetch_scalars, make_mesh, to_global
from xsample_jax.state import to_flat

CAPTION_DIM, VOCAB = 12, 50
SIDE = {"cluster": (2,), "target": (2,), "labels": (4,)}  # of one image, in `random_batch`


def tiny_config(**changes):
    """A resolved smoke config; `changes` are dotted keys with __ for the dots."""
    config = default_config()
    config.model.stem = "cifar"
    config.model.head.hidden = (16,)
    config = smoke(config)
    for name, value in changes.items():
        *sections, leaf = name.split("__")
        node = config
        for section in sections:
            node = node[section]
        node[leaf] = value
    return resolve(config)


def tiny_parts(config, devices):
    facts = DatasetSpec(count=64, channels=3, caption_dim=CAPTION_DIM, vocab_size=VOCAB, side=SIDE, clusters=(2, 3))
    reads_classes = "class_embedding" in build_objective(config.objective).requires
    classes = np.random.default_rng(1).normal(size=(5, CAPTION_DIM)).astype(np.float16) if reads_classes else None
    parts = RunSetup(config, facts, make_mesh(config.mesh, config.batch_size, devices), classes)
    if parts.objective.frozen and config.objective.frozen is None:
        parts.__dict__["frozen"] = untrained(config)  # in the place of one that is read from a run
    return parts


def untrained(config, seed=9):
    """The encoder of a config as it starts, with its head and text side: a frozen teacher."""
    text = build_objective(config.objective).text
    size = CAPTION_DIM if text == "linear" else VOCAB
    arrays = to_flat(nnx.state(build_model(config, text, size, rngs=nnx.Rngs(seed))))
    own = {name.removeprefix("encoder/"): value for name, value in arrays.items() if name.startswith("encoder/")}
    sides = {name: value for name, value in arrays.items() if name.startswith(("head/", "text/"))}
    return Encoder(config, 0, own, sides)


def random_batch(config, seed=0):
    rng = np.random.default_rng(seed)
    count, side = config.batch_size, config.data.image_size
    return {
        "image": rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        "id": rng.permutation(1000)[:count].astype(np.int32),
        "label": rng.integers(0, 5, count).astype(np.int32),
        "caption_embedding": rng.normal(size=(count, CAPTION_DIM)).astype(np.float16),
        "path": rng.integers(0, 4, (count, 3)).astype(np.int32),
        "index": rng.permutation(64)[:count].astype(np.int32),
        "caption_tokens": rng.integers(3, VOCAB, (count, config.model.text.length)).astype(np.int32),
        "cluster": rng.integers(-1, 3, (count, 2)).astype(np.int32),
        "is_target": np.arange(count, dtype=np.int32) % 2,
        "group": rng.integers(0, 3, count).astype(np.int32),
        "target": rng.normal(size=(count, 2)).astype(np.float32),
        "labels": rng.integers(0, 2, (count, 4)).astype(np.int32),
        "class_temperature": rng.uniform(0.5, 2, count).astype(np.float32),
        "weight": rng.uniform(0.5, 2, count).astype(np.float32),
        "part": (np.arange(count) % 2).astype(np.int32),
        "task": np.full(count, seed, np.int32),
    }


def run_steps(config, devices=1, steps=2):
    """Trains on random batches; returns (parts, state, [metrics of each step])."""
    parts = tiny_parts(config, jax.devices()[:devices])
    state, history = parts.new_state(), []
    for step in range(steps):
        batch = {name: random_batch(config, step)[name] for name in parts.abstract_batch}
        state, metrics = parts.train_step(state, to_global(batch, parts.mesh))
        history.append(fetch_scalars(metrics))
    return parts, state, history
