"""What a named objective is: the data, and what a reader wants to know of it."""

import dataclasses

from xsample_jax.graphs.targets import Graph, Mixture
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.terms import IMAGE, TEXT, FeatureTerm, Rows, Term


@dataclasses.dataclass(frozen=True)
class Preset:
    """An objective with what a reader wants to know.

    Attributes:
      formula: the loss in a line; source: where it comes from.
      objective: the data itself.
      golden: the number of a published implementation that this objective gives on its inputs, unchanged but for the
        temperature (tests/objectives/goldens.json); "": there is none, or for parts of the objective only.
    """

    formula: str
    source: str
    objective: Objective
    golden: str = ""


VIEW_0, VIEW_1 = Rows("image", 0), Rows("image", 1)


def both_ways(first: Rows, second: Rows, **fields) -> tuple[Term, Term]:
    """A term in both directions, half the weight each."""
    weight = fields.pop("weight", 1.0) / 2
    return (
        Term(anchors=first, keys=second, weight=weight, **fields),
        Term(anchors=second, keys=first, weight=weight, **fields),
    )


def generalized_swd(prior: str, words: str) -> Preset:
    """The generalized contrastive loss whose distribution term is a sliced Wasserstein distance to a prior."""
    return Preset(
        f"1/2 mean (z - z')^2 + 5 SWD of the rows of all views to {words}",
        "generalized contrastive loss, arXiv 2011.02803; weights as in a public reproduction",
        Objective(
            (),
            1.0,
            feature_terms=(
                FeatureTerm({"name": "mean_square", "raw": prior != "sphere"}, weight=0.5),
                FeatureTerm({"name": "sliced_wasserstein", "prior": prior}, IMAGE, IMAGE, 5.0),
            ),
        ),
    )


def image_text(**fields) -> tuple[Term, Term]:
    """Image against text and text against image: one term per view of the images, and their mean.

    The published image-text losses see one view a step. One softmax over the rows of all views would be another loss:
    a text with two half positives, which compete with each other.
    """
    return both_ways(IMAGE, TEXT, each_view=True, **fields)


# Named objectives that compare images with images, by what is known about them.
#
# i: anchor, k: key, i+: a positive of i, s: similarity, tau: temperature, T: target graph, B: images of the batch.


LABEL, CAPTION = Graph("label"), Graph("caption", "softmax")

