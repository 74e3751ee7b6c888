"""A run folder as people and machines leave it: odd names, planted links, damaged and lost files, other configs."""

import io
import json
import os
import signal
import subprocess
import sys
import types

import pytest

import xsample_jax.loop
from tests.tiny import tiny_config
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.errors import CheckpointError, ConfigError, DataError, RunError, UserError
from xsample_jax.faults.preemption import preemption_notice
from xsample_jax.io.console import say
from xsample_jax.io.files import atomic_write, create_new, open_lock
from xsample_jax.io.locks import locked
from xsample_jax.io.run_dir import open_run_folder, read_history
from xsample_jax.loop import train
from xsample_jax.metrics.jsonl import JsonlWriter, read_jsonl
from xsample_jax.metrics.writers import EventFile
from xsample_jax.reports.style import draw_panel, file_name

pytestmark = pytest.mark.usefixtures("linear_encoder")
FILES = ("config.json", "metrics.jsonl", "history.jsonl", "evaluation.json", "report_data.npz", "evaluation.npz")


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(xsample_jax.loop, "write_report", lambda runs, path: path.write_text(""))


@pytest.mark.parametrize("name", ["a[1]", "a*b", "what?", "back\\slash", "two\nlines", "bell\a"])
def test_a_folder_whose_checkpoints_could_not_be_read_is_refused(tmp_path, name):
    """faults B1: orbax takes the path for a pattern; all weights would be lost, with exit code 0."""
    for folder in (tmp_path / name, tmp_path / name / "below"):
        with pytest.raises(ConfigError, match="could not be read back"), open_run_folder(folder):
            pass
        assert not folder.exists()
    with pytest.raises(ConfigError, match=r"checkpoint\.resume_from"):
        Checkpoints(tmp_path / name, tiny_config().checkpoint, own=False)


def test_other_odd_names_are_fine(tmp_path):
    """faults B1: what is not refused can be read back."""
    folder = tmp_path.joinpath("with space", "ünï", "a#b", "50%", "a:b", "{x}", "~tilde", "-dash", "a$b", "q'uote")
    folder.parent.mkdir(parents=True)
    train(tiny_config(steps=1), folder)
    train(tiny_config(steps=2), folder, allow_config_change=True)
    assert [line["step"] for line in read_jsonl(folder / "metrics.jsonl")] == [1, 2]


def test_a_first_checkpoint_that_cannot_be_read_back_is_an_error(tmp_path, monkeypatch):
    """faults B1: "saved but not readable" is found at the first checkpoint, not at the end of the run."""
    monkeypatch.setattr(Checkpoints, "_wait_and_verify", _unreadable)
    with pytest.raises(Exception, match="cannot be read"):
        train(tiny_config(steps=2), tmp_path)


def _unreadable(self):
    self._manager.wait_until_finished()
    raise ValueError("what was saved cannot be read")


@pytest.mark.parametrize("text", ["$\\frac{$", "50% $a_b", "\\", "<b>&", "a\nb", "\ud800"])
def test_text_of_users_is_text_in_figures_and_file_names(tmp_path, text):
    """faults B2: a dollar sign started mathtext, a slash in an attribute named a folder."""

    def draw(figure, theme):
        axes = figure.subplots()
        axes.set_title(text.encode("utf-8", "replace").decode())
        axes.plot([0, 1], label=text.encode("utf-8", "replace").decode())
        axes.legend()

    drawn = draw_panel(tmp_path, f"made/by {text}", "title", "caption", draw)
    assert drawn.light.startswith("data:image/png")
    assert len(list(tmp_path.iterdir())) == 2
    assert file_name("a/b") != file_name("a_b") != file_name("a:b")
    assert file_name("plain-name_1.0") == "plain-name_1.0"


def test_a_run_goes_on_when_nobody_takes_its_lines(tmp_path):
    """faults B3: a closed pipe, a closed stream and a full disk under the log end no run."""
    code = (
        "from xsample_jax.io.console import say\n"
        "from xsample_jax.metrics.progress_bar import ProgressLine\n"
        "line = ProgressLine(3, None, None)\n"
        "for n in range(3000):\n"
        "    say('x' * 100); say('y' * 100, error=True); line.write(n, {'loss': 1.0})\n"
        "line.close()\n"
        "open(__import__('sys').argv[1], 'w').write('done')\n"
    )
    for number, redirection in enumerate(("2>&1 | head -1", "2>&-", ">&- 2>&-", ">/dev/full 2>&1")):
        done = tmp_path / str(number)
        subprocess.run(["bash", "-c", f"{sys.executable} -c \"$CODE\" {done} {redirection}"], check=False,
                       env={**os.environ, "CODE": code}, capture_output=True, timeout=120)  # fmt: skip
        assert done.read_text() == "done", redirection


