"""docs/notes/feature_suppression.md with its figures, out of the runs of configs/studies/feature_suppression.py.

    python -m scripts.feature_suppression --grid=configs/studies/feature_suppression.py --runs=runs/suppression
    python -m scripts.feature_suppression

The first command reads the finished runs into docs/notes/feature_suppression.json, beside those that are there
already, and makes the page; the second makes it again from that file.
"""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from xsample_jax.errors import DataError
from xsample_jax.io.files import atomic_write
from xsample_jax.reports.results_page import finished
from xsample_jax.reports.runs import load_runs
from xsample_jax.reports.style import check_figures, color, draw_panel, row, rule
from xsample_jax.sweeps.grid import Point, read_grid
from xsample_jax.tools.cli import out_folder, run_cli

ROOT = Path(__file__).parent.parent
NOTES = ROOT / "docs" / "notes"
GRID = "configs/studies/feature_suppression.py"
# Part -> (title, the knob in words).
PARTS = {
    "bits": ("Random bits beside the image", "bits"),
    "digits": ("A digit pasted on the image", "different digits"),
    "sizes": ("A digit of 20 pixels beside a larger one", "side of the other digit"),
    "heads": ("Priors by depth of the head", "layers of the head"),
}


# Runs to results: one small dict each.


def collect(points: Sequence[Point], folder: Path) -> list[dict]:
    """What the page needs of every finished run: part, objective, value of the knob, seed, sizes, accuracies."""
    found = []
    for point in finished(points, folder):
        (run,) = load_runs([folder / point.name])
        part, _, objective = point.tag.partition("-")
        names = sorted({name.split("/")[1] for name in run.metrics if name.startswith("factor/")})
        keys = ("steps", "batch_size", "model.width")
        found.append(
            {"part": part, "objective": objective, "value": knob_of(part, point.values), "seed": point.values["seed"]}
            | {key: run.config[key] for key in keys}
            | {"kept": {name: round(run.metrics[f"factor/{name}/kept"], 5) for name in names}}
            | {"images": len(next(iter(run.examples.values())).values)}
        )
    return found


def knob_of(part: str, values: Mapping[str, object]) -> int:
    """The value of a part's knob as a number."""
    if part == "bits":
        return int(values["augment.bits"])
    if part == "heads":
        return len(values["model.head.hidden"]) + 1
    numbers = re.findall(r"\d+", str(values["data.path"]))
    if not numbers:
        raise DataError("data.path", values["data.path"], "a path that ends with the value of the knob")
    return int(numbers[-1])


ORDER = ("simclr", "supcon", "clip_frozen_text", "xclr")  # others follow; the first is what they are compared with


def identity(run: Mapping[str, object]) -> tuple:
    """What a run was, without what came out, as a key in the order of the page."""
    part, objective = list(PARTS).index(run["part"]), run["objective"]
    place = ORDER.index(objective) if objective in ORDER else len(ORDER)
    keys = ("value", "seed", "steps", "batch_size", "model.width")
    return (part, place, objective, *(run[key] for key in keys))


# Results to numbers: means over seeds with 95 % intervals of Student's t over seeds.


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of values of different seeds; of one seed the ends are NaN."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def by_seed(results: Sequence[dict], factor: str, **wanted) -> dict[int, float]:
    """{seed: what is kept of a factor} of the runs with these entries."""
    return {
        one["seed"]: one["kept"][factor]
        for one in results
        if factor in one["kept"] and all(one[name] == value for name, value in wanted.items())
    }


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, float, float] | None:
    """Interval of first - second, paired by seed; None without a common seed."""
    seeds = sorted(first.keys() & second.keys())
    return interval([first[seed] - second[seed] for seed in seeds]) if seeds else None


def separates(found: tuple[float, float, float] | None) -> bool:
    """Whether an interval excludes zero (that of one seed never does)."""
    return found is not None and (found[1] > 0 or found[2] < 0)


def values_of(results: Sequence[dict], name: str, **wanted) -> list:
    """The different values of an entry, in order of first appearance; numbers in order of size."""
    found = dict.fromkeys(one[name] for one in results if all(one[key] == value for key, value in wanted.items()))
    return sorted(found) if all(isinstance(value, int) for value in found) else list(found)


def factors_of(results: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(name for one in results for name in one["kept"]))


# Numbers to a page.


HEAD = """# Feature suppression

*Made by `python -m scripts.feature_suppression` from*
[feature_suppression.json](feature_suppression.json).

Contrastive objectives may learn the feature that is easiest to tell images apart by and leave
others out (*Intriguing Properties of Contrastive Losses*, arXiv 2011.02803).
Here images whose factors are known get a competing feature, and a linear probe on frozen features
measures what is left of each factor: `kept` is its accuracy on the scale where guessing is 0 and no
error is 1.
The knob is how much the competing feature tells apart.
Captions name the object (shape, color, texture, count), so X-CLR is told what may be suppressed,
and SimCLR is not.

    python -m xsample_jax.tools.sweep --grid={spec} \\
        --out=runs/suppression --run
    python -m scripts.feature_suppression --grid={spec} \\
        --runs=runs/suppression
"""

