"""Baselines: what representations that have learned nothing reach in the same evaluators.

untrained: the model of the run at step 0, from the seed of the run. pixels: the plain view itself, shrunk to 16 x 16
pixels, as features. Their metrics are kept in baselines.json of the run folder and computed once.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.augment.views import eval_view
from xsample_jax.distributed import allgather_text
from xsample_jax.errors import DataError
from xsample_jax.evals.catalog import PIXELS
from xsample_jax.evals.features import FeatureStore
from xsample_jax.evals.registry import run_suite
from xsample_jax.io.console import say
from xsample_jax.io.files import BASELINES, atomic_write
from xsample_jax.setup import RunSetup
from xsample_jax.sharding import batch_sharding, state_shardings
from xsample_jax.state import TrainState, keep_as, to_flat

SIDE = 16


def untrained_state(parts: RunSetup) -> TrainState:
    """Parameters and statistics of the model at step 0, split over the devices as in training; nothing else of it."""

    def init() -> TrainState:
        _, params, statistics = nnx.split(parts.model.build(nnx.Rngs(parts.config.seed)), nnx.Param, ...)
        params = keep_as(to_flat(params), parts.config.precision.params)
        return TrainState(jnp.zeros((), jnp.int32), params, to_flat(statistics), (), {}, {})

    on_cpu = parts.mesh.devices.flat[0].platform == "cpu"  # as RunSetup.new_state: it runs once
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    shardings = state_shardings(jax.eval_shape(init), parts.mesh, parts.config.mesh.rules)
    return jax.jit(init, out_shardings=shardings, compiler_options=options)()


def pixel_features(parts: RunSetup) -> Callable:
    """As `RunSetup.encode`: (state, images uint8 [b, H, W, C], background or None, ids) -> (float32 [b, 768], None).

    Of the plain view, whatever eval.views is: ids are not read.
    """

    def encode(images, background=None):
        view = eval_view(images, parts.config.augment, background)
        if view.ndim == 2:  # vectors
            return view, None
        side = min(SIDE, view.shape[1])
        small = jax.image.resize(view, (len(view), side, side, view.shape[3]), "linear", antialias=True)
        return small.reshape(len(view), -1), None

    jitted = jax.jit(encode, out_shardings=batch_sharding(parts.mesh))
    return lambda state, images, background=None, ids=None: jitted(images, background)


def baseline_store(name: str, store: FeatureStore) -> FeatureStore:
    """The store of a baseline for the splits, devices and crop of another one, whose decoded examples it shares."""
    if name == PIXELS:
        return store.like(store.state, pixel_features(store.parts))
    return store.like(untrained_state(store.parts))


def baselines_of(
    folder: Path, names: Sequence[str], what: Mapping, compute: Callable[[str], Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """{baseline: {metric: value}} of one evaluation; all processes call it.

    Args:
      folder: the run folder.
      what: all that the numbers depend on besides the model of the run; it must be JSON.
      compute: gives the metrics of one baseline; called for those that the folder does not have.
    """
    key = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path, found = folder / BASELINES, {}
    first = jax.process_index() == 0
    # Whether there is something to compute is what process 0 says: all take part in it, or none.
    kept = json.loads(allgather_text("kept baselines", json.dumps(_kept(path).get(key, {})) if first else "")[0])
    for name in names:
        found[name] = kept[name] if name in kept else {metric: float(v) for metric, v in compute(name).items()}
    if first and found.keys() - kept.keys():
        text = json.dumps(_kept(path) | {key: kept | found}, indent=1)
        atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    return found


def _kept(path: Path) -> dict:
    """What the file has; {} where there is none or, said, it is damaged: all in it can be computed again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        scores = [value for kinds in found.values() for metrics in kinds.values() for value in metrics.values()]
        if not all(type(value) in (int, float) for value in scores):
            raise ValueError("not a number for every metric")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        say(f"warning: {path} is damaged ({str(error)[:100]}): its numbers are computed again", error=True)
        return {}
    return found


def suite_baselines(folder: Path, store: FeatureStore) -> dict[str, dict[str, float]]:
    """{baseline: metrics of the suite} for those that eval.baselines names; all processes call it."""
    config = store.parts.config
    if not config.eval.baselines:
        return {}
    names = ("suite", "split", "train_split")
    what = {name: config.eval[name] for name in names} | data_of(store)
    compute = lambda name: run_suite(config.eval.suite, baseline_store(name, store), config).metrics  # noqa: E731
    return baselines_of(folder, config.eval.baselines, what, compute)


def data_of(store: FeatureStore) -> dict:
    """What decides the images of an evaluation: the sets by their fingerprints, and how images are read."""
    config = store.parts.config
    splits = (config.eval.train_split, config.eval.split)
    return {
        "fingerprints": [_fingerprint(store, split) for split in splits],
        "data": config.data.to_dict(),
        "augment": config.augment.to_dict(),
    } | ({"views": config.eval.views} if config.eval.views else {})


def _fingerprint(store: FeatureStore, split: str) -> str | None:
    """None for a split that is not there: not every evaluator reads the training set."""
    try:
        return store.examples(split).source.manifest.fingerprint
    except DataError:
        return None