IMAGES = {
    "xclr": Preset(
        "T = softmax over k != i of cos(e_i, e_k) / tau_s, e frozen captions; S = z_i.z_k / tau; tau = tau_s = 0.1",
        "X-CLR, arXiv 2407.18134",
        Objective((Term(CAPTION),), 0.1),
        golden="X-CLR self EXCLUDED (2nd reimplementation)",
    ),
    "xclr_class_text": Preset(
        "T = softmax over k != i of cos(c_y(i), c_y(k)) / tau_s, c frozen class texts",
        "X-CLR on ImageNet, arXiv 2407.18134, appendix A.7",
        Objective((Term(Graph("class_text", "softmax")),), 0.1),
        golden="X-CLR self EXCLUDED (2nd reimplementation)",
    ),
    "xclr_hierarchy": Preset(
        "T = softmax over k != i of Wu-Palmer(leaf_i, leaf_k) / tau_s on a given tree",
        "X-CLR with the graph of a taxonomy (Wu and Palmer 1994)",
        Objective((Term(Graph("hierarchy", "softmax")),), 0.1),
    ),
    "xclr_random": Preset(
        "T = softmax over k != i of the cosine of random vectors / tau_s",
        "control: a soft graph that says nothing",
        Objective((Term(Graph("random", "softmax")),), 0.1),
    ),
    "simclr": Preset(
        "NT-Xent: -log e^{s(i, i+)/tau} / sum over k != i of e^{s(i, k)/tau}; tau 0.1",
        "SimCLR, arXiv 2002.05709, eq. 1",
        Objective((Term(),), 0.1),
        golden="SimCLR NT-Xent (SupContrast, no labels)",
    ),
    "supcon": Preset(
        "mean over i+ of -log e^{s(i, i+)/tau} / sum over k != i of e^{s(i, k)/tau}; i+: same class; tau 0.1",
        "SupCon (out), arXiv 2004.11362, eq. 2",
        Objective((Term(LABEL),), 0.1),
        golden="SupCon-out (SupContrast)",
    ),
    "supcon_in": Preset(
        "-log of the mean over i+ of e^{s(i, i+)/tau} / sum over k != i of e^{s(i, k)/tau}",
        "SupCon (in), arXiv 2004.11362, eq. 3",
        Objective((Term(LABEL, aggregate="in"),), 0.1),
    ),
    "dcl": Preset(
        "-s(i, i+)/tau + log sum over other images k of e^{s(i, k)/tau}",
        "DCL, arXiv 2110.06848, eq. 6",
        Objective((Term(negatives="other_images"),), 0.1),
        golden="DCL (lightly, symmetric)",
    ),
    "dclw": Preset(
        "-w_i s(i, i+)/tau + log sum over other images; w_i = 2 - A softmax over anchors of s(i, i+)/0.5",
        "DCLW, arXiv 2110.06848, eq. 7",
        Objective((Term(negatives="other_images", attraction="near_positive"),), 0.1),
    ),
    "decoupled_softmax": Preset(
        "mean over i+ of -log e^{s(i, i+)/tau} / (e^{s(i, i+)/tau} + sum over negatives)",
        "DEXML, arXiv 2310.10636, eq. 5",
        Objective((Term(LABEL, denominator="own", negatives="not_positive"),), 0.1),
    ),
    "hard_negatives": Preset(
        "decoupled softmax over the 64 most similar negatives only",
        "Wang and Liu, arXiv 2012.09740, section 5",
        Objective((Term(denominator="own", negatives={"name": "hardest", "k": 64}),), 0.1),
    ),
    "hcl": Preset(
        "negatives weighted by e^{beta s(i, k)/tau}, mean weight 1, beta 1, debiased with tau+ = 0.1; tau 0.5",
        "hard negative contrastive loss, arXiv 2010.04592, eq. 4",
        Objective(
            (
                Term(
                    denominator={"name": "debiased", "tau_plus": 0.1},
                    negatives={"name": "importance", "beta": 1.0},
                ),
            ),
            0.5,
        ),
    ),
    "rince": Preset(
        "-e^{q s+}/q + (lam (e^{s+} + sum of negatives))^q / q; q 0.5, lam 0.01, tau 0.5",
        "RINCE, arXiv 2201.04309, eq. 4",
        Objective((Term(link={"name": "robust", "q": 0.5, "lam": 0.01}),), 0.5),
        golden="RINCE (q-divergence link on (pos,Z))",
    ),
    "focal": Preset(
        "(1 - p_i)^0.5 times NT-Xent, p_i the probability of the positive",
        "focal reweighting of KaLM-Embedding-V2, arXiv 2506.20923",
        Objective((Term(row_weight={"name": "focal", "gamma": 0.5}),), 0.1),
    ),
    "macl": Preset(
        "NT-Xent with tau = 0.1 (1 + 0.5 A), A the mean positive cosine; rows weighted by 1 / (1 - p_i)",
        "MACL, arXiv 2207.07874, eqs. 7, 9",
        Objective((Term(temperature="model_aware", row_weight="inverse_one_minus_p"),), 0.1),
        golden="MACL (temperature rule + row weight 1/(1-p))",
    ),
    "temperature_schedule": Preset(
        "NT-Xent with tau moving between 0.1 and 1 as a cosine, 4 periods over the run",
        "arXiv 2303.13664, eq. 6",
        Objective((Term(temperature={"name": "schedule", "low": 0.1, "periods": 4.0}),), 1.0),
    ),
    "rank_n_contrast": Preset(
        "every key against itself and those less similar to the anchor by caption",
        "Rank-N-Contrast, arXiv 2210.01189, eq. 3, with caption cosines for label distances",
        Objective(
            (
                Term(
                    Graph("uniform"),
                    denominator={"name": "rank", "by": "caption"},
                    similarity={"name": "negative_distance", "power": 1.0},
                ),
            ),
            2.0,
        ),
    ),
    "mw": Preset(
        "sum over all negatives of the batch of softplus((s- - s+)/tau) / anchors; tau 0.05",
        "MW, arXiv 2510.00137, eq. 3",
        Objective((Term(link="pairwise_global"),), 0.05),
    ),
    "mv_infonce": Preset(
        "-log (sum over view pairs of e^{s/tau} of one image / sum over all pairs of the image's views with others)",
        "MV-InfoNCE, arXiv 2507.06979",
        Objective((Term(Graph("identity", "none"), merge_views=True, aggregate="in"),), 0.2),
        golden="MV-InfoNCE (instance rows, agg=in, shared)",
    ),
    "mv_dhel": Preset(
        "as MV-InfoNCE, with one denominator per view over other images in the same view",
        "MV-DHEL, arXiv 2507.06979",
        Objective((Term(Graph("identity", "none"), merge_views=True, aggregate="in", denominator="views"),), 0.2),
    ),
    "simlap": Preset(
        "decoupled softmax of cosines behind a learned gate of (class of i, a second class)",
        "SimLAP, arXiv 2410.18200",
        Objective(
            (
                Term(
                    Graph("second_label", "none"),
                    anchors=VIEW_0,
                    keys=VIEW_1,
                    similarity="gated",
                    denominator="own",
                    negatives="neither_label",
                    reduce="pairs",
                ),
            ),
            0.1,
            gate=True,
        ),
        golden="Hydra/SimLAP (gated similarity, denom=own, pair mean)",
    ),
    "barlow_twins": Preset(
        "sum (C_dd - 1)^2 + 0.005 sum off-diagonal C_de^2, C the cross-correlation of two views",
        "Barlow Twins, arXiv 2103.03230, eq. 1",
        Objective((), 1.0, feature_terms=(FeatureTerm("barlow_twins"),)),
        golden="Barlow Twins (lightly)",
    ),
    "vicreg": Preset(
        "25 |z - z'|^2 / D + 25 hinge(1 - std) + covariance, z of length sqrt(D)",
        "VICReg, arXiv 2105.04906, eq. 6",
        Objective((), 1.0, feature_terms=(FeatureTerm({"name": "vicreg", "unit_rows": True}),)),
    ),
    "spectral": Preset(
        "-2 <z, z'> + mean over other pairs of <z_i, z'_k>^2",
        "spectral contrastive loss, arXiv 2106.04156, eq. 6",
        Objective((), 1.0, feature_terms=(FeatureTerm("spectral"),)),
        golden="Spectral contrastive (own function)",
    ),
    "generalized_lse": Preset(
        "1/2 mean (z - z')^2 + 0.1 mean over i of log sum over all k, i included, of e^{s(i, k)/tau}; tau 1",
        "generalized contrastive loss, arXiv 2011.02803; weights as in a public reproduction",
        Objective(
            (Term(self_pairs=True, attraction=0.0, weight=0.1),),
            1.0,
            feature_terms=(FeatureTerm("mean_square", weight=0.5),),
        ),
    ),
    "generalized_swd_sphere": generalized_swd("sphere", "the uniform distribution on the unit sphere"),
    "generalized_swd_cube": generalized_swd("cube", "the uniform distribution on [-1, 1]^D, z head outputs"),
    "generalized_swd_normal": generalized_swd("normal", "the standard normal distribution, z head outputs"),
    "align_uniform": Preset(
        "mean |z - z'|^2 + the mean of log mean e^{-2 |z_i - z_k|^2} of both views",
        "Wang and Isola, arXiv 2005.10242",
        Objective(
            (),
            1.0,
            feature_terms=(
                FeatureTerm("align"),
                FeatureTerm("uniform", VIEW_0, VIEW_0, 0.5),
                FeatureTerm("uniform", VIEW_1, VIEW_1, 0.5),
            ),
        ),
    ),
}


