"""Named objectives with synthetic keys, several heads, networks of pairs, centers of clusters, or decoders.

i: anchor, k: key, i+: a positive of i, s: similarity, tau: temperature, T: target graph, B: images of the batch.
"""

import dataclasses
import math

from xsample_jax.graphs.targets import Graph
from xsample_jax.models.heads import Head
from xsample_jax.objectives.bank import Bank, Clusters
from xsample_jax.objectives.blocks import IMAGE, VIEW_0, VIEW_1, Rows
from xsample_jax.objectives.objective import Objective, Preset
from xsample_jax.objectives.pair_network import PairNetwork
from xsample_jax.objectives.presets_image_text import image_text
from xsample_jax.objectives.terms import FeatureTerm, Term

DISTANCE = {"name": "negative_distance", "power": 1.0}
BETWEEN = {"name": "between_targets", "window": 5.0, "positives": 144, "negatives": 64}
PULL = {"name": "conditional", "part": "attraction", "through": "none"}
PUSH = {"name": "conditional", "part": "repulsion", "near": 1.0, "through": "batch"}
IMIX = (Term(Graph("mixed"), anchors=Rows("mixed_images"), keys=VIEW_0),)  # mixed images of view 1
PROTOTYPICAL = {
    "graph": Graph("own_center"),
    "keys": Rows("centers"),
    "similarity": "by_density",
    "denominator": "clusterings",
}


def metrix() -> tuple[Term, Term]:
    """The contrastive loss on real pairs, and on mixtures of a positive and a negative."""
    fields = {"graph": Graph("label", "none"), "similarity": DISTANCE, "temperature": 1.0, "link": "contrastive"}
    return Term(**fields), Term(**fields, mixer={"name": "positive_and_negative", "mixed": 64}, weight=0.4)


def metrix_anchors() -> tuple[Term, ...]:
    """As metrix, and on mixtures of the anchor and a negative, each with the share of the steps that it has there."""
    clean, mixed = metrix()
    own = {"name": "anchor_and_negative", "mixed": 64}
    return clean, dataclasses.replace(mixed, weight=0.2), dataclasses.replace(mixed, mixer=own, weight=0.15)


def metrix_of(block: str) -> tuple[Term, Term]:
    """The contrastive loss on real pairs, and on images, or features, mixed with those of another class."""
    fields = {"similarity": DISTANCE, "temperature": 1.0, "link": "contrastive"}
    mixed = {"keys": Rows(block), "negatives": "positives", "weight": 0.4}
    return Term(Graph("label", "none"), **fields), Term(Graph("mixed_labels", "none"), **mixed, **fields)


def gopro() -> tuple[Term, Term]:
    """GOPro's cross-entropy of view 0 against the texts that it has of all classes, and NT-Xent of views 0 and 1."""
    strong = Rows("image", without=2, head="visual")
    texts = Rows("class_texts")
    return (
        Term(Graph("label"), anchors=VIEW_0, keys=texts, similarity="prompted"),
        Term(anchors=strong, keys=strong, temperature=0.1, weight=0.1),
    )


def far_and_near_with_queue(views: int) -> tuple[Term, ...]:
    """CACR with a queue: every view pulled to the EMA encoder's other views, pushed from its own view and the queue."""
    distance = {"similarity": "negative_distance", "weight": 1 / views}
    found = []
    for view in range(views):
        own = Rows("image", view)
        found.append(Term(anchors=own, keys=Rows("teacher", without=view), link=PULL, **distance))
        found.append(Term(anchors=own, keys=(own, Rows("queue")), link=PUSH, **distance))
    return tuple(found)


def sepclr() -> tuple[FeatureTerm, ...]:
    """The four parts of SepCLR: what is common, what is salient, a background without it, and both heads together."""
    salient = [Rows("image", view, head="salient", raw=True) for view in (0, 1)]
    each = list(zip((VIEW_0, VIEW_1), salient, strict=True))
    return (
        FeatureTerm("align"),
        *(FeatureTerm({"name": "uniform", "t": 1.0}, common, common) for common, _ in each),
        FeatureTerm("align_targets", *salient, 1000.0),
        *(FeatureTerm("uniform_targets", own, own, 1000.0) for _, own in each),
        *(FeatureTerm("vanish", own, own, 500.0) for _, own in each),
        *(FeatureTerm("joint_entropy", common, own, 5.0) for common, own in each),
    )


