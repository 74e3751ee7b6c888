"""The product of all slots: a combination is refused with a reason, or it computes what it should (faults A2, A3).

What every accepted combination must have: a finite value and gradient, a value that is independent of the order of the
images, attraction and repulsion.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.quick import quick_jit
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.graphs.targets import NORMALIZERS, Graph, Mixture
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.blocks import TEXT, Rows, image_block, key_block, other_view
from xsample_jax.objectives.cross_entropy import DENOMINATORS
from xsample_jax.objectives.from_config import find_problems
from xsample_jax.objectives.links import LINKS
from xsample_jax.objectives.logits import SIMILARITIES, TEMPERATURES
from xsample_jax.objectives.negatives import NEGATIVES
from xsample_jax.objectives.objective import Objective, find_unstreamable, objective_loss
from xsample_jax.objectives.row_weights import WEIGHTS
from xsample_jax.objectives.side_information import BY_RECORD
from xsample_jax.objectives.streaming.loss import Streaming
from xsample_jax.objectives.terms import StepValues, Term, pairs_of, term_value

B, V, D, CLASSES, TAU = 5, 2, 6, 3, 0.3
IMAGE = Rows("image")
# State that an objective may have; what no term reads of it is another problem, which is left out here.
STATE = {"teacher": 0.9, "queue": 4, "prototypes": 3, "text": "linear", "gate": True}


def inputs(label=(0, 1, 0, -1, 1), seed=0):
    """Arrays [B, ...] of a step on B images, and the queue and prototypes."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    per_image = {
        "id": np.array([7, 3, 11, 4, 8]),
        "index": np.array([2, 0, 4, 1, 3]),
        "label": np.array(label),
        "second_label": np.array([1, 0, 1, -1, 0]),
        "gate": 1 / (1 + np.exp(-normal(B, D))),
        "caption_embedding": normal(B, 4),
        "class_embedding": normal(B, 4),
        "path": np.array([[0, 1], [0, 2], [1, 1], [1, -1], [-1, -1]]),
        "cluster": np.array([[0, 1], [0, 0], [1, 1], [-1, 0], [1, 2]]),
        "group": np.array([0, 0, 1, 1, -1]),
        "caption_number": np.array([0, 1, 0, 3, 4]),
        "is_target": np.array([0, 1, 1, 0, -1]),
        "target": normal(B, 2),
        "labels": np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]]),
        "class_temperature": rng.uniform(0.5, 2, B).astype(np.float32),
        "weight": rng.uniform(0.5, 2, B).astype(np.float32),
        "image": normal(B, V, D),
        "teacher_image": normal(B, V, D),
        "text": normal(B, D),
        "teacher_text": normal(B, D),
        "log_average": normal(B),
        "anchor_temperature": rng.uniform(0.2, 0.5, B).astype(np.float32),
    }
    shared = {
        "queue": normal(4, D),
        "queue_label": np.array([0, 1, 2, -1]),
        "queue_caption": normal(4, 4),
        "queue_cluster": np.array([[0, 0], [1, 2], [-1, -1], [0, 1]]),
        "queue_group": np.array([0, 1, 0, -1]),
        "queue_is_target": np.array([0, 1, 0, -1]),
        "queue_target": normal(4, 2),
        "queue_labels": np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]]),
        "queue_path": np.array([[0, 1], [1, 1], [-1, -1], [0, 2]]),
        "prototypes": normal(3, D),
    }
    return {name: jnp.asarray(x) for name, x in per_image.items()}, {name: jnp.asarray(x) for name, x in shared.items()}


SIDE = ("id", "index", "label", "second_label", "gate", "caption_embedding", "class_embedding", "path", *BY_RECORD)


