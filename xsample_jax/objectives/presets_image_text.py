"""Named objectives that compare images with texts.

i: anchor, k: key, i+: a positive of i, s: similarity, tau: temperature, T: target graph, B: images of the batch.
"""

from xsample_jax.graphs.combine import Graph, Mixture
from xsample_jax.objectives.blocks import IMAGE, TEXT, Rows
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.preset import VIEW_0, VIEW_1, Preset, image_text
from xsample_jax.objectives.terms import FeatureTerm, Term

IDENTITY, LABEL = Graph("identity"), Graph("label")
SMOOTHED = Mixture((IDENTITY, Graph("uniform")), (0.9, 0.1))  # label smoothing 0.1  # label smoothing 0.1
COSINE_WEIGHTS = Graph("caption", "row_sum", ({"name": "affine", "scale": 0.5, "offset": 0.5},))
BALANCED = Graph("swapped", "sinkhorn", target_temperature=0.05)
BALANCED_KEYS = Graph("swapped_keys", "sinkhorn", target_temperature=0.05)
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
            (Term(COSINE_WEIGHTS, keys=TEXT), Term(anchors=TEXT, keys=IMAGE)),
            0.07,
            learn_temperature=True,
            text="linear",
        ),
        golden="CWCL (affine-cos graph, row-sum norm) + CLIP",
    ),
    "soft_clip": Preset(
        "T = softmax(t_i.t_k / 0.125) of the text tower's own embeddings, both directions",
        "second phase of M3CoL, arXiv 2407.15587",
        Objective(image_text(graph=Graph("text_similarity", "softmax", target_temperature=0.125)), 0.1, text="linear"),
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
        "CLIP + SimCLR (tau 0.1)",
        "SLIP, arXiv 2112.12750",
        Objective((*image_text(), Term(temperature=0.1)), 0.07, learn_temperature=True, text="linear"),
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
        golden="Contrastive-gap cross-uniformity",
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
        "image<->text cross-entropy to the Sinkhorn-balanced cosines (eps 0.05) of the swapped pair; tau 0.1",
        "SwALIP, arXiv 2305.08675",
        Objective(
            (
                Term(BALANCED, anchors=VIEW_0, keys=TEXT, weight=0.25),
                Term(BALANCED, anchors=VIEW_1, keys=TEXT, weight=0.25),
                Term(BALANCED_KEYS, anchors=TEXT, keys=VIEW_0, weight=0.25),
                Term(BALANCED_KEYS, anchors=TEXT, keys=VIEW_1, weight=0.25),
            ),
            0.1,
            text="linear",
        ),
    ),
    "momentum_distillation": Preset(
        "image<->text, T = 0.6 own pair + 0.4 softmax of the EMA encoder's similarities; tau 0.07",
        "ALBEF and TCL, arXiv 2107.07651, eq. 6",
        Objective(
            image_text(graph=Mixture((IDENTITY, Graph("teacher", "softmax", target_temperature=0.07)), (0.6, 0.4))),
            0.07,
            learn_temperature=True,
            text="linear",
            teacher=0.99,
        ),
        golden="TCL/ALBEF ITA momentum-distilled graph",
    ),
}
