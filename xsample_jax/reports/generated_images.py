"""Images of the generators of a run: a look at them while it trains, and their number for a set of their own."""

from collections.abc import Mapping

import jax
import numpy as np

from xsample_jax.evals.diversity import COLLAPSE, WINDOW, mean_similarity
from xsample_jax.hooks import LogMetrics, Training
from xsample_jax.io.console import say
from xsample_jax.io.files import GENERATED, atomic_write
from xsample_jax.io.run_dir import log_event
from xsample_jax.objectives.adversary import ADVERSARY, Adversary, condition_of
from xsample_jax.reports.contact_sheet import contact_sheet
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
        folder.mkdir(exist_ok=True)
        atomic_write(folder / f"{step:08d}.png", lambda partial: draw_sheet(real, made, partial))
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
