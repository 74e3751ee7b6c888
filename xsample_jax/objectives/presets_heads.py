"""Named objectives of clip-rocket (arXiv 2305.08675): weak views against captions, strong ones in heads of their own.

View 0 of an image is meant to be weak (augment.per_view), views 1 and 2 strong; the block text has the captions,
text_views two versions of each that lack some words.
"""

from xsample_jax.graphs.targets import Graph, Mixture
from xsample_jax.models.heads import Head
from xsample_jax.objectives.blocks import TEXT, VIEW_0, Rows
from xsample_jax.objectives.objective import Objective, Preset
from xsample_jax.objectives.presets_image_text import SMOOTHED, both_ways
from xsample_jax.objectives.terms import FeatureTerm, Term

SOURCE = "arXiv 2305.08675 (there texts also with synonyms and swapped words, wider heads, and the sum of both ways)"
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
        f"CL2L, {SOURCE}",
        of_clip_rocket(CL2L, {}),
    ),
    "barlip_heads": Preset(
        "cl2l + mean over the weak and all strong pairs of 0.025 (sum (C_dd - 1)^2 + 0.005 sum off-diagonal C_de^2), C "
        "= v'w / B of standardized outputs v, w of two heads",
        f"BarLIP, {SOURCE}",
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
        f"SiamLIP, {SOURCE}",
        of_clip_rocket(CL2L, SIAMESE | PREDICTORS, feature_terms=predicted(in_heads("siam", still=True))),
    ),
    "byolip": Preset(
        "siamlip, its keys those of EMA encoders",
        f"BYOLIP, {SOURCE}",
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
        f"SwALIP, {SOURCE}",
        of_clip_rocket((*global_and_local(Graph("identity")), *swapped_assignments()), {}),
        golden="SwALIP total = .2 SwALIP + CL2L (clip-rocket)",
    ),
}
