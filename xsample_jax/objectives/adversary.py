"""The adversary of the encoder: generators of images for it to learn from, their discriminator, and their updates.

After "Synthetic Data Can Also Teach" (arXiv 2202.06464). Of that paper only the abstract and the introduction could be
read: a generator that is trained jointly with the main model makes hard samples; a pair of generators makes similar but
distinct samples, which are positive pairs whose similarity falls over training. Everything else is ours: networks
(models/generator.py), losses and schedule. With f the encoder and its head, D the discriminator, v latents and A an
augmentation that a gradient passes through (augment/differentiable.py), a turn is, `updates` times a step,

    D  falls by  mean relu(1 - D(A real)) + mean relu(1 + D(A G(v)))           hinge, over real and generated images
    G  falls by  -mean D(A G(v)) - lambda(t) L(G(v))                           hard: L is the objective on G(v) alone
    G1, G2 by    -mean D(A G1(v)) - mean D(A G2(v)) + mu(t) mean cos(f(G1(v)), f(G2(v)))        pair

with lambda and mu climbing from 0 to `weight` over `ramp`, from `start` on. The encoder never gets a gradient of this,
nor the generators one of the encoder's step: that step sees generated images as it sees all others.

The state is under adversary/ in the memory of the train state, so checkpoints keep it: parameters, second moments and
the count of updates of an Adam without momentum. A generated image takes the place of one of the batch. Where the
objective reads side information (a caption, a class) it is made from that of the image it replaces, and keeps it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xsample_jax.augment.differentiable import augment_differentiably, images_of, planes_of
from xsample_jax.augment.ids import fold_in_id, to_words, words_of
from xsample_jax.models.generator import Discriminator, Generator
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.objective import Objective
from xsample_jax.state import ModelDef, define_model, to_flat

ADVERSARY = "adversary/"
MOMENTS, UPDATES = "moments/", "updates"
DISCRIMINATOR = "discriminator"
# Networks by kind. Both of a pair start from one set of weights. augmented is a control without any: its images are
# those of the batch, through the augmentation that a discriminator would see them in.
GENERATORS = {"hard": ("first",), "pair": ("first", "second"), "augmented": ()}
DECAY, EPSILON = 0.99, 1e-8  # of the second moments; no first ones, as usual for adversarial training

Arrays = dict[str, jax.Array]
Images = tuple[jax.Array, ...]  # of each generator, float32 [n, S, S, C] in 0..255


@dataclasses.dataclass(frozen=True)
class Adversary:
    """The static half of what climbs.

    Attributes:
      options: config.objective.generator.
      rows: images of a batch that are generated. batch_size: B.
      size, channels: of the images. reads: side information that images are made from, entries of a batch.
      condition: width of that. seed: of the run. implementation: of convolutions.
    """

    options: object
    rows: int
    batch_size: int
    size: int
    channels: int
    reads: tuple[str, ...]
    condition: int
    seed: int
    implementation: str

    @cached_property
    def generators(self) -> tuple[str, ...]:
        return GENERATORS[self.options.kind]

    @cached_property
    def places(self) -> np.ndarray:
        """Rows of the batch that generated images take, int [rows], spread evenly."""
        return (np.arange(self.rows) + 1) * self.batch_size // self.rows - 1

    @cached_property
    def ids(self) -> np.ndarray:
        """Of generated images, int32 [rows]: the largest there are. One below 0 would be no image to an objective."""
        return (2**31 - 1 - np.arange(self.rows)).astype(np.int32)

    @cached_property
    def networks(self) -> dict[str, ModelDef]:
        """The structure of each network by name."""
        if not self.generators:
            return {}
        shape = (self.condition, (self.size, self.channels), self.options.width, self.implementation)
        generator = define_model(lambda rngs: Generator(self.options.latent, *shape, rngs=rngs))
        discriminator = define_model(lambda rngs: Discriminator(*shape, rngs=rngs))
        return dict.fromkeys(self.generators, generator) | {DISCRIMINATOR: discriminator}

    def init(self) -> Arrays:
        """The entries of the memory before the first step."""
        params = {}
        for name, network in self.networks.items():
            rngs = nnx.Rngs(params=jax.random.fold_in(jax.random.key(self.seed), name == DISCRIMINATOR))
            made = to_flat(nnx.split(network.build(rngs), nnx.Param, ...)[1])
            params |= {f"{name}/{path}": value for path, value in made.items()}
        moments = {MOMENTS + path: jnp.zeros_like(value) for path, value in params.items()}
        state = params | moments | {UPDATES: jnp.zeros((), jnp.int32)}
        return {ADVERSARY + path: value for path, value in state.items()}

    def generate(self, state: Mapping[str, jax.Array], latents: jax.Array, condition: jax.Array | None) -> Images:
        """Images of the same latents [n, L] by each generator; `state`: paths without the prefix adversary/."""
        return tuple(self._network(name, state)(latents, condition) for name in self.generators)

    def judge(self, state: Mapping[str, jax.Array], planes: jax.Array, condition: jax.Array | None) -> jax.Array:
        """What the discriminator says of augmented planes [n, S, S, C]: [n], above 0 for what looks real."""
        return self._network(DISCRIMINATOR, state)(planes, condition)

    def latents(self, key: jax.Array, ids: jax.Array) -> jax.Array:
        """Standard normal [n, L], from (key, id)."""
        return jax.vmap(lambda i: jax.random.normal(fold_in_id(key, i), (self.options.latent,)))(ids)

    def _network(self, name: str, state: Mapping[str, jax.Array]) -> nnx.Module:
        own = {path.removeprefix(f"{name}/"): value for path, value in state.items() if path.startswith(f"{name}/")}
        return self.networks[name].merge(own, {}, training=True)


def make_adversary(config, objective: Objective, channels: int, caption_dim: int | None) -> Adversary | None:
    """What a config asks for; None where no image is generated: without a kind, or with a share of 0."""
    rows = count_generated(config.objective.generator, config.batch_size)
    if not rows:
        return None
    reads = conditions_of(objective) if GENERATORS[config.objective.generator.kind] else ()
    return Adversary(
        config.objective.generator,
        rows,
        config.batch_size,
        config.data.image_size,
        channels,
        reads,
        sum(caption_dim if name == "caption_embedding" else CODE for name in reads),
        config.seed,
        config.model.conv_impl,
    )


def count_generated(options, batch_size: int) -> int:
    """Images of a batch that are generated; options: config.objective.generator."""
    return round(options.share * batch_size) if options.kind is not None else 0


# One turn: what climbs moves, and its images take their places in the batch.


@dataclasses.dataclass(frozen=True)
class Opponent:
    """The encoder, at rest, as what climbs sees it.

    Attributes:
      contrast: the objective on a batch of its own: (images, the other entries of it) -> scalar.
      embed: float images [n, S, S, C] -> unit rows [n, D], whole and not augmented.
    """

    contrast: Callable[[Images, Mapping[str, jax.Array]], jax.Array]
    embed: Callable[[jax.Array], jax.Array]


def take_turn(
    adversary: Adversary,
    memory: Mapping[str, jax.Array],
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    progress: jax.Array,
    opponent: Opponent,
) -> tuple[Arrays, "Guests", Arrays]:
    """The turn of the adversary before a step of the encoder.

    Args:
      memory: of the train state. batch: of the step. key: of the step.
      progress: share of the run that is over.

    Returns:
      (new entries of the memory, the images that enter the batch, metrics of scalars). `loss_generated` and `loss_real`
      are of the objective on equally many generated and real images, each kind alone: their difference is `hardness`.
    """
    state = {path.removeprefix(ADVERSARY): value for path, value in memory.items() if path.startswith(ADVERSARY)}
    real = {name: value[adversary.places] for name, value in batch.items()}
    condition = condition_of(real, adversary.reads)
    rows = side_of_generated(adversary, real)
    weight = adversary.options.weight * ramped(progress, adversary.options.start, adversary.options.ramp)
    found: Arrays = {}
    for number in range(adversary.options.updates if adversary.generators else 0):
        turn = jax.random.fold_in(key, number + 1)
        state, found = _train_discriminator(adversary, state, turn, real, condition)
        made_of = adversary.latents(jax.random.fold_in(turn, 3), adversary.ids), condition
        harder = partial(_harder, adversary, made_of, opponent, rows)
        state, of_generators = _train_generators(adversary, state, turn, made_of, weight, harder)
        found |= of_generators
    entering = adversary.generate(state, adversary.latents(key, adversary.ids), condition)
    if not adversary.generators:
        planes = augment_differentiably(planes_of(real["image"]), key, words_of(real))
        entering = (images_of(planes),)
    entering = tuple(jnp.round(jax.lax.stop_gradient(images)) for images in entering)
    if "loss_generated" not in found:
        found["loss_generated"] = opponent.contrast(entering, rows)
    found["loss_real"] = opponent.contrast((real["image"].astype(jnp.float32),), real)
    found["hardness"] = found["loss_generated"] - found["loss_real"]
    params = [value for path, value in state.items() if not path.startswith((MOMENTS, UPDATES))]
    found["adversary_norm"] = jnp.sqrt(sum((jnp.sum(jnp.square(value)) for value in params), jnp.zeros(())))
    found["generator_weight"] = weight
    guests = Guests(adversary.places, entering, rows, progress >= adversary.options.start)
    return {ADVERSARY + path: value for path, value in state.items()}, guests, found


def _harder(adversary, made_of, opponent, rows, params) -> tuple[jax.Array, Arrays]:
    """(what the generators raise beside the discriminator's verdict, metrics), a function of their parameters."""
    images = adversary.generate(params, *made_of)
    if adversary.options.kind == "hard":
        loss = opponent.contrast(images, rows)
        return loss, {"loss_generated": loss}
    first, second = jnp.split(opponent.embed(jnp.concatenate(images)), 2)
    cosine = jnp.mean(jnp.sum(first * second, axis=-1))
    return -cosine, {"pair_cosine": cosine}


def _train_discriminator(adversary, state, key, real, condition) -> tuple[Arrays, Arrays]:
    """One update of the discriminator: hinge loss on as many real as generated images, of each generator."""
    latents = adversary.latents(jax.random.fold_in(key, 0), adversary.ids)
    made = [planes_of(images) for images in adversary.generate(state, latents, condition)]
    shown = augment_differentiably(planes_of(real["image"]), jax.random.fold_in(key, 1), words_of(real))
    hidden = [
        augment_differentiably(planes, jax.random.fold_in(key, 10 + number), adversary.ids)
        for number, planes in enumerate(made)
    ]

    def loss_of(params):
        of_real = adversary.judge(params, shown, condition)
        of_made = jnp.stack([adversary.judge(params, planes, condition) for planes in hidden])
        loss = jnp.mean(jax.nn.relu(1 - of_real)) + jnp.mean(jax.nn.relu(1 + of_made))
        return loss, (jnp.mean(of_real > 0) + jnp.mean(of_made < 0)) / 2

    (loss, accuracy), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters_of(state, (DISCRIMINATOR,)))
    found = {"discriminator_loss": loss, "discriminator_accuracy": accuracy}
    return descended(state, gradient, adversary.options.rate), found


