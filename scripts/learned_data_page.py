"""docs/notes/learned_data.md: what the runs of configs/studies/learned_data.py say, with tables, figures, intervals.

    python -m scripts.learned_data_page --runs=runs/learned_data --out=docs/notes/learned_data.md
    python -m scripts.learned_data_page --out=docs/notes/learned_data.md

The first reads run folders and writes their numbers into a JSON file beside the page; the second makes the page again
from that file. Whatever runs are finished are on the page, which says how many they are.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from xsample_jax.config import load_config
from xsample_jax.errors import DataError
from xsample_jax.io.files import EVALUATION, JSONL, atomic_write
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.reports.runs import Run, load_runs
from xsample_jax.reports.style import check_figures, check_markers, color, draw_panel, file_name, insert, row, rule
from xsample_jax.sweeps.grid import Point, read_grid
from xsample_jax.tools.cli import check_out, out_file, run_cli

GRID = Path(__file__).parent.parent / "configs" / "studies" / "learned_data.py"
METHODS = ("plain", "augmented", "hard", "pair")
LEVEL = 0.95
FEWEST_SEEDS = 3  # below, no interval is given
LOGGED = ("hardness", "pair_cosine", "discriminator_accuracy", "generator/ms_ssim_real", "generator/ms_ssim_generated")
SHOWN = {
    "emoji": ("group/probe", "subgroup/probe"),
    "shapes": ("factors/probe", "factor/shape/probe", "factor/color/probe"),
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """The numbers of one finished run: those of its evaluation, and the last that its adversary has logged."""

    data: str
    method: str
    fraction: float
    seed: int
    steps: int
    batch_size: int
    metrics: Mapping[str, float]
    logged: Mapping[str, float]

    @property
    def design(self) -> tuple[str, int, int]:
        """Runs are compared within this only."""
        return self.data, self.steps, self.batch_size


def read_runs(folder: Path) -> list[Trained]:
    """The finished runs in a folder of a sweep; DataError where there are none."""
    folders = sorted(path.parent for path in folder.glob(f"*/{EVALUATION}"))
    if not folders:
        raise DataError("--runs", str(folder), "a folder with finished runs", "Run the sweep of the grid first.")
    return [summarized(run) for run in load_runs(folders)]


def summarized(run: Run) -> Trained:
    """What the page needs of a run."""
    config = run.config
    data = set_of(config["data.source"])
    metrics = {name: value for name, value in run.metrics.items() if name in SHOWN[data]}
    if data == "shapes":
        probes = [
            value for name, value in run.metrics.items() if name.startswith("factor/") and name.endswith("/probe")
        ]
        metrics |= {"factors/probe": float(np.mean(probes))} if probes else {}
    missing = set(SHOWN[data]) - metrics.keys()
    if missing and run.metrics:  # a run of eval.suite=none has no metrics at all
        expected = f"an evaluation with {', '.join(sorted(missing))}"
        raise DataError("--runs", str(run.folder), expected, "Evaluate the run with the suite of its config.")
    logged = read_jsonl(run.folder / JSONL)
    lines = {name: [line[name] for line in logged if name in line] for name in LOGGED}
    return Trained(
        data,
        config["objective.generator.kind"] or "plain",
        config["data.fraction"],
        config["seed"],
        config["steps"],
        config["batch_size"],
        {name: round(value, 6) for name, value in sorted(metrics.items())},
        {name: round(found[-1], 6) for name, found in lines.items() if found},
    )


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half the width of its 95 % interval by Student's t); the width is nan below FEWEST_SEEDS values."""
    mean = float(np.mean(values))
    if len(values) < FEWEST_SEEDS:
        return mean, math.nan
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return mean, float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * error)


def by_seed(runs: Sequence[Trained], method: str, fraction: float, metric: str) -> dict[int, float]:
    """{seed: value} of the runs of a cell."""
    chosen = [run for run in runs if (run.method, run.fraction) == (method, fraction) and metric in run.metrics]
    return {run.seed: run.metrics[metric] for run in chosen}


