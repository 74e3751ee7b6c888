"""An encoder as one file that any jax runs without this package: serialized StableHLO (jax.export) with its weights.

function = jax.export.deserialize(bytearray(open("encoder.jax", "rb").read()))
features = function.call(images)     # uint8 [n, s, s, c] -> float32 [n, features]
"""

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tokenizers.processors import TemplateProcessing

from xsample_jax.augment.ids import VECTOR_CHANNELS
from xsample_jax.checkpoint import Checkpoints, trained_config
from xsample_jax.config import config_to_json
from xsample_jax.data.captions import END, PADDING, SPECIAL, START, TOKENIZER
from xsample_jax.distributed import log_info
from xsample_jax.encoder import BIAS, HEAD, LOG_SCALE, TEXT, Encoder
from xsample_jax.errors import CheckpointError, ConfigError, DataError, UserError, lookup, raise_all
from xsample_jax.io.checkpoint_files import classes_of, find_checkpoint, read_arrays, saved_arrays
from xsample_jax.io.files import CHECKPOINTS, CONFIG, atomic_write
from xsample_jax.io.run_dir import log_event
from xsample_jax.models.towers import TEXT_EPSILON, kind_of
from xsample_jax.models.vit import LAYOUTS, VARIANTS, merge_lora
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.objectives.learned_state import CLASSES, GATE_CLASSES
from xsample_jax.state import Progress, TrainState
from xsample_jax.weights.families import FAMILIES, OPEN_CLIP_TEXT
from xsample_jax.weights.files import write_safetensors
from xsample_jax.weights.hub import KEPT, OPEN_CLIP, WEIGHTS
from xsample_jax.weights.name_map import to_theirs

PLATFORMS = ("cpu", "cuda", "tpu")


