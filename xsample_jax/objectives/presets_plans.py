"""Presets that learn classes, and those on batches by plan (data/plans.py): unlearning, episodes, tasks."""

from xsample_jax.graphs.targets import Graph
from xsample_jax.objectives.objective import Objective, Preset
from xsample_jax.objectives.terms import IMAGE, FeatureTerm, Rows, Term

CLASSES, TEXT = Rows("classes"), Rows("text")
KEPT, FORGET = Rows("image", part=0), Rows("image", part=1)


def classified(rows: Rows = IMAGE, **fields) -> Term:
    """Cross-entropy of a classifier: rows against the learned rows of all classes, T that of the own class."""
    return Term(Graph("label"), anchors=rows, keys=CLASSES, **fields)


def in_tasks(negatives: str) -> Objective:
    """A classifier, image against caption, and what the teacher of before the task knew of what is rehearsed."""
    terms = (
        classified(),
        Term(anchors=IMAGE, keys=TEXT, weight=0.5),
        Term(anchors=TEXT, keys=IMAGE, weight=0.5),
    )
    name = {"name": "past_positives", "temperature": 0.1, "negatives": negatives}
    past = FeatureTerm(name, IMAGE, Rows("teacher"))
    return Objective(terms, 0.1, teacher=0.0, by_task=True, classes=True, text="linear", feature_terms=(past,))


def of_episodes(*names: str) -> Objective:
    """The mean of losses of an episode."""
    return Objective(
        (), 1.0, feature_terms=tuple(FeatureTerm(name, IMAGE, IMAGE, weight=1 / len(names)) for name in names)
    )


PLANS = {
    "classifier": Preset(
        "cross-entropy of softmax over c of z_i.w_c / tau, w unit rows learned for the classes; tau 0.1",
        "a linear classifier of unit rows; ours, as the start and the control of unlearning and of tasks",
        Objective((classified(),), 0.1, classes=True),
    ),
    "unlearning": Preset(
        "3 mean over images i to forget of (log sum over kept k of the class of i of e^{s(i, k) / 0.7} - mean over "
        "other classes of s(i, k) / 0.7) + the cross-entropy of the classifier on what is kept, tau 0.1",
        "Contrastive Unlearning, arXiv 2401.10458 (there a classifier of ReLU of the rows, with biases); needs "
        "data.forget",
        Objective(
            (
                Term(
                    Graph("other_label"),
                    anchors=FORGET,
                    keys=KEPT,
                    negatives="same_label",
                    temperature=0.7,
                    weight=3.0,
                ),
                classified(KEPT),
            ),
            0.1,
            classes=True,
            plan="data.forget",
        ),
    ),
    "coconut": Preset(
        "the cross-entropy of `classifier` + CLIP with frozen captions + NSPT: rehearsed k against rows of their class "
        "by the teacher of before the task, over the student's rows of all other images of the batch; tau 0.1",
        "COCONUT, arXiv 2310.02699, equation from memory (there of speech and its text); needs data.tasks",
        in_tasks("student"),
    ),
    "coconut_ntpt": Preset(
        "`coconut` with the teacher's rows in the denominator as well (NTPT)",
        "the ablation of COCONUT, arXiv 2310.02699, from memory; needs data.tasks",
        in_tasks("teacher"),
    ),
    "prototypical": Preset(
        "cross-entropy of softmax over classes of -|q - c|^2, q head outputs of queries, c means of the support's",
        "the cross-entropy of SuSana Distancia, arXiv 2305.09062; needs data.episodes",
        of_episodes("prototypical"),
    ),
    "susana": Preset(
        "mean of `prototypical`, of [d(q, own c) - min over others of d(q, c) + 0.5]+ and of ICNN on the support",
        "SuSana Distancia, arXiv 2305.09062; needs data.episodes",
        of_episodes("prototypical", "proto_triplet", "icnn"),
    ),
}
