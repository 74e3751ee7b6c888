"""What an encoder tells apart inside an image: k-means on its local features at several depths, drawn over images.

Local features are the map after each stage of a ResNet, or the tokens of the patches after blocks of a ViT. All places
of all images are clustered together at each depth (arXiv 2011.02803, section 3), so one color is one cluster in every
image of a column; colors of different columns have nothing in common.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.data.dataset import open_dataset
from xsample_jax.data.records import unit_rows
from xsample_jax.data.sources import spread_places
from xsample_jax.encoder import Encoder
from xsample_jax.errors import ConfigError
from xsample_jax.evals.clusters import k_means
from xsample_jax.reports.contact_sheet import contact_sheet
from xsample_jax.reports.style import COLORS, figures_folder, image_uri, write_page

SIDE = 96  # pixels of an image on the page
MOST_CLUSTERS = 12  # each has a color


def cluster_maps(maps: Mapping[str, np.ndarray], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Clusters int [n, h, w] of every depth of maps [n, h, w, C], of rows scaled to unit length."""
    found = {}
    for name, map_ in maps.items():
        rows = unit_rows(map_.reshape(-1, map_.shape[-1]))
        found[name] = k_means(rows, count, seed).reshape(map_.shape[:3])
    return found


def overlay(image: np.ndarray, clusters: np.ndarray, share: float = 0.55) -> np.ndarray:
    """An image uint8 [S, S, 3] under the colors of its clusters int [h, w], each cell as large as what it covers."""
    side = len(image)
    rows, columns = (np.arange(side) * cells // side for cells in clusters.shape)
    colors = np.array([_rgb(color) for color in palette()], np.float64)
    painted = colors[clusters[rows[:, None], columns[None, :]]]
    return np.round(share * painted + (1 - share) * image).astype(np.uint8)


def palette() -> list[str]:
    """MOST_CLUSTERS colors as "#rrggbb": those of the figures, then darker ones of them."""
    darker = [f"#{''.join(f'{part // 2:02x}' for part in _rgb(color))}" for color in COLORS]
    return [*COLORS, *darker][:MOST_CLUSTERS]


def _rgb(color: str) -> tuple[int, int, int]:
    return tuple(int(color[place : place + 2], 16) for place in (1, 3, 5))


@dataclasses.dataclass(frozen=True)
class LocalFeatures:
    """images: uint8 [n, S, S, 3] as shown; captions: one each; clusters: depth -> int [n, h, w]."""

    images: np.ndarray
    captions: Sequence[str]
    clusters: Mapping[str, np.ndarray]

    def rows(self) -> list[list[np.ndarray]]:
        """The images of every row: itself, then one overlay for each depth."""
        return [
            [image, *(overlay(image, clusters[place]) for clusters in self.clusters.values())]
            for place, image in enumerate(self.images)
        ]


def look(encoder: Encoder, config, split: str, images: int, clusters: int) -> LocalFeatures:
    """Clusters of `images` images that are spread over a split of the set in `config`.

    Raises ConfigError for an encoder without local features, as one of vectors.
    """
    if not hasattr(encoder.module, "maps"):
        raise ConfigError("model.encoder", encoder.config.model.encoder, "one with local features: a resnet or a vit")
    examples = open_dataset(config, split, frozenset())
    places = spread_places(len(examples), images)
    pixels = np.stack([examples[int(place)]["image"] for place in places])
    captions = [(examples.source[int(place)]["captions"] or [""])[0] for place in places]
    found = cluster_maps(encoder.maps(pixels), clusters, config.seed)
    return LocalFeatures(np.stack([_shown(image) for image in pixels]), captions, found)


def _shown(image: np.ndarray) -> np.ndarray:
    """An image on white, grown to at least SIDE pixels without smoothing: uint8 [S, S, 3]."""
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float64) / 255
        image = np.round(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    factor = -(-SIDE // len(image))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def write_local_features(found: LocalFeatures, run: str, encoder: Encoder, config, split: str, out: Path) -> None:
    """Writes the page, and its figure as PNG beside it."""
    rows, depths = found.rows(), list(found.clusters)
    contact_sheet(rows, found.captions, figures_folder(out) / "local_features.png", ["image", *depths], SIDE)
    write_page(
        "local_features.html",
        out,
        name=config.name,
        run=run,
        step=encoder.step,
        clusters=1 + max(int(clusters.max()) for clusters in found.clusters.values()),
        split=split,
        depths={name: f"{clusters.shape[1]} x {clusters.shape[2]}" for name, clusters in found.clusters.items()},
        images=[
            {"caption": caption, "panels": [image_uri(panel) for panel in panels]}
            for caption, panels in zip(found.captions, rows, strict=True)
        ],
    )
