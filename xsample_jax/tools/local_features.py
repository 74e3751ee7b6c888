"""What an encoder tells apart inside an image: k-means on its local features at several depths, drawn over images.

    python -m xsample_jax.tools.local_features --run=runs/mine --out=local_features.html
    python -m xsample_jax.tools.local_features --run=runs/mine --split=test --clusters=8 --config.data.path=data/other

Local features are the map after each stage of a ResNet, or the tokens of the patches after blocks of a ViT. All places
of all images are clustered together at each depth (arXiv 2011.02803, section 3), so one color is one cluster in every
image of a column; colors of different columns have nothing in common. Writes one page and its picture as PNG beside it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from xsample_jax.config import resolve, split_overrides
from xsample_jax.config.load import apply_overrides
from xsample_jax.encoder import load_encoder
from xsample_jax.errors import ConfigError, raise_all
from xsample_jax.io.paths import local_copy_of
from xsample_jax.reports.contact_sheet import contact_sheet
from xsample_jax.reports.local_features import MOST_CLUSTERS, SIDE, look
from xsample_jax.reports.style import figures_folder, image_uri, write_page
from xsample_jax.tools.cli import run_cli


def run(arguments: Sequence[str]) -> None:
    overrides, rest = split_overrides(list(arguments))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder (its --workdir)")
    parser.add_argument("--step", type=int, help="of which checkpoint (default: the newest)")
    parser.add_argument("--split", help="of the set (default: eval.split of the run)")
    parser.add_argument("--images", type=int, default=12, help="how many, spread over the split (default 12)")
    parser.add_argument("--clusters", type=int, default=6, help=f"at each depth, 2 to {MOST_CLUSTERS} (default 6)")
    parser.add_argument("--out", type=Path, default=Path("local_features.html"), help="page to write")
    chosen = parser.parse_args(rest)
    if not 2 <= chosen.clusters <= MOST_CLUSTERS:
        raise ConfigError("--clusters", chosen.clusters, f"2 to {MOST_CLUSTERS}: each has a color")
    if not 1 <= chosen.images <= 1000:
        raise ConfigError("--images", chosen.images, "1 to 1000")
    encoder = load_encoder(chosen.run, chosen.step)
    config = encoder.config.copy_and_resolve_references().unlock()
    raise_all(apply_overrides(config, overrides), "the config")
    config = resolve(config)
    found = look(encoder, config, chosen.split or config.eval.split, chosen.images, chosen.clusters)
    with local_copy_of(chosen.out) as out:
        rows, depths = found.rows(), list(found.clusters)
        contact_sheet(rows, found.captions, figures_folder(out) / "local_features.png", ["image", *depths], SIDE)
        write_page(
            "local_features.html",
            out,
            name=config.name,
            run=chosen.run,
            step=encoder.step,
            clusters=chosen.clusters,
            split=chosen.split or config.eval.split,
            depths={name: f"{clusters.shape[1]} x {clusters.shape[2]}" for name, clusters in found.clusters.items()},
            images=[
                {"caption": caption, "pictures": [image_uri(picture) for picture in pictures]}
                for caption, pictures in zip(found.captions, rows, strict=True)
            ],
        )
    print(chosen.out)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
