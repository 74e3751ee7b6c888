"""Rules about the objective: what it needs of views, text and batch, and which programs can compute its loss."""

from collections.abc import Iterator

from jax.sharding import Mesh

from xsample_jax.errors import ConfigError, Problems, raise_all
from xsample_jax.graphs.targets import parts_of
from xsample_jax.models.convnext import SMALLEST_SIDE
from xsample_jax.models.generator import SMALLEST
from xsample_jax.models.towers import kind_of
from xsample_jax.objectives.from_config import build_objective, needed_views
from xsample_jax.objectives.logits import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from xsample_jax.objectives.objective import (
    Objective,
    find_unstreamable,
    find_without_kernels,
    reads_target_temperature,
)
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.side_information import BY_RECORD, OF_PAIRS, STATES
from xsample_jax.objectives.streaming.terms import ROWS_OF_NO_IMAGE
from xsample_jax.objectives.streaming.tiles import LANES, images_of_tile
from xsample_jax.registry import name_of, options_of

THINNEST = 4  # as model.width
TARGET_TEMPERATURES = ("target_temperature", "target_neighbors", "target_same_mass")


def _section(c: dict) -> dict:
    """The section `objective`: its keys without its name, and the sections in it."""
    found = {}
    for name, value in c.items():
        section, _, rest = name.removeprefix("objective.").partition(".")
        if name.startswith("objective.") and rest:
            found.setdefault(section, {})[rest] = value
        elif name.startswith("objective."):
            found[section] = value
    return found


def _objective(c: dict) -> Iterator[ConfigError]:
    try:
        objective = build_objective(_section(c))
    except Problems as several:
        yield from several.problems
        return
    except ConfigError as error:
        yield error
        return
    if objective.by_task and c["objective.teacher"] is not None:
        expected = f"None for objective.preset = {c['objective.preset']!r}, whose teacher does not move within a task"
        yield ConfigError("objective.teacher", c["objective.teacher"], expected)
    for rule in (
        _views,
        _temperatures,
        _programs,
        _standardized,
        _cells,
        _decoders,
        _slim,
        _queue,
        _widths,
        _whitening,
        _nearest_keys,
        _groups,
        _first_target,
    ):
        yield from rule(c, objective)


def _views(c: dict, objective: Objective) -> Iterator[ConfigError]:
    views, preset = needed_views(objective), c["objective.preset"]
    if c["views"] < views:
        yield ConfigError(
            "views",
            c["views"],
            f"at least {views} for objective.preset = {preset!r}, which compares views of an image",
            f"Set --config.views={views}.",
        )


def _temperatures(c: dict, objective: Objective) -> Iterator[ConfigError]:
    section, preset = _section(c), c["objective.preset"]
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


def _programs(c: dict, objective: Objective) -> Iterator[ConfigError]:
    """What cannot compute the loss: chunks of the batch, tiles, an encoder of one size of images."""
    preset = c["objective.preset"]
    if objective.local_views and c["loss.grad_cache"] > 1:
        yield ConfigError(
            "loss.grad_cache",
            c["loss.grad_cache"],
            f"1 for objective.preset = {preset!r}, whose small crops go through the encoder in one piece",
            "Set --config.loss.grad_cache=1, and --config.model.remat=block to save memory.",
        )
    if any(rows.block in OF_PAIRS for rows in objective.rows) and c["loss.grad_cache"] > 1:
        yield ConfigError(
            "loss.grad_cache",
            c["loss.grad_cache"],
            f"1 for objective.preset = {preset!r}, whose mixed images need all images in one pass",
            "Set --config.loss.grad_cache=1, and --config.model.remat=block to save memory.",
        )
    if any(rows.block == "mixed_features" for rows in objective.rows) and STATES["decoder"](objective):
        expected = "a preset without a decoder of captions, whose head does not read the features that are mixed"
        yield ConfigError("objective.preset", preset, expected)
    for number, reason in find_unstreamable(objective) if c["loss.impl"] == "streaming" else ():
        yield ConfigError(
            "loss.impl",
            "streaming",
            f"auto or dense for objective.preset = {preset!r}, whose term {number} cannot be streamed: {reason}",
            "Set --config.loss.impl=auto.",
        )
    if objective.local_views and kind_of(c["model.encoder"]) in ("vit", "mlp"):
        yield ConfigError(
            "model.encoder",
            c["model.encoder"],
            f"a ResNet for objective.preset = {preset!r}: its small crops have another size than the views",
            "Set --config.model.encoder=resnet50.",
        )
    if objective.local_views and kind_of(c["model.encoder"]) == "convnext":
        of = f"for objective.preset = {preset!r}, whose small crops"
        if c["augment.local_size"] < SMALLEST_SIDE:
            expected = f"at least {SMALLEST_SIDE} {of} would leave nothing of {c['model.encoder']}"
            fix = f"Set --config.augment.local_size={SMALLEST_SIDE}."
            yield ConfigError("augment.local_size", c["augment.local_size"], expected, fix)
        if c["model.drop_path"]:
            fix = "Set --config.model.drop_path=0."
            yield ConfigError("model.drop_path", c["model.drop_path"], f"0 {of} run all blocks", fix)


