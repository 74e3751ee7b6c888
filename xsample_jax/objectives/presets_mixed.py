"""Named objectives with synthetic keys, and CACR with an EMA encoder.

i: anchor, k: key, i+: a positive of i, s: similarity, tau: temperature, T: target graph, B: images of the batch.
"""

from xsample_jax.graphs.targets import Graph
from xsample_jax.objectives.objective import Objective, Preset
from xsample_jax.objectives.terms import Rows, Term

DISTANCE = {"name": "negative_distance", "power": 1.0}
PULL = {"name": "conditional", "part": "attraction", "through": "none"}
PUSH = {"name": "conditional", "part": "repulsion", "near": 1.0, "through": "batch"}


def metrix() -> tuple[Term, Term]:
    """The contrastive loss on real pairs, and on mixtures of a positive and a negative."""
    fields = {"graph": Graph("label", "none"), "similarity": DISTANCE, "temperature": 1.0, "link": "contrastive"}
    return Term(**fields), Term(**fields, mixer={"name": "positive_and_negative", "mixed": 64}, weight=0.4)


def far_and_near_with_queue(views: int) -> tuple[Term, ...]:
    """CACR with a queue: every view pulled to the EMA encoder's other views, pushed from its own view and the queue."""
    distance = {"similarity": "negative_distance", "weight": 1 / views}
    found = []
    for view in range(views):
        own = Rows("image", view)
        found.append(Term(anchors=own, keys=Rows("teacher", without=view), link=PULL, **distance))
        found.append(Term(anchors=own, keys=(own, Rows("queue")), link=PUSH, **distance))
    return tuple(found)


MIXED = {
    "metrix": Preset(
        "contrastive loss of distances, margins 0 and 0.5, over pairs of one class and of two + 0.4 times that of "
        "mixtures lam p + (1 - lam) n, n a negative of i and p a positive, which are positives to the share lam",
        "Metrix on embeddings, arXiv 2106.04990 (there one lam per batch, and at half of the steps mixtures of anchors "
        "with negatives)",
        Objective(metrix(), 1.0),
        golden="Metrix, contrastive loss, embeddings, positive-negative pairs",
    ),
    "supremix": Preset(
        "-mean over i+ of log e^{s(i, i+)/tau} / sum over k of (1 + |t_k - t_i|) e^{s(i, k)/tau}; i+: t equal, or a "
        "mixture of j and k with t_j < t_i < t_k; k also mixtures of i with others; tau 0.3",
        "SupReMix, arXiv 2309.16633",
        Objective(
            (
                Term(
                    Graph("same_target"),
                    negatives="target_distance",
                    mixer={"name": "between_targets", "window": 5.0, "positives": 144, "negatives": 64},
                ),
            ),
            0.3,
        ),
        golden="SupReMix (mixed negatives, mixed positives, distance weights)",
    ),
    "kalm": Preset(
        "(1 - p_i)^0.5 times NT-Xent with more negatives: mixtures of two of the 7 nearest negatives of i, and of all "
        "of them; tau 0.05",
        "KaLM-Embedding-V2, arXiv 2506.20923 (there of texts with mined negatives; the mixture of all has a "
        "temperature of ours)",
        Objective(
            (
                Term(
                    row_weight={"name": "focal", "gamma": 0.5},
                    mixer={"name": "own_mixtures", "hardest": 7, "pairs": 4, "lists": 1},
                ),
            ),
            0.05,
        ),
    ),
    "cacr_moco": Preset(
        "sum over the EMA encoder's other views i+ of softmax(d^2) d^2 less sum over k of softmax(-d^2) d^2, k other "
        "images in the same view and a queue; mean over three views",
        "CACR with a queue, arXiv 2105.03746 (there a queue of 65,536)",
        Objective(far_and_near_with_queue(3), 1.0, teacher=0.999, queue=4096),
    ),
    "cacr_moco_v3": Preset(
        "2 tau sum over predicted views of w InfoNCE against the EMA encoder's view v, w = softmax(d^2 / tau) over the "
        "views other than v, d the distance to it; mean over three views v; tau 0.2",
        "CACR at the scale of ImageNet, arXiv 2105.03746",
        Objective(
            tuple(
                Term(
                    anchors=Rows("predicted", without=view),
                    keys=Rows("teacher", view),
                    row_weight="far_views",
                    weight=0.4 / 3,
                )
                for view in range(3)
            ),
            0.2,
            teacher=0.996,
            predictor=True,
        ),
    ),
}