def differences(runs: Sequence[Trained], method: str, fraction: float, metric: str, base: str) -> list[float]:
    """Differences to the method `base`, one for each seed that both have."""
    own, other = (by_seed(runs, name, fraction, metric) for name in (method, base))
    return [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]


def page(runs: Sequence[Trained], points: Sequence[Point], folder: Path, stem: str) -> str:
    """The generated part of the page; draws its figures into `folder`. points: of the whole grid."""
    full = designs_of(points)
    complete = sum(run.design in full for run in runs)
    lengths = "; ".join(f"{data}: {steps} steps of {batch} images" for data, steps, batch in sorted(full))
    parts = [
        f"This page rests on **{len(runs)} finished runs**, of which {complete} have the length of the grid, which is "
        f"{len(points)} runs ({lengths})."
    ]
    for design, name in page_figures(runs, stem).items():
        own = [run for run in runs if run.design == design]
        data, steps, batch = design
        seeds = sorted({run.seed for run in own})
        parts += [
            f"### {data}, {steps} steps of {batch} images",
            f"{len(own)} runs, seeds {', '.join(map(str, seeds))}. In each cell: mean over seeds, half the width of "
            f"its {LEVEL:.0%} interval (Student's t, over seeds; none below {FEWEST_SEEDS}), number of seeds; percent.",
        ]
        for metric in [metric for metric in SHOWN[data] if any(metric in run.metrics for run in own)]:
            parts += [f"#### `{metric}`", level_table(own, metric)]
        parts += [draw(own, data, folder, name), *conclusions(own, data), logged_table(own)]
    return "\n\n".join(part for part in parts if part)


def page_figures(runs: Sequence[Trained], stem: str) -> dict[tuple[str, int, int], str]:
    """{design: the name of its figure}."""
    return {design: f"{stem}-{design[0]}-{design[1]}" for design in sorted({run.design for run in runs})}


def designs_of(points: Sequence[Point]) -> set[tuple[str, int, int]]:
    """The designs of the grid as it is without a variant."""
    configs = [load_config(config) for config in {point.config for point in points}]
    return {(set_of(config.data.source), config.steps, config.batch_size) for config in configs}


def set_of(source: str) -> str:
    """The set of a run by its config's data.source."""
    return "emoji" if source == "emoji" else "shapes"


def level_table(runs: Sequence[Trained], metric: str) -> str:
    """A row for each method, a column for each share of the images."""
    fractions = sorted({run.fraction for run in runs})
    lines = [row(["", *(f"{fraction:.0%} of the images" for fraction in fractions)]), rule(len(fractions))]
    for method in METHODS:
        values = [list(by_seed(runs, method, fraction, metric).values()) for fraction in fractions]
        lines.append(row([method, *(in_percent(value) for value in values)]))
    return "\n".join(lines)


def in_percent(values: Sequence[float]) -> str:
    """The values of a cell in words: mean, half of the interval and number of seeds, as 51.2 ± 1.3 (3)."""
    if not values:
        return "not run"
    mean, half = mean_and_interval(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * half:.1f}" if not math.isnan(half) else "") + f" ({len(values)})"


def conclusions(runs: Sequence[Trained], data: str) -> list[str]:
    """One sentence for every difference, in a list: which intervals exclude 0, and how many do not."""
    apart, open_ones, asked = [], 0, 0
    for metric in SHOWN[data]:
        for fraction in sorted({run.fraction for run in runs}):
            pairs = [(method, "plain") for method in METHODS[1:]] + [(m, "augmented") for m in METHODS[2:]]
            for method, base in pairs:
                found = differences(runs, method, fraction, metric, base)
                if len(found) < FEWEST_SEEDS:
                    open_ones += bool(found)
                    continue
                asked += 1
                mean, half = mean_and_interval(found)
                if abs(mean) > half:
                    apart.append(
                        f"- `{metric}`, {fraction:.0%}: {method} minus {base} is "
                        f"{100 * mean:+.1f} ± {100 * half:.1f} points ({len(found)} seeds)"
                    )
    said = f"Of {asked} differences with an interval (paired by seed), {len(apart)} exclude 0"
    said += f"; about {0.05 * asked:.1f} would by chance." if asked else "."
    if open_ones:
        said += f" {open_ones} more have fewer than {FEWEST_SEEDS} seeds, and nothing is concluded from them."
    return ["#### What separates", said, "\n".join(apart) or "Nothing does: none of the methods is called better here."]


