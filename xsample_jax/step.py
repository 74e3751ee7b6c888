"""The pure update: (state, batch) -> (state, metrics). The only place where gradients are taken."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xsample_jax.augment.ids import copies_of, with_numbers, words_of
from xsample_jax.augment.views import draw_numbers, eval_view, view_boxes, views_from_numbers
from xsample_jax.faults.non_finite import finite_diagnostics, keep_if
from xsample_jax.models.attention import with_kernels
from xsample_jax.models.convnext import VARIANTS, draw_blocks
from xsample_jax.models.heads import products, unit_rows
from xsample_jax.models.layers import pool_windows
from xsample_jax.models.param_groups import ParamGroups
from xsample_jax.models.thin import thin_pass
from xsample_jax.models.vit import draw_patches
from xsample_jax.objectives.adversary import Adversary, Guests, Opponent, take_turn
from xsample_jax.objectives.bank import clusters_of, renew_clusters
from xsample_jax.objectives.frozen import with_frozen
from xsample_jax.objectives.generative import generative_metrics
from xsample_jax.objectives.learned_state import (
    bias_of,
    clamped,
    momentum_at,
    move_teacher,
    recall,
    refresh_teacher,
    teacher_params,
    temperature_of,
)
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.side_information import STATES
from xsample_jax.objectives.step_blocks import StepInputs, hard_batch, step_blocks, view_batch
from xsample_jax.objectives.streaming.loss import Streaming
from xsample_jax.objectives.style_noise import make_disturbance
from xsample_jax.objectives.terms import StepValues
from xsample_jax.objectives.trajectory import divergence_of_past
from xsample_jax.optim import averaged
from xsample_jax.state import ModelDef, TrainState, float32, moved, to_flat, updated, warm_up

LEFT_OUT = 2**20 + 6  # folded into the key of the step for the patches, or blocks, that are left out
LOCAL_SEED = 2**20  # small crops are drawn from another seed than the views of the same image


def local_crops(augment):
    """The augment section for small crops: their size and area, the rest as for the views without `per_view`."""
    local = augment.copy_and_resolve_references()
    local.size, local.crop_scale, local.per_view = augment.local_size, augment.local_crop_scale, ()
    return local


def key_of_step(config, state: TrainState) -> jax.Array:
    """The random key of a step, from which all others of it are made."""
    return jax.random.fold_in(jax.random.key(config.seed, impl="threefry2x32"), state.step)


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
            return views_from_numbers(images, draw_numbers(seed, state.step, ids, views, copies), augment)

        made = make(batch["image"], words_of(batch), copies)
        return made if guests is None else guests.other_views(made, make, views, copies)

    local, boxes = objective.local_views, None
    if STATES["cells"](objective):
        shape = (config.views, *batch["image"].shape[1:3])
        boxes = view_boxes(words_of(batch), config.seed, state.step, config.augment, shape, copies)
    key = key_of_step(config, state)
    left_out, keep = (jax.random.fold_in(key, LEFT_OUT), words_of(batch), copies), None
    if config.model.patch_dropout:
        shape = (config.views, (config.augment.size // config.model.patch_size) ** 2)
        keep = draw_patches(*left_out, shape, config.model.patch_dropout)
    elif config.model.drop_path:
        keep = draw_blocks(*left_out, config.views, VARIANTS[config.model.encoder].blocks)
    return StepInputs(
        images=views_of(config.augment, config.views, config.seed),
        local=views_of(local_crops(config.augment), local, config.seed + LOCAL_SEED) if local else None,
        boxes=boxes,
        batch=batch,
        memory=state.memory,
        progress=state.step / steps,
        key=key,
        keep=keep,
    )


def teacher_embeddings(objective: Objective, teacher: nnx.Module, inputs: StepInputs) -> dict:
    """Embeddings of the views (and texts) by the EMA encoder and its named heads, without gradient; batch norms use
    the batch."""
    _, raw, named = teacher.outputs(inputs.images)
    found = {"image": unit_rows(raw), "image_heads": named}
    if objective.text is not None:
        found["text"] = teacher.embed_text(inputs.batch)
        found["text_heads"] = teacher.project_named("text", teacher.text_features(inputs.batch))
    read = {rows.block for rows in objective.rows}
    if "teacher_cells" in read:  # of the second view, which the first one is compared with
        found["cells"] = teacher_cells(teacher, inputs)
    if "teacher_words" in read:
        found["words"] = teacher.embed_words(inputs.batch)
    if objective.hard_texts:
        found["hard_text"] = teacher.embed_text(hard_batch(inputs.batch, inputs.key, objective.hard_texts)[0])
    if objective.text_views:
        versions = view_batch(inputs.batch, inputs.key, objective.text_views)
        found["text_views"] = teacher.embed_text(versions)
        found["text_views_heads"] = teacher.project_named("text", teacher.text_features(versions))
    return jax.lax.stop_gradient(found)


# Exact large batches with a bounded encoder memory (GradCache, Gao et al. 2021, arXiv 2101.06983).
#
# A contrastive loss couples all rows of a batch, so its gradient is not the mean of the gradients of smaller batches.
# Instead the images go through the encoder in chunks, the loss sees all embeddings at once, and the backward pass
# encodes every chunk a second time: the memory of one chunk's activations, one more forward pass, the same gradient.
#
# Batch norms see one chunk at a time, which is another function than with the whole batch: smaller statistics, as on
# several devices without synchronization. Running statistics are the means over the chunks. Encoders with layer norms
# (ViT, with `model.head.batch_norm = false`) give the gradient of the whole batch up to rounding.


def embed_in_chunks(
    model: ModelDef, params: dict, statistics: dict, inputs: StepInputs, views: int, chunks: int
) -> tuple[jax.Array, dict[str, jax.Array], dict]:
    """Outputs of all heads on all views, `chunks` parts of the batch one after the other.

    Args:
      inputs: of which images [B * views, S, S, 3] and keep are read, row = image * views + view; B a multiple of
        `chunks`.

    Returns:
      (head outputs [B * views, D], those of named heads, statistics after the step: means over the chunks).
      Every chunk takes every `chunks`-th image, so that on a mesh each device encodes its own rows of each chunk.
    """

    @jax.checkpoint
    def encode(parts):
        network = model.merge(params, statistics, training=True)
        _, *rows = network.outputs(*(part.reshape(-1, *part.shape[2:]) for part in parts))
        by_image = jax.tree.map(lambda z: z.reshape(-1, views, *z.shape[1:]), tuple(rows))
        return by_image, to_flat(nnx.split(network, nnx.Param, ...)[2])

    given = [inputs.images] if inputs.keep is None else [inputs.images, inputs.keep]
    rows, new = jax.lax.map(encode, [jnp.moveaxis(x.reshape(-1, chunks, views, *x.shape[1:]), 1, 0) for x in given])
    z, named = jax.tree.map(lambda z: jnp.moveaxis(z, 0, 1).reshape(-1, *z.shape[3:]), rows)
    return z, named, {name: value.mean(axis=0) for name, value in new.items()}


# Online probe: a linear classifier of the labels that is trained along, on the features of every step.
#
# No gradient of it reaches the encoder, and its weights are kept in the memory of the train state, outside of what the
# optimizer updates, clips and reports: the encoder learns the same with and without it. Its accuracy on a batch, taken
# before the batch changes it, tells during the run whether the features get better; it is not a result to report, as
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


def teacher_cells(teacher: nnx.Module, inputs: StepInputs) -> jax.Array:
    """Unit rows [B * C, D] of the C windows of view 1 of every image by the EMA encoder (TCL), image by image."""
    views = len(inputs.images) // len(inputs.batch["id"])
    pooled = pool_windows(teacher.cells(inputs.images[1::views]))
    return unit_rows(teacher.head(pooled.reshape(-1, pooled.shape[-1])))


def make_loss(
    config,
    model: ModelDef,
    objective: Objective,
    how: Streaming,
    frozen: ModelDef | None = None,
    thin: ModelDef | None = None,
) -> Callable:
    """The loss of a step as a function of (params, statistics, StepInputs), whose gradient the step takes.

    It returns (loss, (statistics after the step, memory, metrics, z [B * V, D], features [B * V, F])); the features are
    None where the images go through the encoder in chunks. A batch of another size than the config's goes in one piece.
    frozen, thin: the frozen teacher and the thin network of an objective that has one.
    """

    groups, class_texts = ParamGroups.of(config.optimizer), how and how.class_embeddings

    def loss_of(params, statistics, inputs: StepInputs, how: Streaming | None = how):
        params, inputs = groups.hold(params), with_frozen(objective, frozen, inputs)
        inputs = dataclasses.replace(inputs, class_texts=class_texts)
        temperature = temperature_of(objective, params)
        network = model.merge(params, statistics, training=True)
        encoded = {}  # statistics of the image side, where it went through the encoder in chunks
        features = None
        images = len(inputs.batch["id"])
        if config.loss.grad_cache > 1 and images == config.batch_size:
            chunks = config.loss.grad_cache
            raw, named, new = embed_in_chunks(model, params, statistics, inputs, config.views, chunks)
            of_image = ("encoder/", "head/", *(f"heads/modules/{name}/" for name in named))
            encoded = {name: value for name, value in new.items() if name.startswith(of_image)}
        elif STATES["decoder"](objective):
            features, raw, tokens = network.with_tokens(inputs.images)
            named, inputs = network.project_named("image", features), dataclasses.replace(inputs, tokens=tokens)
        else:
            features, raw, named = network.outputs(inputs.images, inputs.keep if inputs.style is None else inputs.style)
        slimmed = {}
        if thin is not None:
            rows, slimmed = thin_pass(thin, network, params, statistics, inputs.images)
            inputs = dataclasses.replace(inputs, slim=rows)
        inputs = dataclasses.replace(inputs, features=features)
        blocks = step_blocks(objective, network, params, inputs, raw, named)
        blocks, memory = recall(objective, blocks, inputs.memory, inputs.batch, temperature)
        at = StepValues(bias_of(params), inputs.progress, inputs.key)
        loss, metrics = objective_loss(objective, blocks, images, temperature, at, how)
        new_statistics = to_flat(nnx.split(network, nnx.Param, ...)[2]) | encoded | slimmed
        metrics |= generative_metrics(blocks["image"], metrics, math.prod(inputs.images.shape[1:]))
        if objective.past:
            metrics["past_divergence"] = divergence_of_past(objective, blocks, temperature)
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

        key = jax.random.fold_in(key_of_step(config, state), TURN)
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


def with_clusters(
    config, objective: Objective, state: TrainState, batch: Mapping[str, jax.Array], mesh: Mesh | None
) -> tuple[TrainState, Mapping[str, jax.Array]]:
    """The state before a step with clusters renewed where that is due, and the batch with those of its images."""
    clusters = objective.clusters
    if clusters is None:
        return state, batch
    memory = renew_clusters(clusters, state.memory, state.step, key_of_step(config, state), mesh)
    return dataclasses.replace(state, memory=memory), {**batch, **clusters_of(memory, batch, clusters)}


def choose_streaming(config, objective: Objective, mesh: Mesh | None, class_embeddings: np.ndarray | None) -> Streaming:
    """How the loss of a step is computed, as config.loss says."""
    names = ("impl", "block_size", "kernel", "collective", "comm_dtype", "caption_comm_dtype", "groups")
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


@dataclasses.dataclass(frozen=True)
class StepExtras:
    """What only some runs have.

    Attributes:
      mesh: over which a streamed loss splits its rows.
      class_embeddings: [classes, E], for graphs of class texts.
      adversary: makes some of the images (adversary.py).
      frozen: the frozen teacher. thin: the thin network.
    """

    mesh: Mesh | None = None
    class_embeddings: np.ndarray | None = None
    adversary: Adversary | None = None
    frozen: ModelDef | None = None
    thin: ModelDef | None = None


def finite_norms(of_turn: Mapping[str, jax.Array]) -> list[jax.Array]:
    """Whether the norms among the metrics of what climbs are finite."""
    return [jnp.isfinite(value) for name, value in of_turn.items() if name.endswith("_norm")]


def make_train_step(
    config,
    model: ModelDef,
    objective: Objective,
    optimizer: tuple[optax.GradientTransformation, Callable],
    steps: int,
    extras: StepExtras,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """The train step for a config, to be jitted with a donated state.

    A batch is uint8 images [B, H, W, C] with their side information (one row per image); all V * B views go through
    the encoder in one call, row = image * V + view, so batch norms see one global batch. The loss is a function of
    global arrays: under jit its value and gradient do not depend on the number of devices. A record that is twice in a
    batch (where epochs meet, in small or balanced sets) gets different views each time.

    Args:
      optimizer: (transformation, learning rate by step). steps: of the whole run.
    """
    (transformation, schedule), mesh, adversary = optimizer, extras.mesh, extras.adversary
    how = choose_streaming(config, objective, mesh, extras.class_embeddings)
    loss_of = make_loss(config, model, objective, how, extras.frozen, extras.thin)
    turn = make_turn(config, model, objective, adversary, loss_of, steps) if adversary is not None else None
    disturb = make_disturbance(config, model, loss_of) if config.model.style_noise.kind is not None else None

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        if mesh is not None and mesh.shape["tensor"] > 1:  # devices along the tensor axis work on the same images
            batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
        batch = with_numbers(batch)
        if extras.class_embeddings is not None:  # every device has them: nothing travels
            batch = batch | {"class_embedding": jnp.asarray(extras.class_embeddings)[batch["label"]]}
        state, batch = with_clusters(config, objective, at_task(objective, state, batch), batch, mesh)
        guests, climbed, of_turn = None, {}, {}
        if turn is not None:
            climbed, guests, of_turn = turn(state, batch)
            batch = guests.seated(batch)
        inputs = with_teacher(model, objective, state, make_inputs(config, objective, state, batch, steps, guests))
        if disturb is not None:
            inputs, climbed, of_turn = disturb(state, inputs)
        descent = functools.partial(jax.grad(loss_of, has_aux=True), statistics=state.statistics, inputs=inputs)
        gradient, (statistics, memory, metrics, z, features) = descent(state.params)
        gradient = float32(gradient)
        again = {"grad_fn": lambda params, _: float32(descent(params)[0])} if config.optimizer.sam else {}
        updates, opt_state = transformation.update(gradient, state.opt_state, float32(state.params), **again)
        params = clamped(updated(state.params, updates, jax.random.fold_in(inputs.key, ROUNDING)))
        if objective.teacher is not None and not objective.by_task:
            metrics["teacher_momentum"] = momentum_at(objective.teacher, objective.teacher_end, inputs.progress)
            memory |= move_teacher(state.memory, params, metrics["teacher_momentum"])
        if config.eval.online_probe:
            probe, metrics["online_probe"] = train_online_probe(state.memory, features, batch["label"])
            memory |= probe
        metrics["learning_rate"] = schedule(state.step)
        if config.optimizer.ema is not None:
            metrics["ema_decay"] = warm_up(config.optimizer.ema, state.step + 1)
        ema = next_average(state, opt_state, params, statistics, metrics.get("ema_decay"))
        metrics |= finite_diagnostics(gradient, params, metrics["loss"], z)
        metrics |= of_turn | {"finite": functools.reduce(jnp.logical_and, finite_norms(of_turn), metrics["finite"])}
        new = TrainState(state.step + 1, params, statistics, opt_state, memory | climbed, ema)
        return keep_if(metrics["finite"], new, state) if config.faults.non_finite == "skip" else new, metrics

    return with_kernels(train_step, mesh if config.model.attention == "auto" else None)
