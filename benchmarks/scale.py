"""Sets of 10^6 to 10^10 records without their data: time and memory of a draw, and of starting with 10^6 shards.

    python -m benchmarks.scale            # the table of docs/notes/scale.md, 2 to 4 minutes
    python -m benchmarks.scale --plan     # and what 1 and 12.8 billion images take, on paper: computed, not run

Each row is a process of its own, so that its memory is its own. Records come from `StandIn`, which makes any record of
a set of any size from its number; shards are a manifest whose files are not there, but for those that are looked at.
"""

import argparse
import json
import math
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial

import numpy as np

from benchmarks.plan import RECORD, plan
from xsample_jax.data.loader import KEPT, draw_order, record_rates
from xsample_jax.data.perturb import Perturbed, choose_fraction
from xsample_jax.data.records import Manifest, RecordSource, open_records
from xsample_jax.data.writer import MANIFEST, manifest_text
from xsample_jax.reports.style import insert

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "notes" / "scale.md"
LAION, DATACOMP = 2_300_000_000, 12_800_000_000
COUNTS = (10**6, 10**7, 10**8, 10**9, LAION, 10**10, DATACOMP)
DRAWS = 20_000
SHARDS, EACH = 10**6, 12_800  # of DataComp: the tars of img2dataset hold 10,000 at most


class StandIn:
    """A source (data/records.py) of `count` records without data: a 4 x 4 image whose red is the number, modulo 256.

    Args:
      first_id: id of record 0; the others follow.
    """

    channels, folder, split = 3, pathlib.Path("stand-in"), "train"

    def __init__(self, count: int, first_id: int = 0):
        self._count, self._first_id = count, first_id
        self.wide_ids = first_id + count > 2**31
        self.manifest = Manifest("stand-in", {self.split: {"count": count, "shards": []}}).with_fingerprint()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> dict:
        if not 0 <= i < self._count:
            raise IndexError(f"record {i} of {self._count}")
        image = b"P6\n4 4\n255\n" + bytes([i % 256, 0, 0]) * 16
        record = {"id": self._first_id + i, "image": image, "label": i % 1000, "captions": [f"number {i}"]}
        return record | {"caption_embeddings": None, "attributes": {}, "location": self.locate(i)}

    def locate(self, i: int) -> str:
        return f"record:{i}"

    def place(self, i: int) -> int:
        return i


# One row: seconds of a call, and bytes that the process grew by.


def timed(index, places) -> float:
    """CPU-seconds of a call."""
    index(0)
    start = time.process_time()
    for place in places:
        index(place)
    return (time.process_time() - start) / len(places)


