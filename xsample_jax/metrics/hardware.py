"""What the devices of a run are and how full they are: chips, peak arithmetic, memory in use."""

from collections.abc import Iterable

GIB = 2**30

# Dense bfloat16 FLOP/s of one chip by jax's device_kind. TPUs: cloud.google.com/tpu/docs, page of each generation.
# GPUs: NVIDIA's data sheets (which print twice the number, with sparsity, from H100 on).
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,  # v5e
    "TPU v5": 459e12,  # v5p
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,  # v6e
    "TPU7x": 2307e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def count_chips(devices: Iterable) -> int:
    """Chips that the devices are on: some TPU generations show a chip as two devices, which share its coordinates."""
    places = {(getattr(d, "slice_index", 0), tuple(getattr(d, "coords", None) or (d.id,))) for d in devices}
    return len(places)


def peak_flops(devices: Iterable) -> float | None:
    """Dense bfloat16 FLOP/s of all chips together; None for a CPU or a device that is not in the table."""
    devices = list(devices)
    of_chip = PEAK_FLOPS.get(devices[0].device_kind)
    return of_chip and of_chip * count_chips(devices)


def memory_in_use(devices: Iterable) -> dict[str, float]:
    """GiB in use now and at most so far, of the fullest of the devices of this process; {} where none tells (CPU)."""
    found = [stats for device in devices if (stats := device.memory_stats())]
    names = {"device_memory_gib": "bytes_in_use", "device_memory_peak_gib": "peak_bytes_in_use"}
    return {
        name: max(stats[key] for stats in found) / GIB
        for name, key in names.items()
        if found and all(key in stats for stats in found)
    }
