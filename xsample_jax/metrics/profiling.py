"""Where the time goes: steps, waiting for data, evaluation, checkpoints; images per second, MFU and time left."""

import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax

from xsample_jax.io.console import say
from xsample_jax.io.files import make_folder

# Excluded from images per second and from the rate behind the estimate of the time left.
_ASIDE = ("compile", "evaluation", "checkpoint")


class Timers:
    """Wall clocks of one training run.

    Put `with clocks.measure("data_wait")` (also "evaluation", "checkpoint", "compile") around those parts of the loop
    and call `clocks.step()` after every step. The first step compiles: wrap it in `measure("compile")`; it then counts
    neither for the rate nor as a step of it.

    Args:
      images_per_step: images of a step over all hosts.
      chips: all that the run is on.
      seconds_at_peak: of a step whose model FLOPs are done at the peak of the chips; None: unknown, no MFU.
      now: clock in seconds (tests pass their own).
    """

    def __init__(
        self,
        images_per_step: int,
        chips: int = 1,
        seconds_at_peak: float | None = None,
        *,
        now: Callable[[], float] = time.perf_counter,
    ):
        self._images, self._chips, self._at_peak, self._now = images_per_step, chips, seconds_at_peak, now
        self._started = self._window_start = now()
        self._total: dict[str, float] = {}
        self._window: dict[str, float] = {}
        self._steps = self._window_steps = 0
        self._compiled = False

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time of the block to the clock `name`. Blocks must not be nested."""
        start = self._now()
        try:
            yield
        finally:
            spent = self._now() - start
            for clock in (self._total, self._window):
                clock[name] = clock.get(name, 0.0) + spent
            self._compiled |= name == "compile"

    def step(self) -> None:
        """Counts a finished step, unless it was the one that compiled."""
        if self._compiled:
            self._compiled = False
            return
        self._steps += 1
        self._window_steps += 1

    def read(self) -> dict[str, float]:
        """Returns the numbers of the time since the last read and starts over.

        compile_seconds, evaluation_seconds, checkpoint_seconds: where there was any. And, if a step was finished:
        images_per_second, also per chip; seconds_per_step; data_wait_share: part of the training time spent waiting for
        the host; mfu: model FLOPs per second as a share of the chips' peak in bfloat16 (where that is known).
        """
        now = self._now()
        training = now - self._window_start - sum(self._window.get(name, 0.0) for name in _ASIDE)
        steps, waited = self._window_steps, self._window.get("data_wait", 0.0)
        aside = {f"{name}_seconds": self._window[name] for name in _ASIDE if name in self._window}
        self._window_start, self._window, self._window_steps = now, {}, 0
        if not steps or training <= 0:
            return aside
        speed = steps * self._images / training
        utilization = {} if self._at_peak is None else {"mfu": self._at_peak * steps / training}
        return {
            "images_per_second": speed,
            "images_per_second_per_chip": speed / self._chips,
            "seconds_per_step": training / steps,
            "data_wait_share": waited / training,
            **utilization,
            **aside,
        }

    def seconds_left(self, steps_left: int) -> float | None:
        """Estimates the training time of the steps left from all steps so far; None before the first one."""
        training = self._now() - self._started - sum(self._total.get(name, 0.0) for name in _ASIDE)
        return steps_left * training / self._steps if self._steps else None


# How many programs this process has compiled. After the first steps of a run the number should stand still.


_EVENT = "/jax/core/compile/backend_compile_duration"
_seen = {"listening": False, "count": 0}


def count_compilations() -> int:
    """Programs compiled (or taken from the compilation cache) since the first call, which gives 0."""
    if not _seen["listening"]:
        _seen["listening"] = True
        jax.monitoring.register_event_duration_secs_listener(_listen)
    return _seen["count"]


def _listen(event: str, duration: float, **about) -> None:
    _seen["count"] += event == _EVENT


# Model FLOPs of a train step, for the utilization of the chips (MFU; Chowdhery et al., arXiv 2204.02311, app. B).
#
# They are read off the traced program, so that nothing is compiled for them and every platform gives the same number.


def model_flops(parts) -> float:
    """FLOPs of the products and convolutions of one step over all devices, forward and backward.

    Work that is done twice to save memory does not count, so a config with rematerialization, GradCache or the kernel
    of attention is traced once more without. Nor does what is done at some steps only, as k-means on the bank once an
    epoch.
    """
    config = parts.config
    # On TPUs the kernel makes the weights of attention twice.
    by_kernel = config.model.attention == "auto" and parts.mesh.devices.flat[0].platform == "tpu"
    if config.model.remat != "none" or config.loss.grad_cache > 1 or by_kernel:
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.model.remat, config.model.attention, config.loss.grad_cache = "none", "xla", 1
        parts = dataclasses.replace(parts, config=config)
    return count_flops(parts.train_step.trace(parts.abstract_state, parts.abstract_batch).jaxpr)


def count_flops(jaxpr) -> float:
    """Two per multiplication and addition of every product and convolution in a jaxpr.

    Loops and kernels count with their length and grid (`while` loops, which have none, as one pass), of branches the
    shortest one counts, which is done in any case, and what runs under shard_map counts on each of its devices.
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * depth
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            depth = math.prod(kernel) / kernel[params["dimension_numbers"].rhs_spec[0]]
            # A dilated input (the gradient of a strided convolution) is mostly zeros, which need no multiplication.
            total += 2 * math.prod(equation.outvars[0].aval.shape) * depth / math.prod(params["lhs_dilation"])
        elif name == "cond":
            total += min(count_flops(branch) for branch in params["branches"])
        else:
            total += _times(name, params) * sum(count_flops(inner) for inner in _jaxprs_in(params.values()))
    return total


