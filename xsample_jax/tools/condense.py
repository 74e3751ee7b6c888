"""Condenses a dataset into a few synthetic images of each class, which train like any other dataset.

    python -m xsample_jax.tools.condense --config=configs/cifar10.py:supcon --per_class=10 --out=data/cifar10_10
    python -m xsample_jax.tools.condense --data=emoji --config.data.label=group --per_class=1 --out=data/emoji_1
    python -m xsample_jax.tools.condense --data=data/cifar10 --per_class=10 --match=class --out=data/cifar10_dc

Pixels are trained so that a classifier's gradient on them is like that on real images: of all classes together (DCC),
or class by class (--match=class, DC). The classifier is the encoder of the config; with --data it is a resnet18 on 32
pixels. Stopped or killed, it continues when the same command is given again. More: docs/plans.md.
"""

import argparse
import sys
from collections.abc import Sequence

from xsample_jax.tools.cli import out_folder, program, run_cli, split_overrides


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("condense"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--config", metavar="FILE", help="a config file: its training split, encoder and sizes")
    given.add_argument("--data", metavar="FOLDER", help="a dataset, or emoji; the encoder is a resnet18 on 32 pixels")
    parser.add_argument("--per_class", type=int, required=True, help="images of each class")
    parser.add_argument("--out", required=True, type=out_folder, metavar="FOLDER", help="the new dataset")
    parser.add_argument("--match", default="contrastive", help="contrastive (DCC, default) or class (DC)")
    parser.add_argument("--networks", type=int, default=1000, help="drawn one after the other (default 1000)")
    parser.add_argument("--matches", type=int, help="of a network (default: 10, from 50 images of a class 50)")
    parser.add_argument(
        "--passes", type=int, help="of training after a match (default: 5, 50 or 10 by images of a class)"
    )
    parser.add_argument("--real", type=int, default=256, help="images of a class in a match (default 256)")
    parser.add_argument("--rate", type=float, default=0.1, help="of SGD on pixels (default 0.1)")
    parser.add_argument("--momentum", type=float, default=0.5, help="of SGD on pixels (default 0.5)")
    parser.add_argument("--network_rate", type=float, default=0.01, help="of SGD on the network (default 0.01)")
    parser.add_argument(
        "--warmup",
        type=int,
        help="networks whose first 10 matches are class by class (default: 250, a quarter at most)",
    )
    parser.add_argument("--start", default="real", help="real (images of the class, default) or noise")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default 0)")
    return parser


def config_of(flags: argparse.Namespace, overrides: list[str]):
    """The config of the flags."""
    from xsample_jax.config import default_config, load_config, resolve
    from xsample_jax.config.load import apply_overrides
    from xsample_jax.errors import raise_all

    if flags.config is not None:
        return load_config(flags.config, overrides)
    config = default_config()
    config.data.update({"source": "emoji"} if flags.data == "emoji" else {"source": "records", "path": flags.data})
    config.data.image_size = config.augment.size = 32
    config.steps, config.eval.suite = 1, "none"  # of a run that is none
    config.model.update(encoder="resnet18", stem="cifar")
    raise_all(apply_overrides(config, overrides), "--config")
    return resolve(config)


def run(arguments: Sequence[str]) -> None:
    overrides, rest = split_overrides(arguments)
    flags = make_parser().parse_args(rest)
    from xsample_jax.prepare.condense import Recipe, check_recipe, condense

    names = {name: value for name, value in vars(flags).items() if name not in ("config", "data", "out")}
    recipe = Recipe(**names)
    check_recipe(recipe)
    manifest, distances = condense(config_of(flags, overrides), recipe, flags.out)
    (split,) = manifest.splits
    print(f"{manifest.splits[split]['count']} images in split {split}: {flags.out}")
    print(f"distance of the gradients: {distances[0]:.4g} with the first network, {distances[-1]:.4g} with the last")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
