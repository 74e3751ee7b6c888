"""Rules about several keys of a config: values that are valid on their own but not together.

A rule gets the flat dict {dotted name: value} of the values that are valid on their own, and yields one ConfigError for
each thing that does not fit, with the fix. A new rule is a function beside those of its subject and an entry in the
tuple below them. A key that is wrong or missing is not in the dict; reading it raises KeyError, which ends the rule
silently, because the problem of that key is already reported.
"""

from collections.abc import Iterator

from xsample_jax.augment.autoaugment import MOST_MAGNITUDE, MOST_RANDOM
from xsample_jax.augment.views import PER_VIEW
from xsample_jax.config.key import find_value_problem
from xsample_jax.config.rules_objective import LOSS_RULES, OBJECTIVE_RULES
from xsample_jax.config.rules_plans import OF_DRAWS, PLAN_RULES
from xsample_jax.config.schema_data import AUGMENT
from xsample_jax.data.side import find_side_problems
from xsample_jax.errors import ConfigError, did_you_mean
from xsample_jax.models import param_groups
from xsample_jax.models.towers import OWN, kind_of
from xsample_jax.models.vit import lora_paths
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.objectives.side_information import BY_RECORD
from xsample_jax.optim import COOLED, SCHEDULE_FREE
from xsample_jax.sharding import find_rule_problems
from xsample_jax.topology import TOPOLOGY_FORM, is_topology
from xsample_jax.weights.families import FAMILIES
from xsample_jax.weights.files import READERS
from xsample_jax.weights.hub import SCHEME

# Rules about the data: its source, what is drawn from it, and the size of its views.


EMOJI = ("emoji", "emoji_folder")
EMOJI_SPLITS = ("train", "val", "test", "train_styles", "val_styles", "test_styles")


