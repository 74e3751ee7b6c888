"""Does a step fit the memory of its devices? If not: what takes the space, and which config key gives it back."""

from xsample_jax.compiled_report import GIB, CompiledReport
from xsample_jax.errors import ConfigError
from xsample_jax.parts import Parts
from xsample_jax.sharding import bytes_per_device


def check_fit(parts: Parts, report: CompiledReport) -> None:
    """Raises ConfigError when a device needs more for the step than config.mesh.memory_limit allows."""
    limit = parts.config.mesh.memory_limit
    if limit is not None and report.peak > limit * GIB:
        raise ConfigError(
            "mesh.memory_limit",
            limit,
            f"at least {report.peak / GIB:.2f} GiB, which the step takes of a device (state and batch "
            f"{report.arguments / GIB:.2f}, activations and scratch {report.temporaries / GIB:.2f})",
            advice(parts),
        )


def overflow(parts: Parts, topology: str, error: Exception) -> ConfigError:
    """The error for a step that the compiler cannot place in the memory of a slice, in words that help."""
    first_line = str(error).splitlines()[0]
    return ConfigError(
        "mesh.topology",
        topology,
        f"a slice whose memory holds the step, of which the state alone takes "
        f"{bytes_per_device(parts.abstract_state) / GIB:.2f} GiB a device; the TPU compiler says: {first_line}",
        advice(parts),
    )


def advice(parts: Parts) -> str:
    """The config keys that would make the step smaller, those that cost least first."""
    config, devices = parts.config, parts.mesh.size
    keys = []
    if config.precision.compute == "float32":
        keys.append("--config.precision.compute=bfloat16 (half the activations)")
    if config.loss.impl == "dense":
        keys.append("--config.loss.impl=auto (no matrix of all pairs)")
    if config.mesh.fsdp * config.mesh.tensor < devices:
        state = bytes_per_device(parts.abstract_state) / GIB
        keys.append(
            f"--config.mesh.fsdp={devices // config.mesh.tensor} (the state, {state:.2f} GiB a device, is split)"
        )
    if config.model.remat == "none":
        keys.append("--config.model.remat=block (activations of one block at a time, one more forward pass)")
    parts_of_batch = 2 * config.loss.grad_cache
    if config.batch_size % (parts_of_batch * devices) == 0:
        keys.append(
            f"--config.loss.grad_cache={parts_of_batch} (activations of 1/{parts_of_batch} of the batch at a time)"
        )
    keys.append("a smaller --config.batch_size, or more devices")
    return "What helps: " + "; ".join(keys) + "."