def _train_generators(adversary, state, key, made_of, weight, harder) -> tuple[Arrays, Arrays]:
    """One update of the generators, on what images are made of: latents and side information; counts the turn."""
    _, condition = made_of

    def loss_of(params):
        verdict = 0.0
        for number, images in enumerate(adversary.generate(params, *made_of)):
            # Draws of its own for each: they are what tells two generators apart that start alike.
            planes = augment_differentiably(planes_of(images), jax.random.fold_in(key, 20 + number), adversary.ids)
            verdict -= jnp.mean(adversary.judge(state, planes, condition))
        raised, found = harder(params)
        return verdict - weight * raised, found | {"generator_loss": verdict}

    gradient, found = jax.grad(loss_of, has_aux=True)(parameters_of(state, adversary.generators))
    state = descended(state, gradient, adversary.options.rate)
    return state | {UPDATES: state[UPDATES] + 1}, found


def parameters_of(state: Mapping[str, jax.Array], names: tuple[str, ...]) -> Arrays:
    """The parameters of some of the networks, paths with their names."""
    return {path: value for path, value in state.items() if path.partition("/")[0] in names}


def descended(state: Mapping[str, jax.Array], gradient: Mapping[str, jax.Array], rate: float) -> Arrays:
    """The state after a step of Adam (arXiv 1412.6980) with b1 = 0, b2 = DECAY on the parameters in `gradient`."""
    new, count = dict(state), state[UPDATES].astype(jnp.float32) + 1
    for path, slope in gradient.items():
        second = DECAY * state[MOMENTS + path] + (1 - DECAY) * jnp.square(slope)
        new[MOMENTS + path] = second
        new[path] = state[path] - rate * slope / (jnp.sqrt(second / (1 - DECAY**count)) + EPSILON)
    return new


