"""The figures of all benchmarks as a Markdown table: {name: JSON of the benchmark (report.finish)}."""

from collections.abc import Iterator, Mapping

HEAD = "| benchmark, unit | comparison | ours | peer or limit | ratio | target | |\n|---|---|---:|---:|---:|---:|---|"
PACKAGES = ("jax", "torch", "torchvision", "timm", "sentence-transformers", "opencv-python-headless", "pillow")


def markdown(record: Mapping[str, Mapping]) -> str:
    """Device, date and versions; one row per comparison; and how each benchmark was called, with the time it took."""
    rows = [row for name, found in record.items() for row in _rows(name, found)]
    return "\n".join([_where(record), "", HEAD, *rows, "", *_commands(record)])


def _where(record: Mapping[str, Mapping]) -> str:
    devices = sorted({f"{found['cores']} x {found['cpu']}" for found in record.values()})
    dates = sorted({found["date"] for found in record.values()})
    versions = {name: found[name] for found in record.values() for name in PACKAGES if name in found}
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"`make bench` on {'; '.join(devices)}, {when}; {packages}. Ratio: how many times ours is better."


def _rows(name: str, found: Mapping) -> Iterator[str]:
    for place, row in enumerate(found["comparisons"]):
        what = row["name"].removeprefix(found["benchmark"]).lstrip(" ,")
        cells = [
            f"`{name}`, {found['unit']}" if place == 0 else "",
            what,
            f"{row['ours']:.3g}",
            f"{row['peer']:.3g}",
            _ratio(row["gain"]),
            f"{row['target']:.2f}",
            "" if row["passed"] else "**missed**",
        ]
        yield f"| {' | '.join(cells)} |"
    for package in found["missing"]:
        yield f"| `{name}` | {package} is not installed | | | | | **not compared** |"


def _ratio(gain: float) -> str:
    return f"{gain:.2f}" if gain < 100 else f"{gain:,.0f}" if gain < 1e5 else f"{gain:.0e}"


def _commands(record: Mapping[str, Mapping]) -> Iterator[str]:
    yield "| command | seconds |\n|---|---:|"
    for found in record.values():
        yield f"| `{found['command']}` | {found['seconds']:.0f} |"


def misses(record: Mapping[str, Mapping]) -> list[str]:
    """A line for every comparison that missed its target."""
    return [
        f"  {row['name']}: {row['gain']:.2f} of {row['target']:.2f}"
        for found in record.values()
        for row in found["comparisons"]
        if not row["passed"]
    ]


def failures(record: Mapping[str, Mapping]) -> list[str]:
    """What must not be: peers that are not installed, and missed targets of figures that are the same everywhere."""
    missing = [f"{name}: {package} is not installed" for name, found in record.items() for package in found["missing"]]
    return missing + [
        f"{row['name']}: {row['gain']:.2f} of {row['target']:.2f}, and it is no matter of the machine"
        for found in record.values()
        for row in found["comparisons"]
        if not row["passed"] and row["clock"] is None
    ]
