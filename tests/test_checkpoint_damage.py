"""Damaged and failing checkpoints: nothing wrong is restored, the newest whole one is; a full disk is survived."""

import contextlib
import resource
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.tiny import tiny_config
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.errors import CheckpointError, SaveError
from xsample_jax.io.checkpoint_files import checksums, sum_on_devices
from xsample_jax.io.run_dir import read_history
from xsample_jax.sharding import make_mesh
from xsample_jax.state import Progress, TrainState


def options(**changes):
    section = tiny_config().checkpoint
    with section.unlocked():
        section.update(changes)
    return section


def make_state(seed, size=40):
    rng = np.random.default_rng(seed)
    params = {"w": jnp.asarray(rng.normal(size=(size, size)), jnp.float32), "b": jnp.zeros(7)}
    memory = {"filled": jnp.asarray(rng.random(9) < 0.5), "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16)}
    return TrainState(jnp.int32(seed), params, {}, {"mu": dict(params)}, memory, {})


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture
def two(tmp_path):
    """A run folder with checkpoints of steps 1 and 2."""
    folder = tmp_path / "run"
    with contextlib.closing(Checkpoints(folder, options(metric="knn"))) as checkpoints:
        for step in (1, 2):
            checkpoints.save(make_state(step), Progress(step, 16 * step), "{}", {"knn": 0.5})
        checkpoints.wait()
    return folder


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax' own reading tasks
@pytest.mark.parametrize("damage", [flip, cut, lambda path: path.unlink()], ids=["flip", "cut", "unlink"])
def test_whatever_file_is_damaged_nothing_wrong_is_restored(tmp_path, two, damage, capfd):
    files = [path.relative_to(two) for path in sorted((two / "checkpoints" / "2").rglob("*")) if path.is_file()]
    fallen_back = 0
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(two, folder)
        damage(folder / file)
        with contextlib.closing(Checkpoints(folder, options(metric="knn"))) as checkpoints:
            state, progress = checkpoints.restore(abstract(make_state(0)))
            assert same(state, make_state(progress.step)), file
            assert progress == Progress(progress.step, 16 * progress.step), file
            if progress.step == 1:
                fallen_back += 1
                # The run writes step 2 again, and that one counts.
                checkpoints.save(make_state(2), Progress(2, 32), "{}", {"knn": 0.5})
                checkpoints.wait()
                assert checkpoints.restore(abstract(make_state(0)))[1].step == 2
    assert fallen_back >= 4  # the manifest, the data, the tree and the meta, at least
    capfd.readouterr()


def test_a_flipped_bit_in_the_data_is_seen_said_and_set_aside(two, capsys):
    largest = max((two / "checkpoints" / "2").rglob("*"), key=lambda path: path.stat().st_size)
    flip(largest)
    with contextlib.closing(Checkpoints(two, options(), own=False)) as reader:
        assert reader.restore(abstract(make_state(0)))[1].step == 1
    assert not (two / "damaged").exists()  # another run's folder is left as it is
    with contextlib.closing(Checkpoints(two, options())) as checkpoints:
        state, _ = checkpoints.restore(abstract(make_state(0)))
        assert checkpoints.latest_step() == 1
    assert same(state, make_state(1))
    assert "checkpoint 2 is damaged, going back to 1" in capsys.readouterr().err
    assert [path.name for path in (two / "damaged").iterdir()] == ["2-0"]
    (event,) = read_history(two)
    assert (event["step"], event["event"]) == (2, "a damaged checkpoint was set aside")


def test_all_damaged_is_an_error_that_names_each(two):
    for step in (1, 2):
        flip(max((two / "checkpoints" / str(step)).rglob("*"), key=lambda path: path.stat().st_size))
    with (
        contextlib.closing(Checkpoints(two, options())) as checkpoints,
        pytest.raises(CheckpointError, match=r"(?s)of 2 none.*step 2: checksum.*damaged; step 1: checksum.*damaged"),
    ):
        checkpoints.restore(abstract(make_state(0)))
    assert not (two / "damaged").exists()


def check_for(seconds, checkpoints):
    """Asks again and again, as the loop does at every log line."""
    for _ in range(50 * seconds):
        checkpoints.check()
        time.sleep(0.02)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax' own event loop
def test_a_full_disk_is_said_and_the_next_checkpoint_is_written(two):
    """RLIMIT_FSIZE ends a write within the file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.closing(Checkpoints(two, options())) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            checkpoints.save(make_state(3, 100), Progress(3), "{}")
            with pytest.raises(SaveError, match="Is the disk full"):
                check_for(10, checkpoints)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        checkpoints.check()  # said once
        assert checkpoints.latest_step() == 2
        assert same(checkpoints.restore(abstract(make_state(0)))[0], make_state(2))
        checkpoints.save(make_state(4), Progress(4), "{}")
        checkpoints.wait()
    assert sorted(path.name for path in (two / "checkpoints").iterdir() if "tmp" in path.name) == []
    with contextlib.closing(Checkpoints(two, options())) as checkpoints:
        assert checkpoints.restore(abstract(make_state(0)))[1].step == 4


def test_checksums_do_not_depend_on_the_sharding_and_see_any_one_bit():
    values = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
    mesh = make_mesh(tiny_config(mesh__fsdp=4).mesh, 16)
    specs = (PartitionSpec(), PartitionSpec("data"), PartitionSpec(None, "fsdp"), PartitionSpec("fsdp", "data"))
    arrays = [jax.device_put(values, NamedSharding(mesh, spec)) for spec in specs]
    sums = {checksums({"x": array})["['x']"] for array in arrays}
    sums |= {int(jax.jit(sum_on_devices)(array)) for array in arrays}
    bits = values.view(np.uint32).ravel().astype(object)
    assert sums == {sum(int(b) * (2 * i + 1) for i, b in enumerate(bits)) % 2**32}
    rng = np.random.default_rng(1)
    for dtype in (np.float32, jnp.bfloat16, np.uint8, np.float16):
        whole = np.asarray(rng.integers(0, 200, 50), dtype)
        assert checksums([whole]) == {"[0]": int(sum_on_devices(jnp.asarray(whole)))}
        for _ in range(5):
            changed = bytearray(whole.tobytes())
            changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
            other = np.frombuffer(bytes(changed), dtype)
            assert checksums([jnp.asarray(whole)]) != checksums([jnp.asarray(other)])
    assert checksums([jnp.arange(6)]) != checksums([jnp.arange(6)[::-1]])
