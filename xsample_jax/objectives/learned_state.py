"""What an objective remembers between steps: an EMA encoder, a queue of keys, numbers per image.

The memory is a flat dict of arrays in the train state, so checkpoints keep it and a resumed run is bit-exact:

    teacher/PATH              parameters of the EMA encoder
    queue/z [Q, D] ...        embeddings of past steps with their side information; queue/filled [Q], queue/next
    queue/text_z [Q, D]       embeddings of the texts of the same images, for objectives that compare with them
    center/...                centers of clusterings (objectives/cluster_centers.py)
    bank/...                  the latest embedding of every image, and its clusters (objectives/bank.py)
    bank/past, bank/visits    rows of every image over fixed columns, of its last visits (objectives/trajectory.py)
    image/log_average [n]     moving average of an image's denominator, as a logarithm (SogCLR)
    image/temperature [n], image/velocity [n]     an image's own temperature and its momentum (iSogCLR)
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from xsample_jax.augment.ids import fold_in_id
from xsample_jax.errors import ConfigError, did_you_mean, lookup
from xsample_jax.models.heads import products, unit_rows
from xsample_jax.objectives.bank import clusters_of, init_bank, remember
from xsample_jax.objectives.blocks import Block, key_block
from xsample_jax.objectives.cluster_centers import CENTER, center_block, init_centers, move_centers
from xsample_jax.objectives.logits import clamped_log_scale, initial_log_scale, learned_temperature
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.pair_network import init_pair_network
from xsample_jax.objectives.terms import Pairs, Term, log_denominators, negatives_of, pairs_of
from xsample_jax.objectives.trajectory import recall_past
from xsample_jax.registry import Choice, name_of, options_of
from xsample_jax.state import moved, start_average

TEACHER, QUEUE, IMAGE = "teacher/", "queue/", "image/"
TEXT_KEYS, FROZEN_KEYS = QUEUE + "text_z", QUEUE + "frozen_z"
QUEUES = {"queue": QUEUE + "z", "text_queue": TEXT_KEYS, "frozen_queue": FROZEN_KEYS}  # block: its rows in the memory
UNSEEN = -1e9  # log_average of an image that no step has seen yet


@dataclasses.dataclass(frozen=True)
class Average:
    """Constants of SogCLR (arXiv 2202.12387): values of the published unimodal code.

    gamma: share of the batch in the moving average of an image's denominator, above 0 and below 1.
    """

    gamma: float = 0.8


@dataclasses.dataclass(frozen=True)
class OwnTemperature(Average):
    """Constants of iSogCLR (arXiv 2305.11965): values of the published unimodal code.

    rho: radius of the robust objective; step: of the descent on a temperature; momentum: share of the new slope in its
    velocity; clip: largest slope; coldest, warmest: bounds of a temperature.
    """

    rho: float = 6.0
    step: float = 1e-3
    momentum: float = 0.9
    clip: float = 3.0
    coldest: float = 0.05
    warmest: float = 1.0


CONSTANTS = {"average": Average, "temperature": OwnTemperature}
SHARES = ("gamma", "momentum")  # constants that are at most 1


def constants_of(memory: Choice) -> Average:
    """The constants of the per-image memory: those that `memory` names, the published ones for the rest.

    Raises ConfigError for a constant that does not exist or is out of its range.
    """
    kind = lookup(CONSTANTS, name_of(memory), "objective.memory")
    options = options_of(memory)
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, value in options.items():
        if name not in known:
            expected = f"a constant of the memory {name_of(memory)!r}"
            raise ConfigError(f"objective.memory.{name}", value, expected, did_you_mean(name, known))
        limit = 1 if name in SHARES else 1e6
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= limit:
            raise ConfigError(f"objective.memory.{name}", value, f"a number above 0, at most {limit:g}")
    constants = kind(**options)
    if constants.gamma == 1 or (kind is OwnTemperature and constants.coldest > constants.warmest):
        expected = "gamma below 1, and coldest at most warmest"
        raise ConfigError("objective.memory", options, expected)
    return constants


def init_memory(
    objective: Objective,
    params: Mapping[str, jax.Array],
    width: int,
    images: int,
    side: Mapping[str, jax.ShapeDtypeStruct],
    clusters: tuple[int, int] = (0, 0),
) -> dict[str, jax.Array]:
    """The memory before the first step.

    Args:
      params: parameters of the model, which the teacher starts as.
      width: D of the embeddings; images: number of images of the training split.
      side: shapes [B, ...] of the batch entries that the queue keeps beside the embeddings.
      clusters: how many clusterings there are, and the most clusters of one, for an objective with centers.
    """
    memory = {}
    if objective.teacher is not None:
        of_model = {name: value for name, value in params.items() if not name.startswith("objective/")}
        memory |= {TEACHER + name: value for name, value in start_average(of_model).items()}
    if objective.by_task:
        memory[TASK] = jnp.zeros((), jnp.int32)
    if objective.queue:
        size = objective.queue
        memory |= {QUEUE + name: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype) for name, leaf in side.items()}
        memory[QUEUE + "z"] = jnp.zeros((size, width), jnp.float32)
        wanted = {rows.block for rows in objective.rows} & {"text_queue", "frozen_queue"}
        memory |= {QUEUES[name]: jnp.zeros((size, width), jnp.float32) for name in wanted}
        memory[QUEUE + "filled"] = jnp.zeros((size,), bool)
        memory[QUEUE + "next"] = jnp.zeros((), jnp.int32)
    if objective.centers:
        memory |= init_centers(clusters, width) | {CENTER + "images": jnp.asarray(images, jnp.float32)}
    if objective.bank is not None:
        memory |= init_bank(objective.bank, objective.clusters, images, width)
    if objective.memory is not None:
        memory[IMAGE + "log_average"] = jnp.full((images,), UNSEEN, jnp.float32)
        constants = constants_of(objective.memory)
    if own_temperatures(objective):
        start = min(max(objective.temperature, constants.coldest), constants.warmest)
        memory[IMAGE + "temperature"] = jnp.full((images,), start, jnp.float32)
        memory[IMAGE + "velocity"] = jnp.zeros((images,), jnp.float32)
    return memory


def teacher_params(memory: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Parameters of the EMA encoder."""
    return {name.removeprefix(TEACHER): value for name, value in memory.items() if name.startswith(TEACHER)}