def peak() -> int:
    """Bytes that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(count: int) -> dict:
    """Per use of a set of `count` records: {"start": CPU-seconds to begin, "seconds": of a draw, "bytes": grown by}.

    Places are seven epochs and 2**33 draws into a run, as where it resumes. What keeps a number of each record is left
    out where that takes long.
    """
    source, found = StandIn(count), {}
    sizes = [count - count // 5, count // 5]
    uses = {
        "draw": lambda: draw_order(count, 0),
        "mixture": lambda: draw_order(count, 0, record_rates(sizes, [0.5, 0.5], None, 0.0)),
        "fraction": lambda: Perturbed(source, indices=choose_fraction(source, 0.1, 0)).locate,
    }
    far = range(7 * count + 2**33 + 7, 7 * count + 2**33 + 7 + DRAWS)
    for name, use in uses.items():
        if name != "draw" and 10**7 < count <= KEPT:
            continue
        before, start = peak(), time.process_time()
        index = use()
        places = range(count // 10 - min(DRAWS, count // 10), count // 10) if name == "fraction" else far
        index(places[0])
        begun = time.process_time() - start
        found[name] = {"start": begun, "seconds": timed(index, places), "bytes": peak() - before}
    return found


def write_shards(folder: pathlib.Path, shards: int) -> None:
    """A manifest of `shards` shards of EACH records; of the files those that a start looks at, empty and sparse."""
    names = [f"train-{number:07d}-of-{shards:07d}.arrayrecord" for number in range(shards)]
    entries = [
        {"file": name, "count": EACH, "bytes": 360_000_000 + number, "sha256": f"{number:064x}"}
        for number, name in enumerate(names)
    ]
    split = {"count": EACH * shards, "shards": entries, "largest_id": 10**6 * shards}
    (folder / MANIFEST).write_text(manifest_text(Manifest("stand-in", {"train": split}).with_fingerprint()))
    for number in np.linspace(0, shards - 1, 32).astype(int):
        with open(folder / names[number], "wb") as file:
            file.truncate(360_000_000 + int(number))


def measure_start(folder: str) -> dict:
    """A host opens a set: seconds, bytes of the whole process, and seconds of a look-up."""
    wall, cpu = time.perf_counter(), time.process_time()
    source: RecordSource = open_records(folder, "train")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    places = np.random.default_rng(0).integers(0, len(source), DRAWS).tolist()
    return {"wall": wall, "cpu": cpu, "bytes": peak(), "seconds": timed(source.locate, places)}


def in_a_process(*words: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.scale", *words]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def draw_table() -> list[str]:
    rows = ["| records | draw | mixture of two | `data.fraction=0.1` |", "|---|---|---|---|"]
    for count in COUNTS:
        found = in_a_process(f"--row={count}")
        cells = []
        for name in ("draw", "mixture", "fraction"):
            one = found.get(name)
            if one is None:
                cells.append("not run: a number of each record is kept")
                continue
            began = f", {one['start']:.1f} s to start" if one["start"] > 0.1 else ""
            cells.append(f"{1e6 * one['seconds']:.1f} µs, {one['bytes'] / 2**20:,.0f} MiB{began}")
        rows.append(f"| {count:,} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return rows


def start_table() -> list[str]:
    rows = ["| shards | manifest | time to open | memory of the process | look-up |", "|---|---|---|---|---|"]
    for shards in (10**5, SHARDS):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.scale", "--write", folder, f"--count={shards}"], check=True
            )
            size = (pathlib.Path(folder) / MANIFEST).stat().st_size
            found = in_a_process("--start", folder)
        cells = [f"{size / 1e6:,.0f} MB", f"{found['wall']:.1f} s ({found['cpu']:.1f} CPU-s)"]
        cells += [f"{found['bytes'] / 2**30:.2f} GiB", f"{1e6 * found['seconds']:.1f} µs"]
        rows.append(f"| {shards:,} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return rows


# On paper.


def plan_table(given: argparse.Namespace) -> list[str]:
    """What sets of a billion images and of DataComp take; every rate is an argument or was measured on one core."""
    columns = [plan_of(images, given) for images in (1e9, 12.8e9)]
    rows = ["| on paper, nothing was run | 1 billion | 12.8 billion |", "|---|---|---|"]
    return rows + [f"| {name} | {columns[0][name]} | {columns[1][name]} |" for name in columns[0]]


def plan_of(images: float, given: argparse.Namespace) -> dict[str, str]:
    record = given.image_kb * 1e3 + 2 * given.dim + 200  # caption, keys, place
    cpu_hours = images / given.prepare_rate / 3600
    workers = math.ceil(cpu_hours / given.prepare_hours)
    # A product of a token with every weight is two FLOPs; attention within a caption is left out.
    chip_hours = images * given.tokens * 2 * given.text_weights / (given.peak * 1e12 * given.embed_mfu) / 3600
    trained = plan(json.loads(RECORD.read_text())[given.case], images, 1, given.mfu, given.chip_price, 0.05)
    row = json.loads(RECORD.read_text())[given.case]
    rate = row["batch_size"] / trained.step_seconds
    cores = rate / given.decode_rate
    money = {
        "preparing": cpu_hours * given.core_price,
        "embedding": chip_hours * given.chip_price,
        "an epoch": trained.price,
        "a month of storage": images * record / 1e9 * given.storage_price,
    }
    return {
        f"records, {record / 1e3:.1f} kB each": f"{images * record / 1e12:,.1f} TB",
        "shards of 10,000; manifest": f"{images / 1e4:,.0f}; {images / 1e4 * 194 / 1e6:,.0f} MB",
        f"originals read, {given.original_kb:g} kB each": f"{images * given.original_kb / 1e9:,.0f} TB",
        f"preparing, {given.prepare_rate:g} images a core-second": f"{cpu_hours:,.0f} core-hours",
        f"Beam workers of one core for {given.prepare_hours:g} h": f"{workers:,}",
        f"embedding, {given.tokens:g} tokens, {given.embed_mfu:g} of the peak": f"{chip_hours:,.0f} chip-hours",
        f"embedding on {row['chips']} chips": f"{chip_hours / row['chips']:,.1f} h",
        f"an epoch, {given.case}, {given.mfu:g} of the peak": f"{trained.hours:,.0f} h, {trained.steps:,} steps",
        f"cores that decode {rate:,.0f} images/s": f"{cores:,.0f}, {cores / row['chips'] * 4:.1f} a host of 4 chips",
        **{f"{name}, at the prices given": f"{value:,.0f}" for name, value in money.items()},
    }


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plan", action="store_true", help="print the plan on paper alone")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=10**6, help=argparse.SUPPRESS)
    parser.add_argument("--case", default="cc12m on v5e-64", help="of benchmarks/slices.json: what trains")
    assumptions = {
        "image_kb": (28, "an image resized to 256"), "original_kb": (52, "an image as it was"),
        "dim": (768, "numbers of an embedding"),
        "prepare_rate": (600, "images a core-second, measured"), "prepare_hours": (24, "in which all are prepared"),
        "tokens": (25, "of a caption"), "text_weights": (85e6, "of the blocks of all-mpnet-base-v2"),
        "peak": (197, "TFLOP/s of a chip in bfloat16"), "embed_mfu": (0.2, "assumed"), "mfu": (0.2, "assumed"),
        "decode_rate": (2100, "images a core-second, measured"), "core_price": (0.04, "of a core and hour"),
        "chip_price": (1.2, "of a chip and hour"), "storage_price": (0.02, "of a GB and month"),
    }  # fmt: skip
    for name, (value, help_) in assumptions.items():
        parser.add_argument(f"--{name}", type=float, default=value, help=help_)
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    given = parse(words)
    if given.row:
        print(json.dumps(measure(given.row)))
    elif given.start:
        print(json.dumps(measure_start(given.start)))
    elif given.write:
        write_shards(pathlib.Path(given.write), given.count)
    else:
        for name, table in {"draws": draw_table, "start": start_table, "plan": partial(plan_table, given)}.items():
            if name == "plan" or not given.plan:
                lines = table()
                print("\n".join(lines) + "\n", flush=True)
                insert(PAGE, name, "\n".join(lines))


if __name__ == "__main__":
    main()
