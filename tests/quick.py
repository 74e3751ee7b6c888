"""jit for programs that run once or twice: on a CPU compiling them takes far longer than running them."""

import functools

import jax

COMPILER_OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

quick_jit = functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