def blocks_of(images, shared):
    """The blocks of a step, as step_blocks makes them."""
    z, text = unit_rows(images["image"].reshape(-1, D)), unit_rows(images["text"])
    teacher = unit_rows(images["teacher_image"].reshape(-1, D))
    side = {name: images[name] for name in SIDE} | {"text": jax.lax.stop_gradient(text)}
    of_view = {f"view_{view}": jax.lax.stop_gradient(z[view::V]) for view in range(V)}
    kept = {name: jnp.repeat(images[name], V, axis=0) for name in ("log_average", "anchor_temperature")}
    other = {"other_view": other_view(z, V), "teacher": other_view(teacher, V), **kept}
    queue = {"label": shared["queue_label"], "path": shared["queue_path"]}
    queue |= {name: shared[f"queue_{name}"] for name in ("cluster", "group", "is_target", "target", "labels")}
    queue |= {name: jnp.ones(4) for name in ("class_temperature", "weight")}
    queue |= {"caption_embedding": shared["queue_caption"], "class_embedding": shared["queue_caption"]}
    filled = jnp.asarray([True, True, True, False])
    keys = unit_rows(shared["queue"])
    return {
        "image": image_block(z, side | of_view, V, 0, **other),
        "text": image_block(text, side, 1, len(z), teacher=unit_rows(images["teacher_text"])),
        "teacher": image_block(teacher, side, V, 2 * len(z), teacher=teacher),
        "queue": key_block(keys, teacher=keys, **queue) | {"filled": filled},
        "prototypes": key_block(unit_rows(shared["prototypes"])),
    }


GRAPHS = [
    *(Graph(name, normalizer) for name in SOURCES for normalizer in NORMALIZERS if name != "second_label"),
    Graph("second_label", "none"),
    Graph({"name": "swapped", "of": 1}, "softmax"),
    Graph({"name": "teacher", "own": False}, "softmax"),
    Graph("caption", "row_sum", ({"name": "affine"},)),
    Graph("caption", "row_sum", ({"name": "threshold", "at": 0.2},)),
    Graph("caption", "row_sum", ({"name": "top_k", "k": 2},)),
    Graph("caption", "softmax", ({"name": "top_k", "k": 2},)),
    Graph("caption", "row_sum", ({"name": "power", "exponent": 2.0},)),
    Graph({"name": "swapped", "of": 1}, "row_sum", ({"name": "nearest", "k": 2},)),
    Graph({"name": "self_similarity", "of_image": True}, "none", ({"name": "nearest", "k": 2, "symmetric": True},)),
    Graph("caption", "softmax", target_temperature={"name": "neighbors", "count": 3.0}),
    Mixture((Graph("identity"), Graph("uniform")), (0.9, 0.1)),
    Mixture((Graph("identity"), Graph("label")), (0.5, 0.5)),
]
ROWS = [
    (IMAGE, IMAGE),
    (IMAGE, TEXT),
    (TEXT, IMAGE),
    (Rows("image", 0), Rows("image", 1)),
    (Rows("image", 1), Rows("image", 1)),
    (Rows("image", 0), (Rows("teacher", 1), Rows("queue"))),
    (IMAGE, (IMAGE, Rows("queue"))),
    (IMAGE, Rows("queue")),
    (IMAGE, Rows("prototypes")),
    (Rows("image", 0), Rows("image", 1, beside=TEXT)),
    (TEXT, Rows("image", 0, times=Rows("image", 1))),
]
SMALL = {"name": "hard_mixtures", "hardest": 3, "mixed": 2, "with_anchor": 1}
MIX = {"name": "positive_and_negative", "mixed": 3}
OWN_MIX = {"name": "anchor_and_negative", "mixed": 3}
FIELDS = {
    "similarity": list(SIMILARITIES),
    "link": ["softmax", *LINKS, {"name": "robust", "q": 0.0}],
    "denominator": [*(name for name in DENOMINATORS if name != "rank")]
    + [{"name": "rank", "by": by} for by in ("caption", "label", "second_label")],
    "negatives": [{"name": "hardest", "k": 2} if name == "hardest" else name for name in NEGATIVES],
    "aggregate": ["out", "in"],
    "row_weight": [1.0, *WEIGHTS],
    "attraction": [1.0, *WEIGHTS],
    "repulsion": [1.0, *WEIGHTS],
    "temperature": ["base", 0.2, *TEMPERATURES],
    "mixer": [
        None,
        SMALL,
        MIX,
        OWN_MIX,
        {"name": "own_mixtures", "hardest": 3},
        {"name": "between_targets", "positives": 4},
    ],
    "merge_views": [False, True],
    "self_pairs": [False, True],
    "reduce": ["rows", "pairs"],
}
# Terms that work, which a draw changes in one to three fields: most draws of all fields at once are refused.
STARTS = [
    Term(),
    Term(Graph("label")),
    Term(Graph("label"), denominator="own", negatives="not_positive"),
    Term(Graph("caption", "softmax"), denominator={"name": "rank", "by": "caption"}),
    Term(Graph("identity", "none"), merge_views=True, aggregate="in", denominator="views"),
    Term(anchors=Rows("image", 0), keys=(Rows("teacher", 1), Rows("queue")), mixer=SMALL),
    Term(Graph("identity", "none"), keys=TEXT, link="sigmoid"),
    Term(negatives="other_images", repulsion="moving_average"),
    Term(Graph("label", "none"), link="multi_similarity", mixer=MIX),
]