LIMITS = (
    "The whole grid of `configs/studies/feature_suppression.py` has {all} runs. The page rests on {done}; {missing}",
    "The runs are {steps} steps of {batch} images with a ResNet-18 of width {width}. What such an encoder keeps says "
    "little about a large one that is trained for long: suppression may grow or fade with training.",
    "Intervals are over seeds alone ({seeds} seeds, Student's t) on the same {images} test images. With so few "
    "seeds they are wide, and a difference that does not separate is not shown to be zero.",
    "Every interval of a table is one of many, and none is corrected for that.",
    "Bits enter as channels of one value, which a convolution reads at once. Features that compete in photographs "
    "have to be found first.",
    "X-CLR sees captions and SimCLR does not: a difference between them shows what captions bring, not which loss is "
    "better.",
)


CONTROL = (
    "The bits hide a part of the image from an encoder that has learned nothing, too (row `untrained`). So a fall "
    "against 0 bits is not all suppression; but what keeps no more of a factor than that row has learned nothing of it."
)


def page(results: Sequence[dict], whole: int, spec: str = f"{GRID}:short", note: str = "") -> str:
    """The Markdown of the page. whole: number of runs of the whole grid; note: how these runs were made."""
    lines = [HEAD.format(spec=spec), *([_sentences(note), ""] if note else [])]
    for part, (title, knob) in PARTS.items():
        of_part = [one for one in results if one["part"] == part]
        lines += [f"## {title}", ""]
        if not of_part:
            lines += ["Not run.", ""]
            continue
        lines += [*_table(of_part, knob), "", f"![{title}](feature_suppression-{part}.png)", ""]
        lines += [*_differences(of_part, part, knob), ""]
    missing = [title for part, (title, _) in PARTS.items() if all(one["part"] != part for one in results)]
    trained = [one for one in results if one["objective"] != "untrained"] or results
    facts = {
        "all": whole,
        "done": f"{len(results)} runs" if len(results) != 1 else "one run",
        "missing": f"not run: {'; '.join(missing).lower()}." if missing else "every part has some of them.",
        "steps": _span(trained, "steps"),
        "batch": _span(trained, "batch_size"),
        "width": _span(trained, "model.width"),
        "seeds": _span_of([len(values_of(results, "seed", part=part)) for part in values_of(results, "part")]),
        "images": _span(results, "images"),
    }
    limits = [_sentences(f"- {words.format(**facts)}", "  ") for words in LIMITS]
    if len(trained) < len(results):
        limits.append(_sentences(f"- {CONTROL}", "  "))
    return "\n".join([*lines, "## What this does not show", "", *limits, ""])


def _sentences(text: str, indent: str = "") -> str:
    """The text in lines of at most 98 characters, each sentence on lines of its own."""
    first, *others = re.split(r"(?<=[a-z0-9)`%]\.) (?=[A-Z`])", text)
    wrap = textwrap.TextWrapper(98, subsequent_indent=indent, break_on_hyphens=False)
    lines = [wrap.fill(first)]
    wrap.initial_indent = indent
    return "\n".join([*lines, *map(wrap.fill, others)])


def _span(results: Sequence[dict], name: str) -> str:
    return _span_of([one[name] for one in results])