def test_a_line_with_letters_that_the_stream_lacks_is_said(monkeypatch):
    """faults B11: a file name that is not UTF-8 ended all output without a word."""
    for encoding, expected in (("utf-8", "caf\\udce9 \\xfc\nmore ü\n"), ("ascii", "caf\\udce9 \\xfc\nmore \\xfc\n")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        say("caf\udce9 ü")
        say("more ü")
        assert stream.buffer.getvalue().decode() == expected


def test_say_after_its_stream_is_gone(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

        def fileno(self):
            raise ValueError

    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(sys, "stderr", None)
    say("text")
    say("text", error=True)


def test_planted_links_are_not_followed(tmp_path, monkeypatch):
    """faults B4: a link at .lock emptied any file of the user, one at a temporary name was written through."""
    precious = tmp_path / "precious.txt"
    precious.write_text("data")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").symlink_to(precious)
    with pytest.raises(CheckpointError, match="--workdir"), locked(folder):
        pass
    for make in (open_lock, create_new):
        with pytest.raises(OSError, match=r"link|exists"):
            make(folder / ".lock")
    monkeypatch.setattr("secrets.token_hex", lambda count: next(names))
    names = iter(["planted", "free"])
    (folder / ".config.json.planted.partial").symlink_to(precious)
    with pytest.raises(FileExistsError):
        atomic_write(folder / "config.json", lambda partial: partial.write_text("{}"))
    atomic_write(folder / "config.json", lambda partial: partial.write_text("{}"))
    assert precious.read_text() == "data"
    assert (folder / "config.json").read_text() == "{}"
    assert not (folder / "config.json").is_symlink()


def test_what_is_wrong_with_a_file_is_not_always_a_full_disk(tmp_path):
    """faults D9: "Make room" was said of every error."""
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match="Remove what is in its way") as caught:
        atomic_write(tmp_path / "x", lambda partial: partial.write_text(""))
    assert "Make room" not in str(caught.value)
    with pytest.raises(DataError, match="Make room"):
        atomic_write(tmp_path / "y", _full)


def _full(path):
    raise OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def finished(linear_run):
    return linear_run(steps=4, log__every=1, checkpoint__every=2)


def damage(path, how):
    data = path.read_bytes() if path.exists() else b"x" * 64
    path.unlink(missing_ok=True)
    if how == "folder":
        path.mkdir()
    elif how != "missing":
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 0x80]) + data[middle + 1 :]
        path.write_bytes({"flip": flipped, "cut": data[:middle], "empty": b"", "noise": b"\xff\xfe{]" * 9}[how])


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "noise", "folder", "missing"])
def test_no_damaged_file_blocks_a_good_checkpoint(finished, tmp_path, how, capsys):
    """faults B6: each file in turn; the run finishes again from its checkpoint, or one message names the file."""
    import shutil

    for name in FILES:
        folder = tmp_path / name
        shutil.copytree(finished, folder)
        damage(folder / name, how)
        if name != "evaluation.json":
            (folder / "evaluation.json").unlink(missing_ok=True)
        try:
            train(tiny_config(steps=4, log__every=1, checkpoint__every=2), folder)
        except UserError as error:
            pytest.fail(f"{name} {how}: {error}")
        assert isinstance(json.loads((folder / "evaluation.json").read_text()), dict)
        assert json.loads((folder / "config.json").read_text())["steps"] == 4
        steps = [line["step"] for line in read_jsonl(folder / "metrics.jsonl")]
        assert steps == sorted(set(steps))
        if name == "metrics.jsonl" and how in ("missing", "cut", "empty"):
            assert "metrics were lost" in [event["event"] for event in read_history(folder)]
    capsys.readouterr()


