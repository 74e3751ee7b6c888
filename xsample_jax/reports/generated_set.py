"""A dataset of images that the generators of a run make: data inflation, for another run to train on.

To train on such a set beside the real one (`data.mix`, configs/recipes/adainf.py) is what AdaInf examines (arXiv
2403.12448); it is not the joint training that makes the generators.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from xsample_jax.checkpoint_files import find_checkpoint, read_arrays, saved_arrays, trained_config
from xsample_jax.data.dataset import Dataset, open_for_a_look
from xsample_jax.data.perturb import apply_perturbations
from xsample_jax.data.records import Manifest
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError
from xsample_jax.metrics.progress_bar import progress
from xsample_jax.objectives.adversary import ADVERSARY, GENERATORS, Adversary, make_adversary
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.reports.generated_images import ImageMaker
from xsample_jax.setup import dataset_spec

AT_ONCE = 64
MEMORY = "memory"


def write_generated(run: str | Path, out: str | Path, count: int, step: int | None = None, split: str = "") -> Manifest:
    """Writes `count` images of the generators of a run as a dataset in folder `out`, and returns its manifest.

    Image n has latents of its own, a function of n and the seed of the run, and comes from generator n mod 2 of a pair.
    Where the run's objective reads captions or classes, it is made from those of record n of the training split (again
    and again), and has its captions, their embeddings and its label; else it has none of them.

    Args:
      run: run folder, or RUN/checkpoints/STEP. step: of the checkpoint; None: the newest.
      split: name of the split; "": that of the run's training, under which data.mix looks for it.

    Raises ConfigError for a run without a generator or a count below 1, CheckpointError and DataError for what is
    missing or damaged.
    """
    if count < 1:
        raise ConfigError("--count", count, "at least one image")
    folder, step = find_checkpoint(run, step)
    config = trained_config(folder, step)
    if not config.objective.generator.share or not GENERATORS.get(config.objective.generator.kind):
        expected = "a run that trained a generator"
        raise ConfigError("--run", str(run), expected, "Train one with --config.objective.generator.kind=hard.")
    examples = open_for_a_look(config)
    examples.source = apply_perturbations(examples.source, config.data, config.seed)  # what the run has seen
    spec = dataset_spec(examples)
    adversary = make_adversary(config, build_objective(config.objective), spec.channels, spec.caption_dim)
    wanted = {
        part: {name: leaf for name, leaf in leaves.items() if name.startswith(ADVERSARY)}
        for part, leaves in saved_arrays(folder, step, (MEMORY,)).items()
    }
    arrays = read_arrays(folder, step, wanted, sharding=None)[MEMORY]
    source = examples.source.manifest
    made_from = adversary.reads
    records = _records(adversary, ImageMaker(adversary), arrays, examples, count)
    return write_records(
        out,
        f"{source.name}_generated",
        {split or config.data.split: records},
        class_names=source.class_names if made_from else (),
        attributes=source.attributes if "path" in made_from else {},
        text_encoder=source.text_encoder,  # of its captions, or of none: sets are mixed where it is the same
    )


def _records(adversary: Adversary, make: ImageMaker, arrays, examples: Dataset, count: int) -> Iterator[dict]:
    """Records 0 to `count` with PNG images."""
    starts = range(0, count, AT_ONCE)
    for start in progress(starts, "generated images", len(starts)):
        numbers = np.arange(start, start + AT_ONCE)  # always as many: one program
        places = numbers % len(examples)
        side = _side_of(examples, places) if adversary.reads else {}
        made = make(arrays, numbers, side)
        for place, number in enumerate(numbers[: count - start]):
            image = made[number % len(made)][place]
            yield {"id": int(number), "image": _png(image)} | _described(adversary, examples, int(places[place]))


def _side_of(examples: Dataset, places: np.ndarray) -> dict[str, np.ndarray]:
    """The side information of records, as a batch has it."""
    found = [examples[int(place)] for place in places]
    return {name: np.stack([example[name] for example in found]) for name in found[0] if name != "image"}


def _described(adversary: Adversary, examples: Dataset, place: int) -> dict:
    """What a record of an image says of the record that it was made from."""
    if not adversary.reads:
        return {}
    record = examples.source[place]
    about = {"captions": record["captions"], "caption_embeddings": record["caption_embeddings"]}
    about = about if {"caption_embedding", "caption_tokens"} & set(adversary.reads) else {}
    if "path" in adversary.reads:
        about["attributes"] = record["attributes"]
    return about | ({"label": record["label"]} if {"label", "path"} & set(adversary.reads) else {})


def _png(image: np.ndarray) -> bytes:
    """uint8 [S, S, 3 or 4] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
