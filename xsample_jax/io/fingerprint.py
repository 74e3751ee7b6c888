"""What changes the numbers of a run besides its config: the package's code, its libraries, and the environment.

Processes that differ in any of it would train apart without an error, so they compare it before they start.
"""

import functools
import hashlib
import importlib.metadata
import importlib.resources
import os
import sys
from collections.abc import Iterator, Mapping

import jax

from xsample_jax import __version__

LIBRARIES = (
    "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "pillow", "libtpu", "jax-cuda12-plugin",
    "jax-cuda13-plugin",
)  # fmt: skip
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
# Flags in these variables that say how many devices a process has and where it writes, which may differ.
OF_THE_MACHINE = ("--xla_force_host_platform_device_count", "--xla_dump")
SETTINGS = (
    "jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
)  # fmt: skip
HEADER_OF_PYC = 16  # bytes, the time of compilation among them


def fingerprint(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """{name: text} of all that two processes of a run must have in common; "" where there is none.

    "code" has a line for each source file of the package. XLA's flags leave out OF_THE_MACHINE. What jax reads from
    the environment (JAX_ENABLE_X64, JAX_DEFAULT_MATMUL_PRECISION) is taken from its settings.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    same = {"xsample_jax": __version__, "code": _code("xsample_jax"), "Python": python}
    same |= {name: _version(name) for name in LIBRARIES}
    for name in VARIABLES:
        flags = environment.get(name, "").split()
        same[name] = " ".join(flag for flag in flags if not flag.startswith(OF_THE_MACHINE))
    return same | {name: str(getattr(jax.config, name, "")) for name in SETTINGS}


def differing_files(ours: str, theirs: str) -> str:
    """Words for how the code of two processes differs: the files."""
    lines = set(ours.splitlines()) ^ set(theirs.splitlines())
    files = sorted({line.partition(" ")[0] for line in lines})
    return ", ".join(files[:3]) + (f" and {len(files) - 3} more files" if len(files) > 3 else "")


def _version(library: str) -> str:
    try:
        return str(importlib.metadata.version(library))
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def _code(package: str) -> str:
    """A line "file hash" for each source file of a package, in a folder or a zip file, sorted by name."""
    found = dict(_files(importlib.resources.files(package), ""))
    lines = []
    for name in sorted(found):
        if name.endswith(".pyc") and name.removesuffix("c") in found:
            continue  # the source counts
        content = found[name].read_bytes()[HEADER_OF_PYC if name.endswith(".pyc") else 0 :]
        lines.append(f"{name} {hashlib.sha256(content).hexdigest()[:16]}")
    return "\n".join(lines)


def _files(folder, prefix: str) -> Iterator[tuple[str, object]]:
    for path in folder.iterdir():
        if path.name.endswith((".py", ".pyc")):
            yield prefix + path.name, path
        elif path.name != "__pycache__" and path.is_dir():
            yield from _files(path, f"{prefix}{path.name}/")
