"""Every graph source against its definition, one pair at a time in plain Python."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.quick import quick_jit
from xsample_jax.graphs.sources import ONE_WAY, SOURCES

# A class tree with leaves of different depth. A node's number means something only below its parent: node 4 under 1 and
# node 4 under 2 are two nodes.
LEAVES = np.array([[1, 4, 9], [1, 4, 7], [1, 5, -1], [2, 4, 9], [2, -1, -1], [1, 4, 9]])


def information(seed, rows):
    rng = np.random.default_rng(seed)
    return {
        "id": rng.integers(-1, 4, rows),
        "label": rng.integers(-1, 3, rows),
        "second_label": rng.integers(-1, 3, rows),
        "labels": rng.integers(0, 2, (rows, 4)),
        "cluster": rng.integers(-1, 2, (rows, 2)),
        "path": LEAVES[rng.permutation(rows) % len(LEAVES)],
        "target": rng.normal(size=(rows, 2)),
        # Corners and sides on a grid of eighths, so that areas can be counted.
        "box": np.concatenate([rng.integers(0, 5, (rows, 2)), rng.integers(1, 4, (rows, 2))], axis=1) / 8,
        **{
            name: rng.normal(size=(rows, 5))
            for name in (
                "caption_embedding",
                "class_embedding",
                "embedding",
                "teacher",
                "text",
                "image",
                "other_view",
                "view_0",
                "view_1",
            )
        },
    }


U, V = information(0, 9), information(1, 6)
U["id"][:3], V["id"][:3] = (2, 3, -1), (3, 2, -1)  # at least two pairs of one image, and two rows of none
U["label"][:3], V["label"][:3] = (1, 2, -1), (2, 1, -1)
U["box"][:2], V["box"][:2] = [[0, 0, 0.5, 0.5], [0, 0, 1, 1]], [[0, 0.5, 0.5, 0.5], [0.25, 0.125, 0.5, 0.25]]
for side, seed in ((U, 2), (V, 3)):
    rng = np.random.default_rng(seed)
    side["index"] = rng.permutation(len(side["id"]))
    side["frozen"], side["frozen_pair"] = rng.normal(size=(2, len(side["id"]), 5))
    side["first"], side["partner"] = rng.integers(0, 4, (2, len(side["id"])))
    side["first_label"], side["partner_label"] = rng.integers(-1, 3, (2, len(side["id"])))
    side["beta"] = rng.uniform(size=len(side["id"]))
    side["clustering"] = np.arange(len(side["id"])) % 2
    side["past"] = rng.normal(size=(len(side["id"]), 5))
    side["column"] = np.arange(len(side["id"])) % 5
    side["center"] = np.arange(len(side["id"])) % 3 - 1
    side["target"][:4, 0] = [0.5, 2, 0.5, 1]  # values that rows share
U["labels"][0], V["labels"][1] = 0, 0  # no label at all
U["cluster"][:3], V["cluster"][:3] = [[1, 0], [-1, 1], [0, 0]], [[1, 0], [-1, 1], [0, 1]]


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def same_image(u, v):
    return float(u["id"] == v["id"] and u["id"] != -1)


def jaccard(u, v):
    first, second = (set(np.flatnonzero(side["labels"])) for side in (u, v))
    return max(same_image(u, v), len(first & second) / len(first | second) if first | second else 0.0)


def one_cluster(u, v):
    together = all(a == b >= 0 for a, b in zip(u["cluster"], v["cluster"], strict=True))
    return float(together or same_image(u, v))


def nodes(path):
    """The nodes from the root to a leaf; a node is known by all that is above it."""
    path = [int(node) for node in path if node >= 0]
    return [tuple(path[:depth]) for depth in range(len(path) + 1)]


def depth_of_common_ancestor(u, v):
    return max(len(node) + 1 for node in set(nodes(u["path"])) & set(nodes(v["path"])))


def wu_palmer(u, v):
    return 2 * depth_of_common_ancestor(u, v) / (len(nodes(u["path"])) + len(nodes(v["path"])))


def path_measure(u, v):
    """1 / (1 + edges), the edges counted by walking over the tree."""
    neighbors = collections.defaultdict(set)
    for leaf in LEAVES:
        for above, below in zip(nodes(leaf)[:-1], nodes(leaf)[1:]):
            neighbors[above].add(below)
            neighbors[below].add(above)
    start, end = nodes(u["path"])[-1], nodes(v["path"])[-1]
    distance, reached = 0, {start}
    while end not in reached:
        reached |= {near for node in reached for near in neighbors[node]}
        distance += 1
    return 1 / (1 + distance)


def cells(box):
    y, x, height, width = np.round(8 * box).astype(int)
    return {(row, column) for row in range(y, y + height) for column in range(x, x + width)}


def overlap(u, v):
    first, second = cells(u["box"]), cells(v["box"])
    return same_image(u, v) * len(first & second) / len(first | second)


def mixed(u, v):
    return u["beta"] * (u["first"] == v["id"]) + (1 - u["beta"]) * (u["partner"] == v["id"])


def mixed_labels(u, v):
    first = u["id"] == v["first"] or u["label"] == v["first_label"] != -1
    partner = u["id"] == v["partner"] or u["label"] == v["partner_label"] != -1
    return v["beta"] * first + (1 - v["beta"]) * partner


def mixed_classes(u, v):
    first, partner = (float(u[name] == v["label"] != -1) for name in ("first_label", "partner_label"))
    return u["beta"] * first + (1 - u["beta"]) * partner


def same_target(u, v):
    return max(same_image(u, v), float(u["target"][0] == v["target"][0]))


def own_center(u, v):
    own = u["cluster"][v["clustering"]]
    return float(own >= 0 and own == v["center"])


def kernel(bandwidth, power):
    def value(u, v):
        return np.exp(-0.5 * np.linalg.norm(u["target"] - v["target"]) ** power / bandwidth**power)

    return value


def random_of(seed):
    @functools.cache
    def vector(i):
        key = jax.random.fold_in(jax.random.key(seed), np.uint32(int(i) % 2**32))
        return np.asarray(jax.random.normal(key, (16,)), np.float64)

    return lambda u, v: cosine(vector(int(u["id"])), vector(int(v["id"])))


DEFINITIONS = [
    ("identity", {}, same_image),
    ("same_record", {}, lambda u, v: float(u["index"] == v["index"])),
    ("uniform", {}, lambda u, v: 1.0),
    ("label", {}, lambda u, v: max(same_image(u, v), float(u["label"] == v["label"] and u["label"] != -1))),
    ("labels", {}, jaccard),
    ("cluster", {}, one_cluster),
    ("other_label", {}, lambda u, v: float(u["label"] != -1 and v["label"] != -1 and u["label"] != v["label"])),
    ("caption", {}, lambda u, v: cosine(u["caption_embedding"], v["caption_embedding"])),
    ("class_text", {}, lambda u, v: cosine(u["class_embedding"], v["class_embedding"])),
    ("kernel", {}, kernel(1, 2)),
    ("kernel", {"bandwidth": 0.7, "power": 1.0}, kernel(0.7, 1)),
    ("hierarchy", {}, wu_palmer),
    ("hierarchy", {"measure": "path"}, path_measure),
    ("random", {}, random_of(0)),
    ("random", {"seed": 3}, random_of(3)),
    ("geometry", {}, overlap),
    ("teacher", {}, lambda u, v: cosine(u["teacher"], v["teacher"])),
    ("teacher", {"own": False}, lambda u, v: -1e9 if same_image(u, v) else cosine(u["teacher"], v["teacher"])),
    ("self_similarity", {}, lambda u, v: cosine(u["embedding"], v["embedding"])),
    (
        "self_similarity",
        {"of_image": True},
        lambda u, v: 1.0 if same_image(u, v) else cosine(u["embedding"], v["embedding"]),
    ),
    ("text_similarity", {}, lambda u, v: cosine(u["text"], v["text"])),
    ("image_similarity", {}, lambda u, v: cosine(u["image"], v["image"])),
    ("swapped", {}, lambda u, v: cosine(u["other_view"], v["embedding"])),
    ("swapped", {"of": 1}, lambda u, v: cosine(u["view_1"], v["embedding"])),
    ("swapped_keys", {}, lambda u, v: cosine(u["embedding"], v["other_view"])),
    ("frozen", {}, lambda u, v: cosine(u["frozen"], v["frozen"])),
    ("frozen_pair", {}, lambda u, v: cosine(u["frozen_pair"], v["frozen_pair"])),
    ("swapped_pair", {"of_anchor": 1}, lambda u, v: cosine(u["view_1"], v["view_0"])),
    ("same_target", {}, same_target),
    ("own_center", {}, own_center),
    ("past", {}, lambda u, v: u["past"][v["column"]]),
    ("mixed", {}, mixed),
    ("mixed_keys", {}, lambda u, v: mixed(v, u)),
    ("mixed_labels", {}, mixed_labels),
    ("mixed_classes", {}, mixed_classes),
    ("second_label", {}, lambda u, v: float(u["second_label"] == v["label"] and v["label"] != -1)),
]


def row(side, i):
    return {name: value[i] for name, value in side.items()}


def test_every_source_has_a_definition_here():
    assert {name for name, _, _ in DEFINITIONS} == set(SOURCES)


@pytest.mark.parametrize(
    ("name", "options", "definition"), DEFINITIONS, ids=[f"{n}{o or ''}" for n, o, _ in DEFINITIONS]
)
def test_source_is_its_definition_on_every_pair(name, options, definition):
    @quick_jit
    def values(u, v):
        source = lambda a, b: SOURCES[name](a, b, **options)  # noqa: E731
        part = lambda side, rows: {key: value[rows] for key, value in side.items()}  # noqa: E731
        return source(u, v), source(v, u), source(part(u, slice(2, 6)), part(v, slice(1, 4)))

    got, turned, tile = values(U, V)
    expected = np.array([[definition(row(U, i), row(V, k)) for k in range(6)] for i in range(9)])
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(tile, expected[2:6, 1:4], rtol=1e-5, atol=2e-6)  # looks at one pair at a time
    if name in ONE_WAY:
        assert not np.allclose(turned.T, expected, atol=1e-3)
    else:
        np.testing.assert_allclose(turned.T, expected, rtol=1e-5, atol=2e-6)
    assert len(np.unique(expected)) > 1 or name == "uniform"  # the inputs can tell a wrong source from a right one


def test_swapped_and_swapped_keys_are_transposes():
    np.testing.assert_allclose(SOURCES["swapped"](U, V), SOURCES["swapped_keys"](V, U).T, atol=1e-6)


def test_hierarchy_by_hand():
    u = {"path": jnp.asarray(LEAVES), "id": jnp.arange(len(LEAVES))}
    #   (1 4 9) (1 4 7) (1 5) (2 4 9) (2) (1 4 9)   of (1 4 9), whose depth is 4
    np.testing.assert_allclose(SOURCES["hierarchy"](u, u)[0], [1, 6 / 8, 4 / 7, 2 / 8, 2 / 6, 1], rtol=1e-6)
    np.testing.assert_allclose(
        SOURCES["hierarchy"](u, u, measure="path")[0], [1, 1 / 3, 1 / 4, 1 / 7, 1 / 5, 1], rtol=1e-6
    )
    with pytest.raises(ValueError, match="wu_palmer or path"):
        SOURCES["hierarchy"](u, u, measure="lin")


def test_an_unknown_leaf_is_like_nothing_but_itself():
    """faults A7: a path of -1 alone is no node that two images could share."""
    unknown = {
        "path": jnp.asarray([[-1, -1, -1], [-1, -1, -1], [-1, -1, -1], [1, 4, 9]]),
        "id": jnp.asarray([0, 0, 1, 2]),
    }
    for measure, apart in (("wu_palmer", 2 / 8), ("path", 1 / 7)):
        got = SOURCES["hierarchy"](unknown, unknown, measure=measure)
        np.testing.assert_allclose(got[0], [1, 1, apart, apart], rtol=1e-6)


def test_random_depends_on_ids_and_seed_alone_and_says_nothing():
    ids = np.arange(60)
    graph = np.asarray(quick_jit(SOURCES["random"])({"id": ids}, {"id": ids}))
    np.testing.assert_allclose(np.diag(graph), 1, atol=1e-6)
    off = graph[~np.eye(60, dtype=bool)]
    assert abs(off.mean()) < 0.02
    assert off.std() == pytest.approx(16**-0.5, rel=0.1)
    other = np.asarray(SOURCES["random"]({"id": ids}, {"id": ids}, seed=1))
    assert abs(np.corrcoef(off, other[~np.eye(60, dtype=bool)])[0, 1]) < 0.1


def test_float16_embeddings_give_float32_similarities():
    half = U["caption_embedding"].astype(np.float16)
    got = SOURCES["caption"]({"caption_embedding": half}, {"caption_embedding": half})
    assert got.dtype == jnp.float32
    unit = half.astype(np.float64) / np.linalg.norm(half.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(got, unit @ unit.T, atol=1e-6)