def export_jax(encoder: Encoder, out: str | Path, platforms: Sequence[str] = PLATFORMS) -> str:
    """Writes the file, for any number of images, and returns in words what it takes."""
    _check_images(encoder)
    encoder = encoder.with_model(conv_impl="conv")  # "dot" is for one platform
    size, channels = encoder.config.data.image_size, encoder.channels
    (count,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((count, size, size, channels), jnp.uint8)
    exported = jax.export.export(jax.jit(lambda images: encoder.forward(images)), platforms=tuple(platforms))(images)
    try:
        content = exported.serialize()
    except ImportError as error:
        raise ImportError(f"--format=jax_export needs flatbuffers: pip install -e .[export] ({error})") from error
    atomic_write(Path(out), lambda partial: partial.write_bytes(content))
    alpha = ", the last of them alpha" if channels == 4 else ""
    taken = f"uint8 images [n, {size}, {size}, {channels}{alpha}]"
    return f"{taken} -> float32 [n, {encoder.features}] on {', '.join(platforms)}"


# An encoder as an ONNX file, by jax2onnx (extra onnx): the network alone, on normalized images.
#
# Resizing and normalization stay outside: jax2onnx cannot convert them. ONNX Runtime runs what it made, and features
# are compared with those of the network before the file appears: a conversion can go wrong in silence. With XLA's own
# convolutions and max-pool (conv_impl="conv") it loses the padding, which is why the matrix products are exported.


TOLERANCE = 1e-4  # of the largest feature


def export_onnx(encoder: Encoder, out: str | Path) -> str:
    """Writes the file, for any number of images, and returns in words what it takes.

    Raises ImportError without jax2onnx and onnxruntime, DataError where the file gives other features.
    """
    check_exportable(encoder)
    atomic_write(Path(out), lambda partial: _write_onnx(encoder.with_model(conv_impl="dot"), partial))
    size, augment = encoder.config.augment.size, encoder.config.augment
    return (
        f"images float32 [n, {size}, {size}, 3] -> features float32 [n, {encoder.features}]; first resize to {size}, "
        f"scale to 0..1, take off {tuple(augment.mean)} and divide by {tuple(augment.std)}"
    )


def _write_onnx(encoder: Encoder, path: Path) -> None:
    """Converts an encoder and compares the features of the file with its own. Raises as `export_onnx`."""
    try:
        import onnxruntime
        from jax2onnx import to_onnx
    except ImportError as error:
        raise ImportError(f"--format=onnx needs jax2onnx and onnxruntime: pip install -e .[onnx] ({error})") from error
    for name in ("jax2onnx", "onnx_ir"):  # tracebacks of plugins that do not fit the jax installed, types not known
        logging.getLogger(name).setLevel(logging.ERROR)
    log_info(f"{encoder.config.name}: converting to ONNX, which takes jax2onnx minutes for a deep encoder")
    graph, state = nnx.split(encoder.module)
    size = encoder.config.augment.size
    try:
        to_onnx(
            lambda images: nnx.merge(graph, state)(images),
            [("n", size, size, 3)],
            return_mode="file",
            output_path=str(path),
            input_names=["images"],
            output_names=["features"],
        )
    except OSError:
        raise
    except Exception as error:  # an operation that it does not know, of any family
        found = f"{type(error).__name__}: {error}"
        expected = "an encoder that jax2onnx converts"
        raise DataError("--format=onnx", found, expected, "Use --format=jax_export.") from error
    images = np.float32(np.random.default_rng(0).standard_normal((3, size, size, 3)))
    expected = np.asarray(jax.jit(lambda state, images: nnx.merge(graph, state)(images))(state, images))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (features,) = session.run(None, {"images": images})
    error = np.abs(features - expected).max() / np.abs(expected).max()
    if not error < TOLERANCE:
        fix = "Try another version of jax2onnx."
        raise DataError("ONNX features", f"{error:.1e} away", f"within {TOLERANCE:g}", fix)


# An encoder as a .safetensors file under the names of timm (or, for the layouts of CLIP, of open_clip).


SHAPE = ("encoder", "layout", "width", "stem", "patch_size")
_TIMM_NAMES = {
    "ti": "tiny_patch16", "s": "small_patch16", "b": "base_patch16", "l": "large_patch16", "h": "huge_patch14",
    "so400m": "base_patch16",
}  # fmt: skip
_TIMM_ACTIVATIONS = {"gelu": {}, "gelu_tanh": {"act_layer": "gelu_tanh"}}


def export_safetensors(encoder: Encoder, out: str | Path) -> str:
    """Writes the file and returns, in words, how to load it; also in the file's metadata, with mean, std and size."""
    check_exportable(encoder)
    family = family_of(encoder.config)
    arrays = to_theirs(FAMILIES[family], encoder.module, encoder.arrays)
    if family == "resnet":  # what torch counts beside every running mean
        counters = [name.replace("running_mean", "num_batches_tracked") for name in arrays if "running_mean" in name]
        arrays |= {name: np.array(encoder.step, np.int64) for name in counters}
    config, loading = encoder.config, how_to_load(encoder.config)
    metadata = {
        "format": "pt",
        "load": loading,
        "family": family,
        "model": json.dumps({name: config.model[name] for name in SHAPE}),
        "images": json.dumps(
            {"size": config.augment.size, "mean": list(config.augment.mean), "std": list(config.augment.std)}
        ),
        "objective": config.objective.preset,
        "step": str(encoder.step),
    }
    write_safetensors(out, arrays, metadata)
    return loading


def export_npz(encoder: Encoder, out: str | Path) -> str:
    """Writes the file of Encoder.save and returns, in words, how to load it."""
    encoder.save(out)
    stages = kind_of(encoder.config.model.encoder) == "resnet"
    width = f", {encoder.config.model.width} channels in its first stage" if stages else ""
    return f"xsample_jax.load_encoder(FILE): {encoder.config.model.encoder}{width}"


def check_exportable(encoder: Encoder) -> None:
    """Raises DataError for an encoder that has no names in another library: of vectors, or of more than colors."""
    _check_images(encoder)
    _check_colors(encoder)


def _check_images(encoder: Encoder) -> None:
    """Raises DataError for an encoder of vectors, of which no format here says anything."""
    if encoder.channels == VECTOR_CHANNELS:
        fix = "Keep it as one file: load_encoder(RUN).save('encoder.npz')."
        raise DataError("data.source of the run", "vectors", "an encoder of images, for an export", fix)


def _check_colors(encoder: Encoder) -> None:
    """Raises DataError for an encoder that reads bits of a hash beside the colors: only its own views have them."""
    bits = encoder.config.augment.bits
    if bits:
        raise DataError("augment.bits of the run", bits, "0 for this format", "Use --format=jax_export.")


def family_of(config) -> str:
    """The family in whose names the encoder of a config is written."""
    of_layout = ("open_clip_vit", "timm_dinov3")
    vit = next((name for name in of_layout if config.model.layout in FAMILIES[name].layouts), "timm_vit")
    families = {"resnet": "resnet", "convnext": "convnext", "vit": vit}
    return lookup(families, kind_of(config.model.encoder), "kind of model.encoder")


def how_to_load(config) -> str:
    """The call that makes the same model elsewhere, to be followed by load_state_dict(..., strict=True)."""
    model, family = config.model, family_of(config)
    if family == "resnet":
        call = f"timm.create_model({model.encoder!r}, num_classes=0)"
        odd = []
        if model.width != 64:
            odd.append(f"its first stage {model.width} channels wide, not 64, and the others in proportion")
        if model.stem == "cifar":
            odd.append("a 3x3 stem of stride 1 without max-pool")
        return call + (f" but with {' and '.join(odd)}" if odd else "")
    if family == "convnext":
        return f"timm.create_model({model.encoder!r}, num_classes=0)"
    if family == "open_clip_vit":
        shape = VARIANTS[model.encoder.removeprefix("vit_")]
        quick = model.layout == "openai_clip"
        return (
            f"the image tower of open_clip.model.CLIP with vision_cfg=dict(layers={shape.depth}, "
            f"width={shape.width}, head_width={shape.width // shape.heads}, patch_size={model.patch_size}, "
            f"image_size={config.augment.size}), "
            f"quick_gelu={quick}; its visual.proj is not in the file"
        )
    name, options = (timm_dinov3 if family == "timm_dinov3" else timm_vit)(config)
    return f"timm.create_model({name!r}, {', '.join(f'{key}={value!r}' for key, value in options.items())})"


def timm_vit(config) -> tuple[str, dict[str, object]]:
    """(name, arguments) of timm.create_model for a ViT."""
    model = config.model
    layout, shape = LAYOUTS[model.layout], VARIANTS[model.encoder.removeprefix("vit_")]
    options = {"img_size": config.augment.size, "patch_size": model.patch_size, "num_classes": 0}
    if layout.attention_pool:
        options |= {"class_token": False, "global_pool": "map"}
    elif not layout.token:
        options |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    options |= {} if layout.scale is None else {"init_values": layout.scale}
    options |= {"reg_tokens": layout.registers} if layout.registers else {}
    if layout.token and not layout.token_position:
        options |= {"no_embed_class": True}
    if shape.hidden is not None:
        options |= {"embed_dim": shape.width, "depth": shape.depth, "num_heads": shape.heads}
        # Of SwiGLU timm counts gates and values as hidden units.
        options |= {"mlp_ratio": _ratio((1 + shape.gated) * shape.hidden, shape.width)}
    if shape.gated:
        return "vit_giant_patch14_dinov2", options
    options |= _TIMM_ACTIVATIONS[layout.activation]
    return f"vit_{_TIMM_NAMES[model.encoder.removeprefix('vit_')]}_224", options


def _ratio(hidden: int, width: int) -> float:
    """What timm multiplies the width by, and cuts the fraction off, to get `hidden`: rounded up."""
    return math.ceil(1e4 * hidden / width) / 1e4


def timm_dinov3(config) -> tuple[str, dict[str, object]]:
    """(name, arguments) of timm.create_model for a ViT with the rotary positions of DINOv3."""
    model = config.model
    shape, biases = VARIANTS[model.encoder.removeprefix("vit_")], "_qkvb" if model.layout == "dinov3_qkvb" else ""
    options = {"img_size": config.augment.size, "patch_size": model.patch_size, "num_classes": 0}
    options |= {"global_pool": "token", "embed_dim": shape.width, "depth": shape.depth, "num_heads": shape.heads}
    options |= {"mlp_ratio": _ratio(shape.hidden, shape.width)} if shape.hidden else {}
    return f"vit_small{'_plus' if shape.gated else ''}_patch16_dinov3{biases}", options


# The whole model, image and text side, as a folder that open_clip loads: "local-dir:FOLDER", or from the hub.


def export_open_clip(encoder: Encoder, out: str | Path, name: str | None = None) -> str:
    """Writes open_clip_config.json, the weights, the tokenizer and what `load_encoder` needs; returns how to load it.

    name: of the repository of the hub where the folder will be, from which open_clip takes the tokenizer then.

    Raises Problems with all in which the model is none of open_clip's, DataError where the tokenizer is gone.
    """
    check_exportable(encoder)
    raise_all(find_open_clip_problems(encoder), "--format=open_clip")
    config, text, out = encoder.config, encoder.text, Path(out)
    encoder = encoder.with_texts()
    tokenizer = encoder.tokenizer()
    shape = VARIANTS[config.model.encoder.removeprefix("vit_")]
    scale = encoder.sides.get(LOG_SCALE, -math.log(build_objective(config.objective).temperature))
    arrays = {
        **to_theirs(FAMILIES["open_clip_vit"], encoder.module, encoder.arrays),
        "visual.proj": np.asarray(encoder.sides[HEAD + "out/kernel"], np.float32),
        **to_theirs(OPEN_CLIP_TEXT, text, {n[len(TEXT) :]: a for n, a in encoder.sides.items() if n.startswith(TEXT)}),
        "logit_scale": np.asarray(scale, np.float32).reshape(()),
    }
    model = {"embed_dim": config.model.head.dim}
    if BIAS in encoder.sides:  # of a sigmoid loss: open_clip has a place for it if its config gives a start
        arrays["logit_bias"] = np.asarray(encoder.sides[BIAS], np.float32).reshape(())
        model["init_logit_bias"] = float(arrays["logit_bias"])
    vision = {"image_size": config.augment.size, "patch_size": config.model.patch_size, "layers": shape.depth}
    vision |= {"width": shape.width, "head_width": shape.width // shape.heads}
    vision |= {"mlp_ratio": (shape.hidden or 4 * shape.width) / shape.width}
    words = {"context_length": text.length, "vocab_size": text.tokens.num_embeddings, "width": text.width}
    words |= {
        "heads": config.model.text.heads,
        "layers": config.model.text.layers,
        "norm_kwargs": {"eps": TEXT_EPSILON},
    }
    words |= {"pool_type": "eos", "eos_id": END, "pad_id": PADDING, "hf_tokenizer_name": name or out.name}
    images = {"mean": list(config.augment.mean), "std": list(config.augment.std), "interpolation": "bilinear"}
    about = {
        "model_cfg": model | {"vision_cfg": vision, "text_cfg": words},
        "preprocess_cfg": images | {"resize_mode": "longest" if config.data.fit == "pad" else "shortest"},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_safetensors(out / WEIGHTS[OPEN_CLIP][0], arrays, {"format": "pt"})
    _write_tokenizer(tokenizer, out)
    dataclasses.replace(encoder, arrays={}).save(out / KEPT)
    _write_json(out / OPEN_CLIP, about)
    place = f"hf-hub:{name}" if name else f"local-dir:{out}"
    return f"open_clip.create_model_and_transforms({place!r}), open_clip.get_tokenizer({place!r})"


def find_open_clip_problems(encoder: Encoder) -> list[UserError]:
    """All reasons why open_clip has no model that computes what this one does."""
    model, problems = encoder.config.model, []
    if kind_of(model.encoder) != "vit" or model.layout != "open_clip":
        found = f"{model.encoder}, {model.layout}" if kind_of(model.encoder) == "vit" else model.encoder
        expected = "a ViT of the layout open_clip: its image tower has no other form"
        problems.append(ConfigError("model.encoder and model.layout of the run", found, expected))
    if model.head.hidden or model.head.kappa is not None:
        found = model.head.kappa if model.head.kappa is not None else model.head.hidden
        expected = "(): the projection of open_clip is one linear map"
        problems.append(
            ConfigError("model.head of the run", found, expected, "Train with --config.model.head.hidden='()'.")
        )
    if not model.text.layers:
        fix = "Train with --config.objective.preset=clip --config.model.text.layers=6, for example."
        problems.append(
            ConfigError("model.text.layers of the run", model.text.layers, "a transformer over captions", fix)
        )
    elif model.text.multimodal:
        expected = "0: the model of open_clip has no decoder of captions of this form"
        problems.append(ConfigError("model.text.multimodal of the run", model.text.multimodal, expected))
    elif not model.text.causal:
        expected = "true: the text tower of open_clip cannot mask padding, which then must come after all that is read"
        problems.append(
            ConfigError("model.text.causal of the run", False, expected, "Train with --config.model.text.causal.")
        )
    if build_objective(encoder.config.objective).bias is not None and BIAS not in encoder.sides:
        expected = "the learned bias of its sigmoid loss, which older files of Encoder.save lack"
        problems.append(ConfigError(f"{BIAS} of the encoder", None, expected, "Export from the run folder."))
    fix = "Use --format=safetensors for the encoder alone, Encoder.save for all of it."
    return problems and [ConfigError(p.field, p.value, p.expected, p.fix or fix) for p in problems]


def _write_tokenizer(tokenizer, out: Path) -> None:
    """tokenizer.json and tokenizer_config.json as transformers reads them, with start and end tokens by template."""
    start, end = SPECIAL[START], SPECIAL[END]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, START), (end, END)]
    )
    atomic_write(out / TOKENIZER, lambda partial: partial.write_text(tokenizer.to_str() + "\n", encoding="utf-8"))
    names = {"bos_token": start, "eos_token": end, "pad_token": SPECIAL[PADDING]}
    _write_json(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, indent=2) + "\n"
    atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


