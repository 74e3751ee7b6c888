"""The pure update: (state, batch) -> (state, metrics). The only place where gradients are taken."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xsample_jax.data.augment import copies_of, make_views
from xsample_jax.ema import moved, warmed_up
from xsample_jax.faults.non_finite import evidence, keep_if
from xsample_jax.grad_cache import embed_in_chunks
from xsample_jax.objectives.memory import moved_teacher, recall, teacher_params
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.parameters import bias_of, temperature_of
from xsample_jax.objectives.streamed import Streaming
from xsample_jax.online_probe import train_online_probe
from xsample_jax.precision import float32, updated
from xsample_jax.state import ModelDef, TrainState, to_flat
from xsample_jax.step_blocks import StepInputs, local_crops, step_blocks, teacher_embeddings

LOCAL_SEED = 2**20  # small crops are drawn from another seed than the views of the same image
ROUNDING = 1  # folded into the key of the step for the rounding of bfloat16 parameters


def make_train_step(
    config,
    model: ModelDef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: Callable,
    steps: int,
    mesh: Mesh | None = None,
    class_embeddings: np.ndarray | None = None,
    repeats: bool = False,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """The train step for a config, to be jitted with a donated state.

    A batch is uint8 images [B, H, W, C] with their side information (one row per image); all V * B views go through
    the encoder in one call, row = image * V + view, so batch norms see one global batch. The loss is a function of
    global arrays: under jit its value and gradient do not depend on the number of devices. `steps`: of the whole run;
    `mesh`: over which a streamed loss splits its rows; `class_embeddings` [classes, E]: for graphs of class texts;
    `repeats`: a record may stand in a batch more than once.
    """

    how = Streaming(
        **{name: config.loss[name] for name in ("impl", "tile", "tiles", "exchange", "wire", "caption_wire")},
        mesh=mesh,
        lowest_temperature=objective.lowest_temperature,
        class_embeddings=class_embeddings,
    )

    def loss_of(params, statistics, inputs: StepInputs):
        temperature = temperature_of(objective, params)
        network = model.merge(params, statistics, training=True)
        encoded = {}  # statistics of the image side, where it went through the encoder in chunks
        features = None
        if config.loss.grad_cache > 1:
            z, new = embed_in_chunks(model, params, statistics, inputs.images, config.views, config.loss.grad_cache)
            encoded = {name: value for name, value in new.items() if name.startswith(("encoder/", "head/"))}
        else:
            features, z = network.embed(inputs.images)
        blocks = step_blocks(objective, network, params, inputs, z, config.views)
        blocks, memory = recall(objective, blocks, inputs.memory, inputs.batch, temperature)
        loss, metrics = objective_loss(
            objective, blocks, config.batch_size, temperature, bias_of(params), inputs.progress, inputs.key, how
        )
        new_statistics = to_flat(nnx.split(network, nnx.Param, ...)[2]) | encoded
        metrics["temperature"] = jnp.asarray(temperature, jnp.float32)
        return loss, (new_statistics, memory, metrics, z, features)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        def views_of(augment, views, seed):
            return make_views(batch["image"], batch["id"], seed, state.step, augment, views, copies)

        if mesh is not None and mesh.shape["tensor"] > 1:  # devices along the tensor axis work on the same images
            batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
        if class_embeddings is not None:  # every device has them: nothing travels
            batch = batch | {"class_embedding": jnp.asarray(class_embeddings)[batch["label"]]}
        copies = copies_of(batch["id"]) if repeats else None
        local = objective.local_views
        inputs = StepInputs(
            images=views_of(config.augment, config.views, config.seed),
            local=views_of(local_crops(config.augment), local, config.seed + LOCAL_SEED) if local else None,
            batch=batch,
            memory=state.memory,
            progress=state.step / steps,
            key=jax.random.fold_in(jax.random.key(config.seed, impl="threefry2x32"), state.step),
        )
        if objective.teacher is not None:
            teacher = model.merge(teacher_params(state.memory), state.statistics, training=True)
            inputs = dataclasses.replace(inputs, teacher=teacher_embeddings(objective, teacher, inputs))
        gradient, (statistics, memory, metrics, z, features) = jax.grad(loss_of, has_aux=True)(
            state.params, state.statistics, inputs
        )
        gradient = float32(gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, float32(state.params))
        params = updated(state.params, updates, jax.random.fold_in(inputs.key, ROUNDING))
        if objective.teacher is not None:
            memory |= moved_teacher(state.memory, params, objective.teacher)
        if config.eval.online_probe:
            probe, metrics["online_probe"] = train_online_probe(state.memory, features, batch["label"])
            memory |= probe
        metrics["learning_rate"] = schedule(state.step)
        if config.optimizer.ema is not None:
            metrics["ema_decay"] = warmed_up(config.optimizer.ema, state.step + 1)
        ema = moved(state.ema, params | statistics, metrics["ema_decay"]) if state.ema else {}
        metrics |= evidence(gradient, params, metrics["loss"], z)
        new = TrainState(state.step + 1, params, statistics, opt_state, memory, ema)
        return keep_if(metrics["finite"], new, state) if config.faults.non_finite == "skip" else new, metrics

    return train_step