def _put(path, content=None):
    """A file with `content`, or without one a folder, with what is above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if content is None else path.write_text(content)


EVENTS = "tensorboard/events.out.tfevents"


@pytest.mark.parametrize(
    "found",
    [
        {"damaged/4-1/notes": "another one", "profile": "a file", "checkpoints/old2/metrics/metrics": "{",
         "checkpoints/04/metrics/metrics": "{", f"{EVENTS}.inf": "", f"{EVENTS}.nan": "", f"{EVENTS}.1e300": ""},
        {"damaged": "a file", "tensorboard": "a file", "checkpoints/old2/metrics": None},
        {"evaluation.json": '{"label/knn": null}'},
        {"evaluation.json": '{"label/knn": true}'},
        {"evaluation.json": '"abc"'},
    ],
)  # fmt: skip
def test_nothing_that_lies_in_a_folder_blocks_a_restart(finished, tmp_path, found):
    """faults B6: what people and other tools put there ended every start with a traceback."""
    import shutil

    folder, trains = tmp_path / "run", "evaluation.json" not in found
    shutil.copytree(finished, folder)
    before = json.loads((folder / "evaluation.json").read_text())
    for name, content in found.items():
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        _put(folder / name, content)
    if trains:
        (folder / "checkpoints" / "4" / "meta" / "metadata").write_text("{")
        (folder / "evaluation.json").unlink()
    config = tiny_config(steps=4, log__every=1, checkpoint__every=2, log__profile=(3, 4))
    assert train(config, folder).keys() == before.keys()
    assert all(isinstance(value, float) for value in json.loads((folder / "evaluation.json").read_text()).values())
    aside = {path.name for path in folder.glob("*.damaged")}
    assert aside == {f"{name}.damaged" for name, content in found.items() if content and "/" not in name}
    assert all((folder / name).read_text() == found[name.removesuffix(".damaged")] for name in aside)
    assert (folder / "damaged" / "4-0").is_dir() == trains


def test_a_lost_config_is_that_of_the_checkpoint(finished, tmp_path):
    """faults A10: without config.json a run resumed with another learning rate without a word."""
    import shutil

    for name, write in (("gone", None), ("damaged", "{"), ("other", None)):
        folder = tmp_path / name
        shutil.copytree(finished, folder)
        (folder / "config.json").unlink()
        if write:
            (folder / "config.json").write_text(write)
        with pytest.raises(CheckpointError, match=r"optimizer.learning_rate was .*, is now 0\.5"):
            train(tiny_config(steps=4, log__every=1, checkpoint__every=2, optimizer__learning_rate=0.5), folder)


def test_a_first_start_that_fails_binds_the_folder_to_nothing(tmp_path, monkeypatch):
    """faults A10: the second start, with the mended config, was refused."""
    with monkeypatch.context() as patch:
        patch.setattr(xsample_jax.loop, "_run_steps", _fails)
        with pytest.raises(RuntimeError, match="first step"):
            train(tiny_config(steps=2, seed=1), tmp_path)
    assert (tmp_path / "config.json").exists()
    train(tiny_config(steps=2, seed=2), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 2


def _fails(*arguments):
    raise RuntimeError("before the first step")


def test_epochs_with_another_batch_size_see_the_images_that_are_left(tmp_path):
    """faults A10: steps were recomputed from 0, so a run of one epoch ended after half of its images."""
    config = {"steps": None, "checkpoint__every": 100, "log__every": 1, "data__samples_per_class": 1}
    setup, dataset = xsample_jax.loop.build_run(tiny_config(epochs=0.1, **config))
    images = 0.1 * len(dataset)
    train(tiny_config(epochs=0.1, batch_size=16, **config), tmp_path)
    first = setup.steps
    train(tiny_config(epochs=0.3, batch_size=32, **config), tmp_path, allow_config_change=True)
    last = read_jsonl(tmp_path / "metrics.jsonl")[-1]["step"]
    seen = first * 16 + (last - first) * 32
    assert 3 * images <= seen < 3 * images + 32


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer__clip_norm", 1.0),
        ("optimizer__ema", 0.9),
        ("optimizer__name", "lars"),
        ("precision__params", "bfloat16"),
    ],
)
def test_a_config_that_changes_the_state_is_named_and_nothing_counts_as_damaged(finished, tmp_path, key, value):
    """faults A10: good checkpoints were "damaged", or raw text of orbax was shown."""
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "evaluation.json").unlink()
    with pytest.raises(CheckpointError, match=key.replace("__", r"\.")) as caught:
        train(tiny_config(steps=6, log__every=1, checkpoint__every=2, **{key: value}), folder, allow_config_change=True)
    assert len(str(caught.value)) <= 500
    assert not (folder / "damaged").exists()


@pytest.mark.parametrize("finished_too", [True, False])
def test_what_a_run_starts_from_cannot_be_changed_in_its_folder(finished, tmp_path, finished_too):
    """faults A10: with the flag, the changes were written down as made, and nothing read them."""
    import shutil

    folder, config = tmp_path / "run", {"steps": 6, "log__every": 1, "checkpoint__every": 2}
    shutil.copytree(finished, folder)
    if not finished_too:
        (folder / "evaluation.json").unlink()
    before = [(folder / name).read_text() for name in ("config.json", "history.jsonl")]
    with pytest.raises(CheckpointError, match=r"start values.*resume_from was None, is now '/nope'"):
        train(tiny_config(**config, checkpoint__resume_from="/nope"), folder, allow_config_change=True)
    assert [(folder / name).read_text() for name in ("config.json", "history.jsonl")] == before
    if finished_too:  # its checkpoints were removed to save room: a new state is made, and they are read
        shutil.rmtree(folder / "checkpoints")
        with pytest.raises(CheckpointError, match=r"'/nope'.*a run folder with a checkpoint"):
            train(tiny_config(**config, checkpoint__resume_from="/nope"), folder, allow_config_change=True)


def test_a_run_goes_on_with_the_images_that_it_began_with(finished, tmp_path, monkeypatch, capsys):
    """faults D6: another dataset in the place of the first was trained on without a word."""
    import shutil

    folder, config = tmp_path / "run", tiny_config(steps=4, log__every=1, checkpoint__every=2)
    shutil.copytree(finished, folder)
    (folder / "evaluation.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "4")
    monkeypatch.setattr("xsample_jax.setup.identify_images", lambda config, prints: "other-images")
    with pytest.raises(CheckpointError, match=r"images of the checkpoint = '[0-9a-f]{12}'.*other-images.*--allow_c"):
        train(config, folder)
    assert (folder / "checkpoints" / "2").is_dir()
    train(config, folder, allow_config_change=True)
    (event,) = [event for event in read_history(folder) if event["event"] == "other images"]
    assert (event["step"], event["now"]) == (2, "other-images")
    more = tiny_config(steps=6, log__every=1, checkpoint__every=2, checkpoint__resume_from=str(finished))
    capsys.readouterr()
    train(more, tmp_path / "more")  # from another run: said, and no error
    assert "other images" in [event["event"] for event in read_history(tmp_path / "more")]
    assert "were lost" not in capsys.readouterr().err  # faults B6: the lines before it are in the other folder
    assert [line["step"] for line in read_jsonl(tmp_path / "more" / "metrics.jsonl")] == [5, 6]
    (tmp_path / "more" / "metrics.jsonl").unlink()
    JsonlWriter(tmp_path / "more" / "metrics.jsonl", resume_step=6, due=6).close()
    assert "lacks the steps 5 to 6" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_read_for_now_is_not_moved_away(finished, tmp_path, monkeypatch):
    """faults B6: EIO and EACCES say nothing about the files."""
    import pathlib
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "evaluation.json").unlink()
    inner = pathlib.Path.open

    def refuse(path, *arguments, **options):
        if "checkpoints" in str(path) and not arguments[:1] == ("w",):
            raise OSError(5, "Input/output error", str(path))
        return inner(path, *arguments, **options)

    monkeypatch.setattr(Checkpoints, "_restore", _unreadable_state)
    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(RunError, match="Input/output error"):
        train(tiny_config(steps=4, log__every=1, checkpoint__every=2), folder)
    assert not (folder / "damaged").exists()


def _unreadable_state(self, *arguments):
    raise OSError(5, "Input/output error")


def test_resuming_from_nowhere_makes_no_folders(tmp_path):
    """faults B9"""
    nowhere = tmp_path / "nowhere"
    with pytest.raises(CheckpointError, match=r"checkpoint\.resume_from"):
        train(tiny_config(steps=2, checkpoint__resume_from=str(nowhere)), tmp_path / "run")
    assert not nowhere.exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_save_or_are_ignored(number):
    """faults B7: SIGHUP is a notice like SIGTERM; a user signal does not end a run while it builds or evaluates."""
    import time

    with preemption_notice(60.0) as notice:
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 5
        wanted = number in (signal.SIGHUP, signal.SIGTERM)
        while wanted and not notice.reached(0, None) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert notice.reached(0, None) == wanted


def test_the_resumed_part_is_read_where_the_clock_was_set_back(tmp_path, monkeypatch):
    """faults B10: TensorBoard reads event files in the order of their names."""
    monkeypatch.setattr("time.time", lambda: 2e9)
    EventFile(tmp_path, 0).close()
    monkeypatch.setattr("time.time", lambda: 1e9)
    EventFile(tmp_path, 5).close()
    first, second = sorted(tmp_path.iterdir())
    assert second.stat().st_mtime >= first.stat().st_mtime
    assert float(second.name.removeprefix("events.out.tfevents.")) > 2e9


def test_nan_does_not_displace_the_best_checkpoint(tmp_path):
    """faults D9: nan compares with nothing."""
    from flax import nnx

    from xsample_jax.state import Progress, TrainState

    options = types.SimpleNamespace(keep_latest=1, keep_best=1, metric="m")
    checkpoints = Checkpoints(tmp_path, options)
    state = TrainState(0, {}, {}, {}, {}, {})
    del nnx
    for step, value in ((1, 0.9), (2, float("nan")), (3, 0.1)):
        checkpoints.save(state, Progress(step=step), "{}", {"m": value})
        checkpoints.wait()
    assert 1 in checkpoints._manager.all_steps()
    checkpoints.close()


def test_damaged_metrics_keep_what_can_be_read(tmp_path):
    """faults B6"""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\xff\n[]\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        read_jsonl(path)
    JsonlWriter(path, resume_step=4, due=4).close()
    assert [line["step"] for line in read_jsonl(path)] == [1, 3]
    assert (tmp_path / "metrics.jsonl.damaged").exists()
