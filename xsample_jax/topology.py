"""TPU slices and GPUs that are not attached, for which the real compilers compile."""

import dataclasses
import glob
import importlib.util
import os
import re
from collections.abc import MutableMapping

from xsample_jax.errors import ConfigError

VMEM = 32 * 2**20  # bytes a kernel of ours may use: a quarter of the VMEM of v5e and v6e
# The most common slices, for the error message; any that the compiler knows is accepted.
EXAMPLES = ("v4:2x2x4", "v5e:4x4", "v5e:8x8", "v5e:16x16", "v5p:2x2x4", "v5p:8x8x8", "v6e:4x4", "v6e:16x16")
SLICES = re.compile(r"((?P<slices>[1-9]\d*)x)?(?P<slice>[a-z0-9]+:\d+(x\d+){1,2})")
GPUS = re.compile(r"((?P<hosts>[1-9]\d*)x)?(?P<card>[a-z]+\d+)x(?P<count>[1-9]\d*)")
TOPOLOGY_FORM = (
    "a TPU slice as generation:shape, such as v5e:16x16, or GPUs as name and number, such as h100x8; with the number "
    "of slices or hosts in front if there are several, as in 2xv5e:16x16 or 4xh100x8"
)


def is_topology(name: str) -> bool:
    """Whether a text has the form of a slice or of GPUs that are described here."""
    gpus = GPUS.fullmatch(name)
    return SLICES.fullmatch(name) is not None or (gpus is not None and gpus["card"] in CARDS)


def without_tpu() -> bool:
    """Whether the TPU compiler is installed on a machine that has no TPU: jax would search for one, and complain."""
    installed = importlib.util.find_spec("libtpu") is not None
    return installed and not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/[0-9]*")


def quiet_environment(environment: MutableMapping[str, str]) -> None:
    """Sets what keeps libtpu from searching for a TPU on this machine; call it before jax is imported."""
    if not glob.glob("/dev/nvidia[0-9]*"):
        environment.setdefault("JAX_PLATFORMS", "cpu")
        environment.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    environment.setdefault("TPU_SKIP_MDS_QUERY", "1")
    environment.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    environment.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    environment.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def topology_devices(name: str) -> list:
    """The devices of a TPU slice ("v5e:16x16"; several: "2xv5e:16x16") or GPUs ("h100x8"; of four hosts: "4xh100x8").

    They compile but cannot run. Raises ConfigError when the name is malformed or unknown, or the compiler is not
    installed (extras `tpu`, `cuda12`).
    """
    from jax.experimental import topologies

    if gpus := GPUS.fullmatch(name):
        if gpus["card"] not in CARDS:
            raise ConfigError("--topology", name, f"one of {', '.join(CARDS)}, and a number: {TOPOLOGY_FORM}")
        options = {
            "platform": "cuda",
            "topology_name": "",
            "target_config": CARDS[gpus["card"]].text,
            "topology": f"{gpus['hosts'] or 1}x1x{gpus['count']}",  # groups that NVLink joins, hosts of each, GPUs
        }
        fix = "Without the GPU compiler, install it: pip install 'xsample_jax[cuda12]'. No GPU is needed."
        expected = "GPUs that the compiler can be told of"
    elif match := SLICES.fullmatch(name):
        slices = int(match["slices"] or 1)
        options = {"topology_name": match["slice"], "platform": "tpu"}
        options |= {"num_slices": slices} if slices > 1 else {}
        if match["slice"].startswith("v4:"):
            options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as jax has them on v4
        fix = "Without libtpu, install it: pip install 'xsample_jax[tpu]'."
        expected = f"a TPU slice that the compiler knows, such as {', '.join(EXAMPLES)}"
    else:
        raise ConfigError("--topology", name, TOPOLOGY_FORM)
    try:
        return list(topologies.get_topology_desc(**options).devices)
    except Exception as error:  # the compilers raise types of their own; each means that this cannot be described
        raise ConfigError("--topology", name, f"{expected} (it says: {error})", fix) from error


# GPUs as XLA describes them (GpuTargetConfigProto). The figures are those of its own descriptions of these cards:
# xla/backends/gpu/target_config/specs in the repository openxla/xla.


@dataclasses.dataclass(frozen=True)
class Card:
    """A GPU: its name, bytes of memory and a second, what its multiprocessors have, and its compute capability."""

    name: str
    memory: int
    bandwidth: int
    cores: int
    units: int  # for float32, of a core
    clock: float  # GHz
    cache: int
    shared: int  # bytes that the blocks of a core share
    block: int  # bytes of them that one block may ask for
    capability: int

    @property
    def text(self) -> str:
        """The text form of the description, for get_topology_desc."""
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
              shared_memory_per_block: 49152 shared_memory_per_core: {self.shared}
              shared_memory_per_block_optin: {self.block}
              core_count: {self.cores} fpus_per_core: {self.units} clock_rate_ghz: {self.clock}
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              memory_bandwidth: {self.bandwidth} l2_cache_size: {self.cache} device_memory_size: {self.memory}
              cuda_compute_capability {{ major: {self.capability} }}
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: 9 minor: 8 }}
            runtime_version {{ major: 12 minor: 9 patch: 0 }}
            device_description_str: "{self.name}"
        """


HOPPER = {"cores": 132, "units": 128, "clock": 1.98, "cache": 52428800, "shared": 233472, "block": 232448}
CARDS = {
    "a100": Card("NVIDIA A100-SXM4-80GB", 85100068864, 2039040000000, 108, 64, 1.41, 41943040, 167936, 166912, 8),
    "h100": Card("NVIDIA H100 80GB HBM3", 84942979072, 3352320000000, **HOPPER, capability=9),
    "h200": Card("NVIDIA H200 141GB HBM3e", 151397597184, 4800000000000, **HOPPER, capability=9),
    "b200": Card("NVIDIA B200", 191514411008, 7672320000000, 148, 128, 1.965, 132644864, 233472, 232448, 10),
}
PREALLOCATED = 0.75  # of the memory of a GPU is what jax takes where XLA_PYTHON_CLIENT_MEM_FRACTION says nothing


def gpu_memory(name: str) -> tuple[int, float] | None:
    """(bytes, the fraction of them that jax takes) of one of the GPUs of a topology; None for a TPU slice."""
    gpus = GPUS.fullmatch(name)
    if gpus is None:
        return None
    fraction = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "")
    return CARDS[gpus["card"]].memory, float(fraction) if re.fullmatch(r"0?\.\d+|1|1\.0*", fraction) else PREALLOCATED


def compiler_options(devices) -> dict[str, object]:
    """What a compiler must be told about devices that are not here.

    Products go to cuBLAS: XLA would choose the tiles of its own kernels by timing them on the GPU.
    """
    return {"xla_gpu_enable_triton_gemm": False} if devices[0].platform in ("cuda", "gpu") else {}