def captions(weight: float) -> FeatureTerm:
    """The captioning loss of all views."""
    return FeatureTerm("captioning", IMAGE, IMAGE, weight)


COSMO_TEMPERATURE = math.exp(-0.2)  # the published 0.2 is the logarithm of what multiplies the cosines
VARIANCE = {"log_variance": Head(log_variance=True)}
A_MIM = tuple(FeatureTerm(name, IMAGE, IMAGE) for name in ("reconstruction", "latent_code"))


META = Rows("meta")
NEIGHBORS = {"name": "nearest", "k": 3, "symmetric": True, "order": 2}


def neighbors_and_means() -> tuple[Term, Term]:
    """PamC: rows attracted along a graph of neighbors, means of clusters pushed apart."""
    near = Graph({"name": "self_similarity", "of_image": True}, "none", (NEIGHBORS,))
    same = {"similarity": "without_self", "aggregate": "in", "self_targets": True, "weight": 2.0}
    return (
        Term(near, repulsion=0.0, **same),
        Term(Graph("uniform"), anchors=META, keys=META, attraction=0.0, self_pairs=True, **same),
    )


def inter_image(bank: Rows) -> tuple[Term, Term]:
    """InterCLR: MoCo, and one key in the cluster of an image against semi-hard ones of others, among `bank`."""
    moco = {"keys": (Rows("teacher", 1), Rows("queue")), "negatives": "own_and_queue"}
    drawn = {"name": "semi_hard", "pool": 1024, "number": 256, "margin": -0.5}
    return (
        Term(anchors=VIEW_0, weight=0.75, **moco),
        Term(Graph("cluster"), anchors=VIEW_0, keys=bank, mixer=drawn, weight=0.25),
    )


THREE = ("first", "second", "third")  # heads of AMCL
PIXPRO_HEADS = {"dense": Head(of="cells"), "propagated": Head(of="dense", propagation=2.0)}


def adaptive(terms: tuple[FeatureTerm, ...], more: dict | None = None, channels=False, **changes) -> Objective:
    """An objective of AMCL: terms on its three heads and `more`, and one network of pairs for all of them."""
    network = PairNetwork(128, channels=channels)
    heads = {name: Head() for name in THREE} | (more or {})
    return Objective((), 1.0, feature_terms=terms, heads=heads, pair_network=network, **changes)


def of_views(term: str | dict, raw: bool = False) -> tuple[FeatureTerm, ...]:
    """AMCL's term of every head on views 0 and 1."""
    ends = [[Rows("image", view, head=head, raw=raw) for view in (0, 1)] for head in THREE]
    return tuple(FeatureTerm(term, *both) for both in ends)


def adaptive_to_teacher(predicted: str = "", **options) -> tuple[FeatureTerm, ...]:
    """AMCL's term of every head against the same head of the EMA encoder's other view, half for each way."""
    return tuple(
        FeatureTerm(
            {"name": "adaptive_contrast", **options},
            Rows("image", view, head=head + predicted),
            Rows("teacher", 1 - view, head=head),
            0.5,
        )
        for head in THREE
        for view in (0, 1)
    )


def near_cells_both_ways() -> tuple[FeatureTerm, ...]:
    """PixPro: the propagated cells of a view against the cells of the other one by the EMA encoder."""
    return tuple(
        FeatureTerm(
            "near_cells",
            Rows("image", view, head="propagated", raw=True),
            Rows("teacher", 1 - view, head="dense", raw=True),
        )
        for view in (0, 1)
    )