def _standardized(c: dict, objective: Objective) -> Iterator[ConfigError]:
    """Mean and variance of a chunk are not those of the batch, nor is the gradient."""
    heads = [name for name, head in objective.heads.items() if head.standardized]
    if heads and c["loss.grad_cache"] > 1:
        expected = (
            f"1 for objective.preset = {c['objective.preset']!r}, which standardizes outputs ({', '.join(heads)})"
        )
        fix = "Set --config.loss.grad_cache=1, and --config.model.remat=block to save memory."
        yield ConfigError("loss.grad_cache", c["loss.grad_cache"], f"{expected} over the whole batch", fix)


def _cells(c: dict, objective: Objective) -> Iterator[ConfigError]:
    """Cells are those of the last map of an encoder, all of them where heads read them."""
    heads = STATES["cells"](objective)
    captions = STATES["decoder"](objective)
    if not heads and not captions and all(rows.block != "teacher_cells" for rows in objective.rows):
        return
    of = f"for objective.preset = {c['objective.preset']!r}, which reads cells of a map"
    if kind_of(c["model.encoder"]) == "mlp":
        fix = "Set --config.model.encoder=resnet50, or take a preset without cells, as simclr."
        yield ConfigError("model.encoder", c["model.encoder"], f"a ResNet or ViT {of}", fix)
    for key in ("model.patch_dropout", "model.drop_path"):
        if (heads or captions) and c[key]:
            yield ConfigError(key, c[key], f"0 {of}", f"Set --config.{key}=0.")
    if (heads or captions) and c["model.style_noise.kind"] is not None:
        fix = "Set --config.model.style_noise.kind=None."
        yield ConfigError("model.style_noise.kind", c["model.style_noise.kind"], f"None {of}", fix)


def _slim(c: dict, objective: Objective) -> Iterator[ConfigError]:
    """The thin network is a ResNet of some of the channels, and sees the whole batch."""
    if not objective.slim:
        return
    of = f"for objective.preset = {c['objective.preset']!r}, which trains a thin network beside the wide one"
    if kind_of(c["model.encoder"]) != "resnet":
        yield ConfigError("model.encoder", c["model.encoder"], f"a ResNet {of}", "Set --config.model.encoder=resnet18.")
    elif round(c["model.slim"] * c["model.width"]) < THINNEST:
        expected = f"at least {THINNEST} channels in the first stage {of} (model.width = {c['model.width']})"
        least = min(1.0, THINNEST / c["model.width"])
        yield ConfigError("model.slim", c["model.slim"], expected, f"Set --config.model.slim={least:g}.")
    if c["loss.grad_cache"] > 1:
        fix = "Set --config.loss.grad_cache=1, and --config.model.remat=block to save memory."
        yield ConfigError("loss.grad_cache", c["loss.grad_cache"], f"1 {of}", fix)


def _decoders(c: dict, objective: Objective) -> Iterator[ConfigError]:
    """A decoder of captions reads the whole batch at once; one of images makes images."""
    of, fix = f"for objective.preset = {c['objective.preset']!r}", "Set --config.loss.grad_cache=1."
    if STATES["decoder"](objective) and c["loss.grad_cache"] > 1:
        expected = f"1 {of}, whose decoder reads maps of the encoder, which chunks do not keep"
        yield ConfigError("loss.grad_cache", c["loss.grad_cache"], expected, fix)
    if objective.log_variance is not None and c["data.source"] == "vectors":
        expected = f"a source of images {of}, which makes an image of every latent"
        yield ConfigError("data.source", "vectors", expected, "Take a preset without a decoder, as simclr.")


