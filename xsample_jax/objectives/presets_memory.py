"""Named objectives that remember (an EMA encoder, a queue, prototypes, numbers of every image) or learn classes.

Among the latter are those on batches by plan (data/plans.py): unlearning, episodes, tasks.

i: anchor, k: key, i+: a positive of i, s: similarity, tau: temperature, T: target graph, B: images of the batch.
"""

from xsample_jax.graphs.targets import Graph, Mixture
from xsample_jax.objectives.bank import Bank
from xsample_jax.objectives.blocks import IMAGE, VIEW_0, VIEW_1, Rows
from xsample_jax.objectives.objective import Objective, Preset
from xsample_jax.objectives.terms import FeatureTerm, Term
from xsample_jax.registry import Choice

TEACHER_0, TEACHER_1 = Rows("teacher", 0), Rows("teacher", 1)
QUEUE, PROTOTYPES = Rows("queue"), Rows("prototypes")


def against_teacher(**fields) -> tuple[Term, Term]:
    """Every view against its own key, the other view of the EMA encoder, and the queue; no other key of the batch."""
    fields = {"negatives": "own_and_queue", "weight": 0.5} | fields
    return (
        Term(anchors=VIEW_0, keys=(TEACHER_1, QUEUE), **fields),
        Term(anchors=VIEW_1, keys=(TEACHER_0, QUEUE), **fields),
    )


def swapped_prototypes() -> tuple[Term, ...]:
    """SwAV's terms: views and small crops against the prototypes, targets from another view, balanced by Sinkhorn."""

    def term(anchors: Rows, source, weight: float) -> Term:
        graph = Graph(source, "sinkhorn", target_temperature=0.05)
        return Term(graph, anchors=anchors, keys=PROTOTYPES, weight=weight)

    crops, local = 2, 2
    each = 1 / (2 * (crops + local - 1))
    swap = [term(Rows("image", view), "swapped", each) for view in range(crops)]
    small = [
        term(Rows("local", crop), {"name": "swapped", "of": view}, each)
        for crop in range(local)
        for view in range(crops)
    ]
    return (*swap, *small)


