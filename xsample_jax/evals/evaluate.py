"""Evaluates one state: gives the suite its features, and keeps what the report needs."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from xsample_jax.checkpoint import trained_config
from xsample_jax.config.check import find_problems
from xsample_jax.config.load import apply_overrides, default_config, resolve
from xsample_jax.data.dataset import Dataset
from xsample_jax.distributed import log_info
from xsample_jax.errors import CheckpointError, ConfigError, DataError, Problems, UserError, did_you_mean
from xsample_jax.evals.baselines import baseline_store, baselines_of, data_of
from xsample_jax.evals.catalog import PIXELS, TITLES
from xsample_jax.evals.context import EvalContext, Options
from xsample_jax.evals.encoding import fingerprint
from xsample_jax.evals.features import Features, FeatureStore
from xsample_jax.evals.metrics import Collector, Interval, SuiteResult
from xsample_jax.evals.registry import EVALUATORS, run_suite
from xsample_jax.evals.snapshot import (
    BatchPanel,
    error_arrays,
    find_errors,
    find_neighbors,
    graphs_of,
    map_arrays,
    save_snapshot,
    side_of,
)
from xsample_jax.evals.zero_shot import TextSide
from xsample_jax.io.checkpoint_files import classes_of, find_checkpoint, read_arrays, saved_arrays
from xsample_jax.setup import DatasetSpec, RunSetup
from xsample_jax.sharding import make_mesh, replicated, warm_up_collectives
from xsample_jax.state import ModelDef, TrainState, to_flat

SNAPSHOT_IMAGES = 48


def evaluate_state(parts: RunSetup, state: TrainState) -> tuple[SuiteResult, FeatureStore]:
    """Runs the suite of the config on a state; also returns the features, for the snapshot."""
    store = FeatureStore(parts, state)
    return run_suite(parts.config.eval.suite, store, parts.config), store


def write_snapshot(path: pathlib.Path, parts: RunSetup, state: TrainState, store: FeatureStore) -> None:
    """Saves the similarity graphs of one batch of held-out images, and what the report shows of their features.

    All processes call it, as the state is spread over them; the first one writes.
    """
    config, split = parts.config, parts.config.eval.split
    examples, features = store.examples(split), store(split)
    train_examples, train = store.examples(config.eval.train_split), store(config.eval.train_split)
    captioned = features if features.caption_embedding is None else features.captioned()
    drawn = captioned if len(captioned) else features
    drawn = drawn.rows(np.linspace(0, len(drawn) - 1, min(SNAPSHOT_IMAGES, len(drawn))).astype(int))
    batch = [examples[int(index)] for index in drawn.index]
    images = np.stack([example["image"] for example in batch])
    side = side_of(parts, batch)
    graphs = graphs_of(parts, state, images, side)
    # Large galleries are searched by the devices of all processes.
    errors, neighbors = find_errors(train, features), find_neighbors(features)
    if jax.process_index() != 0:
        return
    class_names = examples.source.manifest.class_names
    groups = drawn.attributes.get("group", drawn.label)
    names = features.attribute_names.get("group", class_names)
    words = features.attribute_names.get(errors.target, class_names) if errors else None
    image = partial(_image, examples, features)
    embedding = side.get("caption_embedding")
    similarity = None if embedding is None else np.asarray(embedding, np.float32)
    batch = BatchPanel(
        images=images,
        captions=[_caption(examples, index) for index in drawn.index],
        groups=[str(names[group] if names and group >= 0 else group) for group in groups],
        target=graphs.target,
        student=graphs.student,
        stand_in=graphs.stand_in,
        views=config.views,
        similarity=None if similarity is None else similarity @ similarity.T,
    )
    more = map_arrays(features, class_names, config.eval.map)
    more |= error_arrays(errors, image, partial(_image, train_examples, train), words)
    save_snapshot(path, batch, neighbors, image, more)


def _image(examples: Dataset, features: Features, row: int) -> tuple[np.ndarray, str]:
    """(image, first caption) of the example that a row of features is of."""
    index = int(features.index[row])
    return examples[index]["image"], _caption(examples, index)


def _caption(examples: Dataset, index: int) -> str:
    return (examples.source[int(index)]["captions"] or [""])[0]


# The model of a checkpoint, without its training set, optimizer or objective: for evaluation on any data.


# What may be changed for a trained model: the data, and how it is read.
CHANGEABLE = ("data.", "eval.", "augment.background", "model.conv_impl", "precision.compute", "name")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """Attributes:
    parts: of which config, mesh, model and encode are of use; its facts are those that the model needs.
    state: parameters, statistics and moving average, whole on every device; no optimizer state, no memory.
    run: the run folder; step: of the checkpoint.
    """

    parts: RunSetup
    state: TrainState
    run: Path
    step: int


def read_config(run: Path, step: int, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config that a checkpoint was trained with, resolved, with `--config.KEY=VALUE` overrides of CHANGEABLE keys.

    Raises CheckpointError for a damaged or foreign file, Problems for overrides that are wrong.
    """
    config = ml_collections.ConfigDict(trained_config(run, step).to_dict(), type_safe=False)
    # What it was trained on, its own evaluation and the ranking of its checkpoints are over.
    config.data.update(mix=(), balance=0.0, side=(), batches_of=None)
    config.data.episodes.way, config.eval.stop, config.eval.patience = 0, (), None
    config.eval.suite, config.checkpoint.metric = "none", None
    problems = [
        ConfigError(name, text, f"a key that a trained model leaves open: {', '.join(CHANGEABLE)}")
        for name, _, text in (override.lstrip("-").removeprefix("config.").partition("=") for override in overrides)
        if not name.startswith(CHANGEABLE)
    ]
    problems += apply_overrides(config, list(overrides))
    problems += find_problems(config)
    if problems:
        raise Problems(problems, "the evaluation")
    return resolve(config)


