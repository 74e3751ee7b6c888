"""A run as a repository of the Hugging Face hub: weights under the names of timm or open_clip, and a model card.

    xsample_jax.push_to_hub("runs/mine", "me/mine")      # or: tools.export --run=runs/mine --push=me/mine
    xsample_jax.load_encoder("hf:me/mine")               # also --config.model.init_from=hf:me/mine

The layout is the one that weights/hub.py reads: config.json and model.safetensors, or for a whole model of open_clip's
(export_open_clip) open_clip_config.json and its weights; beside them README.md, and KEPT, from which `load_encoder`
takes the config of the run, its projection head and its text side.
"""

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from xsample_jax import __version__
from xsample_jax.config import config_from_json, config_to_json, default_config, diff_configs
from xsample_jax.encoder import Encoder, load_encoder
from xsample_jax.errors import ConfigError, DataError
from xsample_jax.evals.catalog import in_order
from xsample_jax.evals.metrics import bootstrap
from xsample_jax.export import (
    check_exportable,
    export_open_clip,
    export_safetensors,
    family_of,
    find_open_clip_problems,
    how_to_load,
    timm_dinov3,
    timm_vit,
)
from xsample_jax.io.checkpoint_files import find_checkpoint
from xsample_jax.io.files import CHECKPOINTS, CONFIG, JSONL, atomic_write
from xsample_jax.io.paths import as_path
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.reports.runs import Run, load_runs
from xsample_jax.reports.style import row, rule
from xsample_jax.weights.hub import (
    KEPT,
    LAYOUT_FILES,
    OPEN_CLIP,
    OWN,
    OWN_KEYS,
    SCHEME,
    TIMM,
    WEIGHTS,
    check_replaceable,
)

CARD = "README.md"
PATH_KEYS = ("path", "init_from", "resume_from", "ids")  # last parts of the config keys that hold paths
LICENSE = "other  # fill in: the license of the weights, as the images allow it"
# Of the config, what a card says in words; the rest is under "Config".
HEAD_KEYS = ("data.source", "data.split", "steps", "epochs", "batch_size", "optimizer.name", "seed")


def push_to_hub(
    run: str | Path, repository: str, step: int | None = None, *, private: bool = True, license: str = LICENSE
) -> str:
    """Uploads a run as a repository of the Hugging Face hub, which is made if there is none; returns its address.

    Args:
      run: whatever `load_encoder` reads.
      repository: "ORGANIZATION/NAME".
      step: of which checkpoint; None: the newest.
      private: whether a new repository is; one that exists stays as it is.
      license: the license in the card, an identifier of the hub.

    Raises:
      ConfigError: not a name of a repository. DataError: no network, or no right to write there; or an encoder that
        has no names in another library.
    """
    _check_name("--push", repository)
    with tempfile.TemporaryDirectory() as folder:
        write_repository(run, folder, step, repository=repository, license=license)
        import huggingface_hub

        try:
            hub = huggingface_hub.HfApi()
            hub.create_repo(repository, private=private, exist_ok=True)
            message = f"Weights and card, by xsample_jax {__version__}"
            hub.upload_folder(  # what is uploaded is not deleted, whatever delete_patterns says
                repo_id=repository, folder_path=folder, commit_message=message, delete_patterns=list(LAYOUT_FILES)
            )
        except Exception as error:  # of the network, the hub or its client, which have types of their own
            reason = str(error).strip().partition("\n")[0][:120] or type(error).__name__
            fix = (
                "Log in with a token that may write (hf auth login, or HF_TOKEN), or write a folder with --format=hub "
                f"--out=FOLDER --repository={repository} and upload it where there is a network: "
                f"hf upload {repository} FOLDER."
            )
            raise DataError("--push", repository, f"a repository that can be written to ({reason})", fix) from error
    return f"https://huggingface.co/{repository}"


