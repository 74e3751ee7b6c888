"""An objective: weighted terms, temperatures, and what they need besides the batch; and its value on a batch."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from xsample_jax.graphs.sources import identity, label
from xsample_jax.graphs.targets import WITH_TEMPERATURE, parts_of, weight_at
from xsample_jax.models.heads import Head, unit_rows
from xsample_jax.objectives.bank import Bank, Clusters
from xsample_jax.objectives.blocks import OF_HEAD, Block, Rows, check_unit_rows, select
from xsample_jax.objectives.cluster_centers import cluster_metrics
from xsample_jax.objectives.cross_entropy import PULLED, PULLS, entropy, mean_over_rows, pulls
from xsample_jax.objectives.feature_losses import FEATURE_TERMS
from xsample_jax.objectives.links import OF_ORDER, OF_SHARES, positive_margin, z_scores
from xsample_jax.objectives.logits import LOWEST_TEMPERATURE
from xsample_jax.objectives.pair_network import PairNetwork
from xsample_jax.objectives.side_information import batch_entries
from xsample_jax.objectives.streaming.loss import Streaming
from xsample_jax.objectives.streaming.terms import streamed_term, why_no_kernels, why_not
from xsample_jax.objectives.terms import (
    AT_START,
    FeatureTerm,
    Pairs,
    StepValues,
    Term,
    chosen_slots,
    feature_value,
    negatives_of,
    pairs_of,
    term_value,
    views_apart,
)
from xsample_jax.registry import Choice, Slot, name_of, slot_of

# Entry of the batch that a text side reads.
TEXT_READS = {"linear": "caption_embedding", "transformer": "caption_tokens", "causal": "caption_tokens"}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A sum of weighted terms, with what they need.

    Attributes:
      terms, feature_terms: what is summed (objectives/terms.py).
      temperature: the base temperature tau, learned if `learn_temperature`; target_temperature: tau_s.
      bias: added to the logits and learned (SigLIP); None: none.
      center: take the batch mean off the text embeddings before their cosines.
      text: the text side: None, linear (of frozen caption embeddings), transformer (of tokens), or causal (of tokens,
        with a decoder of captions after it).
      teacher: momentum of the EMA encoder behind the block "teacher"; None: none. teacher_end: the momentum at the end
        of the run, to which it moves by half a cosine (BYOL, arXiv 2006.07733, section 3.2); None: it stays.
      frozen: features of the encoder of a finished run, the block "frozen", and what the loss of that run compared, the
        graph "frozen_pair" (objectives/frozen.py).
      queue: rows of the blocks "queue" and "text_queue", embeddings of past steps (the teacher's, where there is one),
        and "frozen_queue", features of the frozen teacher; 0: none.
      prototypes: rows of the learned block "prototypes", and of "meta", means of their clusters; 0: none.
      classes: learned unit rows, one for each class of the dataset, the block "classes": a classifier of the embedding.
      by_task: the teacher does not move, and is replaced by the student where a task of data.tasks begins.
      plan: the key of the plan of batches whose parts its terms compare, as "data.forget"; None: those of any.
      local_views: small crops per image, the block "local"; 0: none.
      predictor: a head on the student's embeddings that its keys do not have (MoCo v3, BYOL).
      gate: a learned gate of the pair of classes that an anchor is compared in (SimLAP).
      memory: what is kept per image between steps: None, average (SogCLR) or temperature (iSogCLR); with constants of
        their own as {"name": "temperature", "rho": 8.0} (objectives/learned_state.py).
      heads: heads with names, each after the one that it reads (models/heads.py); terms say which rows are of which.
      pair_network: a learned number of every pair (AMCL, AdaMEOW; objectives/pair_network.py).
      text_views: versions of every caption without some of its words, the block "text_views"; 0: none.
      hard_texts: versions of every caption with two words exchanged, the block "hard_text"; 0: none.
      centers: of the clusterings, the block "centers" (objectives/cluster_centers.py).
      bank: the latest embedding of every image of the dataset (objectives/bank.py); None: none.
      clusters: clusterings of the bank that follow the training, in place of those in data.side; None: those.
      past: how many visits ago the rows of images over fixed columns are that the graph "past" has; 0: none are kept
        (objectives/trajectory.py).
      mixing: how images, or features, are mixed: "mixed_images" and "mixed_features" (objectives/mixtures.py).
      slim: a second pass by the thin network of a ResNet, the block "slim" (models/thin.py).
      widths: (width, weight) of prefixes of the embedding, in place of the whole one (loss_of_widths); (): the whole.
    """

    terms: tuple[Term, ...]
    temperature: float
    target_temperature: float = 0.1
    feature_terms: tuple[FeatureTerm, ...] = ()
    learn_temperature: bool = False
    bias: float | None = None
    center: bool = False
    text: str | None = None
    teacher: float | None = None
    teacher_end: float | None = None
    frozen: bool = False
    queue: int = 0
    prototypes: int = 0
    classes: bool = False
    by_task: bool = False
    plan: str | None = None
    local_views: int = 0
    predictor: bool = False
    gate: bool = False
    memory: Choice | None = None
    widths: tuple[tuple[int, float], ...] = ()
    heads: Mapping[str, Head] = dataclasses.field(default_factory=dict)
    pair_network: PairNetwork | None = None
    centers: bool = False
    text_views: int = 0
    hard_texts: int = 0
    bank: Bank | None = None
    clusters: Clusters | None = None
    past: int = 0
    mixing: Choice = "hard_partners"
    slim: bool = False

    @property
    def lowest_temperature(self) -> float:
        """What tau cannot go below."""
        return LOWEST_TEMPERATURE if self.learn_temperature else self.temperature

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Everything that the terms and feature terms choose."""
        of_terms = [slot for term in self.terms for _, _, slot in chosen_slots(term)]
        return (*of_terms, *(slot_of(FEATURE_TERMS, term.name, "feature term") for term in self.feature_terms))

    @property
    def reads(self) -> frozenset[str]:
        """Side information that the slots of the terms read, the union of what they declare."""
        return frozenset(name for slot in self.slots for name in slot.anchor_reads | slot.key_reads)

    @property
    def raw(self) -> bool:
        """Whether a feature term reads outputs of the projection head before they are scaled to unit length."""
        slots = any(slot_of(FEATURE_TERMS, term.name, "feature term").raw for term in self.feature_terms)
        return slots or any(rows.raw and rows.head is None for rows in self.rows)

    @property
    def learns(self) -> frozenset[str]:
        """State that the slots of the terms need, the union of what they declare (side_information.STATES)."""
        return frozenset(name for slot in self.slots for name in slot.learns)

    @property
    def requires(self) -> frozenset[str]:
        """Entries of a batch that the slots, the text side and what is learned read."""
        text = {TEXT_READS[self.text]} if self.text is not None else set()
        own = ({"label"} if self.gate else set()) | ({"index"} if self.memory or self.bank or self.past else set())
        own |= {"cluster"} if self.centers else set()
        own |= {"task"} if self.by_task else set()
        own |= {"class_embedding"} if any(head.of == "class_text" for head in self.heads.values()) else set()
        parts = {"part"} if any(rows.part is not None for rows in self.rows) else set()
        found = batch_entries(self.reads) | text | own | parts
        if self.clusters is None:
            return found
        of_classes = {"class_temperature"} if self.clusters.by_class else set()
        return found - {"cluster"} - of_classes

    @property
    def log_variance(self) -> str | None:
        """The head of the log variances of the rows, which are then drawn and decoded; None: rows are not drawn."""
        return next((name for name, head in self.heads.items() if head.log_variance), None)

    @property
    def plans(self) -> frozenset[str]:
        """Keys of the plans of batches (data/plans.py) that it is made for: its own, and those of its slots."""
        found = {self.plan, "data.tasks" if self.by_task else None, *(slot.plan for slot in self.slots)}
        return frozenset(found - {None})

    @property
    def needs_class_names(self) -> bool:
        """Whether something is kept for every class: the texts of the classes, rows, or the gate."""
        return self.gate or self.classes or "class_embedding" in self.requires

    @property
    def rows(self) -> tuple[Rows, ...]:
        """Every selection of rows that a term makes."""
        found = []
        for term in self.terms:
            found += [term.anchors, *term.key_rows]
        for term in self.feature_terms:
            found += [term.x, term.y]
        return tuple(found)


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


def objective_loss(
    objective: Objective,
    blocks: Mapping[str, Block],
    images: int,
    temperature: jax.Array | float,
    at: StepValues = AT_START,
    how: Streaming | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of an objective on the global batch.

    Args:
      blocks: the rows of the step by name (objectives/terms.py).
      images: number of images B of the batch.
      temperature: the base temperature tau, a scalar.
      at: bias of the logits, progress of the run and random key.
      how: whether terms are written out densely or streamed; None: densely.
    Returns:
      loss (scalar, float32) and metrics of scalars: loss, those of graph_metrics (weighted as the terms are),
      kl = loss - H(T) where all of the loss is cross-entropy, and feature_NAME, the share that feature terms of that
      name have in the loss. With `widths` those of the first width, but for loss and kl, and the loss of each.

    Raises DataError for concrete embeddings that are not finite unit rows, ConfigError for a block that is not there.
    """
    check_unit_rows(blocks)
    if objective.widths:
        return loss_of_widths(objective, blocks, (images, temperature, at, how))
    if objective.center:
        blocks = {name: center_texts(block) for name, block in blocks.items()}
        # A table of all classes is not centered, and what is centered is not float16 any more.
        how = how and dataclasses.replace(how, class_embeddings=None, caption_comm_dtype="float32")
    progress, key = at.progress, at.key
    share = _sum_of_weights(objective, progress)
    reasons = dict(find_unstreamable(objective))
    loss, metrics, unknown = 0.0, {}, set()
    apart = [(n, one) for n, term in enumerate(objective.terms) for one in views_apart(term, blocks, images)]
    for number, term in apart:
        term_key = None if key is None else jax.random.fold_in(key, number)
        if how is not None and how.wants(reasons.get(number)):
            value, found = _streamed(term, blocks, images, (temperature, objective.target_temperature), at.bias, how)
        else:
            here = at._replace(key=term_key)
            pairs = pairs_of(term, blocks, images, temperature, objective.target_temperature, here)
            value, counted = term_value(term, pairs, images)
            found = graph_metrics(term, pairs, counted)
        loss += (weight := weight_at(term.weight, progress)) * value
        unknown |= set(PULLS) - found.keys()
        for name, metric in found.items():
            metrics[name] = metrics.get(name, 0.0) + weight / share * metric
    for number, whole in enumerate(objective.feature_terms, len(objective.terms)):
        term_key = None if key is None else jax.random.fold_in(key, number)
        for term in views_apart(whole, blocks, images):
            part = weight_at(term.weight, progress) * feature_value(term, blocks, images, term_key)
            name = f"feature_{name_of(term.name)}"
            metrics[name] = metrics.get(name, 0.0) + part
            loss += part
    metrics = {name: value for name, value in metrics.items() if name not in unknown} | {"loss": loss}
    metrics |= cluster_metrics(blocks.get("image", {}))
    if not objective.feature_terms and all(term.is_cross_entropy for term in objective.terms):
        metrics["kl"] = loss - share * metrics["target_entropy"]
    return loss, metrics


