"""One figure per family of benchmarks, light and dark, out of {name: JSON of the benchmark (report.finish)}.

Each shows ours beside its peers and, dotted, what the machine or the algorithm cannot go below or above.
"""

import pathlib
from collections.abc import Mapping

from xsample_jax.reports.style import color, draw_panel

LIMIT = {"linestyle": ":", "linewidth": 1.4}


def draw(record: Mapping[str, Mapping], folder: pathlib.Path) -> list[str]:
    """Writes benchmarks_<name>.png and -dark.png for every family whose figures are there; returns the names."""
    steps = {name: found for name, found in record.items() if name.startswith("step_cpu")}
    made = []

    def one(name: str, there: bool, function, *arguments) -> None:
        if there:
            draw_panel(
                folder, f"benchmarks_{name}", name, "", lambda figure, theme: function(figure, theme, *arguments)
            )
            made.append(name)

    losses = [found for name, found in record.items() if name.startswith("loss_cpu")]
    seconds, floor = {}, {}
    for found in losses:
        floor |= found["floor"]
        for form, values in found["cpu_seconds"].items():
            seconds.setdefault(form, {}).update(values)
    one("loss_time", bool(losses), _loss_time, seconds, floor)
    one("loss_memory", "loss_memory" in record, _loss_memory, record.get("loss_memory"))
    pipeline = record.get("pipeline", {}).get("images_per_second_and_core")
    one("pipeline", bool(pipeline), _pipeline, pipeline, record.get("decode"))
    rates = {encoder: pair for found in steps.values() for encoder, pair in found["images_per_second"].items()}
    limits = {encoder: rate for found in steps.values() for encoder, rate in found["limit"].items()}
    one("step", bool(rates), _step, rates, limits)
    one("traffic", "comm_bytes" in record, _traffic, record.get("comm_bytes"))
    return made


def _lines(axes, theme, forms: Mapping[str, Mapping[str, float]], limits: Mapping[str, Mapping[str, float]]) -> None:
    """Lines over the number of rows, both axes logarithmic, limits dotted and gray."""
    for place, (name, values) in enumerate(forms.items()):
        rows = sorted(values, key=int)
        axes.plot([int(r) for r in rows], [values[r] for r in rows], marker="o", markersize=3.5, color=color(place),
                  label=name, zorder=3 if place == 0 else 2)  # fmt: skip
    for (name, values), line in zip(limits.items(), (":", "-.")):
        rows = sorted(values, key=int)
        look = LIMIT | {"linestyle": line}
        axes.plot([int(r) for r in rows], [values[r] for r in rows], color=theme.muted, label=name, **look)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({int(r) for values in forms.values() for r in values})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("rows (two views of half as many images)")
    axes.legend(fontsize=8)


def _loss_time(figure, theme, seconds: Mapping, floor: Mapping) -> None:
    axes = figure.subplots()
    _lines(axes, theme, seconds, {"its products alone": floor})
    axes.set_ylabel("CPU-seconds, loss and gradient")
    axes.set_ylim(top=8 * axes.get_ylim()[1])  # room for the legend
    axes.legend(fontsize=8, loc="upper left", ncols=2)


def _loss_memory(figure, theme, found: Mapping) -> None:
    axes = figure.subplots()
    limits = {
        "inputs themselves": found["inputs"],
        "memory of this machine": dict.fromkeys(found["inputs"], found["machine_mib"]),
    }
    _lines(axes, theme, found["mib"], limits)
    axes.set_ylabel("MiB beside inputs and gradient")


def _bars(axes, names: list[str], values: list[float], ours: list[bool], labels: list[str]) -> None:
    """Horizontal bars from the top down, ours in the first color, each with its value."""
    places = range(len(names))
    axes.barh(places, values, color=[color(0) if own else color(7) for own in ours], height=0.62)
    for place, label in zip(places, labels, strict=True):
        axes.annotate(label, (values[place], place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _pipeline(figure, theme, rates: Mapping[str, float], decode: Mapping | None) -> None:
    figure.subplots_adjust(left=0.38, bottom=0.23)
    axes = figure.subplots()
    peers = {"PIL blur", "torchvision blur"}
    names = sorted(rates, key=lambda name: (name in peers, -rates[name]))
    shown = [f"torchvision,\n{name}" if name in peers else name.replace(", ", ",\n", 1) for name in names]
    values = [rates[name] for name in names]
    _bars(axes, shown, values, [name not in peers for name in names], [f"{value:,.0f}" for value in values])
    axes.set_xscale("log")
    top, label = max(values), "images per second and core"
    if decode is not None:
        bare = max(decode["images_per_second_and_core"]["pixels of 500 x 375"].values())
        axes.axvline(bare, color=theme.muted, **LIMIT)
        top, label = max(top, bare), f"{label}\ndotted: bare decoding of 500 x 375"
    axes.set_xlim(min(values) / 3, top * 3)
    axes.set_xlabel(label)


def _step(figure, theme, rates: Mapping[str, Mapping[str, float]], limits: Mapping[str, float]) -> None:
    axes = figure.subplots()
    for place, (encoder, pair) in enumerate(rates.items()):
        for offset, (who, look) in zip((-0.2, 0.2), (("ours", color(0)), ("torch", color(7)))):
            axes.bar(place + offset, pair[who], width=0.36, color=look, label=who if place == 0 else None)
            axes.annotate(f"{pair[who]:.3g}", (place + offset, pair[who]), (0, 2), textcoords="offset points",
                          ha="center", fontsize=8.5)  # fmt: skip
        axes.plot([place - 0.42, place + 0.42], [limits[encoder]] * 2, color=theme.muted,
                  label="products alone" if place == 0 else None, **LIMIT)  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(min(min(pair.values()) for pair in rates.values()) / 2, max(limits.values()) * 2.5)
    axes.set_xticks(range(len(rates)), list(rates))
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("images per second, whole step")
    axes.legend(fontsize=8.5, ncols=3, loc="upper center")


def _traffic(figure, theme, found: Mapping) -> None:
    figure.subplots_adjust(left=0.47, bottom=0.23)
    axes = figure.subplots()
    received = found["received"]
    names = sorted(received, key=received.get, reverse=True)
    values = [received[name] for name in names]
    own = [name in found["ours"] for name in names]
    _bars(
        axes, [name.replace(", captions", ",\ncaptions") for name in names], values, own, [f"{v:.3g}" for v in values]
    )
    axes.set_xlim(0, max(values) * 1.15)
    axes.tick_params(axis="y", labelsize=8.5)
    axes.axvline(found["limit"], color=theme.muted, **LIMIT)
    axes.set_xlabel(f"MiB per device\n{found['rows']:,} rows on {found['devices']} devices")