def drawn(rng) -> Term:
    """A random combination."""
    changes = {}
    for name in rng.choice(["graph", "rows", *FIELDS], size=rng.integers(1, 4), replace=False):
        if name == "graph":
            changes["graph"] = GRAPHS[rng.integers(len(GRAPHS))]
        elif name == "rows":
            changes["anchors"], changes["keys"] = ROWS[rng.integers(len(ROWS))]
        else:
            changes[name] = FIELDS[name][rng.integers(len(FIELDS[name]))]
    return dataclasses.replace(STARTS[rng.integers(len(STARTS))], **changes)


def objective_of(term: Term) -> Objective:
    reads = json.dumps(dataclasses.asdict(term), default=str)
    memory = "average" if "moving_average" in reads else None
    memory = "temperature" if "per_anchor" in reads or "average_gap" in reads else memory
    return Objective((term,), TAU, memory=memory, **STATE)


def problems_of(term: Term) -> list:
    """What the check of the config says of the term itself."""
    return [p for p in find_problems(objective_of(term)) if p.field.startswith(("objective.terms", "objective.graph"))]


def loss_of(term, images, shared):
    return objective_loss(
        objective_of(term), blocks_of(images, shared), B, TAU, StepValues(progress=0.2, key=jax.random.key(3))
    )[0]


def check_value(term: Term):
    """Asserts what every accepted combination must have."""
    images, shared = inputs()
    values = StepValues(0.0, 0.2, jax.random.key(3))

    @quick_jit
    def found(images):
        of_rows = lambda rows: loss_of(term, {**images, **rows}, shared)  # noqa: E731
        value, slope = jax.value_and_grad(of_rows)({name: images[name] for name in ("image", "text")})
        pairs = pairs_of(term, blocks_of(images, shared), B, TAU, 0.1, values)
        of_logits = lambda logits: term_value(term, dataclasses.replace(pairs, logits=logits), B)[0]  # noqa: E731
        return value, slope, jax.grad(of_logits)(pairs.logits), pairs.valid & (pairs.target <= 0)

    value, slope, of_pairs, apart = jax.tree.map(np.asarray, found(images))
    assert np.isfinite(value)
    assert abs(value) < 1e6, "a mask constant"
    assert all(np.isfinite(x).all() and np.abs(x).max() < 1e6 for x in slope.values())
    order = np.array([3, 0, 4, 2, 1])
    permuted = found({name: x[order] for name, x in images.items()})[0]
    np.testing.assert_allclose(permuted, value, rtol=1e-4, atol=1e-5)
    assert np.isfinite(of_pairs).all()
    if apart.any() or term.link == "softmax":  # a regression to a soft graph may have all pairs on one side
        assert of_pairs.max() > 0, "no repulsion"
    assert of_pairs.min() < 0, "no attraction"
    if apart.any() and term.negatives not in ("same_label", "own_and_queue") and term.link != "square":
        assert of_pairs[apart].max() > 0, "no repulsion from a pair without target"


@pytest.mark.parametrize("seed", range(3))
def test_a_combination_is_refused_with_a_reason_or_works(seed):
    """faults A2: wrong values, lost repulsion and NaN of combinations that nobody had tried."""
    rng, tried = np.random.default_rng(seed), 0
    while tried < 7:
        term = drawn(rng)
        found = problems_of(term)
        assert all(0 < len(str(problem)) <= 500 and problem.expected for problem in found)
        if not found:
            tried += 1
            try:
                check_value(term)
            except Exception as error:
                raise AssertionError(f"{term}") from error


FAULTS = [
    *(Term(Graph("label"), denominator=d, aggregate="in") for d in ("own", {"name": "rank", "by": "caption"})),
    *(
        Term(Graph("label"), denominator=d, row_weight=w)
        for d in ("own", {"name": "rank", "by": "caption"})
        for w in WEIGHTS
    ),
    *(Term(denominator="views", anchors=Rows("image", 0), keys=Rows("image", view)) for view in (0, 1)),
    Term(link={"name": "robust", "q": 0.0}),
    Term(Graph("label"), link="robust"),
]


