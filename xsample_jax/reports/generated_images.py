"""Images of the generators of a run: sheets while it trains, datasets made of them, and how diverse they are."""

import io
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from xsample_jax.augment.colors import LUMA
from xsample_jax.checkpoint import trained_config
from xsample_jax.data.dataset import Dataset, open_for_a_look
from xsample_jax.data.perturb import apply_perturbations
from xsample_jax.data.records import Manifest
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError, DataError
from xsample_jax.hooks import LogMetrics, Training
from xsample_jax.io.checkpoint_files import find_checkpoint, read_arrays, saved_arrays
from xsample_jax.io.console import say
from xsample_jax.io.files import GENERATED, make_folder
from xsample_jax.io.run_dir import log_event
from xsample_jax.metrics.progress_bar import progress
from xsample_jax.objectives.adversary import ADVERSARY, GENERATORS, Adversary, condition_of, make_adversary
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.reports.contact_sheet import contact_sheet
from xsample_jax.setup import dataset_spec
from xsample_jax.sharding import gather_rows
from xsample_jax.state import TrainState

SHOWN = 24  # images of a sheet and of a measure: 276 pairs
ACROSS = 12
SHEET = 2**20 + 2  # folded into the key of the seed


class ImageMaker:
    """make(arrays, numbers, side) -> uint8 [n, S, S, C] of each generator; arrays: the memory of a train state.

    Image `number` has the same latents whatever the others are, a function of the seed of the run.
    """

    def __init__(self, adversary: Adversary):
        self._adversary = adversary
        self._make = jax.jit(self._images)

    def __call__(self, arrays: Mapping, numbers: np.ndarray, side: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        state = {name.removeprefix(ADVERSARY): value for name, value in arrays.items() if name.startswith(ADVERSARY)}
        read = {name: side[name] for name in self._adversary.reads}
        made = self._make(*jax.device_put((state, np.asarray(numbers, np.int32), read)))
        return [np.rint(images).astype(np.uint8) for images in jax.device_get(made)]

    def _images(self, state, numbers, side):
        adversary = self._adversary
        key = jax.random.fold_in(jax.random.key(adversary.seed, impl="threefry2x32"), SHEET)
        return adversary.generate(state, adversary.latents(key, numbers), condition_of(side, adversary.reads))


class WatchGenerator:
    """Every `objective.generator.sheet_every` steps: a contact sheet, and how alike the images are beside real ones."""

    def __init__(self, training: Training, log: LogMetrics):
        self._training, self._log = training, log
        self._options = training.setup.config.objective.generator
        self._make = ImageMaker(training.setup.adversary)
        self._collapsed = False

    def before_step(self, state: TrainState) -> None:
        """Nothing: a sheet is due after a step."""

    def after_step(self, state: TrainState, metrics: Mapping, batch: Mapping[str, np.ndarray]) -> None:
        """Draws and measures if it is due. batch: this process's share, whose images are the real ones."""
        training, step = self._training, self._training.progress.step
        if step % self._options.sheet_every and step != training.setup.steps:
            return
        self._log.flush()  # lines in the order of their steps
        arrays = {name: value for name, value in state.memory.items() if name.startswith(ADVERSARY)}
        arrays = gather_rows(arrays, training.setup.mesh)  # of all processes
        if jax.process_index():
            return
        side = {name: value[:SHOWN] for name, value in batch.items()}
        real, made = side["image"], self._make(arrays, np.arange(len(side["id"])), side)
        folder = training.run.files / GENERATED
        make_folder(folder)
        draw_sheet(real, made, folder / f"{step:08d}.png")
        if len(real) > 1 and real.shape[1] >= WINDOW:
            self._measure(step, mean_similarity(real), max(map(mean_similarity, made)))

    def _measure(self, step: int, real: float, made: float) -> None:
        training = self._training
        training.writers.write(step, {"generator/ms_ssim_real": real, "generator/ms_ssim_generated": made})
        collapsed = made > real + COLLAPSE and step >= self._options.start * training.setup.steps
        if collapsed and not self._collapsed:
            what = f"generated images are alike: mean MS-SSIM of pairs {made:.2f}, of real ones {real:.2f}"
            say(f"\nwarning: {what} (step {step}). Lower --config.objective.generator.weight.", error=True)
            log_event(training.run.files, "the generator collapsed", step=step, generated=made, real=real)
        self._collapsed = collapsed


def draw_sheet(real: np.ndarray, made: list[np.ndarray], path) -> None:
    """Writes a PNG: rows of real images, and below each the generated ones of the same places."""
    rows, captions = [], []
    for start in range(0, len(real), ACROSS):
        part = slice(start, start + ACROSS)
        rows += [real[part], *(images[part] for images in made)]
        captions += ["real", *(f"generator {number + 1}" for number in range(len(made)))]
    contact_sheet([list(row) for row in rows], captions, path, tile=64)


# How alike the images of a set are: the mean multi-scale structural similarity of pairs.
#
# Generated images that hardly differ from one another are a collapse of their generator, which no loss of an
# adversarial training shows. MS-SSIM: Wang, Simoncelli, Bovik 2003 (Asilomar), with the constants of its paper; as a
# measure of diversity: Odena et al., arXiv 1610.09585, section 4.2.


WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, from fine to coarse
WINDOW, SIGMA = 11, 1.5  # pixels
SMALLEST = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # C1, C2
COLLAPSE = 0.1  # generated images that are alike by so much more than real ones are called collapsed (ours)


def ms_ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """MS-SSIM of gray images x and y, [n, S, S] in 0..255 -> float64 [n], 1 for equal ones.

    Of the five scales those are taken that are at least as large as the window (S = 32: two, 64: three), with their
    weights scaled to a sum of 1. Terms below 0 count as 0.

    Raises DataError for images that are smaller than the window.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    scales = sum(x.shape[1] // 2**scale >= WINDOW for scale in range(len(WEIGHTS)))
    if not scales:
        raise DataError("image side", x.shape[1], f"at least {WINDOW} pixels for MS-SSIM")
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    value = np.ones(len(x))
    for scale, weight in enumerate(weights):
        luminance, structure = _similarity(x, y)
        term = luminance * structure if scale == scales - 1 else structure
        value *= np.maximum(term.mean(axis=(1, 2)), 0.0) ** weight
        x, y = _halved(x), _halved(y)
    return value


def mean_similarity(images: np.ndarray) -> float:
    """Mean MS-SSIM of all pairs of images [n, S, S, 3 or 4] of 0..255, n at least 2; those with alpha on white."""
    gray = gray_of(images)
    first, second = np.array(list(itertools.combinations(range(len(gray)), 2))).T
    return float(ms_ssim(gray[first], gray[second]).mean())


def gray_of(images: np.ndarray) -> np.ndarray:
    """Luma of images [n, S, S, 3 or 4] of 0..255, those with alpha on white: float64 [n, S, S]."""
    images = np.asarray(images, np.float64)
    luma = images[..., :3] @ LUMA
    if images.shape[-1] == 3:
        return luma
    alpha = images[..., 3] / 255
    return luma * alpha + 255 * (1 - alpha)


def _similarity(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(luminance term, contrast and structure term) at every place where the window fits."""
    window = _window(x.shape[1])
    blur = lambda image: window @ image @ window.T  # noqa: E731
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    both = blur(x * y) - mean_x * mean_y
    c1, c2 = SMALLEST
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * both + c2) / (var_x + var_y + c2)


def _window(size: int) -> np.ndarray:
    """A Gaussian along a line as a matrix [size - WINDOW + 1, size]."""
    kernel = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    offset = np.arange(size) - np.arange(size - WINDOW + 1)[:, None]
    inside = (offset >= 0) & (offset < WINDOW)
    return np.where(inside, kernel[np.clip(offset, 0, WINDOW - 1)], 0.0) / kernel.sum()


def _halved(images: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    size = images.shape[1] // 2 * 2
    return images[:, :size, :size].reshape(len(images), size // 2, 2, size // 2, 2).mean(axis=(2, 4))


# A dataset of generated images.


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