def _sum_of_weights(objective: Objective, progress: jax.Array | float) -> jax.Array | float:
    """Of the terms; 1 where it is 0, as what is divided by it is 0 then."""
    share = sum(weight_at(term.weight, progress) for term in objective.terms)
    return (share or 1.0) if isinstance(share, float | int) else jnp.where(share == 0, 1.0, share)


def loss_of_widths(
    objective: Objective, blocks: Mapping[str, Block], rest: tuple
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum of weight times loss over the prefixes of the embedding (Matryoshka, arXiv 2205.13147; 2506.20923).

    rest: the other arguments of objective_loss. What a term reads of the embedding is cut, and rows are scaled to unit
    length again; what was chosen by the whole embedding (the neighbors of NNCLR) stays chosen.
    """
    whole, loss, metrics = dataclasses.replace(objective, widths=()), 0.0, {}
    for width, weight in objective.widths:
        cut = {name: cut_rows(block, width) for name, block in blocks.items()}
        value, found = objective_loss(whole, cut, *rest)
        loss += weight * value
        kl = metrics.get("kl", 0.0) + weight * found["kl"] if "kl" in found else None
        metrics = {**found, **metrics, f"loss_width_{width}": value} | ({} if kl is None else {"kl": kl})
    return loss, metrics | {"loss": loss}


# Entries of a block that are embeddings; head outputs and gates keep their scale.
EMBEDDINGS = ("z", "embedding", "other_view", "teacher", "same_view_teacher", "text", "image")
SCALED = ("raw", "gate", "prompt")


def cut_rows(block: Block, width: int) -> Block:
    """The block with the first `width` numbers of every embedding, unit rows again."""

    def cut(name, value):
        if name in EMBEDDINGS or name.startswith("view_"):
            return unit_rows(value[:, :width])
        of_head = name.startswith(OF_HEAD) and "/" not in name.removeprefix(OF_HEAD)
        return value[..., :width] if name in SCALED or of_head else value

    return {name: cut(name, value) for name, value in block.items()}


def reads_target_temperature(objective: Objective) -> bool:
    """Whether any target of the objective has a tau_s that is the objective's, not the graph's own."""
    graphs = [graph for term in objective.terms for graph in parts_of(term.graph)]
    return any(g.target_temperature is None and name_of(g.normalizer) in WITH_TEMPERATURE for g in graphs)


def find_unstreamable(objective: Objective) -> list[tuple[int, str]]:
    """(number, reason) of every term that needs the whole matrix of pairs."""
    reasons = [why_not(term) for term in objective.terms]
    if not isinstance(objective.target_temperature, float | int):
        reasons = [reason or "its tau_s is a rule" for reason in reasons]
    return [(number, reason) for number, reason in enumerate(reasons) if reason]


def find_without_kernels(objective: Objective) -> list[tuple[int, str]]:
    """(number, reason) of every term that the kernels for TPU cannot do, of those that can be streamed."""
    lowest, tau_s, center = objective.lowest_temperature, objective.target_temperature, objective.center
    unstreamable = dict(find_unstreamable(objective))
    streamed = {n: term for n, term in enumerate(objective.terms) if n not in unstreamable}
    reasons = {n: why_no_kernels(term, lowest, tau_s, center) for n, term in streamed.items()}
    return [(number, reason) for number, reason in reasons.items() if reason]


def center_texts(block: Block) -> Block:
    """The block with the mean of its rows (of a queue: of those that are filled) taken off its text embeddings.

    Unit embeddings of a narrow-cone text encoder all point one way; what tells texts apart is what is left.
    """
    text = ("caption_embedding", "class_embedding")
    filled = block["filled"][:, None] if "filled" in block else None

    def off_mean(value):
        return value - jnp.mean(value.astype(jnp.float32), axis=0, where=filled)

    return {name: off_mean(value) if name in text else value for name, value in block.items()}


# What is logged of the graphs of a term: its lower bound, where its mass is, what pulls and what pushes.


def graph_metrics(term: Term, pairs: Pairs, counted: jax.Array) -> dict[str, jax.Array]:
    """What a target graph asks for, means over the counted anchors; rows scaled to sum to one.

    target_entropy H(T) in nats; own_view_mass: on views of the same image; same_class_mass: on the same label, own
    views included (only with labels); rows_without_positive: share of anchors that are left out;
    rows_without_negative: share of anchors that nothing is pushed away from; positive_z: z-score of the positives
    among all keys (of the link z only); positive_margin: how far the last positive of a row is above its nearest
    negative (of the link group_order only); weight_positive, weight_negative and weight_top_negative of `pulls` (of the
    cross-entropy and the sigmoid links, where views are not merged).
    """
    keys, counted_anchors = len(pairs.v["z"]), counted
    graph = pairs.target[:, :keys]
    graph = graph / jnp.maximum(graph.sum(axis=-1, keepdims=True), 1e-12)
    if len(counted) != len(graph):
        counted = graph.sum(axis=-1) > 0
    rows = {
        "target_entropy": entropy(graph),
        "own_view_mass": jnp.sum(graph * identity(pairs.u, pairs.v), axis=-1),
    }
    if "label" in pairs.u and "label" in pairs.v:
        rows["same_class_mass"] = jnp.sum(graph * label(pairs.u, pairs.v), axis=-1)
    if name_of(term.link) == "z":
        rows["positive_z"] = jnp.sum(graph * z_scores(pairs.logits, pairs.valid)[:, :keys], axis=-1)
    if name_of(term.link) == "group_order":
        rows["positive_margin"] = positive_margin(pairs.logits, pairs.target, pairs.valid)
    rows |= _pulls_of(term, pairs)
    metrics = {name: mean_over_rows(value, counted[: len(value)]) for name, value in rows.items()}
    repelled = jnp.any(_pushed(term, pairs), axis=-1)
    if len(counted_anchors) < len(repelled):  # merged views are one anchor
        repelled = jnp.any(repelled.reshape(len(counted_anchors), -1), axis=-1)
    return metrics | {
        "rows_without_positive": 1.0 - jnp.mean(counted_anchors),
        "rows_without_negative": 1.0 - jnp.mean(repelled),
    }


def _has_pulls(term: Term) -> bool:
    return not term.merge_views and (term.is_cross_entropy or name_of(term.link) in ("sigmoid", "sigmoid_mean"))


def _pulls_of(term: Term, pairs: Pairs) -> dict[str, jax.Array]:
    """`pulls` of the pairs of a term; {} for one that has none."""
    if not _has_pulls(term):
        return {}
    weight = negatives_of(term, pairs) if term.is_cross_entropy else pairs.valid
    return pulls(pairs.logits, pairs.target, weight, term.is_cross_entropy)


def _streamed(
    term: Term,
    blocks: Mapping[str, Block],
    images: int,
    temperatures: tuple,
    bias: jax.Array | float,
    how: Streaming,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Value and metrics of a term that is streamed, on one device with its `pulls`."""
    value, found = streamed_term(term, blocks, images, temperatures, bias, how)
    if how.mesh is None or how.mesh.size == 1:
        found |= _pulls_of_first(term, blocks, images, temperatures, bias)
    return value, found


def _pulls_of_first(
    term: Term, blocks: Mapping[str, Block], images: int, temperatures: tuple, bias: jax.Array | float
) -> dict[str, jax.Array]:
    """`pulls` of a term that is streamed: of the first rows alone, which are all that it is a mean over."""
    if not _has_pulls(term):
        return {}
    first = {name: value[:PULLED] for name, value in select(blocks, term.anchors, images).items()}
    term = dataclasses.replace(term, anchors=Rows("first"))
    still = jax.lax.stop_gradient(({**blocks, "first": first}, temperatures[0], bias))
    pairs = pairs_of(term, still[0], images, still[1], temperatures[1], StepValues(still[2]))
    counted = jnp.any(pairs.target > 0, axis=-1) if term.is_cross_entropy else jnp.ones(len(pairs.target), bool)
    return {name: mean_over_rows(value, counted) for name, value in _pulls_of(term, pairs).items()}


def _pushed(term: Term, pairs: Pairs) -> jax.Array:
    """Pairs that an anchor is pushed away from, bool [A, K]."""
    if name_of(term.link) in OF_ORDER:  # from what is not the best of its row
        return pairs.valid & (pairs.target < jnp.max(pairs.target, axis=-1, keepdims=True))
    if name_of(term.link) != "softmax":
        return pairs.valid & (pairs.target < 1 if name_of(term.link) in OF_SHARES else pairs.target <= 0)
    return negatives_of(term, pairs) > 0
