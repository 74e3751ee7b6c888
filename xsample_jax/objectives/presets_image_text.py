"""Named objectives that compare images with texts, those of clip-rocket in heads of their own last.

i: anchor, k: key, i+: a positive of i, s: similarity, tau: temperature, T: target graph, B: images of the batch.
"""

import dataclasses

from xsample_jax.graphs.targets import Graph, Mixture
from xsample_jax.models.heads import Head
from xsample_jax.objectives.blocks import IMAGE, TEXT, VIEW_0, VIEW_1, Rows
from xsample_jax.objectives.objective import Objective, Preset
from xsample_jax.objectives.terms import FeatureTerm, Term

IDENTITY, LABEL = Graph("identity"), Graph("label")
SMOOTHED = Mixture((IDENTITY, Graph("uniform")), (0.9, 0.1))  # label smoothing 0.1
COSINE_WEIGHTS = Graph("caption", "row_sum", ({"name": "affine", "scale": 0.5, "offset": 0.5},))
BALANCED = Graph("swapped", "sinkhorn", target_temperature=0.05)
BALANCED_KEYS = Graph("swapped_keys", "sinkhorn", target_temperature=0.05)
# The published code ramps the share of the teacher up over the first of 30 epochs.
DISTILLED = Mixture((IDENTITY, Graph("teacher", "softmax", target_temperature=0.07)), (0.6, 0.4), ramp=1 / 30)
TAUGHT = Graph("frozen_pair", "softmax")  # tau_s: that of the teacher
PAIR = Rows("image", 1, beside=TEXT)
HARD = Rows("hard_text")
SYMILE = tuple(
    Term(anchors=anchor, keys=Rows(first.block, first.view, times=second), weight=1 / 3)
    for anchor, first, second in ((VIEW_0, VIEW_1, TEXT), (VIEW_1, VIEW_0, TEXT), (TEXT, VIEW_0, VIEW_1))
)


def both_ways(first: Rows, second: Rows, **fields) -> tuple[Term, Term]:
    """A term in both directions, half the weight each."""
    weight = fields.pop("weight", 1.0) / 2
    return (
        Term(anchors=first, keys=second, weight=weight, **fields),
        Term(anchors=second, keys=first, weight=weight, **fields),
    )


def image_text(**fields) -> tuple[Term, Term]:
    """Image against text and text against image: one term per view of the images, and their mean.

    The published image-text losses see one view a step. One softmax over the rows of all views would be another loss:
    a text with two half positives, which compete with each other.
    """
    return both_ways(IMAGE, TEXT, each_view=True, **fields)


# The second phase of M3CoL: each direction has the other modality's own similarities for its target.
SOFT = (
    Term(Graph("text_similarity", "softmax", target_temperature=0.125), keys=TEXT, each_view=True),
    Term(Graph("image_similarity", "softmax", target_temperature=0.125), TEXT, IMAGE, each_view=True),
)