MEMORY = {
    "moco": Preset(
        "InfoNCE of each view against its own key, the EMA encoder's other view, and a queue; tau 0.2",
        "MoCo v2, arXiv 1911.05722 and 2003.04297",
        Objective(against_teacher(), 0.2, teacher=0.99, queue=4096),
    ),
    "instance_discrimination": Preset(
        "-log e^{s(i, m_i)/tau} / sum over k of e^{s(i, m_k)/tau}, m rows of a bank of all images: those of the batch "
        "and 4096 that are drawn; a row is half its old value and half the embedding of today; tau 0.07",
        "InstDisc, arXiv 1805.01978, constants of its code (there noise contrastive estimation of a softmax over all "
        "rows, and a proximal term; a bank that begins with random rows)",
        Objective(
            (Term(Graph("same_record"), keys=Rows("bank")),),
            0.07,
            bank=Bank(momentum=0.5, keys=4096),
        ),
    ),
    "nnclr": Preset(
        "InfoNCE of the nearest queue entry of each view against the predicted other views of the batch; tau 0.1",
        "NNCLR, arXiv 2104.14548, eq. 3",
        Objective(
            (
                Term(anchors=Rows("neighbors", 0), keys=Rows("predicted", 1), weight=0.5),
                Term(anchors=Rows("neighbors", 1), keys=Rows("predicted", 0), weight=0.5),
            ),
            0.1,
            queue=4096,
            predictor=True,
        ),
    ),
    "moco_v3": Preset(
        "2 tau InfoNCE of predicted views against the EMA encoder's other views of the batch; tau 0.2",
        "MoCo v3, arXiv 2104.02057, alg. 1; the momentum rises to 1",
        Objective(
            (
                Term(anchors=Rows("predicted", 0), keys=TEACHER_1, weight=0.4),
                Term(anchors=Rows("predicted", 1), keys=TEACHER_0, weight=0.4),
            ),
            0.2,
            teacher=0.99,
            teacher_end=1.0,
            predictor=True,
        ),
    ),
    "byol": Preset(
        "2 - 2 cos(predicted view, EMA encoder's other view), both ways",
        "BYOL, arXiv 2006.07733, eq. 2; the momentum rises to 1 (there from 0.996)",
        Objective(
            (),
            1.0,
            teacher=0.99,
            teacher_end=1.0,
            predictor=True,
            feature_terms=(
                FeatureTerm("align", Rows("predicted", 0), TEACHER_1),
                FeatureTerm("align", Rows("predicted", 1), TEACHER_0),
            ),
        ),
    ),
    "ressl": Preset(
        "T = softmax over the queue of the EMA encoder's similarities / 0.04, of another view; tau 0.1",
        "ReSSL, arXiv 2107.09282, eq. 4",
        Objective(
            (
                Term(Graph("teacher", "softmax", target_temperature=0.04), anchors=VIEW_0, keys=QUEUE, weight=0.5),
                Term(Graph("teacher", "softmax", target_temperature=0.04), anchors=VIEW_1, keys=QUEUE, weight=0.5),
            ),
            0.1,
            teacher=0.99,
            queue=4096,
        ),
    ),
    "sce": Preset(
        "T = 0.5 own key + 0.5 softmax of the EMA encoder's similarities to the queue / 0.05; tau 0.1",
        "SCE, arXiv 2111.14585, eq. 5",
        Objective(
            against_teacher(
                graph=Mixture(
                    (
                        Graph("identity"),
                        Graph({"name": "teacher", "queue_only": True}, "softmax", target_temperature=0.05),
                    ),
                    (0.5, 0.5),
                )
            ),
            0.1,
            teacher=0.99,
            queue=4096,
        ),
    ),
    "seed": Preset(
        "T = softmax over k of t_i.t_k / 0.01, s(i, k) = z_i.t_k, t features of a frozen encoder, k over all views of "
        "the batch, i itself among them, and a queue; tau 0.2",
        "SEED, arXiv 2101.04731 (its code: a queue of 65,536, the own view, 1e-4 for the target unless set); with "
        "temperatures of 0.05 the distillation of KaLM-Embedding-V2, arXiv 2506.20923",
        Objective(
            (
                Term(
                    Graph("frozen", "softmax", target_temperature=0.01),
                    keys=(Rows("frozen"), Rows("frozen_queue")),
                ),
            ),
            0.2,
            frozen=True,
            queue=4096,
        ),
    ),
    "norm_direction": Preset(
        "mean of 1 - <h_i, c_i / |c_i|> / max(|h_i|, |t_i|), h head outputs, t features of a frozen encoder, c_i their "
        "running mean in the class of i",
        "ND, arXiv 2305.17007 (there beside a classifier's losses, with class means of the training set)",
        Objective((), 1.0, frozen=True, feature_terms=(FeatureTerm("norm_direction", IMAGE, IMAGE),)),
        golden="ND loss where some students are longer than their teachers",
    ),
    "mesa": Preset(
        "SimCLR + from a twentieth of the run on 20 times the cross-entropy of softmax(s(i, k) / 0.5) to T = "
        "softmax(t(i, k) / 0.5), t the cosines of the EMA encoder on the same views; tau 0.1",
        "MESA, arXiv 2205.14083: 0.8 of 25 KL at 5 times tau (there of the logits of classes; momentum and start ours)",
        Objective(
            (
                Term(),
                Term(
                    Graph({"name": "teacher", "same_view": True}, "softmax", target_temperature=0.5),
                    temperature=0.5,
                    weight={"name": "after", "share": 0.05, "weight": 20.0},
                ),
            ),
            0.1,
            teacher=0.999,
        ),
    ),
    "mochi": Preset(
        "MoCo with synthetic negatives: mixtures of the hardest ones, and of them with the anchor; tau 0.2",
        "MoCHi, arXiv 2010.01028, eqs. 4, 5",
        Objective(
            against_teacher(mixer={"name": "hard_mixtures", "hardest": 256, "mixed": 128, "with_anchor": 64}),
            0.2,
            teacher=0.99,
            queue=4096,
        ),
    ),
    "swav": Preset(
        "every crop predicts the Sinkhorn-balanced prototype assignment (eps 0.05) of another crop; tau 0.1",
        "SwAV, arXiv 2006.09882, eqs. 2-4",
        Objective(swapped_prototypes(), 0.1, prototypes=300, local_views=2),
    ),
    "sogclr": Preset(
        "InfoNCE whose denominators are moving averages over the epochs (gamma 0.8), times tau; tau 0.1",
        "SogCLR, arXiv 2202.12387, alg. 1",
        Objective((Term(negatives="other_images", repulsion="moving_average", weight=0.1),), 0.1, memory="average"),
    ),
    "isogclr": Preset(
        "SogCLR with a temperature per image that descends on its own robust objective; rho 6, tau from 0.07",
        "iSogCLR, arXiv 2305.11965, alg. 1",
        Objective(
            (
                Term(
                    negatives="other_images",
                    temperature="per_anchor",
                    row_weight="moving_average_gap",
                ),
            ),
            0.07,
            memory="temperature",
        ),
    ),
}