def _span_of(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _table(results: Sequence[dict], knob: str) -> list[str]:
    factors = factors_of(results)
    lines = [row(["objective", knob, "seeds", *factors]), rule(len(factors) + 2)]
    for objective in values_of(results, "objective"):
        for value in values_of(results, "value", objective=objective):
            of_seed = [by_seed(results, name, objective=objective, value=value) for name in factors]
            cells = [_cell(interval(list(one.values()))) for one in of_seed]
            lines.append(row([objective, str(value), str(len(of_seed[0])), *cells]))
    return [*lines, "", "`kept` in %, mean over seeds [95 % interval over seeds]."]


def _differences(results: Sequence[dict], part: str, knob: str) -> list[str]:
    """What the largest value changes against the smallest, within and between objectives; bold where it separates."""
    factors, values = factors_of(results), values_of(results, "value")
    objectives = values_of(results, "objective")
    low, high = values[0], values[-1]
    compared = {}
    if low != high:
        compared = {
            f"{one}: {high} against {low} {knob}": ({"objective": one, "value": high}, {"objective": one, "value": low})
            for one in objectives
        }
    compared |= {
        f"{one} minus {objectives[0]}, {value} {knob}": (
            {"objective": one, "value": value},
            {"objective": objectives[0], "value": value},
        )
        for one in objectives[1:]
        for value in dict.fromkeys((low, high))
    }
    lines, said = [row(["difference, points", *factors]), rule(len(factors))], []
    for title, (first, second) in compared.items():
        if not by_seed(results, factors[0], **first) or not by_seed(results, factors[0], **second):
            continue  # one of the two was not run
        cells, clear = [], []
        for name in factors:
            found = difference(by_seed(results, name, **first), by_seed(results, name, **second))
            cells.append("–" if found is None else _cell(found, bold=separates(found), signed=True))
            if separates(found):
                clear.append(f"{name} {100 * found[0]:+.0f}")
        lines.append(row([title, *cells]))
        if clear:
            said.append(textwrap.fill(f"- {title}: {', '.join(clear)} points", 98, subsequent_indent="  "))
    words = said or ["No interval excludes zero, so nothing is concluded."]
    said = ["Paired by seed; bold where the 95 % interval excludes zero.", "What separates:"]
    return [*lines, "", *said, "", *words]


def _cell(found: tuple[float, float, float], bold: bool = False, signed: bool = False) -> str:
    mean, low, high = (f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}" for value in found)
    if np.isnan(found[1]):
        return mean
    return f"{f'**{mean}**' if bold else mean} [{low}, {high}]"


def draw(results: Sequence[dict], folder: Path) -> None:
    """A figure for every part: what is kept of each factor against the knob, a color per objective."""
    for part, (title, knob) in PARTS.items():
        of_part = [one for one in results if one["part"] == part]
        if of_part:
            factors = factors_of(of_part)
            size = (2.3 * len(factors), 2.8)
            panels = lambda figure, theme, of=of_part, word=knob: _panels(figure, theme, of, word)  # noqa: E731
            draw_panel(folder, f"feature_suppression-{part}", title, title, panels, size=size)


def _panels(figure, theme, results: Sequence[dict], knob: str) -> None:
    factors = factors_of(results)
    panels = np.atleast_1d(figure.subplots(1, len(factors), sharey=True))
    for name, axes in zip(factors, panels, strict=True):
        for place, objective in enumerate(values_of(results, "objective")):
            values = values_of(results, "value", objective=objective)
            found = [interval(list(by_seed(results, name, objective=objective, value=v).values())) for v in values]
            mean, low, high = 100 * np.array(found).T
            label = objective if axes is panels[0] else None
            axes.plot(values, mean, "o-", markersize=4, color=color(place), label=label)
            axes.vlines(values, low, high, color=color(place), alpha=0.6)
        axes.set_title(name, fontsize=9.5)
        axes.set_xticks(values_of(results, "value"))
    panels[0].set_ylabel("kept, %")
    figure.supxlabel(knob, fontsize=9.5, color=theme.muted)
    figure.legend(loc="outside upper center", ncols=5, fontsize=9)


def make_page(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default=f"{GRID}:short", help="of the runs, with its variant")
    parser.add_argument("--runs", type=Path, help="folder of the sweep; without it the page is made again")
    parser.add_argument("--note", default="", help="with --runs: a sentence on how they were made, for the page")
    parser.add_argument("--out", type=out_folder, default=NOTES, help="folder of the page (default docs/notes)")
    flags = parser.parse_args(arguments)
    stored = flags.out / "feature_suppression.json"
    check_figures(stored.with_suffix(".md"), [f"feature_suppression-{part}" for part in PARTS])
    flags.out.mkdir(parents=True, exist_ok=True)
    if flags.runs:
        _, points = read_grid(flags.grid)
        content = {"grid": flags.grid, "whole": len(read_grid(str(ROOT / GRID))[1]), "note": flags.note}
        earlier = json.loads(stored.read_text())["runs"] if stored.is_file() else []
        content["runs"] = list({identity(run): run for run in [*earlier, *collect(points, flags.runs)]}.values())
        content["runs"].sort(key=identity)
        lines = ",\n".join(f"  {json.dumps(run)}" for run in content["runs"])
        head = "{" + ", ".join(f'"{name}": {json.dumps(content[name])}' for name in ("grid", "whole", "note"))
        head += ', "runs": [\n'
        atomic_write(stored, lambda partial: partial.write_text(head + lines + "\n]}\n"))
    if not stored.is_file():
        raise DataError("results", str(stored), "an existing file", "Give --runs=FOLDER, the --out of the sweep.")
    content = json.loads(stored.read_text())
    text = page(content["runs"], content["whole"], content["grid"], content["note"])
    atomic_write(flags.out / "feature_suppression.md", lambda partial: partial.write_text(text))
    draw(content["runs"], flags.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(make_page, sys.argv[1:]))
