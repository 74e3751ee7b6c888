"""Looks at the caption graph of a dataset before anything is trained: how alike captions are, and which tau_s fits.

    python -m xsample_jax.tools.inspect --data=emoji --out=inspect.html
    python -m xsample_jax.tools.inspect --data=data/cc3m --batch_size=1024
    python -m xsample_jax.tools.inspect --data=configs/cc3m.py --config.data.path=data/cc3m

With --run=RUN it also prints how strongly a trained run's gradient pulls and pushes, and where to.
It reads a sample of a large dataset (--sample), and says so. Writes one page and its figures as PNG beside it. With a
config, split, caption, batch size, views and tau_s are those of the run.
"""

import argparse
import sys
from collections.abc import Sequence

from xsample_jax.errors import DataError
from xsample_jax.tools.cli import check_apart, out_page, program, run_cli, split_overrides

BOUNDS = {
    "batch_size": (1, 2**24),
    "views": (1, 64),
    "tau_s": (1e-4, 1e4),
    "sample": (1, 2**24),
    "seed": (0, 2**32 - 1),
}


def question(flags: argparse.Namespace, overrides: list[str]):
    """The Question of --data (a config file, the name emoji, or the folder of a dataset); flags win over it."""
    from xsample_jax.config import default_config, load_config
    from xsample_jax.objectives.from_config import build_objective
    from xsample_jax.objectives.objective import reads_target_temperature
    from xsample_jax.reports.inspect import PAPER_TAU_S, Question

    if ".py" in flags.data:
        config = load_config(flags.data, overrides)
        objective = build_objective(config.objective)
        tau_s, classes = objective.target_temperature, "class_embedding" in objective.requires
        if not reads_target_temperature(objective) or not isinstance(tau_s, float):
            tau_s = PAPER_TAU_S  # no softmax, or a rule that chooses it
    else:
        if overrides:
            raise DataError("--config", overrides[0], "nothing, unless --data is a config file", "Leave it out.")
        config, tau_s, classes = default_config(), PAPER_TAU_S, False
        config.data.update({"source": "emoji"} if flags.data == "emoji" else {"source": "records", "path": flags.data})
    return Question(
        config.data,
        flags.split or config.data.split,
        flags.caption or config.data.caption,
        flags.batch_size or config.batch_size,
        flags.views or config.views,
        flags.tau_s or tau_s,
        flags.center or config.objective.center,
        flags.classes or classes,
    )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("inspect"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of a dataset, emoji, or a config file")
    parser.add_argument("--out", type=out_page, default="inspect.html", help="page to write (default: %(default)s)")
    parser.add_argument("--run", metavar="RUN", help="also print weights and directions of a run's gradient")
    parser.add_argument("--split", help="default: that of the config, or train")
    parser.add_argument("--caption", help="which caption of a record, as data.caption")
    parser.add_argument("--batch_size", type=int, help="images of a batch (default: that of the config, or 256)")
    parser.add_argument("--views", type=int, help="views of an image (default: that of the config, or 2)")
    parser.add_argument("--tau_s", type=float, help="target temperature (default: that of the config, or 0.1)")
    parser.add_argument("--classes", action="store_true", help="texts of the classes in place of captions (class_text)")
    parser.add_argument("--center", action="store_true", help="center the embeddings first, as objective.center")
    parser.add_argument("--sample", type=int, default=8192, help="records to read at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the batches")
    return parser


def run(arguments: list[str]) -> None:
    """Does what the command line says."""
    overrides, arguments = split_overrides(arguments)
    flags = make_parser().parse_args(arguments)
    check_apart(flags, "data")
    for name, (low, high) in BOUNDS.items():
        value = getattr(flags, name)
        if value is not None and not low <= value <= high:  # nan is not
            raise DataError(f"--{name}", value, f"a number from {low:g} to {high:g}")
    from xsample_jax.io.paths import local_copy_of
    from xsample_jax.reports.inspect import inspect

    if flags.run is not None:
        from xsample_jax.io.checkpoint_files import find_checkpoint

        find_checkpoint(flags.run)  # a wrong one is an error before the dataset is read
    with local_copy_of(flags.out) as out:
        lines = inspect(question(flags, overrides), out, flags.sample, flags.seed)[:-1]
    if flags.run is not None:
        from xsample_jax.reports.inspect import gradient_lines

        lines += gradient_lines(flags.run)
    print("\n".join([*lines, str(flags.out)]))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
