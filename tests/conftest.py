"""Eight virtual CPU devices for every test, and one cache of compiled programs for the session."""

import gc
import os
import pathlib
import shutil
import signal
import tempfile

import pytest

from tests.xla_flags import QUICK
from xsample_jax.topology import quiet_environment

os.environ.setdefault("JAX_PLATFORMS", "cpu")
quiet_environment(os.environ)
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

if "xla_backend_optimization_level" not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += f" {QUICK}"

# Under nohup, or in the background of a script, these are ignored by every process that the tests start.
for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

# Tracing makes many small objects and hardly any cycles: looking for those takes an eighth of it.
gc.set_threshold(50_000, 20, 20)

MOST_MEMORY = 3 * 2**30  # bytes of a worker of tests
# Tests that train the same tiny run, in this process or in one of their own, compile it once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="xsample_jax_compiled_"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def pytest_collection_modifyitems(items):
    """Modules with slow tests come first, so that no worker is left alone with one when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_sessionfinish():
    worker = "PYTEST_XDIST_WORKER" in os.environ  # the main process removes what its workers share
    if not worker and "xsample_jax_compiled_" in os.environ["JAX_COMPILATION_CACHE_DIR"]:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def forks():
    """Where tests of several processes start them."""
    from tests.forks import Forks

    with Forks() as server:
        yield server


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped():
    """After a module, where they have grown: thousands of tests compile more than a small machine has memory for."""
    yield
    import jax

    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) if os.path.exists("/proc/self/statm") else 0
    if pages * os.sysconf("SC_PAGE_SIZE") > MOST_MEMORY:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def shallow_resnet18(monkeypatch):
    """resnet18 with two stages of one block: the same kinds of layer, compiled in a fraction of the time."""
    from xsample_jax.models import resnet

    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1, 1)))


@pytest.fixture
def linear_encoder(monkeypatch):
    """The smallest encoder in the place of resnet18, so that tracing, compiling and running it take no time."""
    from tests.objectives.synthetic import LinearEncoder
    from xsample_jax.models import towers

    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))


@pytest.fixture
def no_report(monkeypatch):
    """A run is trained without the page at its end, whose figures take longer than the run."""
    from xsample_jax import loop

    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)


@pytest.fixture
def shallow_vit(monkeypatch):
    """vit_ti with two blocks."""
    from xsample_jax.models import vit

    monkeypatch.setitem(vit.VARIANTS, "ti", vit.Shape(192, 2, 3))
