"""What learns how far the styles of images are disturbed: it climbs the loss that the encoder descends (AdvStyle).

AdvStyle (Zhang et al., arXiv 2301.12643) adds noise to the mean and the standard deviation of every channel of an image
after some stages of a network. How much of it a channel gets, A for means and B for deviations, is learned against the
network: before every step of the encoder A and B are updated `updates` times so that the loss of the batch rises. The
noise itself is in models/resnet.py. With kind "dsu" (arXiv 2202.03958) A and B are those of the batch, and nothing is
learned.

The state is under style/ in the memory of the train state, so checkpoints keep it:

    style/spread/STAGE [2, C]         A and B after a stage
    style/moments/spread/STAGE        second moments of an Adam without momentum (objectives/adversary.py)
    style/updates                     its updates; 0: A and B are still to be made from the first batch

As in the published code, a stage draws for a whole pass which noise it has (none, the learned one, that of DSU: a third
each), and A and B begin as the deviations over the first batch. Not as there: all stages begin at the first step and on
maps without noise, where the code begins each when it first has the learned noise; the optimizer is the adversary's;
and the loss is any objective, of all views, not a cross-entropy of classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp

from xsample_jax.augment.ids import copies_of, row_keys, words_of
from xsample_jax.models.resnet import StyleNoise, name_of_stage
from xsample_jax.objectives.adversary import MOMENTS, UPDATES, Arrays, descended
from xsample_jax.objectives.step_blocks import StepInputs
from xsample_jax.state import ModelDef, TrainState

STYLE = "style/"  # entries of the memory
SPREAD = "spread/"
NOISE = 2**20 + 9  # folded into the key of the step
LEARNS = "adversarial"  # the kind that has a state


def init_styles(options, widths: tuple[int, ...]) -> Arrays:
    """The entries of the memory before the first step; {} where nothing is learned.

    options: config.model.style_noise. widths: channels of an encoder after its stem and each of its stages.
    """
    if options.kind != LEARNS:
        return {}
    there = [stage for stage in options.stages if stage < len(widths)]
    spread = {SPREAD + name_of_stage(stage): jnp.zeros((2, widths[stage])) for stage in there}
    moments = {MOMENTS + path: jnp.zeros_like(value) for path, value in spread.items()}
    state = spread | moments | {UPDATES: jnp.zeros((), jnp.int32)}
    return {STYLE + path: value for path, value in state.items()}


def noise_of_rows(options, key: jax.Array, batch: Mapping[str, jax.Array], views: int) -> StyleNoise:
    """The noise of a pass of the views of a batch, of which a row's is drawn from (key, image id, copy, view).

    key: of the step and of the pass. The rows are image * views + view.
    """

    keys = row_keys(key, words_of(batch), copies_of(batch["id"]), views)
    return StyleNoise(key, keys, tuple(options.stages))


def make_disturbance(config, model: ModelDef, loss_of: Callable) -> Callable:
    """What comes before a step of the encoder, a function of (state, inputs).

    It returns (the inputs with the noise of this step, new entries of the memory, metrics of scalars).
    loss_of: of a step, as make_loss in step.py makes it; its first result is the loss.
    """
    options, views = config.model.style_noise, config.views

    def disturbance(state: TrainState, inputs: StepInputs) -> tuple[StepInputs, Arrays, Arrays]:
        key = jax.random.fold_in(inputs.key, NOISE)
        own = {path.removeprefix(STYLE): v for path, v in state.memory.items() if path.startswith(STYLE)}
        if options.kind != LEARNS:
            return replace(inputs, style=noise_of_rows(options, key, inputs.batch, views)), {}, {}

        def disturbed(spread: Arrays, number: int) -> StepInputs:
            noise = noise_of_rows(options, jax.random.fold_in(key, number), inputs.batch, views)
            by_stage = {path.removeprefix(SPREAD): value for path, value in spread.items()}
            return replace(inputs, style=noise._replace(spread=by_stage))

        def loss(spread: Arrays, number: int) -> jax.Array:
            return loss_of(state.params, state.statistics, disturbed(spread, number))[0]

        own |= first_spreads(own, model, state, inputs.images, tuple(options.stages))
        for number in range(1, options.updates + 1):
            own = climbed(own, jax.grad(loss)(spreads_of(own), number), options.rate)
        found = norms_of(spreads_of(own))
        return disturbed(spreads_of(own), 0), {STYLE + path: value for path, value in own.items()}, found

    return disturbance


def first_spreads(
    own: Mapping[str, jax.Array], model: ModelDef, state: TrainState, images: jax.Array, stages: tuple[int, ...]
) -> Arrays:
    """A and B before a step: at the first one the deviations over its batch, on maps without noise."""

    def of_batch() -> Arrays:
        encoder = model.merge(state.params, state.statistics, training=True).encoder
        return {SPREAD + name: value for name, value in encoder.spreads(images, stages).items()}

    return jax.lax.cond(own[UPDATES] == 0, of_batch, lambda: spreads_of(own))


def climbed(own: Mapping[str, jax.Array], gradient: Mapping[str, jax.Array], rate: float) -> Arrays:
    """The state after an update along the gradient of the loss, where the encoder goes against it."""
    new = descended(own, {path: -slope for path, slope in gradient.items()}, rate)
    return new | {UPDATES: new[UPDATES] + 1}


def spreads_of(own: Mapping[str, jax.Array]) -> Arrays:
    """A and B of all stages, paths without the prefix style/."""
    return {path: value for path, value in own.items() if path.startswith(SPREAD)}


def norms_of(spread: Mapping[str, jax.Array]) -> Arrays:
    """Length of A and of B, over the channels of all stages."""
    squares = sum(jnp.sum(jnp.square(value), axis=1) for value in spread.values())
    return {"style_mean_norm": jnp.sqrt(squares[0]), "style_deviation_norm": jnp.sqrt(squares[1])}