def write_repository(
    run: str | Path, out: str | Path, step: int | None = None, *, repository: str | None = None, license: str = LICENSE
) -> str:
    """Writes all files of the repository into a folder and returns, in words, how to load them.

    Files of the folder that belong to a model written there before are removed; others stay. The old weights are the
    last to go: until then the folder is one of a model, and the command can be repeated, but nothing loads it.

    repository: the name that it will have on the hub; None: it is used as a folder. Other arguments and errors as of
    `push_to_hub`, and ConfigError for a folder that is a run.
    """
    if repository is not None:
        _check_name("--repository", repository)
    out = as_path(out)
    if (out / CHECKPOINTS).exists():
        raise ConfigError(
            "--out", str(out), "a folder that is not a run, whose config would be lost", "Choose another."
        )
    check_replaceable(out, (CARD, *LAYOUT_FILES))
    encoder = load_encoder(run, step)
    check_exportable(encoder)
    family = family_of(encoder.config)
    encoder = _without_folders(encoder.with_texts())
    out.mkdir(parents=True, exist_ok=True)
    weights = {name for names in WEIGHTS.values() for name in names}
    _remove(out, set(LAYOUT_FILES) - weights)
    place = f"hf:{repository}" if repository else str(out)
    if not find_open_clip_problems(encoder):
        written = WEIGHTS[OPEN_CLIP][0]
        export_open_clip(encoder, out, repository)
        use = f"open_clip.create_model_and_transforms({'hf-hub:' + repository if repository else f'local-dir:{out}'!r})"
    else:
        written = WEIGHTS[TIMM][0]
        use = export_safetensors(encoder, out / written)
        dataclasses.replace(encoder, arrays={}).save(out / KEPT)
        _write(out / TIMM, json.dumps(_timm_config(encoder, family), indent=2) + "\n")
    _write(out / CARD, model_card(encoder, _run_of(run), place if repository else out.absolute().name, license))
    _remove(out, weights - {written})
    return f"xsample_jax.load_encoder({place!r}); --config.model.init_from={place}\n{use}"


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _check_name(flag: str, repository: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise ConfigError(flag, repository, "ORGANIZATION/NAME, or USER/NAME, of the hub")


def _write(path: Path, text: str) -> None:
    atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _without_folders(encoder: Encoder) -> Encoder:
    """The same with a config and a text source that name no folder of this machine: the last part of a path is left.

    A relative path is known by its key (PATH_KEYS), or because there is such a file or folder here.
    """

    def shortened(value, key: str = ""):
        if isinstance(value, dict):
            return {name: shortened(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [shortened(inner, key) for inner in value]
        local = isinstance(value, str) and not value.startswith(SCHEME) and (key in PATH_KEYS or _is_path(value))
        return Path(value).name if local else value

    content = shortened(json.loads(config_to_json(encoder.config)))
    text = shortened(dict(encoder.text_source.get("text_encoder", {})))
    source = dict(encoder.text_source) | ({"text_encoder": text} if text else {})
    return dataclasses.replace(encoder, config=config_from_json(json.dumps(content)), text_source=source)


def _is_path(value: str) -> bool:
    plain = os.path.isabs(value) or value.startswith(("~", "gs://", "./", "../"))
    return plain or ("/" in value and os.path.exists(value))


def _timm_config(encoder: Encoder, family: str) -> dict:
    """config.json: timm's, with our own names of the architecture beside it."""
    config = encoder.config
    if family in ("timm_vit", "timm_dinov3"):
        name, options = (timm_vit if family == "timm_vit" else timm_dinov3)(config)
        options.pop("num_classes")
    else:  # with other widths or stems it is no model of timm's
        plain = family == "resnet" and config.model.width == 64 and config.model.stem == "imagenet"
        plain = plain or family == "convnext"
        name, options = config.model.encoder if plain else f"{OWN}_{config.model.encoder}", {}
    size = config.augment.size
    images = {"input_size": [3, size, size], "mean": list(config.augment.mean), "std": list(config.augment.std)}
    images |= {"interpolation": "bilinear", "crop_pct": 1.0, "num_classes": 0}
    keys = {key: config.model[key.removeprefix("model.")] for key in OWN_KEYS[family]}
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": encoder.features,
        "pretrained_cfg": images,
        "model_args": options,
        OWN: {"family": family, "keys": keys},
    }


def _run_of(run: str | Path) -> Run | None:
    """The folder of a run with what was measured; None where there is only an encoder."""
    try:
        folder, _ = find_checkpoint(run)
    except Exception:  # a file, a name of the hub: read before as an encoder
        return None
    return load_runs([folder])[0] if all((folder / name).exists() for name in (CONFIG, JSONL)) else None


# The card.


def model_card(encoder: Encoder, run: Run | None, place: str, license: str = LICENSE) -> str:
    """README.md: what the model is, how to load it, its results with intervals, its data and its config.

    run: what was measured; None: the card has no results. place: what `load_encoder` reads.
    """
    config = encoder.config
    text = any(name.startswith("text/") for name in encoder.sides)
    preset = PRESETS.get(config.objective.preset)
    lines = [
        "---",
        f"license: {license}",
        "library_name: xsample_jax",
        f"pipeline_tag: {'zero-shot-image-classification' if text else 'image-feature-extraction'}",
        f"tags: [xsample_jax, contrastive-learning, {config.objective.preset}]",
        "---",
        "",
        f"# {config.name}",
        "",
        f"An image encoder, {config.model.encoder} with {encoder.features} features on images of "
        f"{config.augment.size} x {config.augment.size}, after {encoder.step:,} steps of the objective "
        f"`{config.objective.preset}`" + (f" ({preset.source})" if preset else "") + ".",
        *([] if preset is None else [f"Its loss: {preset.formula}."]),
        f"Trained with xsample_jax; this repository was written by version {__version__}.",
        "",
        "## Use",
        "",
        "```python",
        "import xsample_jax",
        "",
        f"encoder = xsample_jax.load_encoder({place!r})",
        'features = encoder.encode(["image.jpg"])  # float32 [1, ' + f"{encoder.features}]",
    ]
    if text and not config.model.text.multimodal:  # with a decoder of captions no head reads the features
        lines += [
            "images = encoder.encode(['image.jpg'], project=True)",
            "texts = encoder.encode_text(['a photo of a cat'])",
        ]
    lines += ["```", "", f"To start a run from it: `--config.model.init_from={place}`.", ""]
    if find_open_clip_problems(encoder):
        lines += [f"The weights have the names of another library: `{how_to_load(config)}`.", ""]
    else:
        lines += ["open_clip loads the whole model: `open_clip.create_model_and_transforms`.", ""]
    lines += ["## Results", "", *_results(run, encoder.step), "", "## Data and training", ""]
    lines += [f"- {key}: {_value(config, key)}" for key in HEAD_KEYS if _value(config, key) is not None]
    path = config.data.path
    lines += [f"- dataset: {Path(path).name}"] if path else []
    changed = {key: now for key, (_, now) in diff_configs(default_config(), config).items()}
    lines += ["", "## Config", "", "What differs from the defaults of xsample_jax:", "", "```json"]
    return "\n".join([*lines, json.dumps(changed, indent=1, default=str), "```", ""])


def _value(config, key: str):
    for name in key.split("."):
        config = config[name]
    return config


def _results(run: Run | None, step: int) -> Iterator[str]:
    """A table of the evaluation at a step; the scores of single images, and so the intervals, are those of the last."""
    found = dict(run.evaluations) if run is not None else {}
    if step not in found:
        yield "Nothing was evaluated at this step; fill in what you measured."
        return
    last = run.evaluations[-1][0] == step
    yield row(["metric", "value", "95% interval", "n", "chance"])
    yield rule(4)
    for metric in in_order(found[step]):
        scores, chance = run.examples.get(metric.name), run.facts.get(metric.name, {}).get("chance")
        interval, n = "–", "–"
        if last and scores is not None and len(scores.values):
            ends = bootstrap([scores])
            interval, n = f"{metric.text(ends.low)} to {metric.text(ends.high)}", f"{len(scores.values):,}"
        value = metric.text(found[step][metric.name])
        yield row([metric.title, value, interval, n, "–" if chance is None else metric.text(chance)])
    yield ""
    yield "Accuracies in percent; intervals by bootstrap over images (or concepts) of the evaluated split."
    yield from (f"Note: {note}." for note in run.notes)
