"""XLA's settings for tests, which compile much and compute little.

Without optimisation and without the newer emitters of fusions, programs compile in a sixth of the time; their values
change by rounding, and compute slower. Runs that are compared bit by bit have the same settings.
"""

QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
