"""Whether the kernels of loss.tiles=pallas can run on the devices that there are, said before anything compiles."""

from collections.abc import Iterator

from jax.sharding import Mesh

from xsample_jax.errors import ConfigError, raise_all
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.streaming_kernel import LANES, images_of_tile


def check_kernels(config, objective: Objective, mesh: Mesh) -> None:
    """Raises ConfigError (or Problems) where loss.tiles is pallas, and devices are no TPUs or have a wrong share."""
    if config.loss.tiles != "pallas":
        return
    platform = mesh.devices.flat[0].platform
    problems = list(find_uneven_tiles(objective, config.batch_size, mesh.size, config.views, config.loss.tile))
    if platform != "tpu":
        expected = f"auto or xla on {platform}: the kernels are for TPUs"
        problems.insert(0, ConfigError("loss.tiles", "pallas", expected, "Set --config.loss.tiles=auto."))
    raise_all(problems, "loss.tiles")


def find_uneven_tiles(
    objective: Objective, batch_size: int, devices: int, views: int, tile: int
) -> Iterator[ConfigError]:
    """A ConfigError where the images of a device do not fall into whole tiles of the kernels."""
    images = batch_size // devices
    shared = {1 if term.anchors.view is not None else views for term in objective.terms}
    if any(images_of_tile(images, tile // by) is None for by in shared):
        yield ConfigError(
            "loss.tiles",
            "pallas",
            f"auto or xla for {images} images on each of {devices} devices: kernels want a multiple of 8 in one tile, "
            f"or tiles of a multiple of {LANES}",
            f"Set --config.batch_size to a multiple of {LANES * devices}, or --config.loss.tiles=auto.",
        )