def load_model(run: Path, step: int, config: ml_collections.ConfigDict) -> LoadedModel:
    """Restores parameters, statistics and moving average; their checksums are compared with those of the training.

    Raises CheckpointError when files are damaged or are not of the model that `config` describes.
    """
    saved = saved_arrays(run, step)
    mesh = make_mesh(default_config().mesh, jax.device_count())  # not that of the training
    width = lambda name: saved["params"][name].shape[0] if name in saved["params"] else None  # noqa: E731
    texts = width("text/out/kernel") or width("heads/modules/class_texts/out/kernel")
    facts = DatasetSpec(1, 3, caption_dim=texts, vocab_size=width("text/tokens/embedding"))
    facts = dataclasses.replace(facts, class_names=classes_of(run, step))
    parts = RunSetup(config, facts, mesh)
    _compare(parts.model, saved, run, step)

    arrays = read_arrays(run, step, saved, replicated(mesh))
    state = TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=arrays["params"],
        statistics=arrays["statistics"],
        opt_state=(),
        memory={},
        ema=arrays["ema"],
    )
    return LoadedModel(parts, state, run, step)


def _compare(model: ModelDef, saved: dict, run: Path, step: int) -> None:
    """CheckpointError when the arrays of a checkpoint are not those of the model (its objective may have more)."""
    expected = to_flat(model.params) | to_flat(model.statistics)
    there = saved["params"] | saved["statistics"]
    differing = [
        f"{name} {tuple(there[name].shape) if name in there else 'missing'}, not {tuple(leaf.shape)}"
        for name, leaf in expected.items()
        if name not in there or tuple(there[name].shape) != tuple(leaf.shape)
    ]
    if differing:
        raise CheckpointError(
            f"checkpoint {step} of {run}",
            "; ".join(differing[:3]),
            f"the arrays of the model of its config ({len(differing)} differ)",
            "It was written by another version of the code.",
        )


# Any evaluators on any checkpoint: what can be refused is refused first, then features are computed once.


