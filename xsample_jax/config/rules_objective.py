"""Rules about what is learned: the objective and its temperatures, and what it asks of views, text and batch."""

from collections.abc import Iterator

from xsample_jax.errors import ConfigError, Problems
from xsample_jax.objectives.build import build_objective, needed_views, reads_target_temperature
from xsample_jax.objectives.objective import find_unstreamable
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.temperature import HIGHEST, LOWEST

TARGET_TEMPERATURES = ("target_temperature", "target_neighbours", "target_same_mass")


def _objective(c: dict) -> Iterator[ConfigError]:
    section = {name.removeprefix("objective."): value for name, value in c.items() if name.startswith("objective.")}
    try:
        objective = build_objective(section)
    except Problems as several:
        yield from several.problems
        return
    except ConfigError as error:
        yield error
        return
    views, preset = needed_views(objective), section["preset"]
    if c["views"] < views:
        yield ConfigError(
            "views",
            c["views"],
            f"at least {views} for objective.preset = {preset!r}, which compares views of an image",
            f"Set --config.views={views}.",
        )
    chosen = [name for name in TARGET_TEMPERATURES if section[name] is not None]
    if chosen and not reads_target_temperature(objective):
        yield ConfigError(
            f"objective.{chosen[0]}",
            section[chosen[0]],
            f"None for objective.preset = {preset!r}: no graph of it has a softmax whose tau_s is the objective's",
            f"Set --config.objective.{chosen[0]}=None, or take a preset with a soft target (xclr).",
        )
    if section["target_neighbours"] is not None and section["target_same_mass"] is not None:
        yield ConfigError(
            "objective.target_same_mass",
            section["target_same_mass"],
            "None when objective.target_neighbours is set: each of them chooses tau_s",
            "Set --config.objective.target_same_mass=None.",
        )
    if chosen[1:] and section["target_temperature"] is not None:
        yield ConfigError(
            "objective.target_temperature",
            section["target_temperature"],
            f"None when objective.{chosen[1]} is set, which chooses tau_s",
            f"Set --config.objective.target_temperature=None, or --config.objective.{chosen[1]}=None.",
        )
    if objective.learn_temperature and not LOWEST <= objective.temperature <= HIGHEST:
        yield ConfigError(
            "objective.temperature",
            objective.temperature,
            f"a start within [{LOWEST:g}, {HIGHEST:g}], where a learned temperature is clamped: outside it has no "
            f"gradient (objective.preset = {preset!r})",
            "Set --config.objective.temperature=0.07.",
        )
    if objective.local_views and c["loss.grad_cache"] > 1:
        yield ConfigError(
            "loss.grad_cache",
            c["loss.grad_cache"],
            f"1 for objective.preset = {preset!r}, whose small crops go through the encoder in one piece",
            "Set --config.loss.grad_cache=1, and --config.model.remat=block to save memory.",
        )
    for number, reason in find_unstreamable(objective) if c["loss.impl"] == "streaming" else ():
        yield ConfigError(
            "loss.impl",
            "streaming",
            f"auto or dense for objective.preset = {preset!r}, whose term {number} cannot be streamed: {reason}",
            "Set --config.loss.impl=auto.",
        )
    if objective.local_views and c["model.encoder"].startswith("vit"):
        yield ConfigError(
            "model.encoder",
            c["model.encoder"],
            f"a ResNet for objective.preset = {preset!r}: its small crops have another size than the views",
            "Set --config.model.encoder=resnet50.",
        )
    if objective.queue and objective.queue % c["batch_size"]:
        yield ConfigError(
            "objective.queue",
            objective.queue,
            f"a multiple of batch_size ({c['batch_size']}): every step replaces that many entries",
            f"Set --config.objective.queue={c['batch_size'] * max(objective.queue // c['batch_size'], 1)}.",
        )


def _text_tower(c: dict) -> Iterator[ConfigError]:
    layers, preset = c["model.text.layers"], c["objective.preset"]
    text = PRESETS[preset].objective.text
    if text == "transformer" and layers == 0:
        yield ConfigError(
            "model.text.layers",
            layers,
            f"at least 1 for objective.preset = {preset!r}, which trains a text tower",
            "Set --config.model.text.layers=6, or --config.objective.preset=clip_frozen_text.",
        )
    if text == "linear" and layers > 0:
        yield ConfigError(
            "model.text.layers",
            layers,
            f"0 for objective.preset = {preset!r}, which maps frozen caption embeddings",
            "Set --config.model.text.layers=0, or --config.objective.preset=clip.",
        )
    if text == "transformer" and c["data.caption"] == "mean":
        yield ConfigError(
            "data.caption",
            "mean",
            f"one caption for objective.preset = {preset!r}: tokens have no mean",
            "Set --config.data.caption=first.",
        )
    width, heads = c["model.text.width"], c["model.text.heads"]
    if layers > 0 and width % heads:
        yield ConfigError(
            "model.text.width", width, f"a multiple of model.text.heads ({heads})", f"Set {heads * (width // heads)}."
        )


RULES = (_objective, _text_tower)
