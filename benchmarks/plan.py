"""What a run will take in hours and money, from FLOPs that the TPU compiler counted.

    python -m benchmarks.plan "cc12m on v5e-64" --images=12e6 --epochs=25 --mfu=0.2 --price=1.2

The case is one of benchmarks/slices.json (benchmarks/slices.py compiles others). FLOPs are counted by the compiler.
What you give is assumed: the share of the peak (--mfu), the price of a chip and hour, what is lost to stops. Each line
says which it is. Nothing here was timed on a TPU.
"""

import argparse
import dataclasses
import json
import math
import pathlib

RECORD = pathlib.Path(__file__).parent / "slices.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """steps; seconds of a step; hours of the slice, with what is lost; chip-hours; money in the unit of the price."""

    steps: int
    step_seconds: float
    hours: float
    chip_hours: float
    price: float
    compiler_seconds: float | None


def plan(row: dict, images: float, epochs: float, mfu: float, price: float, lost: float) -> Plan:
    """Args: row of slices.json; images of the set; passes; FLOP/s used / peak; price of a chip and hour; share lost.

    Raises ValueError for a share outside of (0, 1] (mfu) or [0, 1) (lost), and for numbers that are not positive.
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"--mfu={mfu}: expected a share of the peak, above 0 and at most 1")
    if not 0 <= lost < 1:
        raise ValueError(f"--lost={lost}: expected a share of the time, from 0 to below 1")
    if min(images, epochs) <= 0 or price < 0:
        raise ValueError("--images and --epochs: expected more than 0; --price: not less")
    steps = math.ceil(images * epochs / row["batch_size"])
    step_seconds = row["ms_at_peak"] / 1e3 / mfu
    hours = steps * step_seconds / 3600 / (1 - lost)
    chip_hours = hours * row["chips"]
    estimate = row["ms_estimate"]
    return Plan(steps, step_seconds, hours, chip_hours, chip_hours * price, estimate and estimate / 1e3)


def lines(case: str, row: dict, made: Plan, given: argparse.Namespace) -> list[str]:
    compiler = "none" if made.compiler_seconds is None else f"{1e3 * made.compiler_seconds:,.0f} ms a step"
    rate = row["batch_size"] / made.step_seconds
    rows = [
        ("slice", f"{row['topology']}, {row['chips']} chips", case),
        ("FLOPs", f"{row['tflop']:.2f} TFLOP a device and step", "counted by the compiler"),
        ("memory", f"{row['gib']:.2f} GiB a device", "counted by the compiler"),
        ("steps", f"{made.steps:,} of {row['batch_size']:,} images", "computed from --images and --epochs"),
        ("at the peak", f"{row['ms_at_peak']:.1f} ms a step", "computed from the data sheet"),
        ("the compiler's guess", compiler, "estimated"),
        ("step", f"{1e3 * made.step_seconds:.1f} ms, {rate:,.0f} images/s", f"estimated, --mfu={given.mfu}"),
        ("the whole run", f"{made.hours:.1f} h", f"estimated, --lost={given.lost}"),
        ("chip-hours", f"{made.chip_hours:,.0f}", "estimated"),
        ("price", f"{made.price:,.0f}", f"estimated, --price={given.price}"),
    ]
    return [f"{what:22}{value:36}{how}" for what, value, how in rows]


def main(words: list[str] | None = None) -> None:
    record = json.loads(RECORD.read_text())
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("case", choices=record, metavar="CASE", help="one of: " + "; ".join(record))
    parser.add_argument("--images", type=float, required=True, help="in the training split")
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--mfu", type=float, required=True, help="share of the peak that is reached: an assumption")
    parser.add_argument("--price", type=float, required=True, help="of a chip and hour, today and in your region")
    parser.add_argument("--lost", type=float, default=0.05, help="share of the time lost to stops and evaluation")
    given = parser.parse_args(words)
    row = record[given.case]
    try:
        made = plan(row, given.images, given.epochs, given.mfu, given.price, given.lost)
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(lines(given.case, row, made, given)))


if __name__ == "__main__":
    main()