def ramped(progress: jax.Array, start: float, ramp: float) -> jax.Array:
    """0 before `start`, then climbing over `ramp` to 1; all three are shares of the run. Without a ramp, at once."""
    if not ramp:
        return jnp.where(progress >= start, 1.0, 0.0)
    return jnp.clip((progress - start) / ramp, 0.0, 1.0)


# Generated images among those of a batch.


@dataclasses.dataclass(frozen=True)
class Guests:
    """Generated images that take places of a batch.

    Attributes:
      places: int [n], rows of the batch.
      images: of each generator, float32 [n, S, S, C], whole numbers in 0..255.
      rows: the other entries of a batch for them, [n, ...].
      there: bool scalar: whether they enter at all.
    """

    places: np.ndarray
    images: Images
    rows: Mapping[str, jax.Array]
    there: jax.Array | bool

    def seated(self, batch: Mapping[str, jax.Array]) -> Arrays:
        """The batch with them, or as it was; images of the first generator."""
        entries = {**self.rows, "image": self.images[0]}

        def seat(name: str, value: jax.Array) -> jax.Array:
            kept = value[self.places]
            return value.at[self.places].set(jnp.where(self.there, entries[name].astype(value.dtype), kept))

        return {name: seat(name, value) if name in entries else value for name, value in batch.items()}

    def other_views(self, made: jax.Array, make: Callable[..., jax.Array], views: int, copies: jax.Array) -> jax.Array:
        """Views [B * V, ...] of a batch in which every second view of them is of the second generator.

        make: (images, ids, copies) -> views [n * V, ...].
        """
        if len(self.images) == 1:
            return made
        by_image = made.reshape(-1, views, *made.shape[1:])
        other = make(self.images[1], words_of(self.rows), copies[self.places]).reshape(-1, views, *made.shape[1:])
        kept = by_image[self.places, 1::2]
        return by_image.at[self.places, 1::2].set(jnp.where(self.there, other[:, 1::2], kept)).reshape(made.shape)