def _groups(c: dict, objective: Objective) -> Iterator[ConfigError]:
    """Rows are compared within groups of devices: only by a loss whose every term is streamed by tiles."""
    groups, preset = c["loss.groups"], c["objective.preset"]
    if groups == 1:
        return
    expected, fix = f"1 for objective.preset = {preset!r}", "Set --config.loss.groups=1."
    reasons = [f"term {number}: {reason}" for number, reason in find_unstreamable(objective)]
    reasons += ["the link z looks at all rows" for term in objective.terms if name_of(term.link) == "z"]
    reasons += ["it has feature terms, which see the whole batch"] if objective.feature_terms else []
    for term in objective.terms:
        blocks = [rows.block for rows in (term.anchors, *term.key_rows)]
        reasons += [f"the block {block!r} is not one of images" for block in blocks if block in ROWS_OF_NO_IMAGE]
        reasons += ["a term has several blocks of keys"] if len(term.key_rows) > 1 else []
    tables = (name_of(part.source) == "class_text" for term in objective.terms for part in parts_of(term.graph))
    reasons += ["a graph of class texts has a table of all rows"] if any(tables) else []
    reasons += ["loss.impl is dense"] if c["loss.impl"] == "dense" else []
    if reasons:
        yield ConfigError("loss.groups", groups, f"{expected}: {reasons[0]}", fix)


def _first_target(c: dict, objective: Objective) -> Iterator[ConfigError]:
    """Order and distance of real-valued labels are of one number: others would be left out silently."""
    graphs = [part for term in objective.terms for part in parts_of(term.graph)]
    first = any(name_of(part.source) == "same_target" for part in graphs)
    first |= any(name_of(term.negatives) == "target_distance" for term in objective.terms)
    for number, entry in enumerate(c["data.side"] if first else ()):
        given = entry.get("attributes", ())
        if entry.get("name") == "target" and isinstance(given, tuple | list) and len(given) > 1:
            expected = f"one attribute for objective.preset = {c['objective.preset']!r}, which reads one number"
            yield ConfigError(f"data.side[{number}].attributes", given, expected, "Name the one that is meant.")


def _widths(c: dict, objective: Objective) -> Iterator[ConfigError]:
    widths, weights = c["objective.widths"], c["objective.width_weights"]
    if weights is not None and len(weights) != len(widths):
        yield ConfigError("objective.width_weights", weights, f"one for each of the {len(widths)} objective.widths")
    if objective.widths and objective.widths[0][0] > c["model.head.dim"]:
        expected = f"at most model.head.dim = {c['model.head.dim']}, which they are prefixes of"
        yield ConfigError("objective.widths", widths, expected)


def _whitening(c: dict, objective: Objective) -> Iterator[ConfigError]:
    """Groups of channels that a batch can whiten: their covariances have full rank, with twice as many rows."""
    groups = [term.name for term in objective.feature_terms if name_of(term.name) == "whitened_contrast"]
    widths = [width for width, _ in objective.widths] or [c["model.head.dim"]]
    for group in sorted({options_of(name).get("width", 4) for name in groups}):
        if 2 * group > c["batch_size"]:
            yield ConfigError(
                "batch_size",
                c["batch_size"],
                f"at least {2 * group}, twice the channels of a group that whitened_contrast whitens (width = {group})",
                f"Set --config.batch_size={2 * group}, or a smaller width.",
            )
        if any(width % group for width in widths):
            key = "objective.widths" if objective.widths else "model.head.dim"
            expected = f"a multiple of {group}, the channels of a group that whitened_contrast whitens"
            yield ConfigError(key, c[key], expected, f"Set --config.model.head.dim={-(-max(widths) // group) * group}.")


def _nearest_keys(c: dict, objective: Objective) -> Iterator[ConfigError]:
    """A top k of a row that has fewer keys: of blocks whose rows are known without a batch."""
    images, known = c["batch_size"], {"text": c["batch_size"], "queue": objective.queue}
    for number, term in enumerate(objective.terms):
        rows = [one for one in term.key_rows if one.times is None and one.block in ("image", "teacher", *known)]
        views = [1 if one.view is not None else c["views"] - (one.without is not None) for one in rows]
        most = sum(known.get(one.block, images * count) for one, count in zip(rows, views, strict=True)) - 1
        k = options_of(term.link).get("k", 0) if name_of(term.link) == "soft_top_k" else 0
        if len(rows) == len(term.key_rows) and k > most:
            expected = f"at most {most}, as a row has {most + 1} keys (batch_size = {images}, views = {c['views']})"
            yield ConfigError(f"objective.terms[{number}].link.k", k, expected, "Take a smaller k or a larger batch.")


