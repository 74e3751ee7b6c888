"""What should be similar: graph sources.

A source is a function of side information, never a stored matrix: `source(u, v) -> [A, K]` float32, where `u` and
`v` are dicts of arrays with one row per anchor and per key. Higher means more similar; 1 is "the same". All sources
look at one pair at a time, so that a tile of a graph needs only the tile's rows; all but ONE_WAY are symmetric,
source(u, v) = source(v, u) transposed. Side information:

    id                  int   [A]      image id; the views of an image share it, -1 = nothing (equal to nothing)
    id_words            int   [A, 2]   the id in the two words that random numbers are drawn from (augment/ids.py)
    label               int   [A]      class index, -1 = unknown (equal to nothing, not even to another unknown)
    labels              0/1   [A, C]   several labels of one image
    path                int   [A, L]   nodes of a tree from below the root to the leaf, -1 = above this depth
    target              float [A, R]   real-valued labels
    cluster             int   [A, M]   clusters of M clusterings, -1 = unknown
    caption_embedding   float [A, E]   frozen text embedding of the caption, any norm > 0
    class_embedding     float [A, E]   frozen embedding of the text of the class, gathered by label
    box                 float [A, 4]   crop of the view in its image: y, x, height, width, each in 0..1
    embedding           float [A, D]   the row's own embedding, without gradient
    other_view, view_0  float [A, D]   embedding of the next view, of view 0, ... of the image, without gradient
    second_label        int   [A]      another class that the anchor is compared in
    text, image         float [A, D]   embedding of the image's text, mean embedding of its views, without gradient
    index               int   [A]      which record of the dataset it is of
    row                 int   [A]      number of the row in the step, -1 = a key of no image of the batch
    teacher             float [A, D]   embedding of the next view by the EMA encoder (a key's own, for teacher keys)
    same_view_teacher   float [A, D]   embedding of the row's own view by the EMA encoder
    frozen              float [A, F]   features of the row's own view by the frozen teacher, unit rows
    frozen_pair         float [A, D]   embedding of the row's own view, or of a text, by the frozen teacher, unit rows
    first, partner      int   [A]      ids of the two images that a mixed row is made of; beta float [A]: share of first
    first_label, partner_label  int [A]    their classes
    past                float [A, P]   cosines of the image with P fixed columns some visits ago
    column              int   [A]      which of them a key is
"""

import jax
import jax.numpy as jnp

from xsample_jax.augment.ids import fold_in_id, words_of
from xsample_jax.errors import ConfigError
from xsample_jax.models.heads import cosines
from xsample_jax.registry import Slot

MEASURES = ("wu_palmer", "path")


def identity(u: dict, v: dict) -> jax.Array:
    """1 where both rows are views of one image: the graph of SimCLR and CLIP."""
    same = (u["id"][:, None] == v["id"][None, :]) & (u["id"][:, None] >= 0)
    return same.astype(jnp.float32)


def same_record(u: dict, v: dict) -> jax.Array:
    """1 where both rows are of one record of the dataset: an image and its row of the bank (InstDisc)."""
    return (u["index"][:, None] == v["index"][None, :]).astype(jnp.float32)


def uniform(u: dict, v: dict) -> jax.Array:
    """1 everywhere: mixed with another graph it is label smoothing."""
    return jnp.ones((u["id"].shape[0], v["id"].shape[0]), jnp.float32)


def label(u: dict, v: dict) -> jax.Array:
    """1 where both rows are of one image or of one known class: the graph of SupCon."""
    known = u["label"][:, None] >= 0
    same = (u["label"][:, None] == v["label"][None, :]) & known
    return jnp.maximum(same.astype(jnp.float32), identity(u, v))


def labels(u: dict, v: dict) -> jax.Array:
    """Jaccard index of the label sets, |intersection| / |union|; 1 for views of one image."""
    u_set, v_set = u["labels"].astype(jnp.float32), v["labels"].astype(jnp.float32)
    common = u_set @ v_set.T
    union = u_set.sum(axis=1)[:, None] + v_set.sum(axis=1)[None, :] - common
    return jnp.maximum(common / jnp.maximum(union, 1), identity(u, v))


def cluster(u: dict, v: dict) -> jax.Array:
    """1 where both rows are of one image, or in one known cluster of every clustering: subclasses of SBCL."""
    same = (u["cluster"][:, None, :] == v["cluster"][None, :, :]) & (u["cluster"][:, None, :] >= 0)
    return jnp.maximum(jnp.all(same, axis=-1).astype(jnp.float32), identity(u, v))


def other_label(u: dict, v: dict) -> jax.Array:
    """1 where both classes are known and differ: the graph that contrastive unlearning attracts along."""
    known = (u["label"][:, None] >= 0) & (v["label"][None, :] >= 0)
    return ((u["label"][:, None] != v["label"][None, :]) & known).astype(jnp.float32)


