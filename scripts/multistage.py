"""Does training in stages (MCL, arXiv 2402.11816) bring back what an easy feature suppresses? Runs, and their page.

    python -m xsample_jax.tools.prepare --source=shapes --out=data/shapes
    python -m scripts.multistage --data=data/shapes --runs=runs/multistage --out=docs/notes/multistage.md

SimCLR on shapes with bits of a hash beside the image: three stages, each on batches of one pseudo-label of the stages
before, and as controls three runs of other seeds and one run of the length of all stages. What is finished is not
done again. 18 runs of half a minute on 2 CPU cores.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from scripts.learned_data_page import mean_and_interval
from xsample_jax.io.files import EVALUATION
from xsample_jax.reports.style import check_markers, insert, row, rule
from xsample_jax.tools.cli import local_path, out_file, out_folder, run_cli

SEEDS, STEPS, BITS, CLUSTERS, BATCH = range(3), 100, 8, 4, 128
CONFIG = f"{Path(__file__).parent.parent / 'configs' / 'suppression.py'}:bits,simclr"
SEEN = {  # what is measured: run, and those whose features are beside it
    "one run": ("stage0", ()),
    "one run, three times as long": ("long", ()),
    "three runs side by side": ("stage0", ("other1", "other2")),
    "three stages side by side": ("stage2", ("stage1", "stage0")),
}
STAGES, CONTROL = "three stages side by side", "three runs side by side"


def command(module: str, *flags: str) -> None:
    subprocess.run([sys.executable, "-m", f"xsample_jax.{module}", *flags], check=True)


def train(data: Path, folder: Path, seed: int, *changes: str) -> None:
    """A run; one that is finished returns at once."""
    ours = {"data.path": data, "augment.bits": BITS, "steps": STEPS, "batch_size": BATCH, "model.width": 8}
    flags = [f"--config.{key}={value}" for key, value in (ours | {"seed": seed}).items()]
    command("main", f"--config={CONFIG}", f"--workdir={folder}", *flags, *changes)


def cluster(run: Path, out: Path, *flags: str) -> None:
    if not out.exists():
        command("tools.cluster", f"--run={run}", f"--k={CLUSTERS}", f"--smallest={BATCH}", f"--out={out}", *flags)


def stages(data: Path, runs: Path, seed: int) -> None:
    """Trains everything of one seed, below `runs`: SEED-stage0 to SEED-stage2, SEED-other1, SEED-other2, SEED-long."""
    before: list[str] = []
    for stage in range(3):
        train(data, runs / f"{seed}-stage{stage}", seed, *before)
        labels, earlier = runs / f"{seed}-{stage}.npz", runs / f"{seed}-{stage - 1}.npz"
        if stage < 2:
            cluster(runs / f"{seed}-stage{stage}", labels, *([f"--digits={earlier}"] if stage else []))
        before = [
            f"--config.model.init_from={runs / f'{seed}-stage{stage}'}",
            f"--config.data.side=({{'name': 'cluster', 'file': '{labels}'}},)",
            "--config.data.batches_of=cluster",
        ]
    for number in (1, 2):
        train(data, runs / f"{seed}-other{number}", 10 * number + seed)
    train(data, runs / f"{seed}-long", seed, f"--config.steps={3 * STEPS}")


def kept(runs: Path, seed: int, of: str, beside: Sequence[str]) -> dict[str, float]:
    """{factor: what probes on the features find of it, 0 for guessing and 1 for all}."""
    out = runs / f"{seed}-{of}-{1 + len(beside)}"
    if not (out / EVALUATION).exists():
        others = [f"--beside={runs / f'{seed}-{name}'}" for name in beside]
        command("tools.evaluate", f"--run={runs / f'{seed}-{of}'}", *others, "--evals=factors", f"--out={out}")
    metrics = json.loads((out / EVALUATION).read_text())["metrics"]
    return {name.split("/")[1]: one["value"] for name, one in metrics.items() if name.endswith("/kept")}


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """found: {what is measured: for each seed, {factor: kept}}."""
    factors = list(found[STAGES][0])
    lines = [row(["", *factors]), rule(len(factors))]
    for name, seeds in found.items():
        lines.append(row([name, *(f"{100 * np.mean([one[factor] for one in seeds]):.1f}" for factor in factors)]))
    cells = []
    for factor in factors:
        gains = [100 * (s[factor] - c[factor]) for s, c in zip(found[STAGES], found[CONTROL], strict=True)]
        mean, half = mean_and_interval(gains)
        text = f"{mean:+.1f}"
        cells.append(f"{f'**{text}**' if abs(mean) > half else text} ± {half:.1f}")
    lines += [row(["stages minus runs", *cells]), ""]
    lines += [
        "`kept` of every factor, in percent, mean of three seeds; last row: the difference paired by seed and half the "
        "width of its 95% interval (Student's t), bold where it excludes zero.",
    ]
    return "\n".join(lines)


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=local_path, required=True, help="the dataset that prepare made of shapes")
    parser.add_argument("--runs", type=out_folder, required=True, help="where the runs are put")
    parser.add_argument("--out", type=out_file, required=True, help="the page, with the lines <!-- results --> in it")
    chosen = parser.parse_args(arguments)
    check_markers(chosen.out, "results")
    chosen.runs.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        stages(chosen.data, chosen.runs, seed)
    found = {name: [kept(chosen.runs, seed, *which) for seed in SEEDS] for name, which in SEEN.items()}
    insert(chosen.out, "results", table(found))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