MIXED = {
    "sepclr": Preset(
        "common head: |z - z'|^2 + 2 log mean e^{-|z_i - z_k|^2}; 1000 times the same of the salient head's raw rows "
        "of the set of interest, with 0 for the background's; 1000 |s|^2 of the background's; 10 mean log mean of both "
        "heads' kernels",
        "SepCLR with k-JEM, weights of its public code for CIFAR-MNIST (there with an encoder for each head)",
        Objective((), 1.0, feature_terms=sepclr(), heads={"salient": Head()}),
        golden="SepCLR total (k-JEM)",
    ),
    "pixpro": Preset(
        "-2 mean over cells i of a view and j of the other with centers less than 0.7 diagonals of a cell apart of "
        "cos(y_i, k_j), both ways; k a map by the EMA encoder, y the student's, each cell the sum of its like cells",
        "PixPro; the momentum rises to 1",
        Objective((), 1.0, teacher=0.99, teacher_end=1.0, feature_terms=near_cells_both_ways(), heads=PIXPRO_HEADS),
        golden="PixPro: propagation and both directions",
    ),
    "pixpro_instance": Preset(
        "pixpro + 2 - 2 cos(predicted view, EMA encoder's other view), both ways",
        "PixPro with its instance branch, off unless set in its code, and its weight ours (there the head is applied "
        "to the cells before their mean)",
        Objective(
            (),
            1.0,
            teacher=0.99,
            teacher_end=1.0,
            predictor=True,
            feature_terms=(
                *near_cells_both_ways(),
                *(FeatureTerm("align", Rows("predicted", view), Rows("teacher", 1 - view)) for view in (0, 1)),
            ),
            heads=PIXPRO_HEADS,
        ),
    ),
    "amcl": Preset(
        "sum over three heads of -s(i, i+)/tau+ + s(i, k*)/tau* + 0.1 (O(tau+) - O(tau*)), k* the nearest of the other "
        "images in view 1, tau in (1e-5, 2) a learned function of the pair, O(tau) = D/2 log tau + 1/tau",
        "AMCL, arXiv 2310.05615, the SimCLR form of its authors' table (their first code does not run; the second has "
        "the mean of the 100 nearest others of both views, tau of a product of maps, and 1e-4 for 0.1)",
        adaptive(of_views("adaptive_contrast")),
    ),
    "amcl_moco": Preset(
        "amcl against the EMA encoder's rows of the other view, mean of both ways",
        "AMCL, arXiv 2310.05615, the form of MoCo in its authors' table, which is that of SimCLR; that keys are of the "
        "batch is ours (there a queue)",
        adaptive(adaptive_to_teacher(), teacher=0.99),
    ),
    "amcl_simsiam": Preset(
        "sum over three heads of -s(p_i, i+)/tau+ + 0.1 O(tau+), p_i predicted from one view, i+ the other view "
        "without gradient, mean of both ways; tau and O as in amcl",
        "AMCL, arXiv 2310.05615, the form of SimSiam in its authors' table; the view without gradient is that of an "
        "EMA encoder of momentum 0",
        adaptive(
            adaptive_to_teacher("_predicted", push=False),
            {f"{name}_predicted": Head(of=name) for name in THREE},
            teacher=0.0,
        ),
    ),
    "amcl_barlow_twins": Preset(
        "sum over three heads of sum over channels of (1 - C_ll/tau_ll)^2 + 1e-6 O(tau_ll), and over pairs l != m of "
        "0.005 C_lm^2/tau_lm - 1e-6 O(tau_lm); C the correlations of the views, tau in (0.1, 2) a learned function "
        "of two channels over the batch; O as in amcl",
        "AMCL, arXiv 2310.05615, the form of Barlow Twins in its authors' table, network and weights of their second "
        "code (there tau above 1e-5, which made losses of 1e8 on the emoji, and deviations that divide by B - 1)",
        adaptive(of_views({"name": "adaptive_correlation", "coldest": 0.1}, raw=True), channels=True),
    ),
    "adameow": Preset(
        "-log e^{s(i, i+)/tau} / sum over k of w_ik e^{s(i, k)/tau}, w_ik a learned function of z_i + z_k; view 0 "
        "against view 1; tau 0.9",
        "AdaMEOW, arXiv 2212.13847 (there on graphs, and with ProtoNCE)",
        Objective(
            (), 0.9, feature_terms=(FeatureTerm("learned_negatives"),), pair_network=PairNetwork(16, shared=True)
        ),
        golden="AdaMEOW learned negative weights",
    ),
    "meow": Preset(
        "cluster_dcl + ProtoNCE: mean over clusterings of the cross-entropy of s(i, c)/tau_c, c centers of clusters, "
        "to the own center; tau_c from the density of a cluster, of mean 0.4",
        "MEOW, arXiv 2212.13847 (there on graphs, with clusters of every step: objective.clusters; of given "
        "ones the centers are running means)",
        Objective(
            (Term(anchors=VIEW_0, keys=VIEW_1, negatives="clusters_apart"), Term(anchors=VIEW_0, **PROTOTYPICAL)),
            0.4,
            centers=True,
        ),
    ),
    "pcl": Preset(
        "MoCo + ProtoNCE of view 0, as in meow; tau 0.2",
        "PCL, as arXiv 2212.13847 describes its ProtoNCE (there with clusters of every epoch: objective.clusters)",
        Objective(
            (
                Term(anchors=VIEW_0, keys=(Rows("teacher", 1), Rows("queue")), negatives="own_and_queue"),
                Term(anchors=VIEW_0, **PROTOTYPICAL),
            ),
            0.2,
            teacher=0.999,
            queue=4096,
            centers=True,
        ),
    ),
    "pamc": Preset(
        "-2 mean log sum over k of A_ik e^{s(i, k)/tau} + 2 mean log sum over c' of e^{s(m_c, m_c')/tau} + 2 KL(p, q); "
        "A: own views and what two steps of a 3-NN graph of the batch reach; m: means of clusters, of the rows nearest "
        "to a learned center; q: Student's t to the centers, p: q^2 balanced; s(i, i) = 0; tau 2",
        "PamC (there full batch on a fixed graph, with centers by k-means at the start; its tau multiplies, 0.5)",
        Objective(
            neighbors_and_means(),
            2.0,
            prototypes=64,
            feature_terms=(FeatureTerm("self_training", IMAGE, IMAGE, 2.0),),
        ),
    ),
    "gopro": Preset(
        "cross-entropy over classes c of z_i.p_ic/tau, p_ic = c_text + A h_i scaled to length one, of view 0 + mean "
        "(p_ic - p'_ic)^2 with view 1 and with view 2 + 0.1 NT-Xent of a head of views 0 and 1; tau 0.1",
        "GOPro's losses, on class prompts in embedding space (there a prompt learner of CLIP's frozen text encoder; "
        "views 1 and 2 are MoCo v3's and AugMix's: augment.per_view)",
        Objective(
            gopro(),
            0.1,
            feature_terms=tuple(FeatureTerm("prompt_consistency", VIEW_0, Rows("image", view)) for view in (1, 2)),
            heads={
                "prompts": Head(hidden=()),
                "visual": Head(hidden=(), standardized=True),
                "class_texts": Head(of="class_text", hidden=()),
            },
        ),
        golden="GOPro: class prompts + prompt consistency + .1 NT-Xent",
    ),
    "interclr": Preset(
        "0.75 MoCo of view 0 + 0.25 InfoNCE of one key of the queue in the cluster of i, with 0.5 more cosine, against "
        "256 of the 1024 nearest keys in other clusters; tau 0.2",
        "InterCLR, arXiv 2008.11702 (there a bank of all images in place of the queue, and clusters that follow "
        "every step: objective.clusters)",
        Objective(inter_image(Rows("queue")), 0.2, teacher=0.999, queue=4096),
        golden="InterCLR: .75 intra-image + .25 inter-image",
    ),
    "interclr_bank": Preset(
        "interclr with the key in the cluster of i, and its negatives, of a bank of all images: rows of the batch and "
        "16,384 that are drawn, in clusters that the run makes again every epoch",
        "InterCLR, arXiv 2008.11702 (there the nearest tenth of all rows, and clusters that follow every step)",
        Objective(
            inter_image(Rows("bank")),
            0.2,
            teacher=0.999,
            queue=4096,
            bank=Bank(keys=16384),
            clusters=Clusters((500,)),
        ),
        golden="InterCLR: .75 intra-image + .25 inter-image",
    ),
    "metrix": Preset(
        "contrastive loss of distances, margins 0 and 0.5, over pairs of one class and of two + 0.4 times that of "
        "mixtures lam p + (1 - lam) n, n a negative of i and p a positive, which are positives to the share lam",
        "Metrix on embeddings, arXiv 2106.04990 (there one lam per batch, and at half of the steps mixtures of anchors "
        "with negatives)",
        Objective(metrix(), 1.0),
        golden="Metrix, contrastive loss, embeddings, positive-negative pairs",
    ),
    "metrix_input": Preset(
        "contrastive loss as in metrix + 0.4 times that of images of their own, lam x_i + (1 - lam) x_j before the "
        "encoder, j the nearest image of another class: positives of the class of i to the share lam, of that of j to "
        "the share 1 - lam, and of no other",
        "Metrix on inputs, arXiv 2106.04990 (there one lam per batch and a mixture of every pair with its hardest "
        "negative, and at half of the steps mixtures of anchors with negatives)",
        Objective(metrix_of("mixed_images"), 1.0),
    ),
    "metrix_features": Preset(
        "as metrix_input, with features mixed before the head: for a ResNet, whose features are the mean of its last "
        "map, the same as mixed maps",
        "Metrix on maps, arXiv 2106.04990 (there one lam per batch and all pairs, mixtures of anchors with negatives "
        "apart from the others)",
        Objective(metrix_of("mixed_features"), 1.0),
    ),
    "metrix_anchors": Preset(
        "contrastive loss as in metrix + 0.2 times that of the mixtures of metrix + 0.15 times that of mixtures lam i "
        "+ (1 - lam) n of the anchor itself and a negative of it",
        "Metrix on embeddings, arXiv 2106.04990 (there a coin decides at each step which of the two, with twice the "
        "weight, and only anchors without a positive are mixed: lone, an option)",
        Objective(metrix_anchors(), 1.0),
    ),
    "imix": Preset(
        "cross-entropy of softmax over k of s(m_i, k)/tau, k all images in view 0, m_i the head output of "
        "lam x_i + (1 - lam) x_j of view 1, lam the larger share of a draw from U(0, 1): T = lam on i, 1 - lam on j; "
        "tau 0.2",
        "i-Mix, arXiv 2010.08887, the form for N-pair of its authors' code",
        Objective(IMIX, 0.2, mixing="mixup"),
    ),
    "imix_cutmix": Preset(
        "imix with a box of x_j in x_i in place of the sum, lam the share of pixels that are of x_i; tau 0.2",
        "i-Mix, arXiv 2010.08887, its form with CutMix (there one box for a batch)",
        Objective(IMIX, 0.2, mixing="cutmix"),
    ),
    "supremix": Preset(
        "-mean over i+ of log e^{s(i, i+)/tau} / sum over k of (1 + |t_k - t_i|) e^{s(i, k)/tau}; i+: t equal, or a "
        "mixture of j and k with t_j < t_i < t_k; k also mixtures of i with others; tau 0.3",
        "SupReMix, arXiv 2309.16633",
        Objective((Term(Graph("same_target"), negatives="target_distance", mixer=BETWEEN),), 0.3),
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
    "coca": Preset(
        "CLIP + 2 mean over the tokens of all captions of -log p(token | the tokens before it, image)",
        "CoCa, arXiv 2205.01917",
        Objective(image_text(), 0.07, learn_temperature=True, text="causal", feature_terms=(captions(2.0),)),
        golden="CoCa: CLIP + 2 x captioning",
    ),
    "cosmo": Preset(
        "CLIP without pairs of equal captions, tau from e^-0.2 + mean over tokens of -log p(token | the tokens before "
        "it, image)",
        "COSMO, arXiv 2401.00849, weights of its public code (there a frozen ViT and a pretrained language model, and "
        "no contrast at all in a batch with two equal captions)",
        Objective(
            image_text(negatives="other_captions"),
            COSMO_TEMPERATURE,
            learn_temperature=True,
            text="causal",
            feature_terms=(captions(1.0),),
        ),
    ),
    "a_mim": Preset(
        "z drawn from N(mu, sigma^2) of two heads: mean of -log N(view; decoded z, 1) - (log N(z; 0, 1) + log N(z; mu, "
        "sigma^2)) / 2",
        "A-MIM, terms of its public code (there for text)",
        Objective((), 0.1, heads=VARIANCE, feature_terms=A_MIM),
    ),
    "cmim": Preset(
        "a_mim + -log e^(1/tau) / (e^(1/tau) + mean over other images of e^(s/tau)) on z, in each view; tau 0.1",
        "cMIM, arXiv 2502.19642; the contrast is from memory",
        Objective(
            (
                Term(
                    self_targets=True,
                    denominator="mean_negatives",
                    negatives="other_images",
                    each_view=True,
                ),
            ),
            0.1,
            heads=VARIANCE,
            feature_terms=A_MIM,
        ),
    ),
}