TASK = "teacher_task"  # the task whose beginning the teacher of an objective `by_task` was taken from


def refresh_teacher(
    memory: Mapping[str, jax.Array], params: Mapping[str, jax.Array], task: jax.Array
) -> dict[str, jax.Array]:
    """The memory before a step on a batch of a task: where the task has just begun, the teacher is the student.

    task: int [B], the same for all images. It is the batch that says where a task begins, so a run that is resumed or
    rolled back has the same teacher.
    """
    now = jnp.max(task)
    begun = now > memory[TASK]
    fresh = start_average({name: params[name] for name in teacher_params(memory)})
    moved_on = {TEACHER + name: jnp.where(begun, value, memory[TEACHER + name]) for name, value in fresh.items()}
    return {**memory, **moved_on, TASK: jnp.maximum(now, memory[TASK])}


def momentum_at(start: float, end: float | None, progress: jax.Array) -> jax.Array | float:
    """The momentum of the EMA encoder when the share `progress` of the run is over: end - (end - start) times half of
    1 + cos(pi progress), as in BYOL; end: None: it stays at `start`."""
    return start if end is None else end - (end - start) * (1 + jnp.cos(jnp.pi * progress)) / 2


def move_teacher(
    memory: Mapping[str, jax.Array], params: Mapping[str, jax.Array], momentum: jax.Array | float
) -> dict[str, jax.Array]:
    """The teacher one step closer to the parameters: momentum * teacher + (1 - momentum) * parameters."""
    return {TEACHER + name: value for name, value in moved(teacher_params(memory), params, momentum).items()}


def queue_block(memory: Mapping[str, jax.Array], keys: str = QUEUE + "z") -> Block:
    """The queue as keys; rows that were never filled are not valid keys. The teacher graph reads the keys themselves.

    keys: queue/z, or those of the texts of the same images, or of their features by a frozen teacher (QUEUES).
    """
    side = {name.removeprefix(QUEUE): value for name, value in memory.items() if name.startswith(QUEUE)}
    side = {name: value for name, value in side.items() if name not in ("z", "text_z", "frozen_z", "next")}
    own = {"frozen" if keys == FROZEN_KEYS else "teacher": memory[keys]}
    return key_block(memory[keys], **own, **side)


def queue_blocks(objective: Objective, memory: Mapping[str, jax.Array]) -> dict[str, Block]:
    """The blocks of the queue by name; clusters of a bank are those of today, not of when an entry was made."""
    blocks = {name: queue_block(memory, keys) for name, keys in QUEUES.items() if keys in memory}
    for block in blocks.values() if objective.clusters is not None else ():
        block |= clusters_of(memory, block, objective.clusters)
    return blocks