DEFAULT = Options()
SMALLEST_CROP, SMALLEST_SIDE = 0.125, 8  # below, images in files would be decoded at eight times the size and more


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What came of it.

    Attributes:
      intervals: 95% bootstrap, for the metrics that have one.
      config: that it ran with.
      baselines: {name of eval.baselines: {metric: value}}.
    """

    run: Path
    step: int
    config: object
    target: str
    result: SuiteResult
    intervals: dict[str, Interval]
    baselines: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


def check_names(evals: Sequence[str]) -> list[ConfigError]:
    """One error for every name that is not an evaluator; an empty list is wrong too."""
    if not evals:
        return [ConfigError("--evals", "", f"some of {', '.join(EVALUATORS)}")]
    return [
        ConfigError("--evals", name, f"some of {', '.join(EVALUATORS)}", did_you_mean(name, EVALUATORS))
        for name in evals
        if name not in EVALUATORS
    ]


def check_crop(crop: float, side: int) -> list[ConfigError]:
    """What is wrong with a share of the side of images `side` pixels wide."""
    smallest = max(SMALLEST_CROP, SMALLEST_SIDE / side)
    if smallest <= crop <= 1:  # nan is not
        return []
    expected = f"a share of the side from {smallest:.3g} to 1, for images of {side} pixels"
    return [ConfigError("--crop", crop, expected, "Use 0.875 or 1.")]


def evaluate_checkpoint(
    checkpoint: str | Path,
    evals: Sequence[str],
    overrides: Sequence[str] = (),
    options: Options = DEFAULT,
    crop: float = 1.0,
    beside: Sequence[str | Path] = (),
) -> Evaluation:
    """Runs evaluators (names of EVALUATORS) on a checkpoint.

    Args:
      checkpoint: run folder, or RUN/checkpoints/STEP.
      overrides: `--config.KEY=VALUE` for the data that is evaluated on.
      options: of the evaluators.
      crop: share of the side of every image that is seen (FeatureStore).
      beside: further checkpoints whose features stand beside those of the first, as one encoder (the stages of MCL,
        arXiv 2402.11816). Embeddings, text side and the baseline `untrained` are those of the first.

    Raises:
      Problems: all that is wrong with names, overrides, data and options, before anything is computed.
      CheckpointError: no such checkpoint, or a damaged one.
    """
    run, step = find_checkpoint(checkpoint)
    problems: list[UserError] = check_names(evals)
    config = read_config(run, step, overrides)
    problems += check_crop(crop, config.data.image_size)
    if problems:
        raise Problems(problems, "the evaluation")
    loaded = load_model(run, step, config)  # seconds; it says whether there is a text side
    store = FeatureStore(loaded.parts, loaded.state, crop, side_by_side([loaded, *_load_beside(beside, config)]))
    text = TextSide(loaded.parts, loaded.state, store) if loaded.parts.objective.text is not None else None
    bench = EvalContext(store, config, options, text)
    for name in evals:
        problems += _problems_of(name, bench)
    if problems:
        raise Problems(list({str(problem): problem for problem in problems}.values()), "the evaluation")
    warm_up_collectives(loaded.parts.mesh)

    out = Collector()
    for name in dict.fromkeys(evals):
        log_info(f"{config.name}, step {step}: {name} ({EVALUATORS[name].says})")
        EVALUATORS[name].run(bench, out)
    if not out.metrics:
        found = "; ".join(out.notes) or "nothing was measured"
        raise DataError(f"split {config.eval.split}", found, "images that something can be measured on")
    baselines = _baselines(run, store, bench, list(dict.fromkeys(evals)), crop)
    chosen_on = trained_config(run, step)
    if chosen_on.checkpoint.metric is not None and chosen_on.eval.split == config.eval.split:
        out.note(
            f"checkpoint.metric = {chosen_on.checkpoint.metric} chose which checkpoints were kept by their results on "
            f"split {config.eval.split}: the best of them is not an unbiased result there"
        )
    result = out.result()
    intervals = {name: interval for name in result.metrics if (interval := result.interval(name)) is not None}
    return Evaluation(run, step, config, bench.target, result, intervals, baselines)


def _load_beside(checkpoints: Sequence[str | Path], config) -> list[LoadedModel]:
    """The models of further checkpoints; ConfigError for one that takes other images."""
    found = []
    for checkpoint in checkpoints:
        where = find_checkpoint(checkpoint)
        other = read_config(*where, [f"--config.eval.views={config.eval.views}"])
        for name in ("image_size", "fit"):
            if other.data[name] != config.data[name]:
                expected = f"{config.data[name]!r}, as of the first run: all see the same images"
                raise ConfigError(f"data.{name} of {checkpoint}", other.data[name], expected)
        found.append(load_model(*where, other))
    return found


def side_by_side(models: Sequence[LoadedModel]) -> Callable | None:
    """As `RunSetup.encode`, with the features of all models beside each other; None for a single one."""
    if len(models) == 1:
        return None

    def encode(state: TrainState, images, background=None, ids=None):
        first, *others = models
        features, z = first.parts.encode(state, images, background, ids)
        more = [model.parts.encode(model.state, images, background, ids)[0] for model in others]
        return jnp.concatenate([features, *more], axis=1), z

    return encode


def _baselines(run: Path, store: FeatureStore, bench: EvalContext, evals: list[str], crop: float) -> dict[str, dict]:
    """{baseline: metrics of the evaluators} for those that eval.baselines names."""
    config, parts = bench.config, store.parts
    found: dict[str, dict] = {name: {} for name in config.eval.baselines}

    def compute(baseline: str, name: str) -> dict[str, float]:
        if baseline not in stores:
            stores[baseline] = benches(baseline)
        if name == "classifier":
            return {}  # neither pixels nor a model at step 0 have learned classes
        if (
            name in ("zero_shot", "swapped_captions", "captioning")
            and bench.text_side is not None
            and baseline == PIXELS
        ):
            return {}  # pixels have no text side
        out = Collector()
        log_info(f"{TITLES[baseline]}: {name}")
        EVALUATORS[name].run(stores[baseline], out)
        return out.metrics

    def benches(baseline: str) -> EvalContext:
        features = baseline_store(baseline, store)
        with_text = bench.text_side is not None and baseline != PIXELS
        return EvalContext(
            features, config, bench.options, TextSide(parts, features.state, features) if with_text else None
        )

    stores: dict[str, EvalContext] = {}
    if found:
        what = data_of(store) | {"splits": [config.eval.train_split, config.eval.split], "crop": crop}
        what |= {"target": bench.target, "options": dataclasses.asdict(bench.options)}
        what |= {"responses": fingerprint(bench.options.responses)}
        for name in evals:
            measured = baselines_of(run, list(found), what | {"eval": name}, partial(compute, name=name))
            for baseline, metrics in measured.items():
                found[baseline] |= metrics
    return found


def _problems_of(name: str, bench: EvalContext) -> list[UserError]:
    found = []
    try:
        found.extend(EVALUATORS[name].check(bench))
    except Problems as several:
        found.extend(several.problems)
    except UserError as error:
        found.append(error)
    return found


# The evaluation of a finished or running run, once more or with another suite.


def evaluate(path: str | Path, **changes) -> dict[str, float]:
    """Metrics of the newest checkpoint of the run in folder `path`, or of RUN/checkpoints/STEP; nothing is written.

    `changes`: values of the config's section `eval`, as suite="probe" or split="val". The splits that it names must be
    there; the devices may be others.

    Raises CheckpointError without a checkpoint or for a damaged one, ConfigError (Problems) for wrong changes.
    """
    run, step = find_checkpoint(path)
    config = trained_config(run, step).copy_and_resolve_references().unlock()
    for name, value in changes.items():
        with config.eval.ignore_type():
            config.eval[name] = value
    loaded = load_model(run, step, resolve(config))
    return dict(evaluate_state(loaded.parts, loaded.state)[0].metrics)
