"""Named objectives: those that compare images with images by what is known about them, and all of them as `PRESETS`.

To add one, write one entry in the file of its family and one golden (CONTRIBUTING.md).
i: anchor, k: key, i+: a positive of i, s: similarity, tau: temperature, T: target graph, B: images of the batch.
"""

from xsample_jax.graphs.targets import Graph
from xsample_jax.objectives.blocks import IMAGE, VIEW_0, VIEW_1, Rows
from xsample_jax.objectives.objective import Objective, Preset
from xsample_jax.objectives.presets_image_text import HEADS, IMAGE_TEXT
from xsample_jax.objectives.presets_memory import MEMORY, PLANS
from xsample_jax.objectives.presets_mixed import MIXED
from xsample_jax.objectives.terms import FeatureTerm, Term

LABEL, CAPTION = Graph("label"), Graph("caption", "softmax")
GRADED = Graph("caption", "none", ({"name": "affine", "scale": 2.5, "offset": 2.5},))  # 0 to 5, as graded pairs are


def slimmed_barlow(scale: float, share: float) -> tuple[FeatureTerm, ...]:
    """Barlow Twins between a wide and a thin network; `share` of it between each and the other on the same view."""
    barlow = {"name": "barlow_twins", "off_diagonal": 0.0051}
    wide, thin = (
        [Rows(block, view, raw=True, still=still) for view, still in enumerate(stills)]
        for block, stills in (("image", (False, True)), ("slim", (True, False)))
    )
    return (
        FeatureTerm(barlow, wide[0], thin[1], weight=scale),
        FeatureTerm(barlow, wide[0], thin[0], weight=scale * share / 2),
        FeatureTerm(barlow, thin[1], wide[1], weight=scale * share / 2),
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


def far_and_near(views: int) -> tuple[Term, ...]:
    """CACR's attraction within all views of an image, and its repulsion between each two views."""
    distance = {"similarity": "negative_distance"}
    pairs = [(first, second) for second in range(views) for first in range(second)]
    apart = [
        Term(
            anchors=Rows("image", first),
            keys=Rows("image", second),
            link={"name": "conditional", "part": "repulsion"},
            weight=1 / len(pairs),
            **distance,
        )
        for first, second in pairs
    ]
    return (Term(link={"name": "conditional", "part": "attraction"}, **distance), *apart)


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
    "y_aware": Preset(
        "T = rowsum(exp(-|t_i - t_k|^2 / 2)) over k != i, t real-valued labels; tau 0.1",
        "y-Aware, arXiv 2106.08808; the width of the kernel is ours, and the published code divides columns, not rows",
        Objective((Term(Graph({"name": "kernel", "bandwidth": 1.0}, "row_sum")),), 0.1),
    ),
    "multi_label": Preset(
        "T = rowsum(|L_i and L_k| / |L_i or L_k|) over k != i, L sets of labels; tau 0.1",
        "Jaccard similarity contrastive loss, arXiv 2212.00552 (there of texts; the equation was not compared with the "
        "paper)",
        Objective((Term(Graph("labels", "row_sum")),), 0.1),
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
    "cluster_dcl": Preset(
        "-s(i, i+)/tau + log sum over k of N_ik e^{s(i, k)/tau}, N_ik clusterings that keep the images i and k apart; "
        "view 0 against view 1; tau 0.4",
        "the first term of MEOW, arXiv 2212.13847 (there on graphs, with renewed clusters, and beside ProtoNCE: "
        "objective.clusters, meow)",
        Objective((Term(anchors=VIEW_0, keys=VIEW_1, negatives="clusters_apart"),), 0.4),
        golden="MEOW cluster-weighted negatives (N weights)",
    ),
    "sbcl": Preset(
        "SupCon with i+ of the same subclass + 0.25 SupCon with i+ of the same class and tau times that of the class; "
        "tau 0.1",
        "SBCL, arXiv 2306.15925 (there both are renewed every 10 epochs: objective.clusters)",
        Objective((Term(Graph("cluster")), Term(LABEL, temperature="per_class", weight=0.25)), 0.1),
        golden="SBCL ccl: subclass graph + .25 class graph",
    ),
    "weighted_draws": Preset(
        "NT-Xent of images drawn with the rates w, rows weighted by mean(w) / w_i; tau 0.1",
        "importance sampling of the anchors",
        Objective((Term(row_weight="recorded"),), 0.1),
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
    "loss_reweighting": Preset(
        "sum w_i l_i, l_i InfoNCE of view 0 against view 1; w = softmax(min(h + 1, 1) / 0.4), h the losses scaled to "
        "[-1, 1]; w uniform in the first tenth of the run; tau 0.1",
        "dynamic loss-based reweighting (LinUpper), arXiv 2502.06733 (there of language models; the length of the "
        "warm-up is ours)",
        Objective(
            (Term(anchors=VIEW_0, keys=VIEW_1, row_weight={"name": "by_loss", "r": 0.4, "warm_up": 0.1}),),
            0.1,
        ),
        golden="dynamic reweighting: linupper, r=0.4",
    ),
    "z_loss": Preset(
        "log(1 + e^{-z}), z = (s(i, i+) - mean_k s(i, k)) / std_k s(i, k) over the other views k of all images",
        "Z-loss, arXiv 1604.08859, with a = 1 and b = 0 as in the authors' code (there on the logits of classes)",
        # One direction: views are drawn alike, so it has the expectation of both.
        Objective((Term(anchors=VIEW_0, keys=VIEW_1, link="z"),), 1.0),
        golden="Z-loss a=1 b=0",
    ),
    "soft_top_k": Preset(
        "mean over i+ of -log sigmoid(s(i, i+)/tau + t_i), sum over k of sigmoid(s(i, k)/tau + t_i) = number of i+; "
        "i+: same class; tau 0.05",
        "soft top-k loss of DEXML, arXiv 2310.10636 (there on the scores of labels)",
        Objective((Term(LABEL, link={"name": "soft_top_k", "k": 0}),), 0.05),
    ),
    "codi_graph": Preset(
        "2 (1 - Pearson(s(i, k), y_ik)) + 0.5 PRO + 5 KL(ranks of y / 0.05, softmax(s / tau)) / n, of every row; "
        "y = 2.5 (1 + cos(e_i, e_k)), e frozen captions; tau 0.05",
        "order losses of CoDiEmb, arXiv 2508.11442 (there on one list of graded pairs per batch)",
        Objective(
            tuple(
                Term(GRADED, link=link, weight=weight)
                for link, weight in (("pearson", 2.0), ("pro", 0.5), ("rank_kl", 5.0))
            ),
            0.05,
        ),
    ),
    "groco": Preset(
        "mean over the 10 negatives of view v nearest to (i, v) and the other views of i of -log of the share that a "
        "relaxed sorting network leaves in its group, the positives after the negatives; keys without gradient",
        "GroCo, arXiv 2301.02009",
        Objective(
            (Term(keys=Rows("image", still=True), link={"name": "group_order", "k": 10}, negatives="same_view"),),
            1.0,
        ),
        golden="GroCo: 2 views, 10 nearest negatives",
    ),
    "cacr": Preset(
        "sum over the other views i+ of softmax(d^2) d^2, d the distance to i+, less the mean over pairs of views of "
        "sum over other images k of softmax(-0.9 d^2) d^2; three views",
        "CACR, arXiv 2105.03746, with the constants of its public code for CIFAR-10 (there with five views)",
        Objective(far_and_near(3), 1.0),
        golden="CACR total, Euclidean cost, three views",
    ),
    "cacr_rbf": Preset(
        "the attraction of cacr + the mean over pairs of views of log mean over i of sum over other images k of "
        "softmax(-d^2) e^{-2 d^2}; three views",
        "CACR with an RBF cost, arXiv 2105.03746",
        Objective(
            far_and_near(3)[:1],
            1.0,
            feature_terms=tuple(
                FeatureTerm("near_kernel", Rows("image", first), Rows("image", second), 1 / 3)
                for first, second in ((0, 1), (0, 2), (1, 2))
            ),
        ),
    ),
    "whitened_cse": Preset(
        "InfoNCE of view 0 against view 1 and against view 2, head outputs whitened in random groups of 4 channels, "
        "each copy in an order of its own; tau 0.05; three views",
        "WhitenedCSE, arXiv 2305.17746 (there of sentences, three copies by dropout, and groups of 6 before the head)",
        Objective(
            (),
            1.0,
            feature_terms=tuple(
                FeatureTerm({"name": "whitened_contrast", "width": 4}, VIEW_0, Rows("image", view)) for view in (1, 2)
            ),
        ),
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
    "sacl_xd": Preset(
        "0.024 B(q1, q2) + 0.0012 mean of B(q1, k1) and B(q2, k2), B = Barlow Twins at 0.0051, q1 and k2 views 1 and 2 "
        "by the wide network, k1 and q2 by the thin one, no gradient into k1 and k2",
        "SACL-XD, NeurIPS 2023, from the authors' code (its share of distillation, 0.05, is a comment there)",
        Objective((), 1.0, slim=True, feature_terms=slimmed_barlow(0.024, 0.05)),
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


PRESETS = IMAGES | IMAGE_TEXT | MEMORY | MIXED | HEADS | PLANS