def own_temperatures(objective: Objective) -> bool:
    """Whether every image has a temperature of its own."""
    return objective.memory is not None and name_of(objective.memory) == "temperature"


def nearest(memory: Mapping[str, jax.Array], z: jax.Array) -> jax.Array:
    """The most similar queue entry of every row, without gradient; the row itself while the queue is empty. [n, D]."""
    z, queue, filled = jax.lax.stop_gradient(z), memory[QUEUE + "z"], memory[QUEUE + "filled"]
    best = jnp.argmax(jnp.where(filled[None, :], products(z, queue), -jnp.inf), axis=1)
    return jnp.where(jnp.any(filled), queue[best], z)


def push(memory: Mapping[str, jax.Array], keys: Block) -> dict[str, jax.Array]:
    """The queue after `keys` [n, ...] have taken the place of its oldest entries."""
    size, start = len(memory[QUEUE + "filled"]), memory[QUEUE + "next"]
    count = len(keys["z"])
    if count > size:
        keys = {name: value[:size] for name, value in keys.items()}
        count = size
    places = (start + jnp.arange(count)) % size
    new = {}
    for name, value in memory.items():
        if name.startswith(QUEUE) and name != QUEUE + "next":
            entry = keys["filled"] if name == QUEUE + "filled" else keys[name.removeprefix(QUEUE)]
            new[name] = value.at[places].set(jax.lax.stop_gradient(entry).astype(value.dtype))
    return new | {QUEUE + "next": (start + count) % size}


