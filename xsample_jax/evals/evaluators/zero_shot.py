"""Zero-shot classification: the class whose text is nearest to the image, among the classes of the split.

A model with a text side compares in its own embedding. One without (X-CLR, SimCLR) gets a linear map from its features
to the frozen caption embeddings, fitted to the training split in closed form; the metric is then called mapped.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from xsample_jax.captions.encoders import fill_template
from xsample_jax.class_embeddings import class_text_encoder
from xsample_jax.data.embedding_rows import unit_rows
from xsample_jax.data.sources import source_folder
from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.bench import Bench
from xsample_jax.evals.class_texts import embedded_class_texts, frozen_class_embeddings
from xsample_jax.evals.evaluator import Evaluator
from xsample_jax.evals.knn import neighbours
from xsample_jax.evals.probe import L2_VALUES, Spectrum, hold_out, ridge_weights, spectrum
from xsample_jax.evals.result import Collector


def check(bench: Bench) -> Iterator[UserError]:
    source = bench.source(bench.config.eval.split)
    names = source.manifest.class_names
    if not names:
        yield DataError(f"class names of split {source.split}", None, "names in the manifest, for zero-shot")
    for prompt in bench.options.prompts:
        fill_template(prompt, names[:1])
    frozen = bench.text_side is None or bench.text_side.reads == "caption_embedding"
    if bench.text_side is not None:
        yield from bench.text_side.check(source) if frozen else ()
    else:
        train = bench.source(bench.config.eval.train_split)
        if train.manifest.text_encoder is None:
            fix = "Embed them with xsample_jax.tools.embed, or evaluate a model with a text side (clip)."
            yield DataError(f"caption embeddings of split {train.split}", None, "targets of the map to texts", fix)
    captions = source.manifest.text_encoder
    if frozen and captions and not bench.options.prompts:
        made = class_text_encoder(source_folder(bench.config.data), source)
        if made and not _same_encoder(made, captions):
            fix = "Embed the classes with it (xsample_jax.tools.embed --what=classes), or give --prompts."
            expected = f"that of the captions, {_named(captions)}"
            yield DataError("encoder of the class texts", _named(made), expected, fix)
    if frozen and bench.options.prompts and not (bench.options.text_encoder or source.manifest.text_encoder):
        yield DataError("--prompts", bench.options.prompts[0], "an encoder for them", "Name it: --text_encoder=FOLDER.")


def _same_encoder(a: Mapping, b: Mapping) -> bool:
    """One model may have two names (a folder, a name of the hub) or two kinds of revision (a hash, a commit)."""
    same_name = Path(a["name"]).name == Path(b["name"]).name
    return a["dim"] == b["dim"] and (same_name or a.get("revision") == b.get("revision") is not None)


def _named(encoder: Mapping) -> str:
    return f"{encoder['name']} ({encoder['dim']} wide)"


def zero_shot(bench: Bench, out: Collector) -> None:
    test = bench.test
    test = test.rows(test.label >= 0)
    if bench.text_side is not None:
        name, queries, texts = "zero_shot/label", test.embedding, embedded_class_texts(bench)
    else:
        name, texts = "zero_shot/mapped/label", frozen_class_embeddings(bench)
        train = bench.train.captioned()
        to_text = fit_map(train.features, train.caption_embedding, bench.units(train))
        queries = to_text(test.features)
    classes = np.unique(test.label)
    nearest, _ = neighbours(texts[classes], queries, 5)
    right = classes[nearest] == test.label[:, None]
    units = bench.units(test)
    out.examples_of(name, right[:, 0].astype(np.float32), units)
    if len(classes) > 5:
        out.examples_of(f"{name}_top5", right.any(axis=1).astype(np.float32), units)


def fit_map(features: np.ndarray, embeddings: np.ndarray, groups: np.ndarray, share: float = 0.2, seed: int = 0):
    """The linear map [n, F] -> [n, E] of least squares with an L2 penalty from features to unit embeddings.

    Its L2 has the largest mean cosine on held-out groups (int [n]). Returns a function of features.
    """
    targets = unit_rows(embeddings)
    held = hold_out(groups, share, seed)
    inner = spectrum(features[~held])
    cosine = []
    for l2, mapped in _maps(inner, features[~held], targets[~held], L2_VALUES):
        cosine.append((np.mean(np.sum(unit_rows(mapped(features[held])) * targets[held], axis=1)), l2))
    return next(mapped for _, mapped in _maps(spectrum(features), features, targets, [max(cosine)[1]]))


def _maps(of: Spectrum, features: np.ndarray, targets: np.ndarray, l2_values):
    centre = targets.mean(axis=0)
    weights = ridge_weights(of, features, lambda rows: targets[rows], l2_values)
    for l2, w in zip(l2_values, weights, strict=True):
        yield l2, lambda x, w=w: of.standardise(x) @ w + centre


ZERO_SHOT = Evaluator(zero_shot, "nearest class text, by the model's text side or a map to the frozen texts", check)
