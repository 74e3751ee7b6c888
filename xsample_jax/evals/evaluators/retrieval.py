"""Retrieval on the evaluation split: images of the same label, and captions of images and back."""

from collections.abc import Iterator

import numpy as np

from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.bench import Bench
from xsample_jax.evals.evaluator import Evaluator
from xsample_jax.evals.result import Collector
from xsample_jax.evals.retrieval import recall_at

KS = (1, 5, 10)


def check(bench: Bench) -> Iterator[UserError]:
    source = bench.source(bench.config.eval.split)
    if bench.text_side is not None:
        yield from bench.text_side.check(source)
    elif source[0]["label"] < 0 and not source.manifest.class_names:
        fix = "Evaluate on another set: --config.data.path=FOLDER."
        yield DataError("retrieval", "a set without labels", "labels, or a model that embeds texts", fix)


def retrieval(bench: Bench, out: Collector) -> None:
    test = bench.test
    units = bench.units(test)
    known = np.flatnonzero(test.label >= 0)
    x, labels = test.features[known], test.label[known]
    _add(out, "image_to_image", *recall_at(x, labels, x, labels, KS, same_rows=True), units[known])
    if bench.text_side is None:
        return
    rows, texts, ids = bench.text_side.of_split(bench.config.eval.split)
    images, units = test.embedding[rows], units[rows]
    # A caption that several images share is one text; each of them may be its image.
    distinct, first = np.unique(ids, return_index=True)
    _add(out, "image_to_text", *recall_at(images, ids, texts[first], distinct, KS), units)
    _add(out, "text_to_image", *recall_at(texts[first], distinct, images, ids, KS), units[first])


def _add(out: Collector, direction: str, hits: dict[int, np.ndarray], rows: np.ndarray, units: np.ndarray) -> None:
    for k, values in hits.items():
        if len(rows):
            out.examples_of(f"retrieval/{direction}/R@{k}", values, units[rows])


RETRIEVAL = Evaluator(retrieval, "recall at 1, 5, 10: image to image of its label; image to text and back", check)
