"""Chips, peaks and memory of devices, and the utilization that follows from them."""

from types import SimpleNamespace

import jax
import pytest

from xsample_jax.metrics.profiling import Timers, count_chips, memory_in_use, peak_flops


def gpu(number, kind="NVIDIA H100 80GB HBM3", **stats):
    return SimpleNamespace(id=number, device_kind=kind, memory_stats=lambda: stats or None)


def test_chips_of_which_a_device_is_half_count_once():
    cores = [
        SimpleNamespace(id=i, device_kind="TPU7x", coords=(i // 2, 0, 0), core_on_chip=i % 2, slice_index=0)
        for i in range(8)
    ]
    assert count_chips(cores) == 4
    assert peak_flops(cores) == 4 * 2307e12
    two_slices = [SimpleNamespace(id=i, device_kind="TPU v6 lite", coords=(0, 0, 0), slice_index=i) for i in range(2)]
    assert count_chips(two_slices) == 2
    assert peak_flops([gpu(0), gpu(1)]) == 2 * 989e12


def test_no_peak_and_no_memory_where_they_are_not_known():
    assert peak_flops(jax.devices()) is None
    assert peak_flops([gpu(0, "NVIDIA GeForce RTX 9999")]) is None
    assert memory_in_use(jax.devices()) == {}
    assert memory_in_use([gpu(0, bytes_in_use=2**30)]) == {"device_memory_gib": 1.0}


def test_memory_is_that_of_the_fullest_device():
    devices = [gpu(0, bytes_in_use=2**30, peak_bytes_in_use=2**31), gpu(1, bytes_in_use=2**29, peak_bytes_in_use=2**32)]
    assert memory_in_use(devices) == {"device_memory_gib": 1.0, "device_memory_peak_gib": 4.0}


def test_utilization_is_the_time_at_peak_over_the_time_taken():
    now = iter([0.0, 8.0])
    clocks = Timers(64, chips=2, seconds_at_peak=0.5, now=lambda: next(now))
    for _ in range(4):
        clocks.step()
    assert clocks.read()["mfu"] == pytest.approx(0.25)  # 2 s a step
