"""How each metric is called, grouped and compared: the words of reports and result tables."""

import dataclasses

SECTIONS = (
    "Held-out concepts",
    "Factors",
    "Held-out styles",
    "Swapped backgrounds",
    "Few labels",
    "Retrieval and captions",
    "Geometry",
    "Other",
)
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
    *(f"factor/{name}/kept" for name in ("shape", "colour", "texture", "count", "ground", "position")),
)
_CLASSIFIER = {"knn": "kNN", "probe": "probe", "probe_top5": "probe, top 5"}
_BACKGROUND = {
    "mixed_same": "same-group ground",
    "mixed_rand": "random-group ground",
    "random_colour": "random colour",
    "gap": "ground gap",
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """How to print a metric. direction: 1 larger is better, -1 smaller is better, 0 neither."""

    name: str
    section: str
    title: str
    percent: bool = True
    direction: int = 1

    def text(self, value: float, signed: bool = False) -> str:
        """Formats a value: accuracies in percent (points), the rest as it is."""
        number, digits = (100 * value, 1) if self.percent else (value, 1 if abs(value) >= 10 else 3)
        text = f"{number:{'+' if signed else ''}.{digits}f}"
        return text.replace("-", "\N{MINUS SIGN}")


def describe(name: str) -> Metric:
    """Returns the description of a metric of any suite; an unknown one is shown under its own name."""
    match name.split("/"):
        case [("group" | "subgroup" | "label") as target, classifier] if classifier in _CLASSIFIER:
            return Metric(name, SECTIONS[0], f"{target.capitalize()}, {_CLASSIFIER[classifier]}")
        case ["factor", factor, "kept"]:
            return Metric(name, SECTIONS[1], f"{factor.capitalize()}, kept above chance")
        case ["factor", factor, "probe"]:
            return Metric(name, SECTIONS[1], f"{factor.capitalize()}, probe")
        case ["style", style, target, classifier]:
            return Metric(name, SECTIONS[2], f"{style}: {target}, {_CLASSIFIER.get(classifier, classifier)}")
        case ["background", ground, target, classifier]:
            title = (
                f"{_BACKGROUND.get(ground, ground).capitalize()}: {target}, {_CLASSIFIER.get(classifier, classifier)}"
            )
            return Metric(name, SECTIONS[3], title, direction=-1 if ground == "gap" else 1)
        case ["few_shot", shots, target]:
            return Metric(name, SECTIONS[4], f"{target.capitalize()}, {shots} per class")
        case ["retrieval", pair]:
            return Metric(name, SECTIONS[5], f"{pair.replace('_to_', ' → ')}, R@1")
        case ["spearman", "captions"]:
            return Metric(name, SECTIONS[5], "Rank correlation with captions", percent=False)
        case ["geometry", "alignment"]:
            return Metric(name, SECTIONS[6], "Alignment of a concept's drawings", percent=False, direction=-1)
        case ["geometry", "uniformity"]:
            return Metric(name, SECTIONS[6], "Uniformity", percent=False, direction=-1)
        case ["geometry", "effective_rank"]:
            return Metric(name, SECTIONS[6], "Effective rank of the features", percent=False, direction=0)
    return Metric(name, SECTIONS[-1], name, percent=False, direction=0)


def in_order(names) -> list[Metric]:
    """Describes metrics and sorts them by section, keeping the given order inside a section."""
    return sorted((describe(name) for name in names), key=lambda metric: SECTIONS.index(metric.section))
