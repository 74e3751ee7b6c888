"""Every objective that the algebra covers against numbers of published implementations (tests/objectives/goldens.json).

The numbers were made by running public code, or an independent transcription of its formula, in float64; each case says
which, and from where. Inputs: z1, z2, z3 [12, 16] views or modalities, queue [40, 16], labels [12].
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import mixed_inputs
from tests.objectives.golden_inputs import (
    CASES,
    LABELS,
    QUEUE,
    Z1,
    Z2,
    Z3,
    extra,
    image_and_text,
    images,
    preset_value,
    queue,
    texts,
    two_views,
    value,
)
from tests.quick import quick_jit
from xsample_jax.graphs.targets import Graph, Mixture, sinkhorn
from xsample_jax.models.decoder import cross_entropies
from xsample_jax.objectives.blocks import IMAGE, TEXT, VIEW_0, VIEW_1, Rows, key_block
from xsample_jax.objectives.cross_entropy import cross_entropy, log_sum
from xsample_jax.objectives.feature_losses import align, barlow_twins, cross_uniform, spectral, uniform, vicreg
from xsample_jax.objectives.links import joint, pairwise_global, sigmoid, sigmoid_mean, symmetric
from xsample_jax.objectives.mixtures import LEAST, mixed_block
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.presets_image_text import COSINE_WEIGHTS
from xsample_jax.objectives.terms import Term

# One function per golden: the value of our objective on the golden's inputs.

VALUES = {
    "SupCon-out (SupContrast)": lambda: preset_value("supcon", two_views()),
    "SupCon (pytorch-metric-learning)": lambda: preset_value("supcon", two_views()),
    "SimCLR NT-Xent (SupContrast, no labels)": lambda: preset_value("simclr", two_views()),
    "SimCLR (SLIP)": lambda: preset_value("simclr", two_views()),
    "NT-Xent (lightly)": lambda: preset_value("simclr", two_views(), temperature=0.5),
    "NT-Xent k-view mean of pairs (mv=True)": lambda: preset_value(
        "simclr", {"image": images(Z1, Z2, Z3)}, temperature=0.2
    ),
    "CLIP (clip-rocket)": lambda: preset_value("clip", image_and_text(), temperature=1 / 4),
    "CLIP (open_clip)": lambda: preset_value("clip", image_and_text(), temperature=1 / 5),
    "UniCL bidirectional image-text-label": lambda: preset_value("unicl", image_and_text(), temperature=0.1),
    "SLIP = CLIP + 1.0*SimCLR": lambda: preset_value(
        "slip", {"image": images(Z1, Z2), "text": texts(Z3)}, temperature=1 / 4
    ),
    "SigLIP (open_clip)": lambda: preset_value("siglip", image_and_text(), temperature=1 / 5),
    "DCL": lambda: value(Term(anchors=VIEW_0, negatives="other_images"), two_views(), 0.1),
    "DCLW (w_att)": lambda: value(
        Term(anchors=VIEW_0, negatives="other_images", attraction="near_positive"), two_views(), 0.1
    ),
    "DCL (lightly, symmetric)": lambda: preset_value("dcl", two_views()),
    "Debiased/easy == NT-Xent own-denominator": lambda: value(
        Term(denominator="own", negatives="not_positive"), two_views(), 0.5
    ),
    "RINCE (q-divergence link on (pos,Z))": lambda: preset_value("rince", two_views()),
    "RINCE q->0 == InfoNCE": lambda: value(Term(link={"name": "robust", "q": 1e-6, "lam": 1.0}), two_views(), 0.5),
    "SimCo dual temperature (w_row)": lambda: value(
        Term(anchors=VIEW_0, keys=VIEW_1, row_weight="dual_temperature"), two_views(), 1.0
    ),
    "MV-InfoNCE (instance rows, agg=in, shared)": lambda: preset_value("mv_infonce", {"image": images(Z1, Z2, Z3)}),
    "DEXML softmax (T unnormalized, shared)": lambda: dexml("softmax"),
    "DEXML decoupled softmax (denom=own)": lambda: dexml("own"),
    "DEXML BCE": lambda: dexml("bce"),
    "NTXent multi-pos (PML: denom=own, pair mean)": lambda: value(
        Term(Graph("label", "none"), denominator="own", negatives="not_positive", reduce="pairs"), two_views(), 0.1
    ),
    "MEOW cluster-weighted negatives (N weights)": lambda: meow(),
    "MCL: batches of one pseudo-label": lambda: value(
        tuple(
            Term(anchors=x, keys=y, negatives="same_group", weight=0.5) for x, y in ((VIEW_0, VIEW_1), (VIEW_1, VIEW_0))
        ),
        {"image": images(Z1, Z3, group=LABELS)},
        0.2,
    ),
    "ReSSL (teacher graph over queue)": lambda: value(
        Term(Graph("teacher", "softmax", target_temperature=0.04), keys=Rows("queue")),
        {"image": images(Z1, teacher=Z3), "queue": queue(teacher=jnp.asarray(QUEUE))},
        0.1,
    ),
    "TCL/ALBEF ITA momentum-distilled graph": lambda: value(
        Term(
            Mixture((Graph("identity"), Graph("teacher", "softmax", target_temperature=0.07)), (0.6, 0.4)),
            keys=(TEXT, Rows("queue")),
        ),
        {
            "image": images(Z1, teacher=Z3),
            "text": texts(Z2, teacher=Z2),
            "queue": queue(teacher=jnp.asarray(QUEUE)),
        },
        0.07,
    ),
    "GRAM (similarity=-volume, smoothed identity)": lambda: preset_value(
        "gram", {"image": images(Z1, Z2), "text": texts(Z3)}, temperature=0.07
    ),
    "Symile n^2 (multilinear similarity, product columns)": lambda: preset_value(
        "symile", {"image": images(Z1, Z2), "text": texts(Z3)}, temperature=1 / 3
    ),
    "CWCL (affine-cos graph, row-sum norm) + CLIP": lambda: value(
        (Term(COSINE_WEIGHTS, keys=TEXT), Term(anchors=TEXT, keys=IMAGE)),
        {"image": images(Z1, caption_embedding=Z3), "text": texts(Z2, caption_embedding=Z3)},
        0.07,
    ),
    "MACL (temperature rule + row weight 1/(1-p))": lambda: preset_value("macl", two_views()),
    "KaLM focal row weight (1-p)^gamma": lambda: focal(),
    "SwAV swapped prediction (Sinkhorn prototypes graph)": lambda: swav(),
    "Hydra/SimLAP (gated similarity, denom=own, pair mean)": lambda: simlap(),
    "MoCHi (row-specific synthetic columns)": lambda: mochi(),
    "SBCL ccl: subclass graph + .25 class graph": lambda: sbcl(),
    "M3CoL mixup graph": lambda: m3col(),
    "RMT symmetric CE = .5 CE(T,S)+.5 CE(S,T)": lambda: rmt(),
    "CTVIS joint log(1+sum e^{n-p})": lambda: joint(
        Z1 @ Z2.T / 0.1, same(LABELS, LABELS), np.ones((12, 12), bool)
    ).mean(),
    "MW loss eq.(3)": lambda: pairwise_global(Z1 @ Z2.T / 0.05, np.eye(12), np.ones((12, 12), bool)).mean(),
    "CLIP-Lite JSD one negative (sigmoid link)": lambda: clip_lite(),
    "Intriguing generalized loss (w_att=tau/D, lambda=w_rep)": lambda: intriguing(),
    "CACR attraction (T = softmax(+dist), R none)": lambda: cacr(),
    "DeGLA IGC (own-negative mask, interleaved)": lambda: degla(),
    "align": lambda: align(Z1, Z2),
    "SepCLR align(tau=.5)": lambda: align(Z1, Z2),
    "uniform": lambda: log_mean_over_pairs(Z1, 2.0),
    "Contrastive-gap cross-uniformity": lambda: cross_uniform(Z1, Z3),
    "Spectral contrastive (own function)": lambda: spectral(Z1, Z2),
    "CyCLIP (CLIP + 2 graph-MSE terms)": lambda: preset_value("cyclip", image_and_text(), temperature=0.1),
    "VICReg (lightly)": lambda: vicreg(3 * Z1, 3 * Z2),
    "Barlow Twins (lightly)": lambda: barlow_twins(jnp.asarray(Z1), jnp.asarray(Z2)),
}


def same(first, second):
    return (first[:, None] == second[None, :]).astype(float)


def log_mean_over_pairs(z, t):
    return uniform(jnp.asarray(z), jnp.asarray(z), t=t)


def dexml(kind):
    """Images against 40 label embeddings with several positives, tau 0.2."""
    target = extra("DEXML BCE", "targets")
    logits = jnp.asarray(Z1 @ QUEUE.T / 0.2)
    valid = np.ones(target.shape, bool)
    if kind == "bce":
        return sigmoid_mean(logits, target, valid).mean()
    if kind == "softmax":
        return cross_entropy(logits, target, log_sum(logits, np.ones(target.shape))[:, None]).mean()
    rows = target / target.sum(axis=1, keepdims=True)
    denominator = jnp.logaddexp(logits, log_sum(logits, 1 - target)[:, None])
    return cross_entropy(logits, rows, denominator).mean()


def focal():
    """Three passages per query, the first of them its positive; all 36 are keys."""
    passages = extra("KaLM focal row weight (1-p)^gamma", "passages")
    ids = np.where(np.arange(36) % 3 == 0, np.arange(36) // 3, -1)
    keys = key_block(jnp.asarray(passages)) | {"id": jnp.asarray(ids)}
    term = Term(keys=Rows("queue"), row_weight={"name": "focal", "gamma": 0.5})
    return value(term, {"image": images(Z1), "queue": keys}, 0.05)


def swav():
    logits = extra("SwAV swapped prediction (Sinkhorn prototypes graph)", "proto_logits")
    valid = np.ones(logits[0].shape, bool)
    total = 0.0
    for predict, assign in ((0, 1), (1, 0)):
        target = sinkhorn(jnp.asarray(logits[assign]), valid, 0.05)
        scaled = jnp.asarray(logits[predict] / 0.1)
        total += cross_entropy(scaled, target, log_sum(scaled, valid.astype(float))[:, None]).mean()
    return total / 2


def simlap():
    name = "Hydra/SimLAP (gated similarity, denom=own, pair mean)"
    return preset_value("simlap", {"image": images(Z1, Z2, second_label=extra(name, "y2"), gate=extra(name, "gate"))})


def mochi():
    name = "MoCHi (row-specific synthetic columns)"
    synthetic = np.concatenate([extra(name, "mix_neg"), extra(name, "mix_query")], axis=1)
    own, others = np.sum(Z1 * Z2, axis=1, keepdims=True), Z1 @ QUEUE.T
    logits = jnp.asarray(np.concatenate([own, others, np.einsum("ad,akd->ak", Z1, synthetic)], axis=1) / 0.2)
    target = jnp.zeros(logits.shape).at[:, 0].set(1.0)
    return cross_entropy(logits, target, log_sum(logits, jnp.ones(logits.shape))[:, None]).mean()


def meow():
    name = "MEOW cluster-weighted negatives (N weights)"
    return preset_value("cluster_dcl", two_views(cluster=extra(name, "im2cluster").T), temperature=0.5)


def sbcl():
    """Every class with the temperature of the others, as in the published loss."""
    subclass = extra("SBCL ccl: subclass graph + .25 class graph", "subclass").astype(int)
    return preset_value("sbcl", two_views(cluster=subclass[:, None], class_temperature=np.ones(12)))


def m3col():
    """Image i is a mixture of i and perm(i), with the weights as its targets; both directions."""
    perm, beta = (extra("M3CoL mixup graph", key) for key in ("perm", "betas"))
    target = np.diag(beta) + np.eye(12)[perm.astype(int)] * (1 - beta)[:, None]
    logits = jnp.asarray(Z1 @ Z2.T / 0.1)
    directions = ((logits, target), (logits.T, target.T))
    return sum(cross_entropy(s, t, log_sum(s, np.ones((12, 12)))[:, None]).mean() for s, t in directions) / 2


def m3col_blocks(image, text, mixtures):
    """One view of every image, its text, and both mixed; mixtures: (partner, beta) of images and of texts."""
    per_image = {"text": jax.lax.stop_gradient(text), "image": jax.lax.stop_gradient(image)}
    blocks = {"image": images(image, **per_image), "text": texts(text, **per_image)}
    for name, of, drawn, row in zip(("mixed", "mixed_text"), ("image", "text"), mixtures, (2000, 3000), strict=True):
        blocks[name] = mixed_block(blocks[of], *drawn, row)
    return blocks


def m3col_first_phase(image):
    """The blocks of the golden; a beta of 0, whose row of the transposed target is empty, is the least there is."""
    given = {name: extra(PRESETS["m3col"].golden, name) for name in ("perm_image", "perm_text")}
    betas = [jnp.maximum(jnp.float32(extra(PRESETS["m3col"].golden, f"beta_{of}")), LEAST) for of in ("image", "text")]
    orders = [jnp.asarray(order) for order in given.values()]
    return m3col_blocks(image, jnp.float32(Z3), list(zip(orders, betas, strict=True)))


def norm_direction_blocks(scale):
    """Students (1 + i / 3) z1, teachers 2.5 z2, centers 5 times the class means of z3; scale: of the students."""
    students = scale * (1 + jnp.arange(12) / 3)[:, None] * Z1
    centers = np.stack([5 * Z3[label == LABELS].mean(axis=0) for label in LABELS])
    rows = {"raw": lambda z: students, "frozen_features": lambda z: 2.5 * Z2}
    return {"image": images(Z1, per_row=rows, class_center=centers)}


def rmt():
    name = "RMT symmetric CE = .5 CE(T,S)+.5 CE(S,T)"
    logits = jnp.asarray(extra(name, "student_logits"))
    target = jax.nn.softmax(jnp.asarray(extra(name, "teacher_logits")), axis=-1)
    return symmetric(logits, target, np.ones(logits.shape, bool)).mean()


def clip_lite():
    """One negative per image: the text of the next image."""
    valid = np.eye(12, dtype=bool) | np.roll(np.eye(12, dtype=bool), 1, axis=1)
    return sigmoid(jnp.asarray(Z1 @ Z3.T / 0.1), np.eye(12), valid).mean()


def intriguing():
    """The preset with lambda = 1; the notebook subtracts log D, a constant."""
    objective = PRESETS["generalized_lse"].objective
    (term,) = objective.terms
    return preset_value(
        "generalized_lse", two_views(), temperature=0.5, terms=(dataclasses.replace(term, weight=1.0),)
    ) - np.log(16)


def cacr():
    """Attraction only: positives weighted by softmax of their distance, so that far ones count more."""

    def attraction(anchor, others):
        distance = jnp.stack([jnp.sum((anchor - other) ** 2, axis=1) for other in others], axis=1)
        target = jax.nn.softmax(distance, axis=1)
        return cross_entropy(-distance, target, jnp.zeros((12, 1)), repulsion=0.0).mean()

    return (attraction(Z1, (Z2, Z3)) + attraction(Z2, (Z1, Z3)) + attraction(Z3, (Z1, Z2))) / 3


def degla():
    """Every image has four hard captions of its own: 4 i .. 4 i + 3."""
    hard = extra("DeGLA IGC (own-negative mask, interleaved)", "neg_text")
    captions = texts(Z3) | {"owner": jnp.arange(12)}
    hard = key_block(jnp.asarray(hard), owner=jnp.repeat(jnp.arange(12), 4))
    term = Term(keys=(TEXT, Rows("queue")), negatives="same_owner")
    return value(term, {"image": images(Z1), "text": captions, "queue": hard}, 1 / 5)


# The presets that claim a golden, on its inputs: the preset itself, unchanged but for the temperature.

PRESETS_ON_GOLDENS = {
    "xclr": lambda: xclr("caption_embedding", "caption"),
    "xclr_class_text": lambda: xclr("class_embedding", "class_text"),
    "simclr": lambda: preset_value("simclr", two_views()),
    "supcon": lambda: preset_value("supcon", two_views()),
    "dcl": lambda: preset_value("dcl", two_views()),
    "cluster_dcl": lambda: meow(),
    "sbcl": lambda: sbcl(),
    "rince": lambda: preset_value("rince", two_views()),
    "z_loss": lambda: preset_value("z_loss", two_views()),
    "loss_reweighting": lambda: preset_value("loss_reweighting", {"image": images(Z1, Z3)}, progress=0.5),
    "groco": lambda: preset_value("groco", two_views()),
    "cacr": lambda: preset_value("cacr", {"image": images(Z1, Z2, Z3)}),
    "metrix": mixed_inputs.metrix,
    "supremix": mixed_inputs.supremix,
    "sepclr": mixed_inputs.sepclr,
    "adameow": mixed_inputs.adameow,
    "interclr": mixed_inputs.interclr,
    "interclr_bank": lambda: mixed_inputs.interclr(preset="interclr_bank"),
    "gopro": mixed_inputs.gopro,
    "tcl_contrastive": mixed_inputs.tcl,
    "pixpro": mixed_inputs.pixpro,
    "degla": mixed_inputs.degla,
    "susana": lambda: susana(),
    "barlip_heads": mixed_inputs.barlip,
    "swalip_heads": mixed_inputs.swalip,
    "macl": lambda: preset_value("macl", two_views()),
    "mv_infonce": lambda: preset_value("mv_infonce", {"image": images(Z1, Z2, Z3)}),
    "simlap": lambda: simlap(),
    "barlow_twins": lambda: preset_value("barlow_twins", two_views()),
    "spectral": lambda: preset_value("spectral", two_views()),
    "cwcl": lambda: preset_value(
        "cwcl",
        {"image": images(Z1, caption_embedding=Z3), "text": texts(Z2, caption_embedding=Z3)},
        temperature=0.07,
    ),
    "norm_direction": lambda: preset_value("norm_direction", norm_direction_blocks(1.0)),
    "m3col": lambda: preset_value("m3col", m3col_first_phase(jnp.float32(Z1)), progress=0.3),
    "clip": lambda: preset_value("clip", image_and_text(), temperature=1 / 5),
    "coca": lambda: preset_value("coca", with_captions(), temperature=1 / 5),
    "clip_frozen_text": lambda: preset_value("clip_frozen_text", image_and_text(), temperature=1 / 5),
    "unicl": lambda: preset_value("unicl", image_and_text(), temperature=0.1),
    "siglip": lambda: preset_value("siglip", image_and_text(), temperature=1 / 5),
    "slip": lambda: preset_value("slip", {"image": images(Z1, Z2), "text": texts(Z3)}, temperature=1 / 4),
    "cyclip": lambda: preset_value("cyclip", image_and_text(), temperature=0.1),
    "symile": lambda: preset_value("symile", {"image": images(Z1, Z2), "text": texts(Z3)}, temperature=1 / 3),
    "gram": lambda: preset_value("gram", {"image": images(Z1, Z2), "text": texts(Z3)}, temperature=0.07),
}


def with_captions():
    """The blocks of images and texts, with the losses of the golden's tokens by its logits."""
    name = PRESETS["coca"].golden
    tokens = extra(name, "tokens").astype(int)
    losses = cross_entropies(jnp.asarray(extra(name, "logits"), jnp.float32), jnp.asarray(tokens[:, 1:]))
    found = {"token_loss": losses.sum(axis=1), "token_count": np.sum(tokens[:, 1:] != 0, axis=1)}
    return {"image": images(Z1, **found), "text": texts(Z3)}


