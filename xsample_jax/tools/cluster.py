"""Clusters the records of a split by the features of a run, for objectives that read `cluster`.

    python -m xsample_jax.tools.cluster --run=runs/mine --k=100 --k=300 --out=clusters.npz
    python -m xsample_jax.tools.cluster --run=runs/stage1 --k=10 --digits=stage0.npz --out=stage1.npz
    python -m xsample_jax.tools.cluster --run=runs/mine --per_class --temperatures=tau.npz --out=subclasses.npz

k-means on features of unit length (docs/side_information.md). Train on the file with
--config.data.side="({'name': 'cluster', 'file': 'clusters.npz'},)".
"""

import argparse
import sys
from collections.abc import Sequence

from xsample_jax.errors import ConfigError
from xsample_jax.tools.cli import check_apart, local_path, out_file, program, run_cli, split_overrides


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("cluster"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="RUN or RUN/checkpoints/STEP")
    parser.add_argument("--split", help="of the set (default: data.split of the run)")
    parser.add_argument("--k", type=int, action="append", default=[], help="clusters; several times: a column for each")
    parser.add_argument(
        "--digits", type=local_path, metavar="PREVIOUS", help="side file of the stage before: pseudo-labels of MCL"
    )
    parser.add_argument("--per_class", action="store_true", help="subclasses of every class, as many as SBCL has")
    parser.add_argument("--temperatures", type=out_file, help="with --per_class: side file for class_temperature")
    parser.add_argument("--smallest", type=int, default=1, help="fewest records of a cluster; smaller: -1 (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the first centers (default 0)")
    parser.add_argument("--out", type=out_file, required=True, help="side file to write (.npz)")
    return parser


def check_flags(chosen: argparse.Namespace) -> None:
    """Raises ConfigError for flags that do not go together."""
    if chosen.per_class == bool(chosen.k):
        raise ConfigError("--k", chosen.k, "numbers of clusters, or --per_class in their place")
    if any(not 2 <= count <= 2**16 for count in chosen.k):
        raise ConfigError("--k", chosen.k, "numbers from 2 to 65,536")
    if chosen.digits is not None and len(chosen.k) != 1:
        raise ConfigError("--digits", str(chosen.digits), "one --k: a stage adds one digit")
    if chosen.temperatures is not None and not chosen.per_class:
        raise ConfigError("--temperatures", str(chosen.temperatures), "--per_class: they are of its subclasses")
    check_apart(chosen, "digits", outs=("out", "temperatures"))
    if chosen.seed < 0 or chosen.smallest < 1:
        name = "seed" if chosen.seed < 0 else "smallest"
        raise ConfigError(f"--{name}", getattr(chosen, name), f"a number of at least {int(name == 'smallest')}")


def run(arguments: Sequence[str]) -> None:
    overrides, rest = split_overrides(arguments)
    chosen = make_parser().parse_args(rest)
    check_flags(chosen)
    import numpy as np

    from xsample_jax.data.records import unit_rows
    from xsample_jax.data.side import read_side, write_side
    from xsample_jax.data.sources import open_source
    from xsample_jax.errors import DataError
    from xsample_jax.evals import clusters
    from xsample_jax.evals.evaluate import load_model, read_config
    from xsample_jax.evals.features import FeatureStore
    from xsample_jax.io.checkpoint_files import find_checkpoint

    where = find_checkpoint(chosen.run)
    config = read_config(*where, overrides)
    source = open_source(config.data, chosen.split or config.data.split)
    previous = None if chosen.digits is None else read_side(str(chosen.digits), "cluster", source, "--digits")
    if previous is not None and previous.shape[1] != 1:
        raise ConfigError("--digits", str(chosen.digits), f"one clustering: it has {previous.shape[1]}")
    loaded = load_model(*where, config)
    features = FeatureStore(loaded.parts, loaded.state)(source.split)
    points, records = unit_rows(features.features), len(source)  # of unit length: k-means by cosine
    if chosen.k and max(chosen.k) > len(points):
        raise ConfigError("--k", max(chosen.k), f"at most {len(points)}, the records of split {source.split}")
    if chosen.per_class:
        labels = features.label
        if not (labels >= 0).any():
            raise DataError(f"labels of split {source.split}", "none", "labeled records, for --per_class")
        values = clusters.subclasses(points, labels, chosen.seed)
    else:
        values = clusters.clusterings(points, chosen.k, chosen.seed)
    values = clusters.by_record(values, features, records)
    if previous is not None:
        values = clusters.with_digit(previous[:, 0], values[:, 0], chosen.k[0])
    values = clusters.without_small(values, chosen.smallest)
    for column, numbers in enumerate(values.reshape(records, -1).T):
        sizes = np.unique(numbers[numbers >= 0], return_counts=True)[1]
        if not len(sizes):
            raise ConfigError("--smallest", chosen.smallest, f"fewer: no cluster of clustering {column} has that many")
        print(f"clustering {column}: {len(sizes)} clusters of {sizes.min()} to {sizes.max()} records")
    write_side(chosen.out, values, source)
    print(chosen.out)
    if chosen.temperatures is not None:
        factors = clusters.temperatures_of(points, labels)
        write_side(chosen.temperatures, clusters.by_record(factors, features, records, 1.0), source)
        print(chosen.temperatures)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
