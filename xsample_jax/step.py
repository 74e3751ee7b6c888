"""The pure update: (state, batch) -> (state, metrics). The only place where gradients are taken."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xsample_jax.augment.views import copies_of, eval_view, make_views
from xsample_jax.faults.non_finite import finite_diagnostics, keep_if
from xsample_jax.models.param_groups import ParamGroups
from xsample_jax.objectives.adversary import Adversary, Guests, Opponent, take_turn
from xsample_jax.objectives.frozen import frozen_features, move_class_means
from xsample_jax.objectives.learned_state import (
    QUEUES,
    bias_of,
    clamped,
    classes_of,
    gate_of,
    move_teacher,
    nearest,
    prototypes_of,
    queue_block,
    recall,
    refresh_teacher,
    second_classes,
    teacher_params,
    temperature_of,
)
from xsample_jax.objectives.mixed_rows import mixed_blocks
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.side_information import BY_RECORD
from xsample_jax.objectives.streaming.loss import Streaming
from xsample_jax.objectives.terms import Block, image_block, key_block, other_view
from xsample_jax.ops import products, unit_rows
from xsample_jax.optim import averaged
from xsample_jax.state import ModelDef, TrainState, float32, moved, to_flat, updated, warm_up

# From a batch to the blocks that an objective compares: one encoder call for all views, and whatever else it needs.


LOCAL_SEED = 2**20  # small crops are drawn from another seed than the views of the same image
# Entries of a batch that graphs read, one row per image.
SIDE_INFORMATION = ("id", "label", "path", "caption_embedding", "class_embedding", "part", *BY_RECORD)


@dataclasses.dataclass(frozen=True)
class StepInputs:
    """What the blocks of a step are made of.

    Attributes:
      images: views [B * V, S, S, 3]; local: small crops [B * L, s, s, 3] or None.
      batch: the batch of the host, one row per image.
      memory: what the objective remembers (objectives/learned_state.py).
      teacher: embeddings of the EMA encoder: image [B * V, D], and text [B, D] where there is a text side.
      frozen: features [B * V, F] of the frozen teacher, and the means of the images' classes [B, F] where a term reads
        them.
      progress: share of the run that is over. key: random key of the step.
    """

    images: jax.Array
    local: jax.Array | None
    batch: Mapping[str, jax.Array]
    memory: Mapping[str, jax.Array]
    progress: jax.Array
    key: jax.Array
    teacher: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
    frozen: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)


def local_crops(augment):
    """The augment section for small crops: their size and area, the rest as for the views without `per_view`."""
    local = augment.copy_and_resolve_references()
    local.size, local.crop_scale, local.per_view = augment.local_size, augment.local_crop_scale, ()
    return local


def make_inputs(
    config,
    objective: Objective,
    state: TrainState,
    batch: Mapping[str, jax.Array],
    steps: int,
    guests: Guests | None = None,
) -> StepInputs:
    """The views of a batch, and what else a step of a run of `steps` steps reads; no embeddings of a teacher yet.

    guests: generated images that are seated in the batch, every second view of which is of a second generator.
    """
    copies = copies_of(batch["id"])

    def views_of(augment, views, seed):
        def make(images, ids, copies):
            return make_views(images, ids, seed, state.step, augment, views, copies)

        made = make(batch["image"], batch["id"], copies)
        return made if guests is None else guests.other_views(made, make, views, copies)

    local = objective.local_views
    return StepInputs(
        images=views_of(config.augment, config.views, config.seed),
        local=views_of(local_crops(config.augment), local, config.seed + LOCAL_SEED) if local else None,
        batch=batch,
        memory=state.memory,
        progress=state.step / steps,
        key=jax.random.fold_in(jax.random.key(config.seed, impl="threefry2x32"), state.step),
    )


def teacher_embeddings(objective: Objective, teacher: nnx.Module, inputs: StepInputs) -> dict[str, jax.Array]:
    """Embeddings of the views (and texts) by the EMA encoder, without gradient; batch norms use the batch."""
    found = {"image": teacher.embed(inputs.images)[1]}
    if objective.text is not None:
        found["text"] = teacher.embed_text(inputs.batch)
    return jax.lax.stop_gradient(found)


def step_blocks(
    objective: Objective,
    network: nnx.Module,
    params: Mapping[str, jax.Array],
    inputs: StepInputs,
    raw: jax.Array,
) -> dict[str, Block]:
    """The blocks of a step by name (objectives/terms.py). raw [B * V, D]: head outputs of the views, of any length."""
    z = unit_rows(raw)
    per_image = {name: inputs.batch[name] for name in SIDE_INFORMATION if name in inputs.batch}
    images = len(per_image["id"])
    views = len(z) // images
    text = network.embed_text(inputs.batch) if objective.text is not None else None
    if objective.gate:
        # Every image is compared in its own class and in that of another image of the batch.
        second = second_classes(inputs.key, per_image["id"], per_image["label"])
        per_image |= {"second_label": second, "gate": gate_of(params, per_image["label"], second)}
    if text is not None:
        mean = jax.lax.stop_gradient(z).reshape(images, views, -1).mean(axis=1)
        per_image |= {"text": jax.lax.stop_gradient(text), "image": mean}
    of_view = {f"view_{view}": jax.lax.stop_gradient(z[view::views]) for view in range(views)}
    teacher = inputs.teacher
    other = {"other_view": other_view(z, views)} | ({"raw": raw} if objective.raw else {})
    if teacher:
        other |= {"teacher": other_view(teacher["image"], views)}
        if "same_view_teacher" in objective.reads:
            other |= {"same_view_teacher": teacher["image"]}
    if inputs.frozen:
        unit = unit_rows(inputs.frozen["features"])
        other |= {"frozen": unit, "frozen_features": inputs.frozen["features"]}
        per_image |= {"class_center": inputs.frozen["means"]} if "means" in inputs.frozen else {}
    blocks = {"image": image_block(z, per_image | of_view, views, 0, **other)}
    if inputs.frozen:
        of_frozen = {"frozen": unit, "frozen_features": inputs.frozen["features"]}
        blocks["frozen"] = image_block(unit, per_image, views, 9 * len(z), **of_frozen)
    if text is not None:
        own = {"teacher": teacher["text"]} if teacher else {}
        blocks["text"] = image_block(text, per_image, 1, len(z), **own)
    if teacher:
        of_teacher = image_block(teacher["image"], per_image, views, 2 * len(z), teacher=teacher["image"])
        blocks["teacher"] = of_teacher
    if teacher and text is not None:
        of_texts = image_block(teacher["text"], per_image, 1, 6 * len(z), teacher=teacher["text"])
        blocks["text_teacher"] = of_texts
    if objective.queue:
        kept = {name: keys for name, keys in QUEUES.items() if keys in inputs.memory}
        blocks |= {name: queue_block(inputs.memory, keys) for name, keys in kept.items()}
        if any(rows.block == "neighbors" for rows in objective.rows):
            blocks["neighbors"] = image_block(nearest(inputs.memory, z), per_image, views, 5 * len(z))
    if objective.prototypes:
        blocks["prototypes"] = key_block(prototypes_of(params))
    if objective.classes:
        blocks["classes"] = classes_of(params)
    if objective.local_views:
        _, local = network.embed(inputs.local)
        blocks["local"] = image_block(local, per_image | of_view, len(local) // images, 3 * len(z))
    blocks |= mixed_blocks(blocks, objective.rows, inputs.key, images)
    if objective.predictor:
        blocks["predicted"] = image_block(network.predict(z), per_image, views, 4 * len(z))
    return blocks


# Exact large batches with a bounded encoder memory (GradCache, Gao et al. 2021, arXiv 2101.06983).
#
# A contrastive loss couples all rows of a batch, so its gradient is not the mean of the gradients of smaller batches.
# Instead the images go through the encoder in chunks, the loss sees all embeddings at once, and the backward pass
# encodes
# every chunk a second time: the memory of one chunk's activations, one more forward pass, the same gradient.
#
# Batch norms see one chunk at a time, which is another function than with the whole batch: smaller statistics, as on
# several devices without synchronization. Running statistics are the means over the chunks. Encoders with layer norms
# (ViT, with `model.head.batch_norm = false`) give the gradient of the whole batch up to rounding.


def embed_in_chunks(
    model: ModelDef, params: dict, statistics: dict, images: jax.Array, views: int, chunks: int
) -> tuple[jax.Array, dict]:
    """Head outputs of all views, `chunks` parts of the batch one after the other.

    Args:
      images: [B * views, S, S, 3], row = image * views + view; B a multiple of `chunks`.

    Returns:
      (head outputs [B * views, D], statistics after the step: means over the chunks). Every chunk takes every
      `chunks`-th image, so that on a mesh each device encodes its own rows of each chunk.
    """

    @jax.checkpoint
    def encode(part):
        network = model.merge(params, statistics, training=True)
        _, z = network.project(part.reshape(-1, *part.shape[2:]))
        return z.reshape(-1, views, z.shape[-1]), to_flat(nnx.split(network, nnx.Param, ...)[2])

    parts = images.reshape(-1, chunks, views, *images.shape[1:])
    z, new = jax.lax.map(encode, jnp.moveaxis(parts, 1, 0))
    return jnp.moveaxis(z, 0, 1).reshape(-1, z.shape[-1]), {name: value.mean(axis=0) for name, value in new.items()}


# Online probe: a linear classifier of the labels that is trained along, on the features of every step.
#
# No gradient of it reaches the encoder, and its weights are kept in the memory of the train state, outside of what the
# optimizer updates, clips and reports: the encoder learns the same with and without it. Its accuracy on a batch, taken
# before the batch changes it, tells during the run whether the features get better; it is no result to report,
# as
# features move under the probe and views are augmented (tools.evaluate measures those).


PROBE = "online_probe/"
RATE, MOMENTUM = 0.1, 0.9


def init_online_probe(features: int, classes: int) -> dict[str, jax.Array]:
    """The memory of a probe on features [., features] before the first step."""
    shapes = {"weights": (features, classes), "bias": (classes,)}
    return {
        f"{PROBE}{name}{kind}": jnp.zeros(shape, jnp.float32)
        for name, shape in shapes.items()
        for kind in ("", "_speed")
    }


def train_online_probe(
    memory: Mapping[str, jax.Array], features: jax.Array, labels: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
    """One step of SGD with momentum on the cross-entropy of a batch.

    Args:
      memory: of which the entries of the probe are read.
      features: [B * V, F], row = image * V + view; standardized over the batch here.
      labels: int [B], -1 where an image has none (its rows are left out).

    Returns:
      (the new entries of the probe, its accuracy on the rows before this step).
    """
    x = jax.lax.stop_gradient(features).astype(jnp.float32)
    x = (x - x.mean(axis=0)) / jnp.sqrt(x.var(axis=0) + 1e-5)
    labels = jnp.repeat(labels, len(x) // len(labels))
    logits = products(x, memory[PROBE + "weights"].T) + memory[PROBE + "bias"]
    share = (labels >= 0) / jnp.maximum(jnp.sum(labels >= 0), 1)
    accuracy = jnp.sum(share * (jnp.argmax(logits, axis=-1) == labels))
    # Gradient of the mean cross-entropy with respect to the logits; one_hot(-1) is a row of zeros.
    error = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[1])) * share[:, None]
    gradient = {"weights": products(x.T, error.T), "bias": error.sum(axis=0)}
    new = {}
    for name, slope in gradient.items():
        speed = MOMENTUM * memory[f"{PROBE}{name}_speed"] + slope
        new |= {f"{PROBE}{name}_speed": speed, PROBE + name: memory[PROBE + name] - RATE * speed}
    return new, accuracy


ROUNDING = 1  # folded into the key of the step for the rounding of bfloat16 parameters
TURN = 2**20 + 1  # and for the turn of the adversary


def with_frozen(objective: Objective, frozen: ModelDef | None, inputs: StepInputs) -> StepInputs:
    """The inputs with the features of the frozen teacher, and a memory whose means of classes have seen this batch."""
    if frozen is None:
        return inputs
    features = frozen_features(frozen, inputs.memory, inputs.images)
    if "class_center" not in objective.reads:
        return dataclasses.replace(inputs, frozen={"features": features})
    means, new = move_class_means(inputs.memory, features, inputs.batch["label"])
    memory = {**inputs.memory, **new}
    return dataclasses.replace(inputs, frozen={"features": features, "means": means}, memory=memory)


def make_loss(
    config, model: ModelDef, objective: Objective, how: Streaming, frozen: ModelDef | None = None
) -> Callable:
    """The loss of a step as a function of (params, statistics, StepInputs), whose gradient the step takes.

    It returns (loss, (statistics after the step, memory, metrics, z [B * V, D], features [B * V, F])); the features are
    None where the images go through the encoder in chunks. A batch of another size than the config's goes in one piece.
    frozen: the frozen teacher of an objective that has one.
    """

    groups = ParamGroups.of(config.optimizer)

    def loss_of(params, statistics, inputs: StepInputs, how: Streaming | None = how):
        params, inputs = groups.hold(params), with_frozen(objective, frozen, inputs)
        temperature = temperature_of(objective, params)
        network = model.merge(params, statistics, training=True)
        encoded = {}  # statistics of the image side, where it went through the encoder in chunks
        features = None
        images = len(inputs.batch["id"])
        if config.loss.grad_cache > 1 and images == config.batch_size:
            raw, new = embed_in_chunks(model, params, statistics, inputs.images, config.views, config.loss.grad_cache)
            encoded = {name: value for name, value in new.items() if name.startswith(("encoder/", "head/"))}
        else:
            features, raw = network.project(inputs.images)
        blocks = step_blocks(objective, network, params, inputs, raw)
        blocks, memory = recall(objective, blocks, inputs.memory, inputs.batch, temperature)
        loss, metrics = objective_loss(
            objective, blocks, images, temperature, bias_of(params), inputs.progress, inputs.key, how
        )
        new_statistics = to_flat(nnx.split(network, nnx.Param, ...)[2]) | encoded
        metrics["temperature"] = jnp.asarray(temperature, jnp.float32)
        return loss, (new_statistics, memory, metrics, blocks["image"]["z"], features)

    return loss_of


def make_turn(config, model: ModelDef, objective: Objective, adversary: Adversary, loss_of: Callable, steps: int):
    """The turn of the adversary before a step of the encoder, a function of (state, batch): `take_turn`, with the views
    and the loss of a run of `steps` steps."""

    def turn(state: TrainState, batch: Mapping[str, jax.Array]):
        def contrast(images, rows):
            guests = Guests(np.arange(len(images[0])), images, rows, True)
            inputs = make_inputs(config, objective, state, {**rows, "image": images[0]}, steps, guests)
            inputs = with_teacher(model, objective, state, inputs)
            return loss_of(state.params, state.statistics, inputs, None)[0]

        def embed(images):
            network = model.merge(state.params, state.statistics, training=True)
            return network.embed(eval_view(images, config.augment))[1]

        key = jax.random.fold_in(jax.random.key(config.seed, impl="threefry2x32"), state.step)
        key = jax.random.fold_in(key, TURN)
        return take_turn(adversary, state.memory, batch, key, state.step / steps, Opponent(contrast, embed))

    return turn


def with_teacher(model: ModelDef, objective: Objective, state: TrainState, inputs: StepInputs) -> StepInputs:
    """The inputs with the embeddings of the EMA encoder, for an objective that has one."""
    if objective.teacher is None:
        return inputs
    teacher = model.merge(teacher_params(state.memory), state.statistics, training=True)
    return dataclasses.replace(inputs, teacher=teacher_embeddings(objective, teacher, inputs))


def at_task(objective: Objective, state: TrainState, batch: Mapping[str, jax.Array]) -> TrainState:
    """The state before a step, where a task begins with the student as its teacher."""
    if not objective.by_task:
        return state
    return dataclasses.replace(state, memory=refresh_teacher(state.memory, state.params, batch["task"]))


def choose_streaming(config, objective: Objective, mesh: Mesh | None, class_embeddings: np.ndarray | None) -> Streaming:
    """How the loss of a step is computed, as config.loss says."""
    names = ("impl", "block_size", "kernel", "collective", "comm_dtype", "caption_comm_dtype")
    return Streaming(
        **{name: config.loss[name] for name in names},
        mesh=mesh,
        lowest_temperature=objective.lowest_temperature,
        class_embeddings=class_embeddings,
    )


def next_average(
    state: TrainState, opt_state, params: dict, statistics: dict, decay: jax.Array | None
) -> dict[str, jax.Array]:
    """What evaluations look at after an update to `params`: see TrainState.ema. decay: None without optimizer.ema."""
    if decay is not None:
        return moved(state.ema, params | statistics, decay)
    mean = averaged(opt_state, params)
    return {} if mean is None else mean | statistics


def make_train_step(
    config,
    model: ModelDef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: Callable,
    steps: int,
    mesh: Mesh | None = None,
    class_embeddings: np.ndarray | None = None,
    adversary: Adversary | None = None,
    frozen: ModelDef | None = None,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """The train step for a config, to be jitted with a donated state.

    A batch is uint8 images [B, H, W, C] with their side information (one row per image); all V * B views go through
    the encoder in one call, row = image * V + view, so batch norms see one global batch. The loss is a function of
    global arrays: under jit its value and gradient do not depend on the number of devices. `steps`: of the whole run;
    `mesh`: over which a streamed loss splits its rows; `class_embeddings` [classes, E]: for graphs of class texts. A
    record that is twice in a batch (where epochs meet, in small or balanced sets) gets different views each time.
    `adversary` makes some of the images (adversary.py), if any; `frozen`: the frozen teacher, if there is one.
    """

    loss_of = make_loss(config, model, objective, choose_streaming(config, objective, mesh, class_embeddings), frozen)
    turn = make_turn(config, model, objective, adversary, loss_of, steps) if adversary is not None else None

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        if mesh is not None and mesh.shape["tensor"] > 1:  # devices along the tensor axis work on the same images
            batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
        if class_embeddings is not None:  # every device has them: nothing travels
            batch = batch | {"class_embedding": jnp.asarray(class_embeddings)[batch["label"]]}
        state = at_task(objective, state, batch)
        guests, climbed, of_turn = None, {}, {}
        if turn is not None:
            climbed, guests, of_turn = turn(state, batch)
            batch = guests.seated(batch)
        inputs = make_inputs(config, objective, state, batch, steps, guests)
        inputs = with_teacher(model, objective, state, inputs)
        gradient, (statistics, memory, metrics, z, features) = jax.grad(loss_of, has_aux=True)(
            state.params, state.statistics, inputs
        )
        gradient = float32(gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, float32(state.params))
        params = clamped(updated(state.params, updates, jax.random.fold_in(inputs.key, ROUNDING)))
        if objective.teacher is not None and not objective.by_task:
            memory |= move_teacher(state.memory, params, objective.teacher)
        if config.eval.online_probe:
            probe, metrics["online_probe"] = train_online_probe(state.memory, features, batch["label"])
            memory |= probe
        metrics["learning_rate"] = schedule(state.step)
        if config.optimizer.ema is not None:
            metrics["ema_decay"] = warm_up(config.optimizer.ema, state.step + 1)
        ema = next_average(state, opt_state, params, statistics, metrics.get("ema_decay"))
        metrics |= finite_diagnostics(gradient, params, metrics["loss"], z)
        if turn is not None:
            memory |= climbed
            metrics |= of_turn | {"finite": metrics["finite"] & jnp.isfinite(of_turn["adversary_norm"])}
        new = TrainState(state.step + 1, params, statistics, opt_state, memory, ema)
        return keep_if(metrics["finite"], new, state) if config.faults.non_finite == "skip" else new, metrics

    return train_step