# Learned classes, and batches by plan.


CLASSES, TEXT = Rows("classes"), Rows("text")
KEPT, FORGET = Rows("image", part=0), Rows("image", part=1)


def classified(rows: Rows = IMAGE, **fields) -> Term:
    """Cross-entropy of a classifier: rows against the learned rows of all classes, T that of the own class."""
    return Term(**{"graph": Graph("label"), "anchors": rows, "keys": CLASSES} | fields)


# mixing: images, share of the first, source.
MIXED_IMAGES = {
    "mixup": ("lam x_i + (1 - lam) x_j", "the larger share of a draw from U(0, 1)", "mixup, arXiv 1710.09412"),
    "cutmix": ("x_i with a box of x_j", "the share of pixels that are of x_i", "CutMix, arXiv 1905.04899"),
}


def in_tasks(negatives: str) -> Objective:
    """A classifier, image against caption, and what the teacher from before the task knew about rehearsed images."""
    terms = (
        classified(),
        Term(anchors=IMAGE, keys=TEXT, weight=0.5),
        Term(anchors=TEXT, keys=IMAGE, weight=0.5),
    )
    name = {"name": "past_positives", "temperature": 0.1, "negatives": negatives}
    past = FeatureTerm(name, IMAGE, Rows("teacher"))
    return Objective(terms, 0.1, teacher=0.0, by_task=True, classes=True, text="linear", feature_terms=(past,))


def of_episodes(*losses: Choice) -> Objective:
    """The mean of losses of an episode."""
    return Objective(
        (), 1.0, feature_terms=tuple(FeatureTerm(loss, IMAGE, IMAGE, weight=1 / len(losses)) for loss in losses)
    )


PLANS = {
    "classifier": Preset(
        "cross-entropy of softmax over c of z_i.w_c / tau, w unit rows learned for the classes; tau 0.1",
        "a linear classifier of unit rows; ours, as the start and the control of unlearning and of tasks",
        Objective((classified(),), 0.1, classes=True),
    ),
    **{
        f"classifier_{mixing}": Preset(
            f"`classifier` on {images}: T = lam on the class of i, 1 - lam on that of j, lam {share}; tau 0.1",
            f"{source} (there the same lam for a batch, and lam down to 0)",
            Objective(
                (classified(Rows("mixed_images"), graph=Graph("mixed_classes", "none")),),
                0.1,
                classes=True,
                mixing=mixing,
            ),
        )
        for mixing, (images, share, source) in MIXED_IMAGES.items()
    },
    "saf": Preset(
        "`classifier` + from a twentieth of the run on 7.5 times the cross-entropy of softmax over c of z_i.w_c / 0.5 "
        "to T = softmax(p_ic / 0.5), p_ic that cosine three visits of the image ago; tau 0.1",
        "SAF, arXiv 2205.14083: 0.3 of 25 KL at 5 times tau (start ours, past rows in bfloat16)",
        Objective(
            (
                classified(),
                classified(
                    graph=Graph("past", "softmax", target_temperature=0.5),
                    temperature=0.5,
                    weight={"name": "after", "share": 0.05, "weight": 7.5},
                ),
            ),
            0.1,
            classes=True,
            past=3,
        ),
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
        "mean of `prototypical`, of [d(q, own c) - min over others of d(q, c) + 0.5]+ and of ICNN on all images",
        "SuSana Distancia, arXiv 2305.09062; needs data.episodes",
        of_episodes("prototypical", "proto_triplet", {"name": "icnn", "rows": "all"}),
        golden="SuSana Distancia: cross-entropy + Proto-Triplet + ICNN, mean of the three",
    ),
}