def _times(name: str, params) -> int:
    """How often an operation runs what is inside it."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        return params["mesh"].size
    return math.prod(params["grid_mapping"].grid) if name == "pallas_call" else 1


def _jaxprs_in(values) -> Iterator:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _jaxprs_in(value)
        elif hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            yield value


# What the devices of a run are and how full they are: chips, peak arithmetic, memory in use.


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


def host_memory() -> int:
    """Bytes of memory of this host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_in_use(devices: Iterable) -> dict[str, float]:
    """GiB in use now and at most so far, of the fullest of the devices of this process; {} where none tells (CPU)."""
    found = [stats for device in devices if (stats := device.memory_stats())]
    names = {"device_memory_gib": "bytes_in_use", "device_memory_peak_gib": "peak_bytes_in_use"}
    return {
        name: max(stats[key] for stats in found) / GIB
        for name, key in names.items()
        if found and all(key in stats for stats in found)
    }


# XProf traces of a few steps: a window by step numbers, or on demand by a signal while the run is running.
#
#     --config.log.profile=100,5      steps 100 to 104, as metrics.jsonl counts them
#     kill -USR1 PID                  the next 5 steps (or as many as log.profile says)
#
# The trace is in <run folder>/profile; `pip install xprof` and `xprof --port 8791 <run folder>/profile` show it.


STEPS_ON_SIGNAL = 5


class Profiler:
    """Traces what runs inside `with profiler.step(number)`; `profiler.end_of_step(result)` follows each.

    Args:
      folder: where traces are written.
      window: (first step, number of steps), or () for none. A run that resumes inside the window traces the rest.
    """

    def __init__(self, folder: str | pathlib.Path, window: Sequence[int] = ()):
        self._folder = pathlib.Path(folder)
        self._first, self._count = tuple(window) or (None, STEPS_ON_SIGNAL)
        self._last: int | None = None  # of the window that is open
        self._now = 0
        self._asked = threading.Event()
        self._before = None
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = signal.signal(signal.SIGUSR1, lambda *_: self._asked.set())

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """The step called `number` (from 1), with a mark in the trace; opens the window where one is due."""
        self._now = number
        if self._last is None:
            if self._asked.is_set():
                self._open(number + self._count - 1)
            elif self._first is not None and self._first <= number < self._first + self._count:
                self._open(self._first + self._count - 1)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def end_of_step(self, result) -> None:
        """Closes the window after its last step, once the devices have finished it."""
        if self._last is not None and self._now >= self._last:
            jax.block_until_ready(result)
            self._close()

    def close(self) -> None:
        """Writes what an open window has seen and gives the signal back."""
        if self._last is not None:
            self._close()
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)
            self._before = None

    def _open(self, last: int) -> None:
        self._asked.clear()
        self._last = last
        make_folder(self._folder)
        jax.profiler.start_trace(self._folder)

    def _close(self) -> None:
        jax.profiler.stop_trace()
        self._last = None
        if jax.process_index() == 0:
            say(f"profile up to step {self._now}: {self._folder}")