# Named objectives that compare images with texts.
#
# i: anchor, k: key, i+: a positive of i, s: similarity, tau: temperature, T: target graph, B: images of the batch.


IDENTITY, LABEL = Graph("identity"), Graph("label")
SMOOTHED = Mixture((IDENTITY, Graph("uniform")), (0.9, 0.1))  # label smoothing 0.1
COSINE_WEIGHTS = Graph("caption", "row_sum", ({"name": "affine", "scale": 0.5, "offset": 0.5},))
BALANCED = Graph("swapped", "sinkhorn", target_temperature=0.05)
BALANCED_KEYS = Graph("swapped_keys", "sinkhorn", target_temperature=0.05)
# The published code ramps the share of the teacher up over the first of 30 epochs.
DISTILLED = Mixture((IDENTITY, Graph("teacher", "softmax", target_temperature=0.07)), (0.6, 0.4), ramp=1 / 30)
PAIR = Rows("image", 1, beside=TEXT)
SYMILE = tuple(
    Term(anchors=anchor, keys=Rows(first.block, first.view, times=second), weight=1 / 3)
    for anchor, first, second in ((VIEW_0, VIEW_1, TEXT), (VIEW_1, VIEW_0, TEXT), (TEXT, VIEW_0, VIEW_1))
)