def caption(u: dict, v: dict) -> jax.Array:
    """Cosine of the caption embeddings: the graph of X-CLR on captioned images (arXiv 2407.18134)."""
    return cosines(u["caption_embedding"], v["caption_embedding"])


def class_text(u: dict, v: dict) -> jax.Array:
    """Cosine of the embeddings of the class texts: the graph of X-CLR on ImageNet (arXiv 2407.18134, appendix A.7)."""
    return cosines(u["class_embedding"], v["class_embedding"])


def kernel(u: dict, v: dict, *, bandwidth: float = 1.0, power: float = 2.0) -> jax.Array:
    """exp(-|t_i - t_k|^power / (2 bandwidth^power)) of real-valued labels: y-Aware with power 2 (arXiv 2106.08808)."""
    distance = jnp.sum(jnp.abs(u["target"][:, None, :] - v["target"][None, :, :]) ** 2, axis=-1) ** 0.5
    return jnp.exp(-0.5 * (distance / bandwidth) ** power)


def same_target(u: dict, v: dict) -> jax.Array:
    """1 where both rows are of one image, or have the same first real-valued label: SupReMix (arXiv 2309.16633)."""
    same = (u["target"][:, :1] == v["target"][None, :, 0]).astype(jnp.float32)
    return jnp.maximum(same, identity(u, v))


def hierarchy(u: dict, v: dict, *, measure: str = "wu_palmer") -> jax.Array:
    """Similarity of two leaves of a given tree, from the depth of their lowest common ancestor.

    wu_palmer: 2 depth(lca) / (depth_i + depth_k) (Wu and Palmer 1994), depths counted from the root = 1.
    path:      1 / (1 + edges between the leaves).
    A path of -1 alone is an unknown leaf: it has the depth of the tree and shares only the root, except with itself.
    """
    if measure not in MEASURES:
        raise ConfigError("measure", measure, " or ".join(MEASURES))
    depth_u, depth_v = (_depth(side["path"]) for side in (u, v))
    same = (u["path"][:, None, :] == v["path"][None, :, :]) & (u["path"][:, None, :] >= 0)
    shared = 1 + jnp.sum(jnp.cumprod(same, axis=-1), axis=-1)
    unknown = jnp.all(u["path"] < 0, axis=-1)[:, None]
    shared = jnp.where(unknown & (identity(u, v) > 0), depth_u[:, None], shared)
    both = depth_u[:, None] + depth_v[None, :]
    return 2 * shared / both if measure == "wu_palmer" else 1 / (1 + both - 2 * shared)


def _depth(path: jax.Array) -> jax.Array:
    """Depth of every leaf [A], the root's being 1."""
    known = jnp.sum(path >= 0, axis=-1)
    return 1 + jnp.where(known > 0, known, path.shape[-1])


def random(u: dict, v: dict, *, seed: int = 0, width: int = 16) -> jax.Array:
    """Cosines of random vectors drawn from the image ids: a graph that says nothing, the control of an ablation."""

    def vectors(ids):
        return jax.vmap(lambda i: jax.random.normal(fold_in_id(jax.random.key(seed), i), (width,)))(ids)

    return cosines(vectors(words_of(u)), vectors(words_of(v)))


def geometry(u: dict, v: dict) -> jax.Array:
    """Intersection over union of two crops of one image; 0 between images."""
    low, high = (lambda box: box[:, :2]), (lambda box: box[:, :2] + box[:, 2:])
    corner = jnp.maximum(low(u["box"])[:, None], low(v["box"])[None])
    extent = jnp.maximum(jnp.minimum(high(u["box"])[:, None], high(v["box"])[None]) - corner, 0)
    common = extent[..., 0] * extent[..., 1]
    area_u, area_v = (side["box"][:, 2] * side["box"][:, 3] for side in (u, v))
    return identity(u, v) * common / jnp.maximum(area_u[:, None] + area_v[None, :] - common, 1e-12)


def teacher(u: dict, v: dict, *, own: bool = True, queue_only: bool = False, same_view: bool = False) -> jax.Array:
    """Cosine of the embeddings by the EMA encoder: ReSSL, ALBEF.

    Without `own` the own pair is left out; with `queue_only` every key of an image of the batch is (SCE). With
    `same_view` they are those of the very views that are compared (MESA), else of the next view of each image.
    """
    name = "same_view_teacher" if same_view else "teacher"
    similarity = cosines(u[name], v[name])
    if queue_only:
        return jnp.where(v["row"][None, :] < 0, similarity, -1e30)
    return similarity if own else jnp.where(identity(u, v) > 0, -1e9, similarity)


