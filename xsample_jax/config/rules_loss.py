"""Rules about how the loss is computed: what the kernels for TPU can do."""

from collections.abc import Iterator

from xsample_jax.errors import ConfigError
from xsample_jax.kernel_fit import find_uneven_tiles
from xsample_jax.objectives.build import build_objective
from xsample_jax.objectives.objective import find_without_kernels


def _kernels(c: dict) -> Iterator[ConfigError]:
    if c["loss.tiles"] != "pallas":
        return
    if c["loss.impl"] != "streaming":
        yield ConfigError(
            "loss.tiles",
            "pallas",
            f"auto or xla with loss.impl = {c['loss.impl']!r}: a dense loss has no tiles",
            "Set --config.loss.impl=streaming, or --config.loss.tiles=auto.",
        )
    section = {name.removeprefix("objective."): value for name, value in c.items() if name.startswith("objective.")}
    try:
        objective = build_objective(section)
    except ConfigError:
        return  # reported by the rules of the objective
    for number, reason in find_without_kernels(objective):
        yield ConfigError(
            "loss.tiles",
            "pallas",
            f"auto or xla for objective.preset = {section['preset']!r}, whose term {number} has no kernels: {reason}",
            "Set --config.loss.tiles=auto.",
        )
    if c["mesh.data"] > 0:  # else it depends on the devices there are: kernel_fit.py
        devices = c["mesh.data"] * c["mesh.fsdp"] * c["mesh.tensor"]
        yield from find_uneven_tiles(objective, c["batch_size"], devices, c["views"], c["loss.tile"])


RULES = (_kernels,)
