"""The pure update: (state, batch) -> (state, metrics). The only place where gradients are taken."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from xsample_jax.data.augment import make_views
from xsample_jax.objectives.dense import objective_loss
from xsample_jax.objectives.presets import Objective
from xsample_jax.objectives.temperature import learned_temperature
from xsample_jax.state import LOG_SCALE, ModelDef, TrainState, to_flat

SIDE_INFORMATION = ("id", "label", "caption_embedding", "class_embedding")


def make_train_step(
    config, model: ModelDef, objective: Objective, optimizer: optax.GradientTransformation, schedule: Callable
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """The train step for a config, to be jitted with a donated state.

    A batch is uint8 images [B, H, W, C] with their side information (one row per image); all V * B views go through
    the encoder in one call, row = image * V + view, so batch norms see one global batch. The loss is a function of
    global arrays: under jit its value and gradient do not depend on the number of devices.
    """
    views = config.views

    def loss_of(params, statistics, images, batch):
        temperature = learned_temperature(params[LOG_SCALE]) if LOG_SCALE in params else objective.temperature
        network = model.merge(params, statistics, training=True)
        _, z = network.embed(images)
        per_image = {name: batch[name] for name in SIDE_INFORMATION if name in batch}
        embeddings = {"image": z}
        side = {"image": {name: jnp.repeat(value, views, axis=0) for name, value in per_image.items()}}
        if objective.text is not None:
            embeddings["text"], side["text"] = network.embed_text(batch), per_image
        loss, metrics = objective_loss(objective, embeddings, side, temperature)
        new_statistics = to_flat(nnx.split(network, nnx.Param, ...)[2])
        return loss, (new_statistics, metrics | {"temperature": jnp.asarray(temperature, jnp.float32)})

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        images = make_views(batch["image"], batch["id"], config.seed, state.step, config.augment, views)
        gradient, (statistics, metrics) = jax.grad(loss_of, has_aux=True)(state.params, state.statistics, images, batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= {"learning_rate": schedule(state.step), "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, params, statistics, opt_state), metrics

    return train_step