def self_similarity(u: dict, v: dict, *, of_image: bool = False) -> jax.Array:
    """Cosine of the rows' own embeddings, without gradient; with `of_image` it is 1 between views of one image."""
    similarity = cosines(u["embedding"], v["embedding"])
    return jnp.where(identity(u, v) > 0, 1.0, similarity) if of_image else similarity


def text_similarity(u: dict, v: dict) -> jax.Array:
    """Cosine of the text tower's embeddings of both images, without gradient: the soft targets of M3CoL."""
    return cosines(u["text"], v["text"])


def image_similarity(u: dict, v: dict) -> jax.Array:
    """Cosine of the mean embeddings of both images' views, without gradient: the other soft targets of M3CoL."""
    return cosines(u["image"], v["image"])


def swapped(u: dict, v: dict, *, of: int | None = None) -> jax.Array:
    """Cosine of another view of the anchor (the next, or view `of`) with the key: SwAV, whose keys are prototypes."""
    return cosines(u["other_view" if of is None else f"view_{of}"], v["embedding"])


def swapped_keys(u: dict, v: dict) -> jax.Array:
    """Cosine of the anchor with another view of the key: the transpose of `swapped`."""
    return cosines(u["embedding"], v["other_view"])


def swapped_pair(u: dict, v: dict, *, of_anchor: int = 0, of_key: int = 0) -> jax.Array:
    """Cosine of the view `of_anchor` of the anchor with the view `of_key` of the key, both of their heads (SwALIP)."""
    return cosines(u[f"view_{of_anchor}"], v[f"view_{of_key}"])


def second_label(u: dict, v: dict) -> jax.Array:
    """1 where the key has the second class that the anchor is compared in (SimLAP)."""
    same = (u["second_label"][:, None] == v["label"][None, :]) & (v["label"][None, :] >= 0)
    return same.astype(jnp.float32)


def frozen(u: dict, v: dict) -> jax.Array:
    """Cosine of the features by a frozen teacher: SEED."""
    return cosines(u["frozen"], v["frozen"])


def frozen_pair(u: dict, v: dict) -> jax.Array:
    """Cosine of embeddings by a frozen teacher, of images by its head and of texts by its text side: DistillCLIP."""
    return cosines(u["frozen_pair"], v["frozen_pair"])


def past(u: dict, v: dict) -> jax.Array:
    """Cosine of the anchor's image with the key some visits ago, the key one of fixed columns: SAF."""
    return u["past"][:, v["column"]]


def own_center(u: dict, v: dict) -> jax.Array:
    """1 where the key is the center of the anchor's cluster in one of the clusterings: ProtoNCE of PCL and MEOW."""
    own = u["cluster"][:, v["clustering"]]
    return ((own == v["center"][None, :]) & (own >= 0)).astype(jnp.float32)


def mixed(u: dict, v: dict) -> jax.Array:
    """beta on the first image that a mixed anchor is made of, 1 - beta on its partner (M3CoL, arXiv 2409.17777)."""
    beta, of_key = u["beta"][:, None], v["id"][None, :]
    return beta * (u["first"][:, None] == of_key) + (1 - beta) * (u["partner"][:, None] == of_key)


def mixed_keys(u: dict, v: dict) -> jax.Array:
    """What a mixed key has of the anchor's image: the transpose of `mixed`."""
    return mixed(v, u).T


def mixed_labels(u: dict, v: dict) -> jax.Array:
    """What a mixed key has of the anchor's image or class: Metrix on mixed images (arXiv 2106.04990)."""

    def same(image, of_class):
        known = (u["label"][:, None] == v[of_class][None, :]) & (u["label"][:, None] >= 0)
        return (known | (u["id"][:, None] == v[image][None, :])).astype(jnp.float32)

    beta = v["beta"][None, :]
    return beta * same("first", "first_label") + (1 - beta) * same("partner", "partner_label")


def mixed_classes(u: dict, v: dict) -> jax.Array:
    """beta on the class of the first image that a mixed anchor is made of, 1 - beta on that of its partner."""
    first, partner = ((u[name][:, None] == v["label"][None, :]) & (u[name][:, None] >= 0) for name in OF_MIXED)
    beta = u["beta"][:, None]
    return beta * first + (1 - beta) * partner


OF_MIXED = ("first_label", "partner_label")


# A graph of neighbors, made of any similarity that is seen as a whole (a transform of targets.py).


