"""Rules about the update: length of the run, parts of a batch, optimiser and mesh."""

from collections.abc import Iterator

from xsample_jax.errors import ConfigError
from xsample_jax.sharding import find_rule_problems
from xsample_jax.topology import TOPOLOGY, TOPOLOGY_FORM


def _length_of_the_run(c: dict) -> Iterator[ConfigError]:
    steps, epochs = c["steps"], c["epochs"]
    if steps is None and epochs is None:
        yield ConfigError("steps", None, "steps or epochs to be set", "Set one of them, as --config.steps=1000.")
    if steps is not None and epochs is not None:
        yield ConfigError(
            "steps",
            steps,
            f"only one of steps and epochs (epochs = {epochs:g})",
            "Add --config.epochs=None to train for steps, or --config.steps=None to train for epochs.",
        )


def _grad_cache(c: dict) -> Iterator[ConfigError]:
    parts, batch_size = c["loss.grad_cache"], c["batch_size"]
    if batch_size % parts:
        yield ConfigError(
            "loss.grad_cache",
            parts,
            f"a divisor of batch_size ({batch_size})",
            f"Set --config.loss.grad_cache={max(n for n in range(1, parts) if batch_size % n == 0)}.",
        )


def _lars_and_clipping(c: dict) -> Iterator[ConfigError]:
    if c["optimizer.name"] == "lars" and c["optimizer.clip_norm"] is not None:
        yield ConfigError(
            "optimizer.clip_norm",
            c["optimizer.clip_norm"],
            "None with LARS, which divides every layer's gradient by its own norm",
            "Set --config.optimizer.clip_norm=None, or --config.optimizer.name=adamw.",
        )


def _mesh(c: dict) -> Iterator[ConfigError]:
    if c["mesh.data"] == 0:
        yield ConfigError(
            "mesh.data", 0, "a number of devices, or -1 for all that are left", "Set --config.mesh.data=-1."
        )
    topology = c["mesh.topology"]
    if topology is not None and not TOPOLOGY.fullmatch(topology):
        yield ConfigError("mesh.topology", topology, f"a TPU slice, {TOPOLOGY_FORM}")
    yield from find_rule_problems(c["mesh.rules"])


RULES = (_length_of_the_run, _grad_cache, _lars_and_clipping, _mesh)
