"""The 3x3 filters of an encoder: which are dead, how varied they are, and how two models' filters differ.

The statistics are those of CNN Filter DB (arXiv 2203.15331): they need weights alone, no data. A filter is one 3x3
slice of a kernel, between one input and one output channel; a layer with kernel [3, 3, in, out] has in * out of them.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.encoder import Encoder
from xsample_jax.errors import DataError
from xsample_jax.reports.contact_sheet import contact_sheet
from xsample_jax.reports.style import figures_folder, image_uri, write_page

DEAD, BINS, TILE = 0.01, 70, 64


@dataclasses.dataclass(frozen=True)
class Layer:
    """Statistics of one layer.

    Attributes:
      name: path of its kernel; channels: (in, out).
      sparsity: share of filters all of whose weights are at most a hundredth of the largest of the layer.
      entropy: of the shares of variance along the principal components of the filters, to base 10: 0 to log10(9).
      of_random: entropy over that of as many random filters; about 1 for a layer that has learned nothing.
      orthogonality: 1 where the output channels' kernels are orthogonal to each other, 0 where they are parallel.
    """

    name: str
    channels: tuple[int, int]
    sparsity: float
    entropy: float
    of_random: float
    orthogonality: float


def layers_of(encoder: Encoder) -> dict[str, np.ndarray]:
    """{path: kernel float64 [3, 3, in, out]} of the 3x3 convolutions, the first first; DataError if there are none."""
    kernels = {name: np.asarray(array, np.float64) for name, array in encoder.arrays.items() if array.ndim == 4}
    found = {name: kernel for name, kernel in kernels.items() if kernel.shape[:2] == (3, 3)}
    if not found:
        sizes = sorted({"x".join(map(str, kernel.shape[:2])) for kernel in kernels.values()})
        raise DataError(
            f"convolutions of {encoder.config.model.encoder}", ", ".join(sizes), "some of 3x3, as in ResNets"
        )
    return dict(sorted(found.items(), key=lambda item: _depth(item[0])))


def _depth(name: str) -> tuple:
    parts = [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]
    return (not name.startswith("stem"), [(isinstance(part, str), part) for part in parts])


def rows_of(kernel: np.ndarray) -> np.ndarray:
    """The filters of a kernel [3, 3, in, out] as rows [in * out, 9]."""
    return kernel.reshape(9, -1).T


def sparsity(kernel: np.ndarray) -> float:
    """Share of dead filters (Layer.sparsity)."""
    peak = np.abs(rows_of(kernel)).max(axis=1)
    return float(np.mean(peak <= DEAD * peak.max()))


def variance_entropy(kernel: np.ndarray) -> float:
    """Entropy of the spectrum of the centered filters (Layer.entropy)."""
    rows = rows_of(kernel)
    share = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    share = share[share > 1e-24 * max(np.square(rows).sum(), 1e-300)]
    share = share / share.sum()
    return float(-np.sum(share * np.log10(share)))


def random_entropy(filters: int) -> float:
    """The variance entropy of so many random filters: the curve that the authors of the statistic fitted."""
    return 1.2618047 / (1 + np.exp(-0.88767525 * (np.log2(filters) - 2.30436435))) - 0.31050834


def orthogonality(kernel: np.ndarray) -> float:
    """1 - mean |cosine| of two output channels' kernels (Layer.orthogonality); zeros are orthogonal to all."""
    rows = kernel.reshape(-1, kernel.shape[3]).T
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    cosine, count = np.abs(rows @ rows.T), len(rows)
    return 1 - float((cosine.sum() - np.trace(cosine)) / max(count * (count - 1), 1))


def describe(name: str, kernel: np.ndarray) -> Layer:
    """All statistics of a layer with kernel [3, 3, in, out]."""
    entropy, count = variance_entropy(kernel), kernel.shape[2] * kernel.shape[3]
    ratio = entropy / random_entropy(count) if count > 1 else float("nan")
    return Layer(name, kernel.shape[2:], sparsity(kernel), entropy, ratio, orthogonality(kernel))


def scaled_filters(kernels: Mapping[str, np.ndarray]) -> np.ndarray:
    """The filters of all layers [n, 9], each layer divided by its largest weight."""
    return np.concatenate([rows_of(kernel) / max(np.abs(kernel).max(), 1e-300) for kernel in kernels.values()])