def logged_table(runs: Sequence[Trained]) -> str:
    """The last logged numbers of the adversaries, means over all runs of a method."""
    methods = [method for method in METHODS[1:] if any(run.method == method for run in runs)]
    names = [name for name in LOGGED if any(name in run.logged for run in runs)]
    if not methods or not names:
        return ""
    lines = ["#### At the last step", "", row(["", *(f"`{name}`" for name in names)]), rule(len(names))]
    for method in methods:
        own = [run.logged for run in runs if run.method == method]
        found = [[logged[name] for logged in own if name in logged] for name in names]
        lines.append(row([method, *(f"{np.mean(values):.2f}" if values else "-" for values in found)]))
    return "\n".join(lines)


def draw(runs: Sequence[Trained], data: str, folder: Path, name: str) -> str:
    """A figure of the metrics against the share of the images, as a line of Markdown; "" where none was measured."""
    metrics = [metric for metric in SHOWN[data] if any(metric in run.metrics for run in runs)]
    if not metrics:
        return ""

    def figure(figure, theme):
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axis, metric in zip(axes, metrics, strict=True):
            for place, method in enumerate(METHODS):
                fractions = [f for f in sorted({run.fraction for run in runs}) if by_seed(runs, method, f, metric)]
                found = [mean_and_interval(list(by_seed(runs, method, f, metric).values())) for f in fractions]
                x = np.array(fractions) * 1.04 ** (place - 1.5)  # side by side
                y, half = (100 * np.array(found).reshape(-1, 2)).T
                bars = np.where(np.isnan(half), 0.0, half)
                axis.errorbar(x, y, bars, label=method, color=color(place), marker="o", capsize=3)
            axis.set_xscale("log")
            shown = sorted({run.fraction for run in runs})
            axis.set_xticks(shown, [f"{fraction:.0%}" for fraction in shown])
            axis.set_xticks([], minor=True)
            axis.set_xlabel("share of the training images")
            axis.margins(x=0.15)
            axis.set_title(metric)
        axes[0].set_ylabel("percent")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS))

    caption = f"{data}: means over seeds and their {LEVEL:.0%} intervals."
    draw_panel(folder, name, data, caption, figure, size=(4.2 * len(metrics), 3.6))
    return f"![{caption}]({name}.png)"


def run_page(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="where tools.sweep put the runs; none: the numbers beside the page")
    parser.add_argument("--out", type=out_file, required=True, help="the page, with the lines <!-- results --> in it")
    chosen = parser.parse_args(arguments)
    check_markers(chosen.out, "results")
    numbers, stem = chosen.out.with_suffix(".json"), file_name(chosen.out.stem)
    if chosen.runs is not None:
        check_out(numbers, folder=False, field="--out")
        runs = read_runs(chosen.runs)
    elif not numbers.is_file():
        raise DataError("--runs", None, f"a folder of runs, as there is no {numbers}")
    else:
        runs = [Trained(**fields) for fields in json.loads(numbers.read_text())]
    check_figures(chosen.out, page_figures(runs, stem).values())
    text = "[\n" + ",\n".join(json.dumps(dataclasses.asdict(run)) for run in runs) + "\n]\n"
    atomic_write(numbers, lambda partial: partial.write_text(text))
    insert(chosen.out, "results", page(runs, read_grid(str(GRID))[1], chosen.out.parent, stem))
    print(f"{len(runs)} runs: {chosen.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run_page, arguments)


if __name__ == "__main__":
    sys.exit(main())