# Model soups (Wortsman et al. 2022, arXiv 2203.05482): the average of the weights of several runs, as a run folder.


PARTS = ("params", "statistics")
# Keys of which another value makes another function of the same arrays.
MEANING = (
    *("model.encoder", "model.stem", "model.layout", "model.text.causal", "model.text.heads", "model.head.kappa"),
    *("augment.size", "augment.mean", "augment.std", "augment.bits"),
)


def average_weights(models: Sequence[Mapping[str, Mapping[str, np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
    """The plain average of models {"params" and "statistics": {path: array}} with the same paths, shapes and types."""
    first = models[0]
    return {
        part: {
            name: np.mean([model[part][name] for model in models], axis=0, dtype=np.float64).astype(array.dtype)
            for name, array in first[part].items()
        }
        for part in PARTS
    }


def write_soup(runs: Sequence[str | Path], out: Path) -> list[str]:
    """Writes the average of the weights of runs (RUN or RUN/checkpoints/STEP) as the checkpoint of a new run folder.

    Of a run with a moving average that one is taken, as evaluation does; low-rank factors (model.lora) are merged into
    their maps first, because a mean of products is not a product of means. Config and step are those of the first run;
    there is no state of an optimizer, so the folder can be evaluated, exported and started from, but not resumed.
    Returns lines of text. Raises ConfigError for fewer than two runs or an `out` that is a run, CheckpointError for
    runs whose models differ.
    """
    if len(runs) < 2:
        raise ConfigError("RUN", len(runs), "two runs or more, whose weights are averaged")
    if (out / CHECKPOINTS).exists():
        raise ConfigError("--out", str(out), "a folder that is not a run yet", "Choose another.")
    places = [find_checkpoint(run) for run in runs]
    _check_same(places)
    soup = average_weights([_model_of(*place) for place in places])
    run, step = places[0]
    config = trained_config(run, step).copy_and_resolve_references().unlock()
    if config.model.lora:  # merged: its rules are about a model with factors
        config.model.lora, config.optimizer.rules = 0, ()
    config.name = f"soup of {len(places)}, {config.name}"[:100]
    arrays = {part: {name: jnp.asarray(array) for name, array in soup[part].items()} for part in PARTS}
    state = TrainState(step=jnp.asarray(step, jnp.int32), **arrays, opt_state=(), memory={}, ema={})
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / CONFIG, lambda partial: partial.write_text(config_to_json(config), encoding="utf-8"))
    log_event(out, "weights were averaged", runs=[f"{run}, step {step}" for run, step in places])
    checkpoints = Checkpoints(out, config.checkpoint)
    try:
        checkpoints.save(state, Progress(step, 0, classes=classes_of(run, step)), config_to_json(config))
        checkpoints.wait()
    finally:
        checkpoints.close()
    size = sum(math.prod(array.shape) for array in arrays["params"].values())
    lines = [f"{size:,} parameters averaged over {len(places)} runs, step {step}: {out}"]
    if arrays["statistics"]:
        lines.append("note: running statistics of batch norms are averaged too; they are not those of the new weights")
    return lines


def _model_of(run: Path, step: int) -> dict[str, dict[str, np.ndarray]]:
    found = read_arrays(run, step, saved_arrays(run, step), sharding=None)
    model = {part: {name: found["ema"].get(name, array) for name, array in found[part].items()} for part in PARTS}
    params = merge_lora(model["params"])
    return model | {"params": {name: array.astype(found["params"][name].dtype) for name, array in params.items()}}


def _check_same(places: Sequence[tuple[Path, int]]) -> None:
    """One CheckpointError with all in which a model differs from the first; the files of the arrays are not read."""
    shapes, configs = [saved_arrays(*place) for place in places], [trained_config(*place) for place in places]
    classes = [classes_of(*place) for place in places]
    for place, saved, config, of in zip(places[1:], shapes[1:], configs[1:], classes[1:], strict=True):
        keys = [f"{key} = {_value(config, key)}, not {_value(configs[0], key)}" for key in MEANING
                if _value(config, key) != _value(configs[0], key)]  # fmt: skip
        if of and classes[0] and of != classes[0] and {CLASSES, GATE_CLASSES} & set(saved["params"]):
            keys.append("rows learned for other classes, or in another order")
        names = sorted({name for part in PARTS for those in (saved, shapes[0]) for name in those[part]})
        arrays = [f"{name} {_shape(saved, name)}, not {_shape(shapes[0], name)}" for name in names
                  if _shape(saved, name) != _shape(shapes[0], name)]  # fmt: skip
        if keys or arrays:
            found = "; ".join([*keys, *arrays[:2]]) + (f" ({len(arrays)} arrays differ)" if arrays else "")
            raise CheckpointError(f"model of {place[0]}", found, f"that of {places[0][0]}, to be averaged")


def _shape(saved: dict, name: str) -> tuple[int, ...] | str:
    return next((tuple(saved[part][name].shape) for part in PARTS if name in saved[part]), "missing")


def _value(config, key: str):
    for name in key.split("."):
        config = config[name]
    return config
