"""Evaluates a checkpoint: numbers with 95% intervals as a table, JSON and one HTML page.

    python -m xsample_jax.tools.evaluate --run=runs/mine --evals=knn,logistic,geometry
    python -m xsample_jax.tools.evaluate --run=runs/cc3m/checkpoints/40000 --evals=logistic,robustness \
        --config.data.path=data/imagenet2012 --config.eval.split=validation --sets=data/robustness

The data is that of the training config unless --config.data... and --config.eval... say otherwise. --run is a
run folder (its newest checkpoint) or RUN/checkpoints/STEP. docs/evaluation.md describes every number and test set.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from xsample_jax.errors import FINISHED, DataError, UserError, shorten
from xsample_jax.io.console import say
from xsample_jax.tools.cli import add_renamed, check_out, local_path, out_folder, program, run_cli, split_overrides

JSON_FILE, EXAMPLES_FILE, PAGE = "evaluation.json", "evaluation.npz", "evaluation.html"
RESULTS = "evaluations"  # below a run: a folder for each step, and for each other evaluation of it
OUT_HELP = "folder for the results (default: RUN/evaluations/STEP, STEP-2 and so on); those of others stay"


def numbers(text: str) -> tuple[float, ...]:
    """ "0.1,0.3" -> (0.1, 0.3)."""
    return tuple(float(part) for part in text.split(","))


def whole(text: str) -> tuple[int, ...]:
    """ "128,64" -> (128, 64)."""
    return tuple(int(part) for part in text.split(","))


# What --sgd_... sets: fields of SgdProtocol (evals/linear_probes.py).
SGD = {"learning_rates": numbers, "epochs": int, "batch_size": int, "momentum": float, "weight_decay": float}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("evaluate"),
        description=__doc__ + "\npython -m xsample_jax --list=evaluators says what each evaluation is.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_renamed(parser, "--run", "--checkpoint", required=True, help="RUN or RUN/checkpoints/STEP")
    parser.add_argument(
        "--beside", action="append", default=[], metavar="RUN", help="features of this run as well, beside the others"
    )
    parser.add_argument("--evals", required=True, help="names of evaluations, with commas between, as knn,logistic")
    parser.add_argument("--out", type=out_folder, help=OUT_HELP)
    parser.add_argument("--target", help="what probes predict: label or an attribute (emoji: subgroup; else label)")
    probes = "ridge, logistic, sgd or naive_bayes"
    parser.add_argument("--probe", default="logistic", help=f"for robustness: {probes} (%(default)s)")
    parser.add_argument("--sets", type=local_path, help="folder with the test sets of robustness and mit_states")
    parser.add_argument("--responses", type=local_path, help="file [records, R] that encoding predicts, .npy")
    parser.add_argument("--widths", type=whole, default=(), help="of widths, as 128,64 (default: those of the run)")
    parser.add_argument("--crop", type=float, default=1.0, help="middle share of the side that is seen (default: all)")
    parser.add_argument(
        "--prompts", type=local_path, help="file with a template for class names on each line, with {caption}"
    )
    parser.add_argument("--text_encoder", help="encoder of the prompts: name or folder (default: that of the captions)")
    for name, kind in SGD.items():
        parser.add_argument(f"--sgd_{name}", type=kind, help="of sgd (default: that of SimCLR, docs/evaluation.md)")
    return parser


def read_protocol(chosen: argparse.Namespace):
    """The SgdProtocol of the flags; ConfigError for what cannot be trained with."""
    from xsample_jax.errors import ConfigError
    from xsample_jax.evals.linear_probes import SIMCLR, SgdProtocol

    given = {name: value for name in SGD if (value := getattr(chosen, f"sgd_{name}")) is not None}
    values = dataclasses.asdict(SIMCLR) | given
    # What float32 and a day of computing can hold; no comparison is true of nan.
    right = {
        "learning_rates": (all(1e-8 <= rate <= 1e4 for rate in values["learning_rates"]), "numbers from 1e-8 to 1e4"),
        "epochs": (1 <= values["epochs"] <= 10**5, "a number from 1 to 100,000"),
        "batch_size": (1 <= values["batch_size"] < 2**31, "a number from 1 to 2,147,483,647"),
        "momentum": (0 <= values["momentum"] < 1, "a number from 0 to below 1"),
        "weight_decay": (0 <= values["weight_decay"] <= 1e4, "a number from 0 to 1e4"),
    }
    for name, (fine, expected) in right.items():
        if not fine:
            raise ConfigError(f"--sgd_{name}", values[name], expected)
    return SgdProtocol(**values)


def run(arguments: Sequence[str]) -> int:
    """Does what the command line says and returns the exit code."""
    overrides, rest = split_overrides(list(arguments))
    chosen = make_parser().parse_args(rest)
    from xsample_jax.config import config_to_json
    from xsample_jax.config.saved import describe_difference
    from xsample_jax.distributed import detect_process, start
    from xsample_jax.evals.context import Options
    from xsample_jax.evals.evaluate import check_names, evaluate_checkpoint, read_config
    from xsample_jax.io.checkpoint_files import find_checkpoint

    evals = [name.strip() for name in chosen.evals.split(",") if name.strip()]
    for problem in check_names(evals):
        raise problem
    options = Options(
        target=chosen.target,
        probe=chosen.probe,
        sets=chosen.sets,
        prompts=read_prompts(chosen.prompts),
        text_encoder=chosen.text_encoder,
        sgd=read_protocol(chosen),
        responses=chosen.responses,
        widths=chosen.widths,
    )
    where = find_checkpoint(chosen.run)
    check_out(chosen.out or where[0] / RESULTS, folder=True)
    asked = {"evals": sorted(set(evals)), "config": sorted(overrides), "crop": chosen.crop, "beside": chosen.beside}
    asked |= {"options": json.loads(json.dumps(dataclasses.asdict(options), default=str))}
    if chosen.out is not None:
        check_results(chosen.out, where, asked)
    start(detect_process(), config_to_json(read_config(*where, overrides)), describe_difference)
    evaluation = evaluate_checkpoint(chosen.run, evals, overrides, options, chosen.crop, chosen.beside)

    import jax

    if jax.process_index() != 0:
        return FINISHED
    from xsample_jax.reports.evaluation import table

    out = chosen.out or results_folder(evaluation.run / RESULTS, evaluation.step, asked)
    write_results(evaluation, evals, out, asked)
    print(table(evaluation))
    print(f"\n{out / PAGE}")
    return FINISHED


def results_folder(folder: Path, step: int, asked: dict) -> Path:
    """STEP, STEP-2, ... below `folder`: the first that has no results yet, or those of the same evaluation."""
    for place in (folder / (f"{step}-{number}" if number > 1 else str(step)) for number in itertools.count(1)):
        try:
            if json.loads((place / JSON_FILE).read_text(encoding="utf-8")).get("asked") == asked:
                return place
        except FileNotFoundError:
            return place
        except (AttributeError, NotADirectoryError, ValueError):  # not ours: somebody may want to look
            continue


def check_results(out: Path, where: tuple[Path, int], asked: dict) -> None:
    """Raises DataError where a folder has the results of another checkpoint or of another evaluation of this one."""
    about = {"run": str(where[0]), "step": where[1], "asked": asked}
    try:
        found = json.loads((out / JSON_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        found = None
    found = found if isinstance(found, dict) else {}
    if differing := [name for name, value in about.items() if found.get(name) != value]:
        fix = f"Choose another folder, or remove {out / JSON_FILE}."
        values = ", ".join(f"{name} {shorten(str(found.get(name)), 60)}" for name in differing)
        raise DataError("--out", str(out), f"no results of another evaluation there ({values})", fix)


def write_results(evaluation, evals: Sequence[str], out: Path, asked: dict) -> None:
    """Writes the files of an evaluation into a folder; asked: all of the command line that the numbers depend on."""
    from xsample_jax.evals.metrics import save_examples
    from xsample_jax.io.files import atomic_write
    from xsample_jax.io.paths import local_copy_of
    from xsample_jax.reports.evaluation import as_json, write_page

    text = json.dumps(as_json(evaluation, evals) | {"asked": asked}, indent=1) + "\n"
    with local_copy_of(out) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        save_examples(folder / EXAMPLES_FILE, evaluation.result.examples)
        atomic_write(folder / PAGE, lambda partial: write_page(evaluation, evals, partial))
        atomic_write(folder / JSON_FILE, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_prompts(path: Path | None) -> tuple[str, ...]:
    """The lines of a file of templates; ConfigError when it is missing or empty, DataError when it is not text."""
    from xsample_jax.errors import ConfigError
    from xsample_jax.io.files import read_lines

    if path is None:
        return ()
    lines = tuple(line for line in read_lines(path, "--prompts") if line) if path.is_file() else ()
    if not lines:
        raise ConfigError("--prompts", str(path), "a file with one template on each line, as: a photo of a {caption}")
    return lines


def run_in_processes(arguments: Sequence[str]) -> int:
    """`run`, where an error of one process of several ends the others too."""
    try:
        return run(arguments)
    except UserError as error:
        from xsample_jax.distributed import exit_process, name_of_process

        if not name_of_process():
            raise
        say(f"error{name_of_process()}: {error}", error=True)
        exit_process(error.exit_code)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run_in_processes, arguments)


if __name__ == "__main__":
    sys.exit(main())