def nearest(
    similarity: jax.Array, valid: jax.Array, *, k: int = 3, symmetric: bool = False, order: int = 1
) -> jax.Array:
    """1 for the k most similar valid keys of every row, else 0: a graph of neighbors (PamC).

    symmetric: keys are the rows themselves, in the same order; a row is its own neighbor, and i is near k if one of
    the two is among the neighbors of the other. With `order` > 1, also what is reached in that many steps.

    Raises ConfigError where keys cannot be the rows, and for an order above 1 of a graph that is not symmetric: there
    are no steps from key to key.
    """
    rows, keys = similarity.shape
    if symmetric and rows != keys:
        raise ConfigError("graph.transforms", "nearest, symmetric", "keys that are the anchors")
    if order > 1 and not symmetric:
        raise ConfigError("graph.transforms", f"nearest of order {order}", "order 1, or symmetric = True")
    own = valid & jnp.eye(rows, dtype=bool) if symmetric else jnp.zeros_like(valid)
    among = jnp.where(valid & ~own, similarity, -jnp.inf)
    lowest = jax.lax.top_k(among, min(k, keys))[0][:, -1:]
    near = (among >= lowest) & (among > -jnp.inf)
    if symmetric:
        near = (near | near.T | own) & valid
    step = near.astype(jnp.float32)
    for _ in range(order - 1):
        near = (near | (step @ near.astype(jnp.float32) > 0)) & valid
    return near.astype(similarity.dtype)


SOURCES = {
    "identity": Slot(identity, reads=("id",)),
    "same_record": Slot(same_record, reads=("index",)),
    "uniform": Slot(uniform, reads=("id",)),
    "label": Slot(label, reads=("id", "label")),
    "labels": Slot(labels, reads=("id", "labels")),
    "cluster": Slot(cluster, reads=("id", "cluster")),
    "other_label": Slot(other_label, reads=("label",)),
    "caption": Slot(caption, reads=("caption_embedding",)),
    "class_text": Slot(class_text, reads=("class_embedding",)),
    "kernel": Slot(kernel, reads=("target",), limits={"bandwidth": (1e-6, None), "power": (0.1, None)}),
    "same_target": Slot(same_target, reads=("id", "target")),
    "hierarchy": Slot(hierarchy, reads=("id", "path"), limits={"measure": MEASURES}),
    "random": Slot(random, reads=("id_words",), limits={"width": (1, 4096), "seed": (0, 2**32 - 1)}),
    "geometry": Slot(geometry, reads=("id", "box")),
    "teacher": Slot(
        teacher,
        reads=("teacher",),
        learns=("teacher",),
        chosen=lambda own=True, queue_only=False, same_view=False: {
            "reads": ("same_view_teacher" if same_view else "teacher", *(() if own or queue_only else ("id",))),
            "of_keys": ("row",) if queue_only else (),
        },
    ),
    "self_similarity": Slot(
        self_similarity,
        reads=("embedding",),
        chosen=lambda of_image=False: {"reads": ("embedding", "id") if of_image else ("embedding",)},
    ),
    "text_similarity": Slot(text_similarity, reads=("text",), learns=("text",)),
    "image_similarity": Slot(image_similarity, reads=("image",), learns=("text",)),
    "swapped": Slot(
        swapped,
        of_anchors=("other_view",),
        of_keys=("embedding",),
        views=2,
        limits={"of": (0, 64)},
        chosen=lambda of=None: {} if of is None else {"of_anchors": (f"view_{of}",), "views": of + 1},
    ),
    "swapped_keys": Slot(swapped_keys, of_anchors=("embedding",), of_keys=("other_view",), views=2),
    "swapped_pair": Slot(
        swapped_pair,
        of_anchors=("view_0",),
        of_keys=("view_0",),
        limits={"of_anchor": (0, 64), "of_key": (0, 64)},
        chosen=lambda of_anchor=0, of_key=0: {
            "of_anchors": (f"view_{of_anchor}",),
            "of_keys": (f"view_{of_key}",),
        },
    ),
    "second_label": Slot(second_label, of_anchors=("second_label",), of_keys=("label",), learns=("gate",)),
    "frozen": Slot(frozen, reads=("frozen",), learns=("frozen",)),
    "frozen_pair": Slot(frozen_pair, reads=("frozen_pair",), learns=("frozen_texts",)),
    "past": Slot(past, of_anchors=("past",), of_keys=("column",), learns=("past",)),
    "own_center": Slot(own_center, of_anchors=("cluster",), of_keys=("clustering", "center"), learns=("centers",)),
    "mixed": Slot(mixed, of_anchors=("first", "partner", "beta"), of_keys=("id",)),
    "mixed_keys": Slot(mixed_keys, of_anchors=("id",), of_keys=("first", "partner", "beta")),
    "mixed_labels": Slot(
        mixed_labels,
        of_anchors=("id", "label"),
        of_keys=("first", "partner", "beta", *OF_MIXED),
    ),
    "mixed_classes": Slot(mixed_classes, of_anchors=("beta", *OF_MIXED), of_keys=("label",)),
}

# Not symmetric: anchors and keys give different things.
ONE_WAY = ("swapped", "swapped_keys", "swapped_pair", "second_label", "own_center", "mixed", "mixed_keys")
ONE_WAY += ("mixed_labels", "mixed_classes", "past")