def susana():
    """Twelve support images of three classes, and twelve queries."""
    label, part = np.append(np.arange(12) // 4, np.arange(12) % 3), np.arange(24) // 12
    z = np.concatenate([Z1, Z2])
    rows = images(z, id=np.arange(24), label=label, part=part, per_row={"raw": lambda rows: rows})
    return preset_value("susana", {"image": rows}, count=24)


def xclr(entry, source):
    """Captions whose cosines are the golden's similarities of classes: rows of a root of that matrix."""
    similarity = extra(PRESETS["xclr"].golden, "class_sim")
    values, vectors = np.linalg.eigh(similarity)
    roots = vectors * np.sqrt(np.maximum(values, 0.0))
    np.testing.assert_allclose(roots @ roots.T, similarity, atol=1e-6)
    return preset_value("xclr" if source == "caption" else "xclr_class_text", two_views(**{entry: roots[LABELS]}))


@pytest.mark.parametrize("name", PRESETS_ON_GOLDENS)
def test_a_preset_that_claims_a_golden_gives_it(name):
    """faults A5: the golden of `slip` was tested on terms written out beside the preset."""
    expected = CASES[PRESETS[name].golden]["expected"]
    assert float(quick_jit(PRESETS_ON_GOLDENS[name])()) == pytest.approx(expected, rel=2e-5)


def test_every_claim_is_tested():
    assert set(PRESETS_ON_GOLDENS) == {name for name, preset in PRESETS.items() if preset.golden}


@pytest.mark.parametrize("name", VALUES)
def test_golden(name):
    assert float(quick_jit(VALUES[name])()) == pytest.approx(CASES[name]["expected"], rel=1e-5)


def test_closing_the_contrastive_gap_is_its_published_sum():
    """CLIP at tau = 0.01 and four terms of weight one, the uniformity of each side half, from the goldens' parts."""
    blocks = image_and_text()
    objective = PRESETS["clip_uniform"].objective
    assert (objective.temperature, objective.learn_temperature) == (0.01, False)
    loss, metrics = objective_loss(objective, blocks, 12, objective.temperature)
    both = [CASES["uniform"]["expected"], float(log_mean_over_pairs(Z3, 2.0))]
    assert metrics["feature_uniform"] == pytest.approx(np.mean(both), rel=1e-5)
    cross = CASES["Contrastive-gap cross-uniformity"]["expected"]
    assert metrics["feature_cross_uniform"] == pytest.approx(cross, rel=1e-5)
    assert metrics["feature_align"] == pytest.approx(np.mean(np.sum((Z1 - Z3) ** 2, axis=1)), rel=1e-5)
    logits = Z1 @ Z3.T / 0.01
    rows = [np.log(np.exp(s - s.max(1, keepdims=True)).sum(1)) + s.max(1) - np.diag(s) for s in (logits, logits.T)]
    parts = sum(float(metrics[f"feature_{name}"]) for name in ("uniform", "cross_uniform", "align"))
    assert loss == pytest.approx(np.mean(rows) + parts, rel=1e-4)
