"""Train steps compiled for TPU slices by the real TPU compiler, on any machine: what a chip holds, computes and sends.

    python -m benchmarks.slices [CASE ...]

compiles the named cases (default: those not recorded yet; a ResNet-50 step takes one to three minutes), records them in
benchmarks/slices.json and writes the table of docs/notes/performance.md. Nothing is run: times are the compiler's
estimates.
"""

import json
import os
import pathlib
import sys
import time

from xsample_jax.topology import quiet_environment

quiet_environment(os.environ)  # before jax is imported

import jax  # noqa: E402

from benchmarks.report import write_json  # noqa: E402
from xsample_jax.config import load_config  # noqa: E402
from xsample_jax.metrics.profiling import count_chips, peak_flops  # noqa: E402
from xsample_jax.reports.dry_run import (  # noqa: E402
    GIB,
    compiled_report,
    placeholder_setup,
)
from xsample_jax.reports.style import insert  # noqa: E402
from xsample_jax.sharding import bytes_per_device  # noqa: E402
from xsample_jax.topology import topology_devices  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent
RECORD, PAGE = ROOT / "benchmarks" / "slices.json", ROOT / "docs" / "notes" / "performance.md"
MIB = 2**20

VIT_B = ("model.encoder=vit_b", "model.patch_size=16", "optimizer.name=adamw", "optimizer.learning_rate=1e-3")
CASES = {  # name: (config, slice, what is changed)
    "imagenet on v5e-16": ("imagenet", "v5e:4x4", ()),
    "cc3m on v5e-16": ("cc3m", "v5e:4x4", ()),
    "cc12m on v5e-64": ("cc12m", "v5e:8x8", ()),
    "cc12m on v4-64": ("cc12m", "v4:2x4x4", ()),
    "cc12m on v6e-64": ("cc12m", "v6e:8x8", ()),
    "cc12m on tpu7x-8": ("cc12m", "tpu7x:2x2x1", ("batch_size=1024",)),
    "cc12m, 65,536 images, on two v5e-256": ("cc12m", "2xv5e:16x16", ("batch_size=65536",)),
    "cc12m, 131,072 images, on v5p-4096": ("cc12m", "v5p:16x16x16", ("batch_size=131072",)),
    "cc12m, ViT-B, on v5e-64": ("cc12m", "v5e:8x8", VIT_B),
    "cc12m, ViT-B, remat, on v5e-64": ("cc12m", "v5e:8x8", (*VIT_B, "model.remat=block")),
    "cc12m, ViT-B, fsdp 16, on v5e-64": ("cc12m", "v5e:8x8", (*VIT_B, "mesh.fsdp=16")),
    "cc12m, ViT-B, fsdp 64, on v5e-64": ("cc12m", "v5e:8x8", (*VIT_B, "mesh.fsdp=64")),
}


def measure(config_name: str, topology: str, changes: tuple[str, ...]) -> dict:
    """What the compiler says of the train step. Without its search for a faster schedule, which takes minutes more."""
    overrides = [f"--config.{change}" for change in changes]
    config = load_config(str(ROOT / "configs" / f"{config_name}.py"), overrides)
    devices = topology_devices(topology)
    parts = placeholder_setup(config, devices)
    start = time.process_time()
    lowered = parts.train_step.lower(parts.abstract_state, parts.abstract_batch)
    report = compiled_report(lowered.compile(compiler_options={"exec_time_optimization_effort": -1.0}))
    sent = {}
    for item in report.collectives:
        name = f"{item.op} {item.dtype}"
        sent[name] = {"count": item.count, "mib": round(item.bytes / MIB, 3)}
    peak = peak_flops(devices) / count_chips(devices)
    return {
        "config": config_name,
        "topology": topology,
        "changes": list(changes),
        "chips": count_chips(devices),
        "batch_size": config.batch_size,
        "gib": report.peak / GIB,
        "state_gib": bytes_per_device(parts.abstract_state) / GIB,
        "tflop": report.flops / 1e12,
        "gb_accessed": report.bytes_accessed / 1e9,
        "ms_at_peak": 1e3 * report.flops / peak,
        "ms_estimate": None if report.seconds is None else 1e3 * report.seconds,
        "collectives": sent,
        "compile_cpu_seconds": round(time.process_time() - start),
        "jax": jax.__version__,
    }


def table(record: dict[str, dict]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| step | slice | chips | images | GiB a device (state) | TFLOP a device | collectives a device | estimate |",
        "|---|---|---:|---:|---:|---:|---|---:|",
    ]
    for name in CASES:
        if name not in record:
            continue
        row = record[name]
        large = {k: v for k, v in row["collectives"].items() if v["mib"] >= 1}
        sent = "; ".join(f"{k} {v['mib']:,.0f} MiB in {v['count']}" for k, v in large.items()) or "none"
        estimate = "none given" if row["ms_estimate"] is None else f"{row['ms_estimate']:,.0f} ms"
        step = name.rsplit(" on ", 1)[0].rstrip(",")
        lines.append(
            f"| {step} | {row['topology']} | {row['chips']:,} | {row['batch_size']:,} | "
            f"{row['gib']:.2f} ({row['state_gib']:.2f}) | {row['tflop']:.2f} | {sent} | {estimate} |"
        )
    return "\n".join(lines)


def publish_cases(
    cases: dict[str, tuple], asked: list[str], path: pathlib.Path, page: pathlib.Path, name: str, table
) -> int:
    """Measures the asked cases (none asked: those not in the record at `path`), and puts `table(record)` into `page`.

    Returns the exit status: 2 for an unknown name.
    """
    record = json.loads(path.read_text()) if path.exists() else {}
    asked = asked or [case for case in cases if case not in record]
    unknown = [case for case in asked if case not in cases]
    if unknown:
        print(f"unknown cases {unknown}; known: {', '.join(cases)}", file=sys.stderr)
        return 2
    for number, case in enumerate(asked, 1):
        print(f"{number}/{len(asked)} {case}", flush=True)
        try:
            record[case] = measure(*cases[case])
        except jax.errors.JaxRuntimeError as error:
            print(f"   {str(error).splitlines()[0]}", flush=True)
            continue
        print(f"   {json.dumps(record[case])}", flush=True)
        write_json(path, record)
    insert(page, name, table(record))
    return 0


if __name__ == "__main__":
    sys.exit(publish_cases(CASES, sys.argv[1:], RECORD, PAGE, "slices", table))
