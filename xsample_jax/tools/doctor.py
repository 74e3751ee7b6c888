"""Checks a config, its data, the devices, disk and host before a run; says what is wrong and how to mend it.

    python -m xsample_jax.tools.doctor --config=configs/cc3m.py --config.data.path=data/cc3m [--workdir=runs/cc3m]

One line for each finding; exit code 1 if one of them is a problem. Draws the first batch with its captions (--picture).
"""

import argparse
import sys
from pathlib import Path

from xsample_jax.errors import UserError


def diagnose(config, workdir: str, picture: Path, every_file: bool = False) -> list:
    """Returns all findings about a resolved config and draws its first batch to `picture`."""
    from xsample_jax.assemble import assemble
    from xsample_jax.doctor.data import check_data
    from xsample_jax.doctor.finding import OK, PROBLEM, Finding, once, reported
    from xsample_jax.doctor.machine import check_devices, check_disk, check_host

    findings = [Finding(OK, "config", f"{config.name}: {config.objective.preset}, {config.model.encoder}")]
    findings += check_data(config, every_file)
    findings += check_devices(config)
    if any(finding.level == PROBLEM and finding.about in ("data", "devices") for finding in findings):
        return once(findings)  # a run cannot be put together
    with reported("data", findings):
        parts, examples = assemble(config)
        findings += check_disk(parts, workdir)
        findings += check_host(config, examples.source.channels)
        findings.append(draw_first_batch(config, examples, picture))
    return once(findings)


def draw_first_batch(config, examples, picture: Path, images: int = 12):
    """Draws the first images that a run will read, and their captions; returns the Finding."""
    import dataclasses

    from xsample_jax.data.contact_sheet import contact_sheet
    from xsample_jax.data.pipeline import train_batches
    from xsample_jax.doctor.finding import NOTE, OK, Finding

    batches = train_batches(dataclasses.replace(examples, fields=examples.fields | {"index"}), config, start=0)
    batch = next(batches)
    batches.close()
    names = examples.source.manifest.class_names
    titles = []
    for index in batch["index"][:images]:
        record = examples.source[int(index)]
        label = names[record["label"]] if names and record["label"] >= 0 else record["label"]
        titles.append(f"id {record['id']} [{label}] {' | '.join(record['captions']) or '(no caption)'}")
    try:
        contact_sheet([[image] for image in batch["image"][:images]], titles, picture, tile=128, width=900)
    except OSError as error:  # the run does not need the picture
        return Finding(NOTE, "disk", f"no picture of the first batch: {error}. Choose another --picture.")
    return Finding(OK, "data", f"first batch with its captions: {picture}")


def run(arguments: list[str]) -> int:
    """Prints the findings; returns the exit code."""
    from xsample_jax.config import load_config, split_overrides
    from xsample_jax.doctor.finding import PROBLEM, problems

    overrides, arguments = split_overrides(["doctor", *arguments])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="config file; values are set as --config.KEY=VALUE")
    parser.add_argument("--workdir", default=".", help="folder that the run would write to (default: this one)")
    parser.add_argument("--picture", type=Path, default=Path("doctor.png"), help="PNG of the first batch")
    parser.add_argument("--every_file", action="store_true", help="compare the checksums of all files of the set")
    flags = parser.parse_args(arguments[1:])
    try:
        config = load_config(flags.config, overrides)
        findings = diagnose(config, flags.workdir, flags.picture, flags.every_file)
    except UserError as error:
        findings = list(problems("config", error))
    for finding in findings:
        print(finding)
    wrong = sum(finding.level == PROBLEM for finding in findings)
    print(f"{wrong} problem(s)" if wrong else "no problem found")
    return 1 if wrong else 0


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
