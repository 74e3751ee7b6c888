"""Titles, groups and direction of each metric, for reports and result tables."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from xsample_jax.config.renamed import current_metrics
from xsample_jax.errors import ConfigError
from xsample_jax.evals.metrics import Facts, SuiteResult
from xsample_jax.io.console import say
from xsample_jax.io.files import atomic_write, stop_if_out_of_reach

SECTIONS = (
    "Held-out concepts",
    "Factors",
    "Held-out styles",
    "Swapped backgrounds",
    "Classification",
    "Few labels",
    "Widths",
    "Robustness",
    "Retrieval and captions",
    "Encoding",
    "Geometry",
    "Other",
)
CONCEPTS, FACTORS, STYLES, GROUNDS, CLASSES, FEW, WIDTHS, ROBUST, RETRIEVAL, ENCODING, GEOMETRY, OTHER = SECTIONS
# The metrics that a summary shows, in this order, where a run has them.
HEADLINES = (
    "subgroup/knn",
    "subgroup/probe",
    "group/probe",
    "style/emojione/group/probe",
    "style/openmoji/group/probe",
    "background/mixed_rand/group/probe",
    "background/gap/group/probe",
    "few_shot/5/subgroup",
    "retrieval/twemoji_to_noto",
    "spearman/captions",
    "label/knn",
    "label/probe",
    "label/probe_top5",
    *(f"factor/{name}/kept" for name in ("shape", "color", "texture", "count", "ground", "position")),
)
_CLASSIFIER = {
    "knn": "kNN",
    "probe": "probe",
    "probe_top5": "probe, top 5",
    "logistic": "logistic",
    "logistic_top5": "logistic, top 5",
    "logistic_ece": "logistic, calibration error",
    "logistic_auc": "logistic, area under ROC",
    "sgd": "SGD probe",
    "sgd_top5": "SGD probe, top 5",
    "sgd_ece": "SGD probe, calibration error",
    "sgd_auc": "SGD probe, area under ROC",
    "naive_bayes": "naive Bayes",
    "naive_bayes_top5": "naive Bayes, top 5",
    "naive_bayes_ece": "naive Bayes, calibration error",
    "naive_bayes_auc": "naive Bayes, area under ROC",
}
_DIRECTION = {
    "image_to_image": "Image → image of its label",
    "image_to_text": "Image → text",
    "text_to_image": "Text → image",
}
_SETS = {
    "imagenet": "ImageNet",
    "imagenet-real": "ImageNet-ReaL",
    "imagenet-v2": "ImageNet-V2",
    "imagenet-a": "ImageNet-A (of 200)",
    "imagenet-r": "ImageNet-R (of 200)",
    "imagenet-sketch": "ImageNet-Sketch",
    "objectnet": "ObjectNet (of 1,000)",
    "objectnet-113": "ObjectNet (of its 113)",
}
_VARIANTS = {
    "mixed_same": "same-class background",
    "mixed_rand": "random-class background",
    "mixed_next": "next-class background",
    "only_fg": "foreground alone",
    "no_fg": "foreground in black",
    "only_bg_b": "background, object boxed out",
    "only_bg_t": "background, object tiled over",
}
_BACKGROUND = {
    "mixed_same": "same-group background",
    "mixed_rand": "random-group background",
    "random_color": "random color",
    "gap": "background gap",
}
# Metrics whose names have no parts to fill in: section, title, whether it is a share, direction (as in Metric).
SINGLE = {
    "robustness/imagenet-9/gap": (ROBUST, "ImageNet-9: background gap", True, -1),
    "spearman/captions": (RETRIEVAL, "Rank correlation with captions", False, 1),
    "geometry/alignment": (GEOMETRY, "Alignment of images of one label", False, -1),
    "geometry/tolerance": (GEOMETRY, "Tolerance: cosine within a class", False, 0),
    "geometry/uniformity": (GEOMETRY, "Uniformity", False, -1),
    "geometry/isotropy": (GEOMETRY, "Isotropy: 1 \N{MINUS SIGN} mean cosine", False, 0),
    "geometry/effective_rank": (GEOMETRY, "Effective rank of the features", False, 0),
    "geometry/modality_gap": (GEOMETRY, "Modality gap of images and texts", False, 0),
    "gap/centroid_cosine": (GEOMETRY, "Cosine of the mean image and the mean text", False, 0),
    "gap/pair_alignment": (GEOMETRY, "Squared distance of an image and its text", False, -1),
    "gap/cross_uniformity": (GEOMETRY, "Uniformity of images against texts of others", False, 0),
    "gap/separability": (GEOMETRY, "Images told from texts by a linear classifier", True, 0),
    "gap/singular_above_one/images": (GEOMETRY, "Singular values above 1, images", False, 0),
    "gap/singular_above_one/texts": (GEOMETRY, "Singular values above 1, texts", False, 0),
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """How to print a metric. direction: 1 larger is better, -1 smaller is better, 0 neither."""

    name: str
    section: str
    title: str
    percent: bool = True
    direction: int = 1

    @property
    def unit(self) -> str:
        """Of a value as it is kept: "share" (0 to 1, printed in percent) or "" for a plain number."""
        return "share" if self.percent else ""

    @property
    def higher_is_better(self) -> bool | None:
        return {1: True, -1: False, 0: None}[self.direction]

    def text(self, value: float, signed: bool = False) -> str:
        """Formats a value: accuracies in percent (points), the rest as it is."""
        number, digits = (100 * value, 1) if self.percent else (value, 1 if abs(value) >= 10 else 3)
        text = f"{number:{'+' if signed else ''}.{digits}f}"
        return text.replace("-", "\N{MINUS SIGN}")


def describe(name: str) -> Metric:
    """Returns the description of a metric of any suite; an unknown one is shown under its own name."""
    if name in SINGLE:
        section, title, percent, direction = SINGLE[name]
        return Metric(name, section, title, percent, direction)
    match name.split("/"):
        case ["factor", factor, "kept"]:
            return Metric(name, FACTORS, f"{factor.capitalize()}, kept above chance")
        case ["factor", factor, "probe"]:
            return Metric(name, FACTORS, f"{factor.capitalize()}, probe")
        case [target, classifier] if classifier in _CLASSIFIER:
            section = CONCEPTS if target in ("group", "subgroup") else CLASSES
            direction = -1 if classifier.endswith("_ece") else 1
            return Metric(name, section, f"{target.capitalize()}, {_CLASSIFIER[classifier]}", direction=direction)
        case ["width", width, target, how]:
            words = {"R@1": "recall at 1"}.get(how, _CLASSIFIER.get(how, how))
            return Metric(name, WIDTHS, f"{target.capitalize()}, {words}: first {int(width):,} of the embedding")
        case ["style", style, target, classifier]:
            return Metric(name, STYLES, f"{style}: {target}, {_CLASSIFIER.get(classifier, classifier)}")
        case ["background", variant, target, classifier]:
            title = (
                f"{_BACKGROUND.get(variant, variant).capitalize()}: {target}, {_CLASSIFIER.get(classifier, classifier)}"
            )
            return Metric(name, GROUNDS, title, direction=-1 if variant == "gap" else 1)
        case ["classifier", which]:
            return Metric(name, CLASSES, _classifier_title(which), direction=_BETTER_LESS.get(which, 1))
        case ["episodes", size]:
            return Metric(name, FEW, f"Episodes, {size.replace('way_', '-way ').replace('shot', '-shot')}")
        case ["few_shot", shots, target]:
            how = ", ridge" if target.endswith("_ridge") else ""
            return Metric(name, FEW, f"{target.removesuffix('_ridge').capitalize()}, {shots} per class{how}")
        case ["curve", "crossing", target]:
            title = f"{target.capitalize()}: labels from which logistic is ahead of naive Bayes"
            return Metric(name, FEW, title, percent=False, direction=0)
        case ["curve", size, target]:
            words = "naive Bayes" if target.endswith("_naive_bayes") else "logistic, C = 1"
            which = target.removesuffix("_naive_bayes").removesuffix("_logistic")
            return Metric(name, FEW, f"{which.capitalize()}, {int(size):,} labels: {words}")
        case ["zero_shot", *how, target]:
            top = ", top 5" if target.endswith("_top5") else ""
            words = "Zero-shot by mapped features" if how == ["mapped"] else "Zero-shot"
            return Metric(name, CLASSES, f"{words}{top}")
        case ["robustness", "imagenet-9", variant]:
            without_object = variant in ("no_fg", "only_bg_b", "only_bg_t")  # more is not better there
            title = f"ImageNet-9: {_VARIANTS.get(variant, variant)}"
            return Metric(name, ROBUST, title, direction=0 if without_object else 1)
        case ["robustness", which]:
            return Metric(name, ROBUST, _SETS.get(which, which))
        case ["mit_states", kind]:
            return Metric(name, ROBUST, f"MIT-States: {kind}")
        case ["retrieval", pair]:
            return Metric(name, RETRIEVAL, f"{pair.replace('_to_', ' → ')}, R@1")
        case ["retrieval", direction, k]:
            return Metric(name, RETRIEVAL, f"{_DIRECTION.get(direction, direction)}, {k}")
        case ["swapped_captions", kind]:
            return Metric(name, RETRIEVAL, f"Own caption before one with another {kind if kind != 'all' else 'word'}")
        case ["encoding", column]:
            which = "mean of the columns" if column == "mean" else f"column {column}"
            return Metric(name, ENCODING, f"Pearson's r, {which}", percent=False)
    return _OF_CAPTIONS.get(name, Metric(name, OTHER, name, percent=False, direction=0))


_OF_CAPTIONS = {
    name: Metric(name, RETRIEVAL, f"Captions, {kind} of a token beside {which} image", False, direction)
    for kind in ("loss", "perplexity")
    for of, which, direction in (("own_image", "their own", -1), ("other_image", "another", 0))
    for name in [f"captioning/{kind}/{of}"]
} | {
    name: Metric(name, RETRIEVAL, "Captions likelier beside their own image than beside another")
    for name in ["captioning/own_image_first"]
}
# Of unlearning, what is forgotten is to be classified no better than what was never seen.
_BETTER_LESS = {"forget": 0, "forget_excess": -1, "test_forgotten": 0, "forgetting": -1}
_OF_CLASSIFIER = {
    "test": "Learned classes, test",
    "retain": "Learned classes, what is kept",
    "forget": "Learned classes, what is forgotten",
    "test_forgotten": "Learned classes, test images of forgotten classes",
    "forget_excess": "Accuracy on what is forgotten, above the level to stop at",
    "seen": "Learned classes, mean over the tasks so far",
    "forgetting": "Forgetting: best accuracy before, less that now, mean over tasks",
}


def _classifier_title(which: str) -> str:
    return _OF_CLASSIFIER.get(which, f"Learned classes, {which.replace('_', ' ')}")


def is_known(name: str) -> bool:
    """Whether `describe` has more than the name of a metric."""
    return describe(name).title != name


def better_side(name: str | None) -> int:
    """1 where a larger value of checkpoint.metric is better, also for one that is not known here; -1 for a smaller one.

    Raises ConfigError for a metric that has no better side: it ranks nothing.
    """
    if name is None or not is_known(name) or describe(name).direction:
        return 1 if name is None else describe(name).direction or 1
    metric = describe(name)
    expected = f"a metric of which larger or smaller values are better; {metric.title!r} has no better side"
    raise ConfigError("checkpoint.metric", name, expected, "Name another metric, or set it to None.")


def in_order(names) -> list[Metric]:
    """Describes metrics and sorts them by section, keeping the given order inside a section."""
    return sorted((describe(name) for name in names), key=lambda metric: SECTIONS.index(metric.section))


# The file beside a run's metrics that says how to read them: counts, chance, baselines, notes.


Baselines = Mapping[str, Mapping[str, float]]  # of baselines.py
UNTRAINED, PIXELS = "untrained", "pixels"
TITLES = {UNTRAINED: "untrained encoder", PIXELS: "pixels"}
READING = (
    "Chance: the majority class for accuracies, a random order for retrieval. Untrained encoder: the model at step 0. "
    "Pixels: the image itself, 16 x 16, as features."
)


def metric_facts(name: str, facts: Facts, baselines: Baselines) -> dict:
    """Everything about a metric but its value, as it is kept in JSON."""
    metric = describe(name)
    return {
        "title": metric.title,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "n": facts.n,
        "classes": facts.classes,
        "chance": facts.chance,
        "baselines": {which: values[name] for which, values in baselines.items() if name in values},
    }


def save_facts(path: Path, result: SuiteResult, baselines: Baselines) -> None:
    """Writes evaluation_facts.json."""
    metrics = {name: metric_facts(name, result.facts.get(name, Facts()), baselines) for name in result.metrics}
    text = json.dumps({"metrics": metrics, "notes": list(result.notes)}, indent=1)
    atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def load_facts(path: Path) -> tuple[dict[str, dict], list[str]]:
    """(facts by metric, notes); empty without a file, as in older runs; damaged parts are reported and left out."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        metrics, notes = dict(found["metrics"]), [str(note) for note in found["notes"]]
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        say(f"warning: {path} is damaged ({str(error)[:100]}): no counts, chance and baselines are shown", error=True)
        return {}, []
    right = {name: sound_facts(facts) for name, facts in metrics.items()}
    if wrong := [name for name, facts in metrics.items() if right[name] != facts]:
        names = ", ".join(wrong[:3]) + ", ..." * (len(wrong) > 3)
        say(f"warning: {path} is damaged: counts, chance or baselines of {names} are left out", error=True)
    return right, notes


def sound_facts(facts: object) -> dict:
    """What `metric_facts` made of a metric, without values that are of another type."""
    facts = facts if isinstance(facts, dict) else {}
    kept = {name: value for name, value in facts.items() if name not in COUNTS or value is None or _is_number(value)}
    if "baselines" in kept:
        baselines = kept["baselines"] if isinstance(kept["baselines"], dict) else {}
        kept["baselines"] = {name: value for name, value in baselines.items() if _is_number(value)}
    return kept


COUNTS = ("n", "classes", "chance")


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def read_scores(path: Path) -> dict[str, float] | None:
    """The metrics of evaluation.json by their present names; None where there is none, or (said) it is damaged.

    Raises RunError where it cannot be read for now.
    """
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(scores, dict) or not all(map(_is_number, scores.values())):
            raise ValueError("not a number for every metric")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        stop_if_out_of_reach(path, error)
        found = str(error)[:100]
        say(f"warning: {path} is damaged ({found}): the run needs its final evaluation again", error=True)
        return None
    return current_metrics(scores)
