"""Whether the kernels of loss.kernel=pallas can run on the devices that there are, said before anything compiles."""

from collections.abc import Iterator

from jax.sharding import Mesh

from xsample_jax.errors import ConfigError, Problems, did_you_mean, raise_all
from xsample_jax.models.generator import SMALLEST
from xsample_jax.objectives.from_config import build_objective, needed_views, reads_target_temperature
from xsample_jax.objectives.objective import Objective, find_unstreamable, find_without_kernels
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.slots import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from xsample_jax.objectives.streaming.pallas import LANES, images_of_tile
from xsample_jax.sharding import find_rule_problems
from xsample_jax.topology import TOPOLOGY, TOPOLOGY_FORM
from xsample_jax.weights.families import FAMILIES


def check_kernels(config, objective: Objective, mesh: Mesh) -> None:
    """Raises ConfigError (or Problems) where loss.kernel is pallas, and devices are no TPUs or have a wrong share."""
    if config.loss.kernel != "pallas":
        return
    platform = mesh.devices.flat[0].platform
    problems = list(find_uneven_tiles(objective, config.batch_size, mesh.size, config.views, config.loss.block_size))
    if platform != "tpu":
        expected = f"auto or xla on {platform}: the kernels are for TPUs"
        problems.insert(0, ConfigError("loss.kernel", "pallas", expected, "Set --config.loss.kernel=auto."))
    raise_all(problems, "loss.kernel")


