"""Evaluator "emoji": what a representation knows about concepts, styles and backgrounds it was not trained on.

Probes are fitted on the features of the training split (its concepts, seen styles, plain background) and applied,
unchanged, to held-out concepts: in seen styles, in styles never seen, and on swapped backgrounds, whose gap is
mixed_same - mixed_rand as in ImageNet-9 (Xiao et al. 2020, arXiv 2006.09994). Names of metrics: `catalog.py`.
"""

from collections.abc import Iterator

import numpy as np

from xsample_jax.config.rules_data import EMOJI as EMOJI_SOURCES
from xsample_jax.errors import ConfigError, DataError, UserError
from xsample_jax.evals.context import EvalContext, Evaluator, check_two_splits
from xsample_jax.evals.features import Features
from xsample_jax.evals.geometry import add_caption_correlation, add_geometry
from xsample_jax.evals.knn import few_shot, neighbors, vote
from xsample_jax.evals.labels import NEIGHBORS, TEMPERATURE
from xsample_jax.evals.linear_probes import fit_probes
from xsample_jax.evals.metrics import Collector, FeaturesOf, SuiteResult, majority, partners_of, random_order, unreached
from xsample_jax.evals.retrieval import cross_style

TARGETS = ("group", "subgroup")
BACKGROUNDS = ("mixed_same", "mixed_rand", "random_color")
SHOTS = (1, 5)
QUERY_STYLE, GALLERY_STYLE = "twemoji", "noto"


class Classifiers:
    """kNN and ridge probe for every target, fitted once on the training features."""

    def __init__(self, train: Features):
        self._train = train
        self._labels = {target: train.attribute(target) for target in TARGETS}
        self._probes = fit_probes(train.features, self._labels, groups=train.label)

    def correct(self, of: Features) -> dict[str, np.ndarray]:
        """Returns "<target>/<knn or probe>" -> float32 [n], 1 where the row is classified correctly."""
        index, cosine = neighbors(self._train.features, of.features, NEIGHBORS)
        result = {}
        for target in TARGETS:
            truth = of.attribute(target)
            result[f"{target}/knn"] = vote(self._labels[target], index, cosine, TEMPERATURE) == truth
            result[f"{target}/probe"] = self._probes[target].predict(of.features) == truth
        return {name: values.astype(np.float32) for name, values in result.items()}


def evaluate_emoji(features_of: FeaturesOf, split: str = "test", train_split: str = "train") -> SuiteResult:
    """What `features_of` knows about the concepts of `split`, by probes fitted to `train_split`.

    Args:
      features_of: (split, background=None) -> Features with attributes style, group and subgroup (style with names),
        label = concept, caption_embedding. Called for train_split, split and "<split>_styles", and for split once per
        name in BACKGROUNDS, which must give the same rows in the same order.
      split: "val" or "test".
    """
    out = Collector()
    guesses = lambda of, name: _guess(train, of, name)  # noqa: E731
    train, seen, unseen_styles = features_of(train_split), features_of(split), features_of(f"{split}_styles")
    classifiers = Classifiers(train)

    for name, correct in classifiers.correct(seen).items():
        out.add_per_example(name, correct, seen.label, **guesses(seen, name))

    styles = unseen_styles.attribute("style")
    correct_in_style = classifiers.correct(unseen_styles)
    for style in np.unique(styles):
        rows = styles == style
        for name, correct in correct_in_style.items():
            word = unseen_styles.attribute_names["style"][style]
            facts = guesses(unseen_styles.rows(rows), name)
            out.add_per_example(f"style/{word}/{name}", correct[rows], unseen_styles.label[rows], **facts)

    on_background = {}
    for background in BACKGROUNDS:
        features = features_of(split, background=background)
        if not np.array_equal(features.id, seen.id):
            raise DataError(f"features of {split} on {background}", "other rows", f"the rows of {split}, in its order")
        on_background[background] = classifiers.correct(features)
        for name, correct in on_background[background].items():
            out.add_per_example(f"background/{background}/{name}", correct, seen.label, **guesses(seen, name))
    for name, same in on_background["mixed_same"].items():
        out.add_per_example(f"background/gap/{name}", same - on_background["mixed_rand"][name], seen.label, chance=0.0)

    rows = [(of.features, of.attribute("subgroup")) for of in (train, seen)]
    for shots in SHOTS:
        result = few_shot(*rows, shots)
        out.add_per_example(f"few_shot/{shots}/subgroup", result.correct, seen.label, **guesses(seen, "subgroup"))
    for said in unreached(train.attribute("subgroup"), SHOTS, "subgroup"):
        out.note(said)

    queries = {
        QUERY_STYLE: seen,
        **{unseen_styles.attribute_names["style"][s]: unseen_styles for s in np.unique(styles)},
    }
    for style, query in queries.items():
        found, concepts = cross_style(query, style, seen, GALLERY_STYLE)
        if len(found):
            gallery = seen.where("style", GALLERY_STYLE).label
            chance = random_order(partners_of(concepts, gallery), len(gallery), 1)
            facts = {"classes": len(np.unique(gallery)), "chance": chance}
            out.add_per_example(f"retrieval/{style}_to_{GALLERY_STYLE}", found, concepts, **facts)

    if seen.caption_embedding is not None:
        add_caption_correlation(out, seen, seen.label)
    add_geometry(out, seen, seen.label, seen.label, seen.attribute("subgroup"))
    return out.result()


def _guess(train: Features, of: Features, name: str) -> dict:
    """The facts of an accuracy on the rows of `of`: classes to choose from, and that of the majority class."""
    target = name.split("/")[0]
    known = np.unique(train.attribute(target))
    return {"classes": len(known), "chance": majority(of.attribute(target), among=known)}


def check(bench: EvalContext) -> Iterator[UserError]:
    if bench.config.data.source not in EMOJI_SOURCES:
        fix = "Leave it out of --evals, or set --config.data.source=emoji --config.data.path=None."
        yield ConfigError("data.source", bench.config.data.source, "emoji for the evaluation emoji", fix)
    else:
        yield from check_two_splits(bench)


def emoji(bench: EvalContext, out: Collector) -> None:
    """Evaluates on the concepts of eval.split ("val" or "test") with probes from eval.train_split."""
    out.include(evaluate_emoji(bench.features_of, bench.config.eval.split, bench.config.eval.train_split))


EMOJI = Evaluator(
    emoji,
    "held-out concepts, unseen styles and swapped backgrounds of the emoji set",
    check,
    (
        "group/...",
        "subgroup/...",
        "style/...",
        "background/...",
        "few_shot/...",
        "retrieval/...",
        "spearman/captions",
        "geometry/...",
    ),
)
