"""Rules about several keys of a config: values that are valid on their own but not together.

A rule gets the flat dict {dotted name: value} of the values that are valid on their own, and yields one ConfigError for
each thing that does not fit, with the fix. A new rule is a function beside those of its subject and an entry in the
tuple below them. A key that is wrong or missing is not in the dict; reading it raises KeyError, which ends the rule
silently, because the problem of that key is already reported.
"""

from collections.abc import Iterator

from xsample_jax.config.rules_data import DATA_RULES, EMOJI
from xsample_jax.config.rules_objective import LOSS_RULES, OBJECTIVE_RULES
from xsample_jax.errors import ConfigError
from xsample_jax.io.files import CHECKPOINTS
from xsample_jax.io.paths import as_path
from xsample_jax.models import param_groups
from xsample_jax.models.convnext import SMALLEST_SIDE
from xsample_jax.models.towers import kind_of
from xsample_jax.models.vit import GATED_LAYOUTS, VARIANTS, lora_paths
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.optim import COOLED, SCHEDULE_FREE
from xsample_jax.sharding import find_rule_problems
from xsample_jax.topology import TOPOLOGY_FORM, is_topology
from xsample_jax.weights.families import FAMILIES
from xsample_jax.weights.files import READERS
from xsample_jax.weights.hub import SCHEME

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
    """What the sides of images must be."""
    size, patch = c["augment.size"], c["model.patch_size"]
    if kind_of(c["model.encoder"]) == "convnext" and size < SMALLEST_SIDE:
        expected = f"at least {SMALLEST_SIDE} for a ConvNeXt, which would leave nothing of them"
        yield ConfigError("augment.size", size, expected, f"Set --config.augment.size={SMALLEST_SIDE}.")
    if kind_of(c["model.encoder"]) == "vit" and size % patch:
        divisors = ", ".join(str(side) for side in range(2, size + 1) if size % side == 0 and side <= 32)
        yield ConfigError(
            "model.patch_size", patch, f"a divisor of augment.size ({size}) for a ViT", f"Possible: {divisors}."
        )


def _gated(c: dict) -> Iterator[ConfigError]:
    """ViTs with SwiGLU are of layouts in which timm has them."""
    encoder, layout = c["model.encoder"], c["model.layout"]
    shape = VARIANTS[encoder.removeprefix("vit_")] if kind_of(encoder) == "vit" else None
    if shape is not None and shape.gated and layout not in GATED_LAYOUTS:
        expected = f"one of {', '.join(GATED_LAYOUTS)} for model.encoder = {encoder!r}, whose MLPs are SwiGLU"
        yield ConfigError("model.layout", layout, expected, "Set --config.model.layout=dinov2.")


def _blocks_left_out(c: dict) -> Iterator[ConfigError]:
    """Stochastic depth is of a ConvNeXt."""
    share, encoder, fix = c["model.drop_path"], c["model.encoder"], "Set --config.model.drop_path=0."
    if not share:
        return
    if kind_of(encoder) != "convnext":
        expected = f"0 for model.encoder = {encoder!r}: it is for a ConvNeXt"
        yield ConfigError("model.drop_path", share, expected, fix)
    if c["objective.generator.kind"] is not None:
        yield ConfigError("model.drop_path", share, "0 with objective.generator", fix)


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


def _style_noise(c: dict) -> Iterator[ConfigError]:
    """Styles are of the maps of ResNets, and of a whole batch."""
    kind, stages = c["model.style_noise.kind"], c["model.style_noise.stages"]
    if kind is None:
        return
    of, field = f"with model.style_noise.kind = {kind!r}", "model.style_noise.stages"
    if kind_of(c["model.encoder"]) != "resnet":
        expected = f"None for model.encoder = {c['model.encoder']!r}: it is for a ResNet"
        yield ConfigError("model.style_noise.kind", kind, expected, "Set --config.model.style_noise.kind=None.")
    if not stages or sorted(set(stages)) != list(stages):
        yield ConfigError(field, stages, "at least one stage, in ascending order, each once", "Set (1, 2, 3).")
    if c["loss.grad_cache"] > 1:
        expected = f"1 {of}, which looks at the whole batch"
        fix = "Set --config.loss.grad_cache=1, and --config.model.remat=block to save memory."
        yield ConfigError("loss.grad_cache", c["loss.grad_cache"], expected, fix)
    if c["objective.generator.kind"] is not None:
        expected = f"None {of}: one adversary at a time"
        yield ConfigError(
            "objective.generator.kind", c["objective.generator.kind"], expected, "Set one of them to None."
        )


def _pretrained(c: dict) -> Iterator[ConfigError]:
    path, family, encoder, layout = (c[f"model.{name}"] for name in ("init_from", "init_family", "encoder", "layout"))
    a_file = path is not None and path.endswith(tuple(READERS)) and not (as_path(path) / CHECKPOINTS).is_dir()
    a_run = path is not None and not a_file  # or published weights: a folder, or hf:NAME
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


def _text_tower(c: dict) -> Iterator[ConfigError]:
    layers, preset = c["model.text.layers"], c["objective.preset"]
    text = PRESETS[preset].objective.text
    if text in ("transformer", "causal") and layers == 0:
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
    further = c["model.text.multimodal"]
    if text == "causal" and further == 0:
        expected = f"at least 1 for objective.preset = {preset!r}, which predicts captions"
        fix = "Set --config.model.text.multimodal=2, or --config.objective.preset=clip."
        yield ConfigError("model.text.multimodal", further, expected, fix)
    if text != "causal" and further > 0:
        expected = f"0 for objective.preset = {preset!r}, which has no decoder of captions"
        fix = "Set --config.model.text.multimodal=0, or --config.objective.preset=coca."
        yield ConfigError("model.text.multimodal", further, expected, fix)
    if text in ("transformer", "causal") and c["data.caption"] == "mean":
        yield ConfigError(
            "data.caption",
            "mean",
            f"one caption for objective.preset = {preset!r}: tokens have no mean",
            "Set --config.data.caption=first.",
        )
    if c["model.text.causal"] and not layers:
        fix = "Leave it out, or train a transformer: --config.objective.preset=clip --config.model.text.layers=6."
        yield ConfigError("model.text.causal", True, "false without a transformer over captions", fix)
    width, heads = c["model.text.width"], c["model.text.heads"]
    if layers > 0 and width % heads:
        yield ConfigError(
            "model.text.width", width, f"a multiple of model.text.heads ({heads})", f"Set {heads * (width // heads)}."
        )


MODEL_RULES = (_patches, _gated, _text_tower, _blocks_left_out, _of_vits, _style_noise, _pretrained)


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