def mixed_with(block: str, others: Rows) -> tuple[Term, Term]:
    """M3CoL's first phase: mixed rows against those of the other modality, and back."""
    fields = {"temperature": 0.1, "each_view": True, "weight": {"name": "before", "share": 1 / 3, "weight": 0.5}}
    return (
        Term(Graph("mixed"), anchors=Rows(block), keys=others, **fields),
        Term(Graph("mixed_keys", "none"), anchors=others, keys=Rows(block), **fields),
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
        "image->text: T = softmax(t_i.t_k / 0.125) of the texts' own embeddings; text->image: the images'; sum; "
        "tau 0.125",
        "second phase of M3CoL, arXiv 2409.17777 (there with weight 0.1, beside a loss on mixed samples)",
        Objective(
            SOFT,
            0.125,
            text="linear",
        ),
    ),
    "m3col": Preset(
        "in the first third of the run image<->text cross-entropy of rows mixed as beta x_i + (1 - beta) x_j, T = beta "
        "on i and 1 - beta on j, tau 0.1, mean of both directions, of mixed images + of mixed texts; then soft_clip",
        "M3CoL, arXiv 2409.17777, embeddings mixed as in the public code (there with weight 0.1, beside classifiers)",
        Objective(
            (
                *mixed_with("mixed", TEXT),
                *mixed_with("mixed_text", IMAGE),
                *(dataclasses.replace(term, weight={"name": "after", "share": 1 / 3}) for term in SOFT),
            ),
            0.125,
            text="linear",
        ),
        golden="M3CoL first phase, both modalities mixed",
    ),
    "barlip": Preset(
        "CLIP + 0.025 (sum (C_dd - 1)^2 + 0.005 sum off-diagonal C_de^2), C the cross-correlation of images and texts",
        "BarLIP, arXiv 2305.08675 (there with heads of its own, and two texts per image)",
        Objective(
            image_text(),
            0.07,
            learn_temperature=True,
            text="linear",
            feature_terms=(FeatureTerm("barlow_twins", IMAGE, TEXT, 0.025, each_view=True),),
        ),
    ),
    "clip": Preset(
        "mean of image->text and text->image cross-entropy to the own pair; tau learned from 0.07",
        "CLIP, arXiv 2103.00020, fig. 3",
        Objective(image_text(), 0.07, learn_temperature=True, text="transformer"),
        golden="CLIP (open_clip)",
    ),
    "distill_clip": Preset(
        "CLIP + image<->text cross-entropy of softmax(s / tau) to T = softmax(t_i.e_k / tau_t), t and e image and text "
        "embeddings by a frozen CLIP and tau_t its own, mean of both directions",
        "DistillClipLoss of open_clip, the sum of its two losses",
        Objective(
            (*image_text(), *image_text(graph=TAUGHT)), 0.07, learn_temperature=True, text="transformer", frozen=True
        ),
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
        "CLIP with tau fixed at 0.01 + uniformity of both sides (their mean) and between them + alignment",
        "closing the contrastive gap, arXiv 2405.18570, eqs. 3-5; tau as in the published code",
        Objective(
            image_text(),
            0.01,
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
        "CLIP on both views + 0.2 image<->text cross-entropy to the Sinkhorn-balanced cosines (eps 0.05) of the "
        "swapped pair",
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
    "tcl_contrastive": Preset(
        "mean of six: image<->the EMA encoders' texts and images with queues, as in momentum_distillation; view 0<->"
        "the EMA encoder's view 1, caption<->the EMA encoder's, with queues; view 0 and caption against the EMA "
        "encoders' windows of view 1 and words, each against those of other images; tau 0.07",
        "TCL without matching and masked words, arXiv 2202.10401 (there queues of 65,536)",
        Objective(
            (
                Term(DISTILLED, VIEW_0, (Rows("text_teacher"), Rows("text_queue")), weight=1 / 6),
                Term(DISTILLED, TEXT, (Rows("teacher", 1), Rows("queue")), weight=1 / 6),
                Term(anchors=VIEW_0, keys=(Rows("teacher", 1), Rows("queue")), weight=1 / 6),
                Term(anchors=TEXT, keys=(Rows("text_teacher"), Rows("text_queue")), weight=1 / 6),
                *(
                    Term(anchors=one, keys=Rows(parts), denominator="own", negatives="other_images", weight=1 / 6)
                    for one, parts in ((VIEW_0, "teacher_cells"), (TEXT, "teacher_words"))
                ),
            ),
            0.07,
            learn_temperature=True,
            text="transformer",
            teacher=0.995,
            queue=4096,
        ),
        golden="TCL: six contrastive terms",
    ),
    "degla": Preset(
        "CLIP, its images also against all wrong captions + 0.1 image against its caption and its own four wrong ones "
        "+ 0.1 caption against the EMA encoder's and its own wrong ones at tau 0.1 + 0.005 sum of the squared changes "
        "from the EMA encoders of all rows",
        "DeGLA, weights of its public code (there wrong captions by a language model, ours with two words exchanged; "
        "from pretrained weights)",
        Objective(
            (
                Term(keys=(TEXT, HARD), each_view=True, weight=0.5),
                Term(anchors=TEXT, keys=IMAGE, each_view=True, weight=0.5),
                Term(keys=(TEXT, HARD), negatives="same_owner", each_view=True, weight=0.1),
                Term(
                    anchors=TEXT,
                    keys=(Rows("text_teacher"), HARD),
                    negatives="same_owner",
                    temperature=0.1,
                    weight=0.1,
                ),
            ),
            0.07,
            learn_temperature=True,
            text="transformer",
            teacher=0.9996,
            hard_texts=4,
            feature_terms=(
                FeatureTerm("square_sum", IMAGE, Rows("teacher"), 0.005, each_view=True),
                FeatureTerm("square_sum", TEXT, Rows("text_teacher"), 0.005),
                FeatureTerm("square_sum", HARD, Rows("hard_text_teacher"), 0.005),
            ),
        ),
        golden="DeGLA total with two hard texts and a moved teacher, gradients",
    ),
}


# clip-rocket: weak views against captions, strong ones in heads of their own.
#
# View 0 of an image is meant to be weak (augment.per_view), views 1 and 2 strong; the block text has the captions,
# text_views two versions of each that lack some words.


CLIP_ROCKET = (
    "arXiv 2305.08675 (there texts also with synonyms and swapped words, wider heads, and the sum of both ways)"
)
LOCAL = {"local_image": Head(temperature=0.1), "local_text": Head(of="text", temperature="local_image")}
PAIRS = [(view, text) for view in (1, 2) for text in (0, 1)]


def of_local(view: int, text: int) -> tuple[Rows, Rows]:
    """A strong view and a version of its caption, in the local heads."""
    return Rows("image", view, head="local_image"), Rows("text_views", text, head="local_text")


def global_and_local(graph: Graph | Mixture) -> tuple[Term, ...]:
    """CL2L: a third of CLIP on weak views and captions, two thirds of its mean over pairs of strong views."""
    fields = {"graph": graph, "temperature": "of_head", "weight": 2 / 3 / len(PAIRS)}
    local = [term for pair in PAIRS for term in both_ways(*of_local(*pair), **fields)]
    return (*both_ways(VIEW_0, TEXT, weight=1 / 3), *local)


def in_heads(name: str, image: str = "image", text: str = "text", **fields) -> list[tuple[Rows, Rows]]:
    """The weak pair and all pairs of strong views in the heads NAME_image and NAME_text of two kinds of blocks."""
    views = "text_views" if text == "text" else "text_views_teacher"
    of_image, of_text = f"{name}_image", f"{name}_text"
    pairs = [(0, Rows(text, head=of_text, **fields))]
    pairs += [(view, Rows(views, number, head=of_text, **fields)) for view, number in PAIRS]
    return [(Rows(image, view, head=of_image, **fields), rows) for view, rows in pairs]


def predicted(keys: list[tuple[Rows, Rows]]) -> tuple[FeatureTerm, ...]:
    """2 - 2 cos of a prediction of one modality and a row of the other, both ways, mean over the pairs."""
    weight = 0.5 / len(keys)
    found = []
    for (image, text), (image_key, text_key) in zip(in_heads("predict"), keys, strict=True):
        found += [FeatureTerm("align", image, text_key, weight), FeatureTerm("align", text, image_key, weight)]
    return tuple(found)


def swapped_assignments() -> tuple[Term, ...]:
    """SwALIP: every pair of strong views predicts the balanced cosines of the pair with the other ones."""
    found = []
    for view, text in PAIRS:
        image, words = of_local(view, text)
        ends = {"image": 3 - view, "text": 1 - text}
        for anchors, keys, first, second in ((image, words, "image", "text"), (words, image, "text", "image")):
            source = {"name": "swapped_pair", "of_anchor": ends[first], "of_key": ends[second]}
            graph = Graph(source, "sinkhorn", target_temperature=0.05)
            weight = 0.2 / 2 / len(PAIRS)
            found.append(Term(graph, anchors=anchors, keys=keys, temperature="of_head", weight=weight))
    return tuple(found)


def of_clip_rocket(terms: tuple[Term, ...], heads: dict[str, Head], **fields) -> Objective:
    """An objective on three views and three texts of every image."""
    heads = LOCAL | heads
    return Objective(terms, 0.07, learn_temperature=True, text="transformer", text_views=2, heads=heads, **fields)


CL2L = global_and_local(SMOOTHED)
SIAMESE = {f"siam_{side}": Head(of=side, standardized=True) for side in ("image", "text")}
PREDICTORS = {f"predict_{side}": Head(of=f"siam_{side}") for side in ("image", "text")}
BARLOW = {"name": "barlow_twins", "standardize": False}

HEADS = {
    "cl2l": Preset(
        "(CLIP of view 0 and caption + 2 mean over pairs of views 1, 2 and two versions of the caption of CLIP with "
        "T = 0.9 own + 0.1 / B, in heads and with a tau of their own) / 3",
        f"CL2L, {CLIP_ROCKET}",
        of_clip_rocket(CL2L, {}),
    ),
    "barlip_heads": Preset(
        "cl2l + mean over the weak and all strong pairs of 0.025 (sum (C_dd - 1)^2 + 0.005 sum off-diagonal C_de^2), C "
        "= v'w / B of standardized outputs v, w of two heads",
        f"BarLIP, {CLIP_ROCKET}",
        of_clip_rocket(
            CL2L,
            {f"barlow_{side}": Head(of=side, standardized=True) for side in ("image", "text")},
            feature_terms=tuple(FeatureTerm(BARLOW, x, y, 0.025 / 5) for x, y in in_heads("barlow", raw=True)),
        ),
        golden="BarLIP total (clip-rocket)",
    ),
    "siamlip": Preset(
        "cl2l + mean over the weak and all strong pairs, both ways, of 2 - 2 cos(prediction, other modality without "
        "gradient), in standardized heads",
        f"SiamLIP, {CLIP_ROCKET}",
        of_clip_rocket(CL2L, SIAMESE | PREDICTORS, feature_terms=predicted(in_heads("siam", still=True))),
    ),
    "byolip": Preset(
        "siamlip, its keys those of EMA encoders",
        f"BYOLIP, {CLIP_ROCKET}",
        of_clip_rocket(
            CL2L,
            SIAMESE | PREDICTORS,
            teacher=0.99,
            feature_terms=predicted(in_heads("siam", "teacher", "text_teacher")),
        ),
    ),
    "swalip_heads": Preset(
        "cl2l without smoothing + 0.2 mean over strong pairs, both ways, of the cross-entropy to the Sinkhorn-balanced "
        "cosines (eps 0.05) of the other view and the other version",
        f"SwALIP, {CLIP_ROCKET}",
        of_clip_rocket((*global_and_local(Graph("identity")), *swapped_assignments()), {}),
        golden="SwALIP total = .2 SwALIP + CL2L (clip-rocket)",
    ),
}
