"""The captions that a model with a decoder gives images: one row per image, as JSON lines or TSV."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from xsample_jax.augment.views import eval_view
from xsample_jax.data.captions import load_tokenizer
from xsample_jax.data.given import listed_images, padded_batches
from xsample_jax.data.sources import source_folder
from xsample_jax.distributed import log_info
from xsample_jax.encoder import Encoder, load_encoder
from xsample_jax.errors import ConfigError, DataError
from xsample_jax.evals.evaluate import LoadedModel, load_model, read_config
from xsample_jax.evals.feature_table import Images, check_table
from xsample_jax.io.checkpoint_files import find_checkpoint
from xsample_jax.io.files import atomic_write
from xsample_jax.metrics.progress_bar import progress
from xsample_jax.models.decoder import greedy_captions
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.objectives.side_information import STATES

SUFFIXES = (".jsonl", ".tsv")


@dataclasses.dataclass(frozen=True)
class Captioner:
    """A run that writes captions.

    Attributes:
      encoder: of the same checkpoint, which turns what people have into the pixels that the run saw.
      loaded: the whole model. tokenizer: of the dataset of the run.
    """

    encoder: Encoder
    loaded: LoadedModel
    tokenizer: object

    @cached_property
    def write(self) -> Callable:
        """jitted write(state, images uint8 [b, H, W, C]) -> what `greedy_captions` returns."""
        parts = self.loaded.parts
        length = parts.config.model.text.length

        def write(state, images):
            state = state.averaged()
            network = parts.model.merge(state.params, state.statistics, training=False)
            image = network.with_tokens(eval_view(images, parts.config.augment))[2]
            return greedy_captions(network.text, network.decoder, image, length)

        return jax.jit(write)

    def captions(self, images, batch_size: int = 64) -> list[tuple[str, float]]:
        """(caption, its perplexity) of images as `Encoder.encode` takes them: the most likely token at every place.

        One image makes a list of one. Raises DataError for an image that cannot be read, or batch_size below 1.
        """
        images, _ = listed_images(images, self.encoder.channels)
        found = []

        def pixels(part, start: int) -> np.ndarray:
            return np.stack([self.encoder.prepare(image, start + place) for place, image in enumerate(part)])

        for batch, meant in padded_batches(images, batch_size, pixels):
            tokens, loss = jax.device_get(self.write(self.loaded.state, batch))
            texts = self.tokenizer.decode_batch(tokens[:meant].tolist(), skip_special_tokens=True)
            perplexity = np.exp(np.minimum(loss[:meant].astype(np.float64), 80.0))
            found += [(text.strip(), float(value)) for text, value in zip(texts, perplexity, strict=True)]
        return found


def load_captioner(path: str | Path, step: int | None = None) -> Captioner:
    """The captioner of the run in folder `path`, of its newest checkpoint or the one after `step` steps.

    Raises CheckpointError as `load_encoder`; ConfigError for a run without a decoder of captions; DataError where the
    tokenizer of its dataset is gone.
    """
    run, step = find_checkpoint(path, step)
    config = read_config(run, step)
    if not STATES["decoder"](build_objective(config.objective)):
        expected = "a run whose preset has a decoder of captions: coca or cosmo"
        fix = "Train one: python -m xsample_jax.main --config=objective:coca --workdir=RUN."
        raise ConfigError("--run", f"{path} (objective.preset = {config.objective.preset!r})", expected, fix)
    tokenizer = load_tokenizer(source_folder(config.data))
    return Captioner(load_encoder(run, step), load_model(run, step, config), tokenizer)


PART = 1024  # images that are read at once


def check_out(out: Path) -> None:
    """Raises DataError for a file that `write_captions` cannot write, or only by replacing one that is there."""
    check_table(out, SUFFIXES)


def write_captions(
    captioner: Captioner, images: Images, out: Path, batch_size: int = 64, skip: bool = False
) -> tuple[int, int]:
    """Writes the columns of `images` with caption and perplexity; returns (rows, images that were left out).

    JSON lines: an object for each image. TSV: a line of names first, tabs and line ends in a text as spaces. A caption
    that the record has is the column `given`.

    Args:
      out: file with one of SUFFIXES. skip: leave out images that cannot be read; else the first one ends the call.

    Raises:
      DataError: as `check_out`, or an image that cannot be read.
    """
    check_out(out)
    names = {name: "given" if name == "caption" else name for name in images.columns}
    rows, starts = [], range(0, len(images), PART)
    for start in progress(starts, f"captions for {out.name}", len(starts)):
        part = range(start, min(start + PART, len(images)))
        for row, found in zip(part, _of_part(captioner, images, part, batch_size, skip), strict=True):
            if found is not None:
                known = {new: images.columns[name][row] for name, new in names.items()}
                rows.append(known | {"caption": found[0], "perplexity": round(found[1], 4)})
    columns = list(dict.fromkeys([*names.values(), "caption", "perplexity"]))
    lines = _json_lines(rows) if out.suffix == ".jsonl" else _tab_lines(columns, rows)
    atomic_write(out, lambda partial: partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8"))
    return len(rows), len(images) - len(rows)


def _of_part(
    captioner: Captioner, images: Images, rows: Sequence[int], batch_size: int, skip: bool
) -> list[tuple[str, float] | None]:
    """(caption, perplexity) of every row; None for one that is left out."""
    given = [images.image(row) for row in rows]
    if skip:
        given = [_readable(captioner.encoder.prepare, image, row) for image, row in zip(given, rows, strict=True)]
    found = iter(captioner.captions([image for image in given if image is not None], batch_size))
    return [None if image is None else next(found) for image in given]


def _readable(prepare: Callable, image, row: int):
    """The image, or None (and a line in the log) where it cannot be read."""
    try:
        prepare(image, row)
    except DataError as error:
        log_info(f"left out: {error}")
        return None
    return image


def _json_lines(rows: list[dict]) -> list[str]:
    return [json.dumps(row, ensure_ascii=False, default=int) for row in rows]  # int: of numpy


def _tab_lines(names: list[str], rows: list[dict]) -> list[str]:
    return ["\t".join(" ".join(str(value).split()) for value in row) for row in (names, *(r.values() for r in rows))]