@pytest.mark.parametrize("term", FAULTS)
def test_members_that_were_wrong(term):
    """faults A2: the members that were found first."""
    if not problems_of(term):
        check_value(term)


def test_denominators_of_one_view_keep_their_repulsion():
    """faults A2: keys of view 1 alone were in no view's denominator."""
    images, shared = inputs()
    rows = Rows("image", 1)
    term = Term(Graph("label"), anchors=rows, keys=rows, denominator="views")
    assert not problems_of(term)
    z = unit_rows(images["image"].reshape(-1, D))[1::2]
    s = np.asarray(z @ z.T) / TAU
    label, rest = np.asarray(images["label"]), ~np.eye(B, dtype=bool)
    same = (label[:, None] == label) & (label >= 0)[:, None] & rest
    rows = [np.log(np.exp(s[i][rest[i]]).sum()) - s[i][same[i]].mean() for i in range(B) if same[i].any()]
    assert loss_of(term, images, shared) == pytest.approx(np.mean(rows), rel=1e-5)


@pytest.mark.parametrize("count", [9, 10])
def test_neighbors_do_not_depend_on_how_many_keys_there_are(count):
    """faults A2: as many keys as anchors were taken for the anchors, whose order then mattered."""
    images, shared = inputs()
    shared["prototypes"] = jnp.asarray(np.random.default_rng(5).normal(size=(count, D)), jnp.float32)
    nearest = {"name": "nearest", "k": 1}
    term = Term(Graph("swapped", "row_sum", (nearest,)), keys=Rows("prototypes"))
    assert not problems_of(term)
    loss = quick_jit(lambda images: loss_of(term, images, shared))
    order = np.array([3, 0, 4, 2, 1])
    assert loss({name: x[order] for name, x in images.items()}) == pytest.approx(float(loss(images)), rel=1e-5)
    for options, field in (({"symmetric": True}, "symmetric"), ({"order": 2}, "order")):
        wrong = dataclasses.replace(term, graph=Graph("swapped", "row_sum", (nearest | options,)))
        assert [p.field for p in problems_of(wrong)] == [f"objective.terms[0].graph.transforms.{field}"]


SIMILARITY_OF = {"contrastive": "negative_distance"}


@pytest.mark.parametrize("link", ["sigmoid", "sigmoid_mean", "contrastive", "multi_similarity"])
def test_links_of_single_pairs_take_graphs_with_transforms(link):
    """faults A2: an exception while the config was checked."""
    halves = Graph("caption", "none", ({"name": "threshold", "at": 0.5, "binary": True},))
    assert not problems_of(Term(halves, link=link, similarity=SIMILARITY_OF.get(link, "dot")))