IMAGE_TEXT = {
    "cwcl": Preset(
        "image->text: T = rowsum((1 + cos(e_i, e_k)) / 2); text->image: T = 1 on the own pair; sum of both; tau 0.07",
        "CWCL, arXiv 2309.14580, eqs. 4, 6",
        Objective(
            (Term(COSINE_WEIGHTS, keys=TEXT, each_view=True), Term(anchors=TEXT, keys=IMAGE, each_view=True)),
            0.07,
            learn_temperature=True,
            text="linear",
        ),
        golden="CWCL (affine-cos graph, row-sum norm) + CLIP",
    ),
    "soft_clip": Preset(
        "image->text: T = softmax(t_i.t_k / 0.125) of the texts themselves; text->image: of the images; sum; tau 0.125",
        "second phase of M3CoL, arXiv 2409.17777 (there with weight 0.1, beside a loss on mixed samples)",
        Objective(
            (
                Term(Graph("text_similarity", "softmax", target_temperature=0.125), keys=TEXT, each_view=True),
                Term(Graph("image_similarity", "softmax", target_temperature=0.125), TEXT, IMAGE, each_view=True),
            ),
            0.125,
            text="linear",
        ),
    ),
    "clip": Preset(
        "mean of image->text and text->image cross-entropy to the own pair; tau learned from 0.07",
        "CLIP, arXiv 2103.00020, fig. 3",
        Objective(image_text(), 0.07, learn_temperature=True, text="transformer"),
        golden="CLIP (open_clip)",
    ),
    "clip_frozen_text": Preset(
        "CLIP whose text side is a learned linear map of the frozen caption embedding",
        "the baseline of X-CLR that sees the same text",
        Objective(image_text(), 0.07, learn_temperature=True, text="linear"),
        golden="CLIP (open_clip)",
    ),
    "align": Preset(
        "CLIP with label smoothing 0.1: T = 0.9 on the own pair + 0.1 / B",
        "ALIGN, arXiv 2102.05918, section 4.2",
        Objective(image_text(graph=SMOOTHED), 0.07, learn_temperature=True, text="linear"),
    ),
    "unicl": Preset(
        "CLIP with T uniform over the texts of the same class",
        "UniCL, arXiv 2204.03610, eqs. 2, 3",
        Objective(image_text(graph=LABEL), 0.07, learn_temperature=True, text="linear"),
        golden="UniCL bidirectional image-text-label",
    ),
    "siglip": Preset(
        "-1/B sum over pairs of log sigmoid(y (s/tau + b)), y = +-1; tau from 0.1 and b from -10 learned",
        "SigLIP, arXiv 2303.15343, eq. 1",
        Objective(
            (Term(Graph("identity", "none"), keys=TEXT, link="sigmoid"),),
            0.1,
            learn_temperature=True,
            bias=-10.0,
            text="linear",
        ),
        golden="SigLIP (open_clip)",
    ),
    "slip": Preset(
        "CLIP on the first view + SimCLR (tau 0.1) on all views",
        "SLIP, arXiv 2112.12750",
        Objective((*both_ways(VIEW_0, TEXT), Term(temperature=0.1)), 0.07, learn_temperature=True, text="linear"),
        golden="SLIP = CLIP + 1.0*SimCLR",
    ),
    "clip_uniform": Preset(
        "CLIP + uniformity of both sides and between them + alignment",
        "closing the contrastive gap, arXiv 2405.18570, eqs. 3-5",
        Objective(
            image_text(),
            0.07,
            learn_temperature=True,
            text="linear",
            feature_terms=(
                FeatureTerm("uniform", VIEW_0, VIEW_0, 0.5),
                FeatureTerm("uniform", TEXT, TEXT, 0.5),
                FeatureTerm("cross_uniform", VIEW_0, TEXT),
                FeatureTerm("align", VIEW_0, TEXT),
            ),
        ),
    ),
    "cyclip": Preset(
        "CLIP + consistency of similarities within and across modalities, 0.25 each",
        "CyCLIP, arXiv 2205.14459, eqs. 3, 4",
        Objective(
            image_text(),
            0.07,
            learn_temperature=True,
            text="linear",
            feature_terms=(FeatureTerm("cyclic", VIEW_0, TEXT),),
        ),
        golden="CyCLIP (CLIP + 2 graph-MSE terms)",
    ),
    "symile": Preset(
        "s = sum_d a_d b_d c_d of three modalities (two views and the text), each anchors all pairs of the others",
        "Symile, arXiv 2411.01053",
        Objective(SYMILE, 0.07, learn_temperature=True, text="linear"),
        golden="Symile n^2 (multilinear similarity, product columns)",
    ),
    "gram": Preset(
        "s = -volume spanned by (view 0, view 1, text), smoothing 0.1, both directions; tau learned from 0.07",
        "GRAM, arXiv 2412.11959, eqs. 4, 6",
        Objective(
            (
                Term(SMOOTHED, anchors=VIEW_0, keys=PAIR, similarity="volume", weight=0.5),
                Term(SMOOTHED, anchors=PAIR, keys=VIEW_0, similarity="volume", weight=0.5),
            ),
            0.07,
            learn_temperature=True,
            text="linear",
        ),
        golden="GRAM (similarity=-volume, smoothed identity)",
    ),
    "swalip": Preset(
        "CLIP of both views + 0.2 image-text cross-entropy to Sinkhorn-balanced cosines (eps 0.05) of the swapped pair",
        "SwALIP, arXiv 2305.08675 (there with two texts per image)",
        Objective(
            (
                *image_text(),
                Term(BALANCED, anchors=VIEW_0, keys=TEXT, weight=0.05),
                Term(BALANCED, anchors=VIEW_1, keys=TEXT, weight=0.05),
                Term(BALANCED_KEYS, anchors=TEXT, keys=VIEW_0, weight=0.05),
                Term(BALANCED_KEYS, anchors=TEXT, keys=VIEW_1, weight=0.05),
            ),
            0.07,
            learn_temperature=True,
            text="linear",
        ),
    ),
    "momentum_distillation": Preset(
        "image<->the EMA encoders' texts and images and a queue of both, T = 0.6 own pair + 0.4 softmax of the EMA "
        "encoders' similarities, after a ramp over the first 30th of the run; tau 0.07",
        "ALBEF, arXiv 2107.07651, eq. 6 (there with a queue of 65,536)",
        Objective(
            (
                Term(DISTILLED, keys=(Rows("text_teacher"), Rows("text_queue")), each_view=True, weight=0.5),
                Term(DISTILLED, TEXT, (Rows("teacher"), Rows("queue")), each_view=True, weight=0.5),
            ),
            0.07,
            learn_temperature=True,
            text="linear",
            teacher=0.995,
            queue=4096,
        ),
    ),
}


# Named objectives that remember: an EMA encoder, a queue, prototypes, numbers of every image.
#
# i: anchor, k: key, i+: a positive of i, s: similarity, tau: temperature, T: target graph, B: images of the batch.


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
        "MoCo v3, arXiv 2104.02057, alg. 1",
        Objective(
            (
                Term(anchors=Rows("predicted", 0), keys=TEACHER_1, weight=0.4),
                Term(anchors=Rows("predicted", 1), keys=TEACHER_0, weight=0.4),
            ),
            0.2,
            teacher=0.99,
            predictor=True,
        ),
    ),
    "byol": Preset(
        "2 - 2 cos(predicted view, EMA encoder's other view), both ways",
        "BYOL, arXiv 2006.07733, eq. 2",
        Objective(
            (),
            1.0,
            teacher=0.99,
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
                    (IDENTITY, Graph({"name": "teacher", "queue_only": True}, "softmax", target_temperature=0.05)),
                    (0.5, 0.5),
                )
            ),
            0.1,
            teacher=0.99,
            queue=4096,
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


# Named objectives, as data. To add one, write one entry in the file of its family and one golden (CONTRIBUTING.md).


PRESETS = IMAGES | IMAGE_TEXT | MEMORY
