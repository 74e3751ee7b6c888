"""TPU slices without a TPU: a mesh of described devices for which the real TPU compiler compiles."""

import glob
import importlib.util
import re
from collections.abc import MutableMapping

from xsample_jax.errors import ConfigError

# The most common slices, for the error message; any that the compiler knows is accepted.
EXAMPLES = ("v4:2x2x4", "v5e:4x4", "v5e:8x8", "v5e:16x16", "v5p:2x2x4", "v5p:8x8x8", "v6e:4x4", "v6e:16x16")
TOPOLOGY = re.compile(r"((?P<slices>[1-9]\d*)x)?(?P<slice>[a-z0-9]+:\d+(x\d+){1,2})")
TOPOLOGY_FORM = "generation:shape, with the number of slices in front if there are several, as in 2xv5e:16x16"


def without_tpu() -> bool:
    """Whether the TPU compiler is installed on a machine that has no TPU: jax would search for one, and complain."""
    installed = importlib.util.find_spec("libtpu") is not None
    return installed and not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/[0-9]*")


def quiet_environment(environment: MutableMapping[str, str]) -> None:
    """Sets what keeps libtpu from searching for a TPU on this machine; call it before jax is imported."""
    if not glob.glob("/dev/nvidia[0-9]*"):
        environment.setdefault("JAX_PLATFORMS", "cpu")
    environment.setdefault("TPU_SKIP_MDS_QUERY", "1")
    environment.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    environment.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    environment.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def topology_devices(name: str) -> list:
    """The devices of a slice, as "v5e:16x16", or of several, as "2xv5e:16x16". They compile but cannot run.

    Raises ConfigError when the name is malformed or unknown, or libtpu (extra `tpu`) is not installed.
    """
    match = TOPOLOGY.fullmatch(name)
    if not match:
        raise ConfigError("--topology", name, f"{TOPOLOGY_FORM}, such as {', '.join(EXAMPLES)}")
    slices = int(match["slices"] or 1)
    options = {"num_slices": slices} if slices > 1 else {}
    if match["slice"].startswith("v4:"):
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as jax has them on v4
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(match["slice"], platform="tpu", **options).devices)
    except Exception as error:  # libtpu raises its own types; each means that this slice cannot be described
        raise ConfigError(
            "--topology",
            name,
            f"a TPU slice that the compiler knows, such as {', '.join(EXAMPLES)} (it says: {error})",
            "Without libtpu, install it: pip install 'xsample_jax[tpu]'.",
        ) from error
