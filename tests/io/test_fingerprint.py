"""faults B5: what two processes must have in common besides the config, each part of which changes numbers."""

import importlib.metadata
import py_compile
import sys
import time

import jax
import pytest

from xsample_jax import distributed
from xsample_jax.errors import ProcessError
from xsample_jax.io.code_version import _code, differing_files, fingerprint


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two files in a folder of its own, and a function for the text of its code."""
    folder = tmp_path / "fingerprinted"
    (folder / "room").mkdir(parents=True)
    for name in ("__init__.py", "loss.py", "room/__init__.py", "room/model.py"):
        (folder / name).write_text(f"x = {len(name)}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fingerprinted", raising=False)
    return folder, lambda: _code.__wrapped__("fingerprinted")


def test_a_changed_a_new_and_a_lost_file_are_named(package):
    """faults B5: any byte of any source file counts."""
    folder, code = package
    before = code()
    (folder / "room" / "model.py").write_text("x = 0\n")
    assert differing_files(before, code()) == "room/model.py"
    (folder / "more.py").write_text("")
    (folder / "loss.py").unlink()
    assert differing_files(before, code()) == differing_files(code(), before) == "loss.py, more.py, room/model.py"
    (folder / "zoo.py").write_text("")
    assert differing_files(before, code()).endswith("and 1 more files")


def test_compiled_files_count_where_there_is_no_source(package):
    """faults B5: neither caches nor times of compilation matter; the code of a package without sources does."""
    folder, code = package
    before = code()
    source = folder / "loss.py"
    py_compile.compile(str(source))  # into __pycache__
    py_compile.compile(str(source), cfile=str(folder / "loss.pyc"))
    (folder / "notes.txt").write_text("not code")
    assert code() == before
    text = source.read_text()
    source.unlink()
    compiled = code()
    assert differing_files(before, compiled) == "loss.py, loss.pyc"
    content = (folder / "loss.pyc").read_bytes()
    (folder / "loss.pyc").write_bytes(content[:8] + b"\1\2\3\4" + content[12:])  # compiled at another time
    assert code() == compiled
    source.write_text(text.replace("x", "y"))
    py_compile.compile(str(source), cfile=str(folder / "loss.pyc"))
    source.unlink()
    assert differing_files(compiled, code()) == "loss.pyc"


def test_the_package_itself_is_read_in_no_time():
    lines = _code.__wrapped__("xsample_jax").splitlines()
    assert {"loop.py", "objectives/objective.py"} <= {line.split()[0] for line in lines}
    started = time.process_time()
    _code.__wrapped__("xsample_jax")
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("flags", "counts"),
    [
        ("--xla_force_host_platform_device_count=8", False),
        ("--xla_dump_to=here  --xla_force_host_platform_device_count=2", False),
        ("--xla_cpu_enable_fast_math=true --xla_force_host_platform_device_count=2", True),
    ],
)
def test_flags_of_xla_count_unless_they_say_how_many_devices_there_are(flags, counts):
    """faults B5: each process may have its own number of devices, and nothing else."""
    assert (fingerprint({"XLA_FLAGS": flags}) != fingerprint({})) == counts


def differing(a, b):
    return {name for name in a | b if a.get(name) != b.get(name)}


def test_precision_and_versions_count(monkeypatch):
    """faults B5: what jax has read from its variables, and the release of every library that computes."""
    before = fingerprint({})
    assert before["jax"] == jax.__version__
    assert before["flax"]
    with jax.enable_x64(not jax.config.jax_enable_x64):
        assert differing(before, fingerprint({})) == {"jax_enable_x64"}
    with jax.default_matmul_precision("float32"):
        assert differing(before, fingerprint({})) == {"jax_default_matmul_precision"}
    assert differing(before, fingerprint({"NVIDIA_TF32_OVERRIDE": "0"})) == {"NVIDIA_TF32_OVERRIDE"}
    real = importlib.metadata.version
    for library in ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, own=library: "0" if name == own else real(name))
        assert differing(before, fingerprint({})) == {library}


def test_the_start_compares_them(monkeypatch):
    """faults B5: what `start` tells process 0 is the config and the whole fingerprint."""
    told = []

    def met(address, own, seconds, describers):
        told.append((own, describers))
        raise ProcessError("a test", None, "the end")

    monkeypatch.setattr(distributed, "rendezvous", met)
    with pytest.raises(ProcessError):
        distributed.start(distributed.ProcessInfo("a:1", 2, 1, "a test"), "{}", max)
    (own, describers), *_ = told
    assert own.same == {"config": "{}"} | fingerprint()
    assert describers == {"config": max, "code": differing_files}
