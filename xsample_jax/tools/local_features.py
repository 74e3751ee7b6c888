"""Draws what an encoder tells apart inside an image: clusters of its local features at several depths.

    python -m xsample_jax.tools.local_features --run=runs/mine --out=local_features.html
    python -m xsample_jax.tools.local_features --run=runs/mine --split=test --clusters=8 --config.data.path=data/other

Writes one page and its image as PNG beside it (docs/reports.md).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from xsample_jax.errors import ConfigError, raise_all
from xsample_jax.tools.cli import out_page, program, run_cli, split_overrides


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("local_features"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder (its --workdir)")
    parser.add_argument("--step", type=int, help="of which checkpoint (default: the newest)")
    parser.add_argument("--split", help="of the set (default: eval.split of the run)")
    parser.add_argument("--images", type=int, default=12, help="how many, spread over the split (default 12)")
    parser.add_argument("--clusters", type=int, default=6, help="at each depth, 2 to 12 (default 6)")
    parser.add_argument("--out", type=out_page, default=Path("local_features.html"), help="page to write")
    return parser


def run(arguments: Sequence[str]) -> None:
    overrides, rest = split_overrides(arguments)
    chosen = make_parser().parse_args(rest)
    from xsample_jax.config import apply_overrides, resolve
    from xsample_jax.encoder import load_encoder
    from xsample_jax.io.paths import local_copy_of
    from xsample_jax.reports.local_features import MOST_CLUSTERS, look, write_local_features

    if not 2 <= chosen.clusters <= MOST_CLUSTERS:
        raise ConfigError("--clusters", chosen.clusters, f"2 to {MOST_CLUSTERS}: each has a color")
    if not 1 <= chosen.images <= 1000:
        raise ConfigError("--images", chosen.images, "1 to 1000")
    encoder = load_encoder(chosen.run, chosen.step)
    config = encoder.config.copy_and_resolve_references().unlock()
    raise_all(apply_overrides(config, overrides), "the config")
    config = resolve(config)
    split = chosen.split or config.eval.split
    found = look(encoder, config, split, chosen.images, chosen.clusters)
    with local_copy_of(chosen.out) as out:
        write_local_features(found, chosen.run, encoder, config, split, out)
    print(chosen.out)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