@pytest.mark.parametrize("kind", ["own", "rank"])
def test_the_mean_inside_the_logarithm_with_a_denominator_per_pair(kind):
    """faults A2: -log of the mean over positives of e^S / (denominator of the pair), in loops."""
    images, shared = inputs()
    denominator = "own" if kind == "own" else {"name": "rank", "by": "caption"}
    negatives = "not_positive" if kind == "own" else "everything"
    term = Term(Graph("label"), denominator=denominator, negatives=negatives, aggregate="in")
    z = np.asarray(unit_rows(images["image"].reshape(-1, D)))
    e, label = np.exp(z @ z.T / TAU), np.repeat(images["label"], V)
    captions = np.asarray(unit_rows(jnp.repeat(images["caption_embedding"], V, axis=0)))
    order = captions @ captions.T
    rows = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        positives = [k for k in others if k // V == i // V or label[k] == label[i] >= 0]
        away = {"own": lambda k, j, p=positives: j == k or j not in p}  # who competes with the positive k of row i
        away["rank"] = lambda k, j, of=order[i]: of[j] <= of[k] + 1e-6
        totals = {k: sum(e[i, j] for j in others if away[kind](k, j)) for k in positives}
        rows.append(-np.log(np.mean([e[i, k] / totals[k] for k in positives])))
    assert loss_of(term, images, shared) == pytest.approx(np.mean(rows), rel=1e-4)


def test_robust_at_q_zero_is_its_limit():
    """faults A2: q = 0 was 0 / 0."""
    images, shared = inputs()
    zero, near = (loss_of(Term(link={"name": "robust", "q": q, "lam": 0.5}), images, shared) for q in (0.0, 1e-4))
    assert zero == pytest.approx(float(near), rel=1e-2)


@pytest.mark.parametrize("negatives", ["not_positive", {"name": "hardest", "k": 3}, "importance"])
@pytest.mark.parametrize("denominator", ["shared", "own", "views"])
@pytest.mark.parametrize("aggregate", ["out", "in"])
def test_a_row_without_a_negative_is_only_attracted(negatives, denominator, aggregate):
    """faults A3: the logarithm of an empty denominator was the mask constant; the loss of such a batch -1e9."""
    images, shared = inputs(label=(2,) * B)
    term = Term(Graph("label"), negatives=negatives, denominator=denominator, aggregate=aggregate)
    blocks = blocks_of(images, shared)
    loss, metrics = objective_loss(objective_of(term), blocks, B, TAU)
    assert metrics["rows_without_negative"] == 1
    z = np.asarray(blocks["image"]["z"])
    s = np.where(np.eye(len(z)), np.nan, z @ z.T / TAU)
    attracted = np.nanmean(s, axis=1) if aggregate == "out" else np.log(np.nanmean(np.exp(s), axis=1))
    expected = 0.0 if denominator == "own" else -attracted.mean()  # with its own denominator a positive is certain
    assert loss == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("term", [Term(Graph("label"), negatives="not_positive"), Term(Graph("label"), link="joint")])
def test_rows_without_a_negative_are_counted(term):
    """faults A3: the share is logged, here one of five images whose class is everywhere else."""
    images, shared = inputs(label=(1, 1, 1, 1, 0))
    keys = dataclasses.replace(term, anchors=Rows("image", 0), keys=Rows("queue"))
    shared["queue_label"] = jnp.zeros(4, int)
    _, metrics = objective_loss(objective_of(keys), blocks_of(images, shared), B, TAU)
    assert metrics["rows_without_negative"] == pytest.approx(0.2)


@pytest.mark.parametrize("graph", [Graph("caption", "softmax"), Graph("label"), Graph("class_text", "softmax")])
@pytest.mark.parametrize("keys", [IMAGE, Rows("queue")])
def test_streamed_and_dense_agree_without_any_valid_key(graph, keys):
    """faults A3: an empty queue, and a batch of one class, densely, in tiles and by the class table."""
    images, shared = inputs(label=(1,) * B)
    term = Term(graph, keys=keys)
    objective, blocks = objective_of(term), blocks_of(images, shared)
    blocks["queue"]["filled"] = jnp.zeros(4, bool)
    table = np.random.default_rng(0).normal(size=(CLASSES, 4)).astype(np.float32)
    blocks["image"]["class_embedding"] = jnp.asarray(table)[blocks["image"]["label"]]
    assert not dict(find_unstreamable(objective))
    dense, metrics = objective_loss(objective, blocks, B, TAU)
    for classes in (None, table):
        how = Streaming(impl="streaming", block_size=8, class_embeddings=classes, caption_comm_dtype="float32")
        streamed, found = objective_loss(objective, blocks, B, TAU, how=how)
        assert streamed == pytest.approx(float(dense), abs=1e-5)
        assert found["rows_without_negative"] == metrics["rows_without_negative"] == float(keys != IMAGE)


def test_several_combinations_are_equal_on_eight_devices():
    """faults A2: rows spread over devices give the value of one device."""
    images, shared = inputs()
    eight = {name: jnp.concatenate([x, x[:3]]) for name, x in images.items()} | {"id": jnp.arange(8)}
    terms = (
        Term(Graph("label"), denominator="own", negatives="not_positive", aggregate="in", row_weight="focal"),
        Term(Graph("identity", "none"), merge_views=True, aggregate="in", denominator="views"),
        Term(anchors=Rows("image", 0), keys=(Rows("teacher", 1), Rows("queue")), mixer=SMALL),
    )
    objective = dataclasses.replace(objective_of(terms[0]), terms=terms)

    def loss(images):
        return objective_loss(objective, blocks_of(images, shared), 8, TAU, StepValues(key=jax.random.key(3)))[0]

    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.device_put(eight, NamedSharding(mesh, PartitionSpec("data")))
    assert jax.jit(loss)(spread) == pytest.approx(float(quick_jit(loss)(eight)), rel=1e-5)