def _data_source(c: dict) -> Iterator[ConfigError]:
    if c["data.source"] in ("records", "emoji_folder", "folder", "vectors") and not c["data.path"]:
        yield ConfigError(
            "data.path",
            c["data.path"],
            f"a folder of images, or of a prepared dataset, for data.source = {c['data.source']!r}",
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
    if c["data.mix"] and c["data.source"] not in ("records", "vectors"):
        yield ConfigError("data.mix", c["data.mix"], f"() with data.source = {c['data.source']}", "Use records.")


def _side(c: dict) -> Iterator[ConfigError]:
    yield from find_side_problems(c["data.side"], mixed=bool(c["data.mix"]))


def _draws(c: dict) -> Iterator[ConfigError]:
    """Weights of records and batches of one group: each decides alone which records are drawn."""
    given, by = {entry["name"] for entry in c["data.side"] if "name" in entry}, c["data.batches_of"]
    if by in ("cluster", "group") and by not in given:
        yield ConfigError("data.batches_of", by, f"an entry {by!r} in data.side", f"It comes from {BY_RECORD[by].how}.")
    if by is not None and "weight" in given:
        yield ConfigError("data.batches_of", by, "None with a weight in data.side, which decides what is drawn")
    if by == "label" and c["data.label_noise"]:
        yield ConfigError("data.batches_of", by, "None with data.label_noise, which changes labels")
    if by is not None and c["data.on_error"] == "skip":
        expected = "raise with data.batches_of: the record in place of a broken one would be of another group"
        yield ConfigError("data.on_error", "skip", expected, "Prepare the set again without its broken records.")
    for key, neutral in OF_DRAWS.items():
        for field, value in (("data.batches_of", by), ("data.side", "weight" if "weight" in given else None)):
            if value is not None and c[key] != neutral:
                fix = f"Set --config.{key}={neutral}."
                yield ConfigError(field, value, f"none with {key}, which says what is drawn too", fix)


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
            fix = f"Set --config.{other}={neutral}, or --config.data.fraction=1."
            expected = f"1 with {other}, which is about the whole of a set"
            yield ConfigError("data.fraction", c["data.fraction"], expected, fix)


def _view_size(c: dict) -> Iterator[ConfigError]:
    size, delivered = c["augment.size"], c["data.image_size"]
    if c["data.source"] == "vectors":
        return
    if not SMALLEST <= delivered <= LARGEST:
        yield ConfigError("data.image_size", delivered, f"{SMALLEST} to {LARGEST:,} pixels")
    if size > 2 * delivered:
        yield ConfigError(
            "augment.size",
            size,
            f"at most twice data.image_size ({delivered}): the views would be enlarged more than 2x",
            f"Set --config.data.image_size={size}, or make the views smaller.",
        )


SMALLEST, LARGEST = 8, 2**13
HUES = "a hue range (the last) <= 0.5, which is all hues"
# What is about images alone, with what it is where there are vectors in their place.
OF_IMAGES = {"augment.bits": 0, "augment.per_view": (), "augment.auto_augment": False, "augment.rand_augment": ()}
OF_IMAGES["objective.generator.kind"] = None


def _vectors(c: dict) -> Iterator[ConfigError]:
    """Vectors go through a perceptron, or an encoder from outside; and only they have their augmentation."""
    if c["data.source"] != "vectors":
        for key in ("augment.noise", "augment.dropout"):
            if c[key]:
                yield ConfigError(key, c[key], "0 for images", "It is for data.source=vectors (docs/vectors.md).")
        return
    encoder = c["model.encoder"]
    if kind_of(encoder) not in ("mlp", OWN):
        fix = "Set --config.model.encoder=mlp2."
        yield ConfigError("model.encoder", encoder, "a perceptron (mlp1 to mlp4) for data.source = 'vectors'", fix)
    for key, neutral in OF_IMAGES.items():
        if c[key] != neutral:
            fix = f"Set --config.{key}={neutral}."
            yield ConfigError(key, c[key], f"{neutral} for data.source = 'vectors': it is about images", fix)


def _per_view(c: dict) -> Iterator[ConfigError]:
    changes, views = c["augment.per_view"], c["views"]
    if len(changes) > views:
        yield ConfigError("augment.per_view", f"{len(changes)} entries", f"at most views = {views}", "Set views.")
    for view, changed in enumerate(changes):
        for name, value in changed.items():
            field = f"augment.per_view[{view}].{name}"
            if name not in PER_VIEW:
                fix = did_you_mean(name, PER_VIEW)
                yield ConfigError(field, value, f"one of the keys {', '.join(PER_VIEW)}", fix)
                continue
            value = tuple(value) if isinstance(value, list) else value
            problem = find_value_problem(field, AUGMENT[name], value)
            if problem is not None:
                yield problem
            elif name == "jitter_strength" and value[3] > 0.5:
                yield ConfigError(field, value, HUES, "Use 0.1.")


def _rand_augment(c: dict) -> Iterator[ConfigError]:
    given = c["augment.rand_augment"]
    if given and not (1 <= given[0] <= MOST_RANDOM and given[1] <= MOST_MAGNITUDE):
        expected = f"1 to {MOST_RANDOM} operations and a magnitude from 0 to {MOST_MAGNITUDE}"
        yield ConfigError("augment.rand_augment", given, expected)
    if given and c["augment.auto_augment"]:
        yield ConfigError("augment.rand_augment", given, "() beside augment.auto_augment: one policy")


def _hue(c: dict) -> Iterator[ConfigError]:
    if c["augment.jitter_strength"][3] > 0.5:
        yield ConfigError("augment.jitter_strength", c["augment.jitter_strength"], HUES, "Use 0.1.")


DATA_RULES = (
    _data_source,
    _mix,
    _side,
    _draws,
    *PLAN_RULES,
    _noise,
    _samples_per_class,
    _fraction,
    _view_size,
    _vectors,
    _hue,
    _rand_augment,
    _per_view,
)


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
    if c["eval.patience"] is not None and (metric is None or not c["eval.every"]):
        fix = "Set --config.checkpoint.metric and --config.eval.every, or --config.eval.patience=None."
        yield ConfigError("eval.patience", c["eval.patience"], "None without a metric to look at now and then", fix)
    if metric is not None and c["checkpoint.keep_best"] == 0:
        yield ConfigError(
            "checkpoint.keep_best", 0, f"at least 1 to keep the best by {metric!r}", "Set 1, or no metric."
        )


EVALUATION_RULES = (_evaluation, _online_probe, _best_checkpoint)


# Rules about the network and the weights that it starts from.


def _patches(c: dict) -> Iterator[ConfigError]:
    size, patch = c["augment.size"], c["model.patch_size"]
    if kind_of(c["model.encoder"]) == "vit" and size % patch:
        divisors = ", ".join(str(side) for side in range(2, size + 1) if size % side == 0 and side <= 32)
        yield ConfigError(
            "model.patch_size", patch, f"a divisor of augment.size ({size}) for a ViT", f"Possible: {divisors}."
        )


ALL_BUT_LORA = "{'parameters': '^encoder/(?!.*/lora/)', 'freeze': True}"


def _of_vits(c: dict) -> Iterator[ConfigError]:
    """Patches and low-rank factors are of ViTs; and the factors are for a frozen encoder."""
    encoder = c["model.encoder"]
    for key in ("model.patch_dropout", "model.lora"):
        if c[key] and kind_of(encoder) != "vit":
            yield ConfigError(
                key, c[key], f"0 for model.encoder = {encoder!r}: it is for a ViT", f"Set --config.{key}=0."
            )
    if c["model.lora"] and kind_of(encoder) == "vit" and not [*_rules(c)]:
        groups = param_groups.ParamGroups(c["optimizer.rules"])
        kernels, factors = lora_paths(encoder.removeprefix("vit_"))
        trained = [name for name in kernels if not groups.frozen(name)]
        fix = f'Set "--config.optimizer.rules={ALL_BUT_LORA}".'
        if trained:
            expected = f"a rule that freezes what model.lora adds to, as {trained[0]}"
            yield ConfigError("optimizer.rules", c["optimizer.rules"], expected, fix)
        if all(map(groups.frozen, factors)):
            expected = f"no rule that freezes what model.lora adds, as {factors[0]}"
            yield ConfigError("optimizer.rules", c["optimizer.rules"], expected, fix)
    if c["model.patch_dropout"] and c["objective.generator.kind"] is not None:
        yield ConfigError("model.patch_dropout", c["model.patch_dropout"], "0 with objective.generator", "Set 0.")


def _pretrained(c: dict) -> Iterator[ConfigError]:
    path, family, encoder, layout = (c[f"model.{name}"] for name in ("init_from", "init_family", "encoder", "layout"))
    a_run = path is not None and not path.endswith(tuple(READERS))  # or published weights: a folder, or hf:NAME
    if c["model.init_whole"] and (not a_run or family is not None):
        expected = "False unless model.init_from is the folder of a run"
        yield ConfigError("model.init_whole", True, expected, "Set --config.model.init_from=RUN.")
    if path is not None and path.startswith(SCHEME) and family is not None:
        yield ConfigError("model.init_family", family, f"None: {path} says whose names it has")
    if (path is None) != (family is None) and not a_run:
        missing, fix = ("init_family", f"one of {', '.join(FAMILIES)}") if path else ("init_from", "a file of weights")
        yield ConfigError(f"model.{missing}", None, f"{fix}, as the other of the two is set", "Set both, or neither.")
    if family is not None:
        layouts, kind = FAMILIES[family].layouts, kind_of(encoder)
        if FAMILIES[family].kind != kind:
            others = ", ".join(name for name, other in FAMILIES.items() if other.kind == kind)
            yield ConfigError("model.init_family", family, f"a family with weights of {encoder}: {others or 'none'}")
        elif layouts and layout not in layouts:
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


MODEL_RULES = (_patches, _of_vits, _pretrained)


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


def _schedule(c: dict) -> Iterator[ConfigError]:
    name, warmup, cooldown = (c[f"optimizer.{key}"] for key in ("schedule", "warmup", "cooldown"))
    if name == "constant" and c["optimizer.final_rate"]:
        expected = "0 with a constant schedule, which never falls"
        yield ConfigError("optimizer.final_rate", c["optimizer.final_rate"], expected, "Use linear, cosine or wsd.")
    if name in COOLED and warmup + cooldown > 1:
        expected = f"at most {1 - warmup:g}: warm-up is {warmup:g} of the run"
        yield ConfigError("optimizer.cooldown", cooldown, expected)
    if name == "rsqrt" and not warmup:
        yield ConfigError("optimizer.warmup", warmup, "more than 0 with rsqrt, which falls from the end of warm-up on")


def _schedule_free(c: dict) -> Iterator[ConfigError]:
    if c["optimizer.name"] != SCHEDULE_FREE:
        return
    of = f"with {SCHEDULE_FREE}"
    if c["optimizer.schedule"] != "constant":
        fix = "Set --config.optimizer.schedule=constant."
        yield ConfigError("optimizer.schedule", c["optimizer.schedule"], f"constant {of}, after warm-up", fix)
    if c["optimizer.ema"] is not None:
        expected = f"None {of}, which has an average of its own"
        yield ConfigError("optimizer.ema", c["optimizer.ema"], expected, "Set --config.optimizer.ema=None.")
    if c["precision.params"] != "float32":
        expected = f"float32 {of}, whose average is computed from the parameters"
        yield ConfigError("precision.params", c["precision.params"], expected)
    if c["optimizer.b1"] == 0:
        yield ConfigError("optimizer.b1", 0.0, f"more than 0 {of}", "Set --config.optimizer.b1=0.9.")


def _rules(c: dict) -> Iterator[ConfigError]:
    yield from param_groups.find_rule_problems(c["optimizer.rules"])


def _mesh(c: dict) -> Iterator[ConfigError]:
    if c["mesh.data"] == 0:
        yield ConfigError(
            "mesh.data", 0, "a number of devices, or -1 for all that are left", "Set --config.mesh.data=-1."
        )
    topology = c["mesh.topology"]
    if topology is not None and not is_topology(topology):
        yield ConfigError("mesh.topology", topology, TOPOLOGY_FORM)
    yield from find_rule_problems(c["mesh.rules"])


TRAINING_RULES = (_length_of_the_run, _grad_cache, _lars_and_clipping, _schedule, _schedule_free, _rules, _mesh)


RULES = (
    *TRAINING_RULES,
    *OBJECTIVE_RULES,
    *LOSS_RULES,
    *DATA_RULES,
    *MODEL_RULES,
    *EVALUATION_RULES,
)
