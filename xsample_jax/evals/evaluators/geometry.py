"""Shape of the embedding: alignment, tolerance, uniformity, effective rank, modality gap, agreement with captions."""

import numpy as np

from xsample_jax.evals.bench import Bench
from xsample_jax.evals.evaluator import Evaluator
from xsample_jax.evals.features import Features
from xsample_jax.evals.geometry import alignment, caption_correlation, effective_rank, modality_gap, uniformity
from xsample_jax.evals.result import Collector

MOST_CAPTIONS = 2000  # of the rank correlation, which compares every two


def add_geometry(out: Collector, of: Features, concepts: np.ndarray, units: np.ndarray, kinds: np.ndarray) -> None:
    """Adds what needs images alone, of the embedding (of the features where there is none).

    Args:
      concepts, kinds: int [n]. Alignment is over pairs of one concept, tolerance over pairs of one kind (a class, which
        may hold many concepts).
      units: int [n], what the bootstrap resamples.
    """
    z = of.features if of.embedding is None else of.embedding
    values, rows = alignment(z, concepts)
    if len(rows):
        out.examples_of("geometry/alignment", values, units[rows])
    values, rows = alignment(z, kinds)
    if len(rows):
        out.examples_of("geometry/tolerance", 1 - values / 2, units[rows])
    values, rows = uniformity(z)
    out.examples_of("geometry/uniformity", values, units[rows])
    out.scalar("geometry/effective_rank", effective_rank(of.features))


def geometry(bench: Bench, out: Collector) -> None:
    test = bench.test
    alone = -1 - np.arange(len(test))  # a row without a label is like no other
    concepts = np.where(test.label >= 0, test.label, alone)
    kinds = concepts if bench.target == "label" else test.attribute(bench.target)
    add_geometry(out, test, concepts, bench.units(test), kinds)


def captions(bench: Bench, out: Collector) -> None:
    """The rank correlation, and the modality gap of a model that embeds texts."""
    test = bench.test
    if test.caption_embedding is not None:
        _, concept = np.unique(test.caption_embedding, axis=0, return_inverse=True)
        concept = concept.reshape(-1)
        if concept.max() >= MOST_CAPTIONS:
            chosen = np.random.default_rng(0).permutation(concept.max() + 1)[:MOST_CAPTIONS]
            keep = np.isin(concept, chosen)
            test, concept = test.rows(keep), concept[keep]
        rho, contributions, names = caption_correlation(test.features, test.caption_embedding, concept)
        out.examples_of("spearman/captions", contributions, names)
        out.scalar("spearman/captions", rho)
    if bench.text_side is not None:
        texts, _ = bench.text_side.of_split(bench.config.eval.split)
        out.examples_of("geometry/modality_gap", modality_gap(bench.test.embedding, texts), bench.units(bench.test))


def all_geometry(bench: Bench, out: Collector) -> None:
    geometry(bench, out)
    captions(bench, out)


GEOMETRY = Evaluator(
    all_geometry, "alignment, tolerance, uniformity, effective rank, modality gap, rank correlation with the captions"
)