def components(filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(principal components [9, 9] as rows, their shares of the variance [9]) of filters [n, 9], the largest first."""
    centered = filters - filters.mean(axis=0)
    values, vectors = np.linalg.eigh(centered.T @ centered)
    vectors = vectors[:, ::-1].T
    signs = np.sign(vectors[np.arange(9), np.abs(vectors).argmax(axis=1)])[:, None]  # of the largest weight
    values = np.maximum(values[::-1], 0)
    return vectors * signs, values / max(values.sum(), 1e-300)


def shift(first: np.ndarray, second: np.ndarray) -> float:
    """How differently two sets of filters [n, 9], [m, 9] are distributed; 0 for the same ones.

    Sum over the principal components of both sets of their share of the variance times the symmetric Kullback-Leibler
    divergence KL(p, q) + KL(q, p) of two histograms of 70 bins. Half a filter is added to every bin, so that an empty
    one has a logarithm: that is ours.
    """
    together = np.concatenate([first, second])
    vectors, share = components(together)
    places = (together - together.mean(axis=0)) @ vectors.T
    edges = np.linspace(places.min(), max(places.max(), places.min() + 1e-12), BINS + 1)
    total = 0.0
    for column, weight in enumerate(share):
        parts = places[: len(first), column], places[len(first) :, column]
        counts = [np.histogram(part, edges)[0] + 0.5 for part in parts]
        p, q = (count / count.sum() for count in counts)
        total += weight * float(np.sum((p - q) * np.log(p / q)))
    return total


def shift_of_halves(filters: np.ndarray, seed: int = 0) -> float:
    """The shift between two random halves of one set of filters: what chance alone makes of so few."""
    order = np.random.default_rng(seed).permutation(len(filters))
    return shift(filters[order[::2]], filters[order[1::2]])


def image_of(component: np.ndarray) -> np.ndarray:
    """A 3x3 filter as an image: red above zero, blue below, white at zero."""
    level = component.reshape(3, 3) / max(np.abs(component).max(), 1e-300)
    fade = 1 - np.abs(level)
    channels = (np.where(level >= 0, 1, fade), fade, np.where(level <= 0, 1, fade))
    pixels = np.round(255 * np.stack(channels, axis=2)).astype(np.uint8)
    return pixels.repeat(TILE // 3, axis=0).repeat(TILE // 3, axis=1)


def write_filters(runs: Sequence[tuple[str, Encoder]], out: Path) -> list[str]:
    """Writes the page, and its image as PNG beside it; returns what it says in lines of text.

    runs: (name, encoder) of one run, or of two that are compared.
    """
    models, filters, rows, captions, levels = [], [], [], [], []
    for name, encoder in runs:
        kernels = layers_of(encoder)
        filters.append(scaled_filters(kernels))
        vectors, share = components(filters[-1])
        layers = [describe(path, kernel) for path, kernel in kernels.items()]
        models.append({"run": name, "encoder": encoder, "layers": layers, "filters": len(filters[-1])})
        rows.append([image_of(vector) for vector in vectors])
        captions.append(f"{name}: {', '.join(f'{100 * part:.0f}%' for part in share)} of the variance")
        levels.append(shift_of_halves(filters[-1]))
    compared = shift(*filters) if len(filters) == 2 else None
    contact_sheet(rows, captions, figures_folder(out) / "filters.png", tile=TILE, width=760)
    images = [
        {"caption": caption, "images": list(map(image_uri, row))} for caption, row in zip(captions, rows, strict=True)
    ]
    write_page("filters.html", out, models=models, images=images, compared=compared, levels=levels)
    return list(_lines(models, compared, levels))


def _lines(models: list[dict], compared: float | None, levels: list[float]):
    for model in models:
        layers = model["layers"]
        width = max(len(layer.name) for layer in layers)
        yield f"{model['run']}, {model['encoder'].config.model.encoder}: {model['filters']:,} filters of 3x3"
        yield f"{'layer':<{width}}  {'filters':>9}  dead %  entropy  / random  orthogonality"
        for layer in layers:
            numbers = f"{100 * layer.sparsity:6.1f}  {layer.entropy:7.3f}  {layer.of_random:8.3f}"
            count = layer.channels[0] * layer.channels[1]
            yield f"{layer.name:<{width}}  {count:>9,}  {numbers}  {layer.orthogonality:13.3f}"
    if compared is not None:
        yield f"shift of the distribution: {compared:.4g} (between random halves of one run {max(levels):.4g})"
