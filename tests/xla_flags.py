"""XLA's settings for tests, which compile much and compute little.

Without optimization and without the newer emitters of fusions, programs compile in a sixth of the time; their values
change by rounding, and compute slower. Runs that are compared bit by bit have the same settings.

Runs on different numbers of devices are compared without QUICK. Without the emitters, some processors compute a value
again in a second fusion with other rounding, and the gradient of a maximum, which asks which input equals the result,
is lost.
"""

from importlib.metadata import version

# XLA ends the process at a flag that it does not know: both are of jaxlib 0.10, and the one of the emitters is gone in
# 0.12. To split a program into 32 parts, for as many threads, takes an eighth of a compilation.
_KNOWN = version("jaxlib").startswith("0.10.")
UNOPTIMIZED = "--xla_backend_optimization_level=0" + " --xla_cpu_parallel_codegen_split_count=1" * _KNOWN
QUICK = UNOPTIMIZED + " --xla_cpu_use_fusion_emitters=false" * _KNOWN