def side_of_generated(adversary: Adversary, real: Mapping[str, jax.Array]) -> Arrays:
    """Side information [n, ...] of images made from `real`: what they were made from, an id of their own, no class
    unless they were made from one."""
    rows = {name: value for name, value in real.items() if name != "image"}
    if adversary.generators and "label" not in adversary.reads:
        rows["label"] = jnp.full_like(rows["label"], -1)
    ids = jnp.asarray(adversary.ids)
    return rows | {"id": ids} | ({"id_words": to_words(ids)} if "id_words" in rows else {})


# Side information as a vector that a network reads.

CODE = 32  # width of the random code of a class, a node of the class tree, or a token


def conditions_of(objective: Objective) -> tuple[str, ...]:
    """Entries of a batch that images must be made from, so that they have what the objective reads."""
    needed = objective.requires | ({"label"} if "class_embedding" in objective.requires else set())
    return tuple(name for name in CODES if name in needed)


def condition_of(batch: Mapping[str, jax.Array], reads: tuple[str, ...]) -> jax.Array | None:
    """The entries `reads` of a batch as float32 [B, E]; None where there are none.

    Frozen embeddings are unit rows; classes, nodes and tokens have random codes, the same in every run.
    """
    return jnp.concatenate([CODES[name](batch[name]) for name in reads], axis=-1) if reads else None


def _codes(numbers: jax.Array, family: int = 0) -> jax.Array:
    """Random vectors [..., CODE] of about unit length, one for each number; 0 for those below 0."""
    key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), family)
    code = lambda number: jax.random.normal(jax.random.fold_in(key, number), (CODE,)) / CODE**0.5  # noqa: E731
    drawn = jax.vmap(code)(numbers.reshape(-1)).reshape(*numbers.shape, CODE)
    return jnp.where((numbers >= 0)[..., None], drawn, 0.0)


def _codes_of_path(path: jax.Array) -> jax.Array:
    """path int [B, depth]: the mean of the codes of its nodes."""
    return jnp.mean(jnp.stack([_codes(path[:, depth], 1 + depth) for depth in range(path.shape[1])]), axis=0)


def _codes_of_tokens(tokens: jax.Array) -> jax.Array:
    """tokens int [B, T], 0 where there is none: the sum of their codes, over the root of their number."""
    there = tokens > 0
    total = jnp.sum(jnp.where(there[..., None], _codes(tokens, 1000), 0.0), axis=1)
    return total / jnp.sqrt(jnp.maximum(there.sum(axis=1), 1))[:, None]


CODES = {
    "caption_embedding": unit_rows,
    "caption_tokens": _codes_of_tokens,
    "label": _codes,
    "path": _codes_of_path,
}
