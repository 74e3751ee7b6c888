"""The robustness table: one probe of ImageNet classes, fitted to clean training images, on every test set unchanged."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xsample_jax.errors import DataError, UserError, lookup
from xsample_jax.evals.bench import PROBES, Bench
from xsample_jax.evals.evaluator import Evaluator
from xsample_jax.evals.evaluators.labels import check_target
from xsample_jax.evals.intervals import difference_of_means
from xsample_jax.evals.probe import LinearProbe
from xsample_jax.evals.result import Collector
from xsample_jax.evals.robust_sets import SETS, Pictures, RobustSet, imagenet_numbers

GAP = ("imagenet-9/mixed_same", "imagenet-9/mixed_rand")


def check(bench: Bench) -> Iterator[UserError]:
    lookup(PROBES, bench.options.probe, "--probe")
    yield from check_target(bench)
    names = bench.source(bench.config.eval.train_split).manifest.class_names
    if bench.target != "label" or imagenet_numbers(names) is None:
        found = f"{len(names)} classes, as {', '.join(names[:3]) or 'none'}"
        fix = "Give a record set of ImageNet: --config.data.source=records --config.data.path=FOLDER --target=label."
        yield DataError("classes of the probe", found, "ImageNet classes, by WordNet id or name", fix)
    root = bench.options.sets
    if root is None or not root.is_dir():
        yield DataError("--sets", root and str(root), "the folder with the test sets", "docs/evaluation.md says which.")
    elif not any(robust.find(root) for robust in SETS.values()):
        layouts = "; ".join(sorted({robust.layout for robust in SETS.values()}))
        yield DataError("--sets", str(root), f"at least one test set below it: {layouts}")


def robustness(bench: Bench, out: Collector) -> None:
    """Adds robustness/<set> for every set that is there, a note for every other, and ImageNet-9's background gap."""
    probe = bench.probe(bench.options.probe)
    numbers = imagenet_numbers(bench.source(bench.config.eval.train_split).manifest.class_names)
    columns = numbers[probe.classes]
    scores: dict[Path, np.ndarray | DataError] = {}
    hits: dict[str, np.ndarray] = {}
    missing: dict[str, list[str]] = {}
    for name, robust in SETS.items():
        folder = robust.find(bench.options.sets)
        if folder is None:
            missing.setdefault(robust.page, []).append(name)
            continue
        try:
            pictures = robust.listed(folder)
            if folder not in scores:
                scores[folder] = _scores(bench, probe, robust, folder, pictures)
            if isinstance(scores[folder], DataError):
                raise scores[folder]
            hits[name] = correct(scores[folder], columns, pictures)
        except DataError as error:  # a set that is not as it should be; the rest goes on
            out.note(f"{name}: {error}")
            continue
        _count(out, name, robust, len(hits[name]))
        out.examples_of(f"robustness/{name}", hits[name], np.arange(len(hits[name])))
        if name == GAP[1] and GAP[0] in hits:
            gap = difference_of_means(hits[GAP[0]], hits[name])
            out.examples_of("robustness/imagenet-9/gap", gap, np.arange(len(gap)))
    for page, names in missing.items():
        layout = SETS[names[0]].layout
        out.note(f"{', '.join(names)}: not in {bench.options.sets}; get it from {page} and unpack it as {layout}")


def _scores(
    bench: Bench, probe: LinearProbe, robust: RobustSet, folder: Path, pictures: Pictures
) -> np.ndarray | DataError:
    """Scores of the n pictures of a folder, [n, K].

    The DataError of pictures that cannot be read is returned: the next set of the same folder does not try again.
    """
    try:
        examples = pictures.opened(bench.features_of.side(whole=robust.whole))
        features = bench.features_of.encoded(examples, str(folder.relative_to(bench.options.sets)), robust.whole)
    except DataError as error:
        return error
    return probe.scores(features.features)


def correct(scores: np.ndarray, columns: np.ndarray, pictures) -> np.ndarray:
    """Whether the best candidate is right, float32 [m], for the m pictures that have a right class.

    scores: [n, K], column j for the ImageNet class columns[j].
    """
    allowed = np.isin(columns, pictures.candidates)
    if not allowed.any():
        raise DataError("classes of the probe", len(columns), "some of the classes that this set is about")
    predicted = columns[allowed][scores[:, allowed].argmax(axis=1)]
    counted = pictures.right.any(axis=1)[pictures.group]
    return pictures.right[pictures.group, predicted][counted].astype(np.float32)


def _count(out: Collector, name: str, robust: RobustSet, found: int) -> None:
    if found != robust.count:
        out.note(f"{name}: {found:,} pictures are here, the official set has {robust.count:,}")


ROBUSTNESS = Evaluator(
    robustness, "ImageNet, ReaL, V2, A, R, Sketch, ImageNet-9 and its gap, ObjectNet, by one probe (--sets)", check
)