def find_uneven_tiles(
    objective: Objective, batch_size: int, devices: int, views: int, tile: int
) -> Iterator[ConfigError]:
    """A ConfigError where the images of a device do not fall into whole tiles of the kernels."""
    images = batch_size // devices
    shared = {1 if term.anchors.view is not None else views for term in objective.terms}
    if any(images_of_tile(images, tile // by) is None for by in shared):
        yield ConfigError(
            "loss.kernel",
            "pallas",
            f"auto or xla for {images} images on each of {devices} devices: kernels want a multiple of 8 in one tile, "
            f"or tiles of a multiple of {LANES}",
            f"Set --config.batch_size to a multiple of {LANES * devices}, or --config.loss.kernel=auto.",
        )


# Rules about the data: its source, what is drawn from it, and the size of its views.


EMOJI = ("emoji", "emoji_folder")
EMOJI_SPLITS = ("train", "val", "test", "train_styles", "val_styles", "test_styles")


def _data_source(c: dict) -> Iterator[ConfigError]:
    if c["data.source"] in ("records", "emoji_folder") and not c["data.path"]:
        yield ConfigError(
            "data.path",
            c["data.path"],
            f"the folder of a prepared record set for data.source = {c['data.source']!r}",
            "Set --config.data.path=FOLDER (python -m xsample_jax.tools.prepare makes one).",
        )
    if c["data.source"] == "emoji" and c["data.path"] is not None:
        yield ConfigError(
            "data.path",
            c["data.path"],
            "None for data.source = 'emoji', which is inside the package",
            "Set --config.data.source=records to train on that folder, or --config.data.path=None.",
        )
    if c["data.source"] in EMOJI and c["data.split"] not in EMOJI_SPLITS:
        yield ConfigError(
            "data.split",
            c["data.split"],
            f"a split of the emoji set: {', '.join(EMOJI_SPLITS)}",
            did_you_mean(c["data.split"], EMOJI_SPLITS),
        )


def _mix(c: dict) -> Iterator[ConfigError]:
    total = 0.0
    for number, entry in enumerate(c["data.mix"]):
        name, share = f"data.mix[{number}]", entry.get("share")
        if set(entry) != {"path", "share"} or not isinstance(entry["path"], str):
            yield ConfigError(name, entry, "{'path': a folder, 'share': a number}")
        elif not isinstance(share, int | float) or not 0 < share < 1:
            yield ConfigError(f"{name}.share", share, "a share of the draws between 0 and 1")
        else:
            total += share
    if total >= 1:
        yield ConfigError("data.mix", f"shares of {total:g}", "less than 1 in all: data.path gets the rest")
    if c["data.mix"] and c["data.source"] != "records":
        yield ConfigError("data.mix", c["data.mix"], f"() with data.source = {c['data.source']}", "Use records.")


def _noise(c: dict) -> Iterator[ConfigError]:
    section = {name.removeprefix("objective."): value for name, value in c.items() if name.startswith("objective.")}
    try:
        reads = build_objective(section).requires
    except ConfigError:
        return  # reported by _objective
    of = {"label_noise": ("label", "class_embedding"), "caption_noise": ("caption_embedding", "caption_tokens")}
    for noise, entries in of.items():
        if c[f"data.{noise}"] and not reads & set(entries):
            yield ConfigError(
                f"data.{noise}",
                c[f"data.{noise}"],
                f"0 for an objective that reads neither {' nor '.join(entries)}, which is what it changes",
                f"Set --config.data.{noise}=0, or another objective.preset or objective.graph.",
            )


def _samples_per_class(c: dict) -> Iterator[ConfigError]:
    other = "data.mix" if c["data.mix"] else "data.balance"
    if c["data.samples_per_class"] is not None and c[other]:
        yield ConfigError(
            "data.samples_per_class",
            c["data.samples_per_class"],
            f"None with {other}, which is about the whole of a set",
            f"Set --config.{other}={'()' if other == 'data.mix' else 0}.",
        )


def _fraction(c: dict) -> Iterator[ConfigError]:
    others = {"data.mix": (), "data.balance": 0.0, "data.samples_per_class": None}
    for other, neutral in others.items():
        if c["data.fraction"] < 1 and c[other] != neutral:
            yield ConfigError(
                "data.fraction",
                c["data.fraction"],
                f"1 with {other}, which is about the whole of a set",
                f"Set --config.{other}={neutral}, or --config.data.fraction=1.",
            )


def _view_size(c: dict) -> Iterator[ConfigError]:
    size, delivered = c["augment.size"], c["data.image_size"]
    if size > 2 * delivered:
        yield ConfigError(
            "augment.size",
            size,
            f"at most twice data.image_size ({delivered}): the views would be enlarged more than 2x",
            f"Set --config.data.image_size={size}, or make the views smaller.",
        )


def _hue(c: dict) -> Iterator[ConfigError]:
    strength = c["augment.jitter_strength"]
    if strength[3] > 0.5:
        yield ConfigError(
            "augment.jitter_strength", strength, "a hue range (the last) <= 0.5, which is all hues", "Use 0.1."
        )


DATA_RULES = (_data_source, _mix, _noise, _samples_per_class, _fraction, _view_size, _hue)


# Rules about evaluations, and about the checkpoints that they rank.


def _evaluation(c: dict) -> Iterator[ConfigError]:
    suite, split = c["eval.suite"], c["eval.split"]
    if suite == "emoji" and c["data.source"] not in EMOJI:
        yield ConfigError(
            "eval.suite",
            suite,
            f"probe or none for data.source = {c['data.source']!r}",
            "Set --config.eval.suite=probe if the records have labels, else none.",
        )
    if suite == "emoji" and split not in ("val", "test"):
        yield ConfigError("eval.split", split, "val or test for eval.suite = 'emoji'", "Set --config.eval.split=test.")
    if suite != "none" and split == c["eval.train_split"]:
        yield ConfigError(
            "eval.split",
            split,
            "another split than eval.train_split: the probe would be tested on what it was fitted to",
        )


def _online_probe(c: dict) -> Iterator[ConfigError]:
    if c["eval.online_probe"] and c["loss.grad_cache"] > 1:
        yield ConfigError(
            "eval.online_probe",
            True,
            f"False with loss.grad_cache = {c['loss.grad_cache']}, which keeps no features",
            "Set --config.eval.online_probe=false, or --config.loss.grad_cache=1.",
        )


def _best_checkpoint(c: dict) -> Iterator[ConfigError]:
    metric = c["checkpoint.metric"]
    if metric is not None and c["eval.suite"] == "none":
        yield ConfigError(
            "checkpoint.metric",
            metric,
            "None when eval.suite = 'none': no evaluation ever measures it",
            "Set --config.eval.suite, or --config.checkpoint.metric=None.",
        )
    elif metric is not None and (not c["eval.every"] or c["checkpoint.every"] % c["eval.every"]):
        yield ConfigError(
            "eval.every",
            c["eval.every"],
            f"a divisor of checkpoint.every = {c['checkpoint.every']}: checkpoint.metric ranks what was evaluated",
            f"Set --config.eval.every={c['checkpoint.every']}, or --config.checkpoint.metric=None.",
        )
    if metric is not None and c["checkpoint.keep_best"] == 0:
        yield ConfigError(
            "checkpoint.keep_best", 0, f"at least 1 to keep the best by {metric!r}", "Set 1, or no metric."
        )


EVALUATION_RULES = (_evaluation, _online_probe, _best_checkpoint)


# Rules about how the loss is computed: what the kernels for TPU can do.


def _kernels(c: dict) -> Iterator[ConfigError]:
    if c["loss.kernel"] != "pallas":
        return
    if c["loss.impl"] != "streaming":
        yield ConfigError(
            "loss.kernel",
            "pallas",
            f"auto or xla with loss.impl = {c['loss.impl']!r}: a dense loss has no tiles",
            "Set --config.loss.impl=streaming, or --config.loss.kernel=auto.",
        )
    section = {name.removeprefix("objective."): value for name, value in c.items() if name.startswith("objective.")}
    try:
        objective = build_objective(section)
    except ConfigError:
        return  # reported by the rules of the objective
    for number, reason in find_without_kernels(objective):
        yield ConfigError(
            "loss.kernel",
            "pallas",
            f"auto or xla for objective.preset = {section['preset']!r}, whose term {number} has no kernels: {reason}",
            "Set --config.loss.kernel=auto.",
        )
    if c["mesh.data"] > 0:  # else it depends on the devices there are: kernel_fit.py
        devices = c["mesh.data"] * c["mesh.fsdp"] * c["mesh.tensor"]
        yield from find_uneven_tiles(objective, c["batch_size"], devices, c["views"], c["loss.block_size"])


LOSS_RULES = (_kernels,)


# Rules about the network and the weights that it starts from.


def _patches(c: dict) -> Iterator[ConfigError]:
    size, patch = c["augment.size"], c["model.patch_size"]
    if c["model.encoder"].startswith("vit") and size % patch:
        divisors = ", ".join(str(side) for side in range(2, size + 1) if size % side == 0 and side <= 32)
        yield ConfigError(
            "model.patch_size", patch, f"a divisor of augment.size ({size}) for a ViT", f"Possible: {divisors}."
        )


def _pretrained(c: dict) -> Iterator[ConfigError]:
    path, family, encoder, layout = (c[f"model.{name}"] for name in ("init_from", "init_family", "encoder", "layout"))
    if (path is None) != (family is None):
        missing, fix = ("init_family", f"one of {', '.join(FAMILIES)}") if path else ("init_from", "a file of weights")
        yield ConfigError(f"model.{missing}", None, f"{fix}, as the other of the two is set", "Set both, or neither.")
    if family is not None:
        layouts, vit = FAMILIES[family].layouts, encoder.startswith("vit")
        if bool(layouts) != vit:
            expected = f"a family with weights of {encoder}: "
            expected += ", ".join(name for name, other in FAMILIES.items() if bool(other.layouts) == vit)
            yield ConfigError("model.init_family", family, expected)
        elif vit and layout not in layouts:
            fix = "timm" if "timm" in layouts else layouts[0]
            expected = f"a layout of {family}: {', '.join(layouts)}"
            yield ConfigError("model.layout", layout, expected, f"Set --config.model.layout={fix}.")
    if path is not None and c["checkpoint.resume_from"] is not None:
        yield ConfigError(
            "model.init_from",
            path,
            "None when checkpoint.resume_from is set, whose weights would take their place",
            "Set --config.checkpoint.resume_from=None, or both init_from and init_family to None.",
        )


MODEL_RULES = (_patches, _pretrained)


# Rules about what is learned: the objective and its temperatures, and what it asks of views, text and batch.


TARGET_TEMPERATURES = ("target_temperature", "target_neighbors", "target_same_mass")


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
    if section["target_neighbors"] is not None and section["target_same_mass"] is not None:
        yield ConfigError(
            "objective.target_same_mass",
            section["target_same_mass"],
            "None when objective.target_neighbors is set: each of them chooses tau_s",
            "Set --config.objective.target_same_mass=None.",
        )
    if chosen[1:] and section["target_temperature"] is not None:
        yield ConfigError(
            "objective.target_temperature",
            section["target_temperature"],
            f"None when objective.{chosen[1]} is set, which chooses tau_s",
            f"Set --config.objective.target_temperature=None, or --config.objective.{chosen[1]}=None.",
        )
    if objective.learn_temperature and not LOWEST_TEMPERATURE <= objective.temperature <= HIGHEST_TEMPERATURE:
        yield ConfigError(
            "objective.temperature",
            objective.temperature,
            f"a start within [{LOWEST_TEMPERATURE:g}, {HIGHEST_TEMPERATURE:g}], where a learned temperature stays: "
            f"outside it has no gradient (objective.preset = {preset!r})",
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


FEWEST_GENERATED = 2  # a contrast needs another image


def _generator(c: dict) -> Iterator[ConfigError]:
    kind, share, start, ramp = (c[f"objective.generator.{name}"] for name in ("kind", "share", "start", "ramp"))
    if kind is None or share == 0:
        return
    preset, rows = c["objective.preset"], round(share * c["batch_size"])
    if not FEWEST_GENERATED <= rows < c["batch_size"]:
        yield ConfigError(
            "objective.generator.share",
            share,
            f"at least {FEWEST_GENERATED} generated images in a batch of {c['batch_size']}, and some that are not",
            f"Set --config.objective.generator.share={max(FEWEST_GENERATED / c['batch_size'], 0.25):g}.",
        )
    if start + ramp > 1:
        yield ConfigError(
            "objective.generator.ramp",
            ramp,
            f"at most {1 - start:g}, what is left of the run after objective.generator.start = {start:g}",
            f"Set --config.objective.generator.ramp={(1 - start) / 2:g}.",
        )
    if PRESETS[preset].objective.memory is not None:
        yield ConfigError(
            "objective.generator.kind",
            kind,
            f"None for objective.preset = {preset!r}, which keeps a number for every image of the set: a generated "
            "image is none of them",
            "Set --config.objective.generator.kind=None, or --config.objective.preset=simclr.",
        )
    if kind == "pair" and c["views"] < 2:
        yield ConfigError(
            "views",
            c["views"],
            "at least 2 for objective.generator.kind = 'pair', whose two images are views of one",
            "Set --config.views=2, or --config.objective.generator.kind=hard.",
        )
    if c["data.image_size"] % SMALLEST:
        size = max(SMALLEST, c["data.image_size"] // SMALLEST * SMALLEST)
        yield ConfigError(
            "data.image_size",
            c["data.image_size"],
            f"a multiple of {SMALLEST} for objective.generator.kind = {kind!r}",
            f"Set --config.data.image_size={size}.",
        )


OBJECTIVE_RULES = (_objective, _text_tower, _generator)


# Rules about the update: length of the run, parts of a batch, optimizer and mesh.


def _length_of_the_run(c: dict) -> Iterator[ConfigError]:
    steps, epochs = c["steps"], c["epochs"]
    if steps is None and epochs is None:
        yield ConfigError("steps", None, "steps or epochs to be set", "Set one of them, as --config.steps=1000.")
    if steps is not None and epochs is not None:
        yield ConfigError(
            "steps",
            steps,
            f"only one of steps and epochs (epochs = {epochs:g})",
            "Add --config.epochs=None to train for steps, or --config.steps=None to train for epochs.",
        )


def _grad_cache(c: dict) -> Iterator[ConfigError]:
    parts, batch_size = c["loss.grad_cache"], c["batch_size"]
    if batch_size % parts:
        yield ConfigError(
            "loss.grad_cache",
            parts,
            f"a divisor of batch_size ({batch_size})",
            f"Set --config.loss.grad_cache={max(n for n in range(1, parts) if batch_size % n == 0)}.",
        )


def _lars_and_clipping(c: dict) -> Iterator[ConfigError]:
    if c["optimizer.name"] == "lars" and c["optimizer.clip_norm"] is not None:
        yield ConfigError(
            "optimizer.clip_norm",
            c["optimizer.clip_norm"],
            "None with LARS, which divides every layer's gradient by its own norm",
            "Set --config.optimizer.clip_norm=None, or --config.optimizer.name=adamw.",
        )


def _mesh(c: dict) -> Iterator[ConfigError]:
    if c["mesh.data"] == 0:
        yield ConfigError(
            "mesh.data", 0, "a number of devices, or -1 for all that are left", "Set --config.mesh.data=-1."
        )
    topology = c["mesh.topology"]
    if topology is not None and not TOPOLOGY.fullmatch(topology):
        yield ConfigError("mesh.topology", topology, f"a TPU slice, {TOPOLOGY_FORM}")
    yield from find_rule_problems(c["mesh.rules"])


TRAINING_RULES = (_length_of_the_run, _grad_cache, _lars_and_clipping, _mesh)


# Rules about several keys of a config: what is right alone but does not go together.
#
# A rule gets the flat dict {dotted name: value} of the values that are right alone, and yields one ConfigError for
# each
# thing that does not fit, with the fix. A new rule is a function in the file of its idea and an entry in RULES there.
# A
# key that is wrong or missing is not in the dict; reading it raises KeyError, which ends the rule in silence, as that
# is
# reported already.


RULES = (
    *TRAINING_RULES,
    *OBJECTIVE_RULES,
    *LOSS_RULES,
    *DATA_RULES,
    *MODEL_RULES,
    *EVALUATION_RULES,
)