def _queue(c: dict, objective: Objective) -> Iterator[ConfigError]:
    if objective.queue and objective.queue % c["batch_size"]:
        yield ConfigError(
            "objective.queue",
            objective.queue,
            f"a multiple of batch_size ({c['batch_size']}): every step replaces that many entries",
            f"Set --config.objective.queue={c['batch_size'] * max(objective.queue // c['batch_size'], 1)}.",
        )


FEWEST_GENERATED = 2  # a contrast needs another image


def _not_generated(c: dict) -> Iterator[ConfigError]:
    """A generator is told classes and captions, but not what data.side gives, so its images would have none of it."""
    try:
        reads = build_objective(_section(c)).requires & set(BY_RECORD)
    except ConfigError:
        return  # reported by _objective
    kind, preset = c["objective.generator.kind"], c["objective.preset"]
    if kind is not None and c["objective.generator.share"] and reads:
        yield ConfigError(
            "objective.generator.kind",
            kind,
            f"None for objective.preset = {preset!r}, which reads {', '.join(sorted(reads))} of every image: a "
            "generated image has none",
            "Set --config.objective.generator.kind=None, or --config.objective.preset=simclr and "
            "--config.objective.clusters.k='()'.",
        )


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
    objective, past = PRESETS[preset].objective, c["objective.past"]
    network, reason = objective.pair_network, None
    if network is not None and network.channels:
        reason = "has a weight for every place in a whole batch: generated images are fewer"
    if objective.memory is not None or objective.bank or objective.past or past or c["objective.clusters.k"]:
        reason = "remembers every image of the set: a generated image is none of them"
    if reason:
        expected = f"None for objective.preset = {preset!r}, which {reason}"
        fix = "Set --config.objective.generator.kind=None, or --config.objective.preset=simclr."
        yield ConfigError("objective.generator.kind", kind, expected, fix)
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


def _clusters(c: dict) -> Iterator[ConfigError]:
    """Clusters of a bank take the place of those that a side file has."""
    made = ("cluster", "class_temperature") if c["objective.clusters.by_class"] else ("cluster",)
    preset = PRESETS.get(c["objective.preset"])
    own = c["objective.clusters.k"] or (preset is not None and preset.objective.clusters is not None)
    for number, entry in enumerate(c["data.side"] if own else ()):
        if entry.get("name") in made:
            fix = "Remove it, or set --config.objective.clusters.k='()'."
            expected = "no entry that objective.clusters makes during the run"
            yield ConfigError(f"data.side[{number}].name", entry["name"], expected, fix)


OBJECTIVE_RULES = (_objective, _generator, _not_generated, _clusters)


# The kernels for TPU: what they can do, said before anything compiles.


def check_kernels(config, objective: Objective, mesh: Mesh) -> None:
    """Raises ConfigError (or Problems) where loss.groups do not divide the devices, or where loss.kernel is pallas, and
    devices are not TPUs or hold an unsupported share."""
    if mesh.size % config.loss.groups:
        expected = f"a divisor of the {mesh.size} devices, each of which is in one group"
        raise ConfigError("loss.groups", config.loss.groups, expected, "Set --config.loss.groups=1.")
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


def _kernels(c: dict) -> Iterator[ConfigError]:
    if c["loss.kernel"] != "pallas":
        return
    if c["loss.impl"] == "dense":
        fix = "Set --config.loss.impl=auto, or --config.loss.kernel=auto."
        yield ConfigError("loss.kernel", "pallas", "auto or xla with loss.impl = 'dense', which has no tiles", fix)
    try:
        objective = build_objective(_section(c))
    except ConfigError:
        return  # reported by the rules of the objective
    for number, reason in find_without_kernels(objective):
        preset = c["objective.preset"]
        yield ConfigError(
            "loss.kernel",
            "pallas",
            f"auto or xla for objective.preset = {preset!r}, whose term {number} has no kernels: {reason}",
            "Set --config.loss.kernel=auto.",
        )
    if c["mesh.data"] > 0:  # else it depends on the devices there are: check_kernels
        devices = c["mesh.data"] * c["mesh.fsdp"] * c["mesh.tensor"]
        yield from find_uneven_tiles(objective, c["batch_size"], devices, c["views"], c["loss.block_size"])


LOSS_RULES = (_kernels,)