def without_labels(memory: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The memory with the labels of kept rows unknown: they were numbers of other class names than those of today."""
    return {name: jnp.full_like(leaf, -1) if name.endswith("/label") else leaf for name, leaf in memory.items()}


def recall(
    objective: Objective, blocks: Mapping[str, Block], memory: Mapping[str, jax.Array], batch: Mapping, temperature
) -> tuple[dict[str, Block], dict[str, jax.Array]]:
    """The blocks with what is remembered of their images, and the memory after this batch (but for the teacher).

    Denominators are averaged before the loss reads them, so that an image seen for the first time has its own value.
    """
    blocks, new = dict(blocks), dict(memory)
    images = len(batch["id"])
    if objective.queue:
        keys = blocks["teacher"] if objective.teacher is not None else blocks["image"]
        keys = {name: value[:: len(keys["z"]) // images] for name, value in keys.items()}
        if TEXT_KEYS in memory:
            keys["text_z"] = blocks["text_teacher" if objective.teacher is not None else "text"]["z"]
        if FROZEN_KEYS in memory:
            keys["frozen_z"] = blocks["frozen"]["z"][:: len(blocks["frozen"]["z"]) // images]
        new |= push(memory, keys)
    of_rows = blocks["teacher" if objective.teacher is not None else "image"]
    if objective.bank is not None:
        first_views = of_rows["z"][:: len(of_rows["z"]) // images]
        new |= remember(memory, batch, first_views, objective.bank.momentum)
    if objective.centers:
        if objective.clusters is None:
            new |= move_centers(memory, of_rows["z"], of_rows["cluster"])
        blocks["centers"] = center_block(new, memory[CENTER + "images"])
    if objective.past:
        past, kept = recall_past(objective, blocks, memory, batch["index"])
        new |= kept
        blocks["image"] = blocks["image"] | {"past": past}
    if objective.memory is None:
        return blocks, new
    index, views = batch["index"], len(blocks["image"]["z"]) // images
    own, constants = own_temperatures(objective), constants_of(objective.memory)
    image = blocks["image"]
    if own:
        kept = jnp.clip(memory[IMAGE + "temperature"], constants.coldest, constants.warmest)
        memory = {**memory, IMAGE + "temperature": kept}
        image = image | {"anchor_temperature": jnp.repeat(kept[index], views)}
    term = objective.terms[0]
    still, tau = jax.lax.stop_gradient((blocks | {"image": image}, temperature))
    pairs = pairs_of(term, still, images, tau, objective.target_temperature)
    log_average = averaged(memory, index, denominator_means(term, pairs, images, gap=own), constants.gamma)
    new[IMAGE + "log_average"] = memory[IMAGE + "log_average"].at[index].set(log_average)
    if own:
        slope = temperature_slope(term, pairs, log_average, constants.rho, images)
        new |= cool_temperatures(memory, index, slope, constants)
    blocks["image"] = image | {"log_average": jnp.repeat(log_average, views)}
    return blocks, new


def averaged(memory: Mapping[str, jax.Array], index: jax.Array, log_means: jax.Array, gamma: float) -> jax.Array:
    """log of (1 - gamma) u + gamma mean for the images `index` [B]; their first mean itself when unseen. [B].

    An image without a negative in this batch (a mean of UNSEEN) keeps its average.
    """
    before = memory[IMAGE + "log_average"][index]
    mixed = jnp.logaddexp(before + jnp.log1p(-gamma), log_means + jnp.log(gamma))
    mixed = jnp.where(before <= UNSEEN, log_means, mixed)
    return jnp.where(log_means <= UNSEEN, before, mixed)


def denominator_means(term: Term, pairs: Pairs, images: int, gap: bool) -> jax.Array:
    """log of the mean of e^S over the negatives of each image [B], views averaged; with `gap` of e^{S - S+}.

    UNSEEN for an image without negatives.
    """
    values = log_denominators(term, pairs)
    values = values - jnp.log(jnp.maximum(jnp.sum(negatives_of(term, pairs), axis=-1), 1))
    if gap:
        values = values - jnp.sum(pairs.target * pairs.logits, axis=-1)
    by_image = values.reshape(images, -1)
    found = jnp.any(negatives_of(term, pairs) > 0, axis=-1).reshape(images, -1)
    total = jax.nn.logsumexp(by_image, axis=1, where=found) - jnp.log(jnp.maximum(found.sum(axis=1), 1))
    return jnp.where(jnp.any(found, axis=1), total, UNSEEN)


def temperature_slope(term: Term, pairs: Pairs, log_average: jax.Array, rho: float, images: int) -> jax.Array:
    """Slope of every image's robust objective in its temperature, [B] (iSogCLR, alg. 1, line 7).

    d/d tau of  tau log mean_k e^{h_k / tau} + tau rho,  h_k = s_k - s_+:  log u + rho - sum_k w_k h_k / tau, with k
    over the negatives of all views of the image and w_k in proportion to e^{h_k / tau}.
    """
    positive = jnp.sum(pairs.target * pairs.logits, axis=-1, keepdims=True)
    gaps = pairs.logits - positive  # h_k / tau
    negative = negatives_of(term, pairs) > 0
    weights = jax.nn.softmax(jnp.where(negative, gaps, -1e9).reshape(images, -1), axis=-1)
    mean_gap = jnp.sum(weights * jnp.where(negative, gaps, 0.0).reshape(images, -1), axis=-1)
    # No negative yet: nothing to descend on.
    return jnp.where(log_average <= UNSEEN, 0.0, log_average + rho - mean_gap)


def cool_temperatures(
    memory: Mapping[str, jax.Array], index: jax.Array, slope: jax.Array, constants: OwnTemperature
) -> dict[str, jax.Array]:
    """One step of gradient descent on the temperatures of the images of a batch (iSogCLR, alg. 1, lines 8, 9).

    velocity <- (1 - momentum) velocity + momentum slope, as in the published code: the new slope has the larger share.
    """
    slope = jnp.clip(slope, -constants.clip, constants.clip)
    velocity = (1 - constants.momentum) * memory[IMAGE + "velocity"][index] + constants.momentum * slope
    tau = memory[IMAGE + "temperature"]
    moved_tau = jnp.clip(tau[index] - constants.step * velocity, constants.coldest, constants.warmest)
    return {
        IMAGE + "temperature": tau.at[index].set(moved_tau),
        IMAGE + "velocity": memory[IMAGE + "velocity"].at[index].set(velocity),
    }


# What an objective learns besides the model: temperature, bias, prototypes, and the gate of SimLAP.


# They live among the parameters of the model, under names that optimizer masks and checkpoints share.
LOG_SCALE, BIAS, PROTOTYPES = "objective/log_scale", "objective/bias", "objective/prototypes"
CLASSES = "objective/classes"
GATE_CLASSES, GATE_HIDDEN, GATE_OUT = "objective/gate/classes", "objective/gate/hidden", "objective/gate/out"
GATE_WIDTH = 128


def init_objective_parameters(
    objective: Objective, width: int, classes: int, seed: int, images: int = 1
) -> dict[str, jax.Array]:
    """Initial parameters of an objective on embeddings of `width` D; `classes`: number of classes, for the gate;
    `images`: of a batch, for a network of channels."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), 4)
    found = {}
    if objective.classes:
        key = jax.random.fold_in(jax.random.key(seed), 2)
        found[CLASSES] = jax.random.normal(key, (classes, width)) / jnp.sqrt(width)
    if objective.learn_temperature:
        found[LOG_SCALE] = initial_log_scale(objective.temperature)
    own = {name: head.temperature for name, head in objective.heads.items() if isinstance(head.temperature, float)}
    found |= {log_scale_of(name): initial_log_scale(start) for name, start in own.items()}
    if objective.pair_network is not None:
        found |= init_pair_network(objective.pair_network, width, images, jax.random.fold_in(keys[0], 1))
    if objective.bias is not None:
        found[BIAS] = jnp.asarray(objective.bias, jnp.float32)
    if objective.prototypes:
        found[PROTOTYPES] = jax.random.normal(keys[0], (objective.prototypes, width)) / jnp.sqrt(width)
    if objective.gate:
        found[GATE_CLASSES] = jax.random.normal(keys[1], (classes, GATE_WIDTH))
        found[GATE_HIDDEN] = jax.random.normal(keys[2], (GATE_WIDTH, 2 * GATE_WIDTH)) * jnp.sqrt(2 / GATE_WIDTH)
        found[GATE_OUT] = jax.random.normal(keys[3], (2 * GATE_WIDTH, width)) * jnp.sqrt(1 / GATE_WIDTH)
    return found


def clamped(params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The parameters of a step after its update, learned temperatures within their bounds."""

    def learned(name: str) -> bool:  # of the objective, or of one of its heads
        return name.startswith("objective/") and name.endswith("/log_scale")

    return {name: clamped_log_scale(value) if learned(name) else value for name, value in params.items()}


def temperature_of(objective: Objective, params: Mapping[str, jax.Array]) -> jax.Array | float:
    """The base temperature: learned where there is a parameter for it."""
    return learned_temperature(params[LOG_SCALE]) if LOG_SCALE in params else objective.temperature


def log_scale_of(head: str) -> str:
    """The path of the parameter behind the temperature of a named head."""
    return f"objective/heads/{head}/log_scale"


def temperature_of_head(params: Mapping[str, jax.Array], head: str) -> jax.Array:
    """The learned temperature of a named head."""
    return learned_temperature(params[log_scale_of(head)])


def bias_of(params: Mapping[str, jax.Array]) -> jax.Array | float:
    """The bias of the logits."""
    return params.get(BIAS, 0.0)


def prototypes_of(params: Mapping[str, jax.Array]) -> jax.Array:
    """Unit prototypes [P, D]."""
    return unit_rows(params[PROTOTYPES])


def prototype_block(params: Mapping[str, jax.Array]) -> Block:
    """The block of the prototypes; column says which one a row is."""
    z = prototypes_of(params)
    return key_block(z, column=jnp.arange(len(z), dtype=jnp.int32))


def classes_of(params: Mapping[str, jax.Array]) -> Block:
    """The block of the learned rows of all classes: unit rows [C, D], row c with the label c."""
    z = unit_rows(params[CLASSES])
    columns = jnp.arange(len(z), dtype=jnp.int32)
    return key_block(z, label=columns, column=columns)


def gate_of(params: Mapping[str, jax.Array], first: jax.Array, second: jax.Array) -> jax.Array:
    """What is let through when classes `first` and `second` [A] are compared: 0..1, [A, D], symmetric in the two.

    sigmoid of an MLP on the mean of two class embeddings (SimLAP, arXiv 2410.18200), here without its batch norms:
    the input is a lookup table, which has no scale that would need one. Everything is let through where one of the
    classes is unknown (-1).
    """
    known = (first >= 0) & (second >= 0)
    first, second = (jnp.where(known, classes, 0) for classes in (first, second))
    both = (params[GATE_CLASSES][first] + params[GATE_CLASSES][second]) / 2
    gate = jax.nn.sigmoid(jax.nn.relu(jax.nn.relu(both) @ params[GATE_HIDDEN]) @ params[GATE_OUT])
    return jnp.where(known[:, None], gate, 1.0)


def second_classes(key: jax.Array, ids: jax.Array, label: jax.Array) -> jax.Array:
    """The class of another image of the batch for every image [B]: the second one that it is compared in.

    The other image follows in an order drawn from the key and the image ids, whatever their order in the batch.
    -1 where one of the two has no class.
    """
    drawn = jax.vmap(lambda id: jax.random.uniform(fold_in_id(key, id)))(ids)
    order = jnp.argsort(drawn)
    second = jnp.zeros_like(label).at[order].set(jnp.roll(label[order], -1))
    return jnp.where(label >= 0, second, -1)
