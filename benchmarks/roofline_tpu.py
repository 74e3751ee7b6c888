"""Train steps of one small TPU slice against what its chips can do: matrix units and memory, by the TPU compiler.

    python -m benchmarks.roofline_tpu [CASE ...]

compiles the named cases (default: those not recorded yet; each takes one to five minutes), records them in
benchmarks/roofline_tpu.json and writes the table of docs/notes/performance.md. Nothing is run: times are estimates.
"""

import sys

from benchmarks.slices import ROOT, VIT_B, publish_cases  # first: it sets what jax reads when it is imported

RECORD, PAGE = ROOT / "benchmarks" / "roofline_tpu.json", ROOT / "docs" / "notes" / "performance.md"

# Bytes per second of the memory of a chip: cloud.google.com/tpu/docs, page of each generation.
BANDWIDTH = {"v4": 1.2e12, "v5e": 819e9, "v5p": 2765e9, "v6e": 1640e9}

SMALL = ("batch_size=256",)  # 64 images, 128 views a chip, as in docs/notes/performance.md
CASES = {  # name: (config, slice, what is changed)
    "ResNet-50 on v5e": ("imagenet", "v5e:2x2", SMALL),
    "ResNet-50 on v6e": ("imagenet", "v6e:2x2", SMALL),
    "ResNet-50 on v5p": ("imagenet", "v5p:2x2x1", SMALL),
    "ViT-B/16 on v5e": ("imagenet", "v5e:2x2", (*SMALL, *VIT_B)),
    "ViT-B/16 on v6e": ("imagenet", "v6e:2x2", (*SMALL, *VIT_B)),
}


def floors(row: dict) -> dict[str, float]:
    """Milliseconds that a recorded step needs at least: "matrix units" for its FLOPs, "memory" for its bytes."""
    bandwidth = BANDWIDTH[row["topology"].split(":")[0]]
    return {"matrix units": row["ms_at_peak"], "memory": 1e3 * 1e9 * row["gb_accessed"] / bandwidth}


def table(record: dict[str, dict]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| step | views a chip | TFLOP | matrix units | GB moved | memory | GiB held | estimate | views/s and chip |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in (name for name in CASES if name in record):
        row, least = record[name], floors(record[name])
        views = 2 * row["batch_size"] // row["chips"]
        estimate = row["ms_estimate"]  # None where the compiler gives none
        share = {limit: f"{ms:.1f} ms" + (f" ({ms / estimate:.0%})" if estimate else "") for limit, ms in least.items()}
        rate = f"{estimate:.1f} ms | {1e3 * views / estimate:,.0f}" if estimate else "none given |"
        lines.append(
            f"| {name} | {views} | {row['tflop']:.2f} | {share['matrix units']} | {row['gb_accessed']:.1f} | "
            f"{share['memory']} | {row['gib']:.1f} | {rate} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(publish_cases(CASES, sys.argv[1:], RECORD, PAGE, "roofline", table))
