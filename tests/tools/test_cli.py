"""Every command ends with the right exit code and one line (faults B9)."""

import argparse
import dataclasses
import importlib
import os
import pathlib
import runpy
import subprocess
import sys

import pytest

from xsample_jax import tools
from xsample_jax.config import load_config
from xsample_jax.config.load import CONFIG_FOLDERS
from xsample_jax.errors import BAD_INPUT, ConfigError, RunError
from xsample_jax.evals.linear_probes import SgdProtocol
from xsample_jax.io.paths import as_path
from xsample_jax.tools import cli, completion
from xsample_jax.tools.__main__ import COMMANDS, command_names
from xsample_jax.tools.__main__ import main as listing
from xsample_jax.tools.cli import MOST_PROGRAMS, STOPPED, keep_programs, local_path, out_file, out_folder, run_cli
from xsample_jax.tools.completion import SHELLS, whole_parser
from xsample_jax.tools.evaluate import SGD, make_parser, read_protocol

ROOT = pathlib.Path(__file__).parent.parent.parent

# What names a file or folder that does not exist, for each command.
MISSING = {
    "caption": ["--run=nowhere", "--path=nowhere", "--out=x.tsv"],
    "cluster": ["--run=nowhere", "--k=2", "--out=x.npz"],
    "condense": ["--data=nowhere", "--per_class=1", "--out=x"],
    "doctor": ["--config=nowhere.py"],
    "embed": ["--data=nowhere", "--model=nowhere/model"],
    "encode": ["--run=nowhere", "--path=nowhere", "--out=x.npy"],
    "evaluate": ["--run=nowhere", "--evals=knn"],
    "export": ["--run=nowhere", "--format=safetensors", "--out=x"],
    "filters": ["--run=nowhere"],
    "generate": ["--run=nowhere", "--out=x"],
    "inspect": ["--data=nowhere"],
    "local_features": ["--run=nowhere"],
    "prepare": ["--source=folder", "--path=nowhere", "--out=out"],
    "report": ["nowhere"],
    "results_page": ["--grid=nowhere.py", "--runs=nowhere", "--out=x.md"],
    "results_table": ["nowhere"],
    "soup": ["nowhere", "nowhere", "--out=x"],
    "sweep": ["--grid=nowhere.py", "--out=out"],
    "to_tfds": ["--data=nowhere", "--out=out"],
    "train_tokenizer": ["--data=nowhere"],
}


def test_no_command_is_forgotten():
    commands = {path.stem for path in pathlib.Path(tools.__file__).parent.glob("[a-z]*.py")}
    assert commands - {"cli", "completion"} == set(MISSING)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "scripts").glob("*.py")))
def test_scripts_end_as_tools_do(name, monkeypatch, capsys):
    """faults D8."""
    told = []
    monkeypatch.setattr(cli, "without_tpu", lambda: True)
    monkeypatch.setattr(cli, "quiet_environment", told.append)
    for argument, code in (("--help", 0), ("--no_such_flag=1", BAD_INPUT)):
        monkeypatch.setattr(sys, "argv", [name, argument])
        with pytest.raises(SystemExit) as end:
            runpy.run_module(f"scripts.{name}", run_name="__main__")
        assert end.value.code == code
    assert told == [os.environ] * 2
    assert "usage: " in capsys.readouterr().out


def main_of(tool):
    return importlib.import_module(f"xsample_jax.tools.{tool}").main


@pytest.mark.parametrize("tool", MISSING)
def test_help_and_wrong_flags(tool, capsys):
    """faults B9."""
    assert main_of(tool)(["--help"]) == 0
    assert main_of(tool)([*MISSING[tool], "--no_such_flag=1"]) == BAD_INPUT
    assert "no_such_flag" in capsys.readouterr().err


@pytest.mark.parametrize("tool", MISSING)
def test_libtpu_is_told_that_there_is_no_tpu(tool, monkeypatch):
    """faults D8: only two commands did so, and the others printed its errors once it was installed."""
    told = []
    monkeypatch.setattr(cli, "without_tpu", lambda: True)
    monkeypatch.setattr(cli, "quiet_environment", told.append)
    assert main_of(tool)(["--help"]) == 0
    assert told == [os.environ]


@pytest.mark.parametrize("tool", [tool for tool in MISSING if tool not in ("doctor", "inspect", "embed")])
def test_what_is_missing_is_one_line(tool, capsys, tmp_path, monkeypatch):
    """faults B9."""
    monkeypatch.chdir(tmp_path)
    assert main_of(tool)(MISSING[tool]) == BAD_INPUT
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert "\n" not in said
    assert "nowhere" in said


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("a", 1, "b"), 2), (RunError("a", 1, "b"), 1), (KeyboardInterrupt(), STOPPED),
     (FileNotFoundError("x"), 2), (OSError("x"), 1), (SystemExit(2), 2), (SystemExit(None), 0)],
)  # fmt: skip
def test_exit_codes(error, code):
    """faults B9."""

    def run(arguments):
        raise error

    assert run_cli(run, []) == code


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_light(command):
    """No command loads jax, numpy or flax to print its help."""
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('xsample_jax.{command}', run_name='__main__')\n"
        f"except SystemExit as end: print(end.code, sorted({{'jax', 'numpy', 'flax', 'grain'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_flags_of_the_sgd_probe_are_the_fields_of_its_protocol():
    assert list(SGD) == [field.name for field in dataclasses.fields(SgdProtocol)]
    assert read_protocol(make_parser().parse_args(["--run=r", "--evals=sgd", "--sgd_epochs=3"])) == SgdProtocol(
        epochs=3
    )


def test_the_old_name_of_a_flag_is_accepted(capsys, tmp_path):
    assert main_of("train_tokenizer")([f"--set={tmp_path / 'nowhere'}"]) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.count("warning: --set has the new name --data") == 1
    assert "nowhere" in said


def test_home_is_expanded(monkeypatch):
    """faults B9."""
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(as_path("~/runs")) == "/home/somebody/runs"
    with pytest.raises(ConfigError, match="--out"):
        as_path("~no_such_user/x", "--out")


def test_compiled_programs_are_kept_where_nothing_else_is_said(tmp_path, monkeypatch):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    keep_programs(environment)
    folder = pathlib.Path(environment["JAX_COMPILATION_CACHE_DIR"])
    assert folder.parent == tmp_path / "cache" / "xsample_jax" / "compiled"
    assert folder.is_dir()
    assert environment["JAX_COMPILATION_CACHE_MAX_SIZE"] == str(MOST_PROGRAMS)
    # The user's own word counts, a folder that cannot be made is no error, and another processor has another folder.
    for said in ("", "/elsewhere"):
        keep_programs(own := {"JAX_COMPILATION_CACHE_DIR": said})
        assert own == {"JAX_COMPILATION_CACHE_DIR": said}
    (tmp_path / "file").write_text("")
    keep_programs(blocked := {"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert "JAX_COMPILATION_CACHE_DIR" not in blocked
    monkeypatch.setattr("platform.machine", lambda: "another")
    keep_programs(other := {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert pathlib.Path(other["JAX_COMPILATION_CACHE_DIR"]).name != folder.name


def test_every_flag_with_a_file_or_folder_expands_home():
    """faults B9: the flags that are read as they come are those whose reader calls as_path."""
    assert local_path("~").is_absolute()
    with pytest.raises(argparse.ArgumentTypeError, match="gs://"):
        local_path("s3://bucket")
    (parsed, _) = make_parser().parse_known_args(["--run=r", "--evals=knn", "--sets=~/sets", "--prompts=~/prompts"])
    assert parsed.sets.is_absolute()
    assert parsed.prompts.is_absolute()


def test_a_mistyped_config_is_answered_from_its_own_folder(tmp_path):
    """faults B9: no search of the whole tree."""
    configs = tmp_path / "configs"
    (configs / "deep").mkdir(parents=True)
    for name in ("quickstart.py", "objective.py", "deep/quickstar.py"):
        (configs / name).write_text("")
    with pytest.raises(ConfigError, match=r"quickstart\.py") as caught:
        load_config(str(configs / "quickstat.py"))
    assert "deep" not in str(caught.value)
    assert len(str(caught.value)) <= 500
    with pytest.raises(ConfigError, match=r"objective\.py:simclr"):
        load_config(str(configs / "objectives" / "simclr.py"))
    with pytest.raises(ConfigError):
        load_config("/proc/nowhere.py")


def test_all_commands_and_names_are_listed(capsys):
    here = {path.stem for path in pathlib.Path(tools.__file__).parent.glob("*.py")} - {"__init__", "__main__", "cli"}
    assert {name.removeprefix("tools.") for name in COMMANDS} == here | {"main"}
    for kind, member in {"presets": "simclr", "encoders": "vit_s", "evaluators": "knn", "sources": "caption"}.items():
        assert listing([f"--list={kind}"]) == 0
        assert member in capsys.readouterr().out.split()


@pytest.fixture(scope="module")
def whole():
    """The parser of all commands."""
    return whole_parser()


def test_completion_knows_every_command_and_flag(whole):
    (commands,) = [action.choices for action in whole._actions if action.choices]
    assert set(commands) == {*command_names(), "list"}
    flags = {name: {f for a in parser._actions for f in a.option_strings} for name, parser in commands.items()}
    assert {"--config", "--workdir", "--dry_run", "--config.batch_size", "--config.model.encoder"} <= flags["train"]
    assert {"--run", "--format", "--push"} <= flags["export"]
    for name in MISSING:
        given = {flag.partition("=")[0] for flag in MISSING[name] if flag.startswith("--")}
        assert given | {"--help"} <= flags[name], name
    config = next(action for action in commands["train"]._actions if action.dest == "config")
    assert "baselines/clip" in config.choices


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_script(shell, whole, monkeypatch, capsys, tmp_path):
    pytest.importorskip("shtab")
    monkeypatch.setattr(completion, "whole_parser", lambda: whole)
    assert completion.main([shell]) == 0
    script = capsys.readouterr().out
    flags = ("--config.batch_size", "--push") if shell != "tcsh" else ()  # shtab writes few flags of commands for it
    for words in ("export", "doctor", "train_tokenizer", *flags):
        assert words in script
    if shell == "bash":  # what a user gets who presses the tab key
        (tmp_path / "script").write_text(script)
        for line, wanted in {"xsample exp": ["export"], "xsample export --pus": ["--push"]}.items():
            call = f"source {tmp_path}/script; COMP_WORDS=({line}); COMP_CWORD={line.count(' ')}; _shtab_xsample; "
            done = subprocess.run(
                ["bash", "-c", call + "printf '%s\n' ${COMPREPLY[@]}"], capture_output=True, text=True
            )
            assert done.stdout.split() == wanted


def test_completion_without_its_extra_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert completion.main(["bash"]) == BAD_INPUT
    assert "xsample_jax[completion]" in capsys.readouterr().err


def test_configs_have_names_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart") == load_config(str(CONFIG_FOLDERS[0] / "quickstart.py"))
    assert load_config("baselines/clip:smoke").steps == 5
    with pytest.raises(ConfigError, match="quickstart"):
        load_config("quickstat")
    assert listing(["--list=configs"]) == 0
    assert "baselines/clip" in capsys.readouterr().out.split()


# Commands that write a file, or a folder, at their end.
OUT_FILES = ["caption", "cluster", "doctor", "encode", "export", "filters", "inspect", "local_features", "report"]
OUT_FILES += ["results_page", "results_table"]
OUT_FOLDERS = ["condense", "evaluate", "generate", "prepare", "soup", "to_tfds"]


def with_out(tool, out):
    return [*(flag for flag in MISSING[tool] if not flag.startswith("--out=")), f"--out={out}"]


@pytest.mark.parametrize("tool", OUT_FILES)
def test_a_folder_in_the_place_of_a_file_is_found_before_any_work(tool, tmp_path, capsys):
    """faults B5: all was computed, and lost with IsADirectoryError."""
    (tmp_path / "file").write_text("")
    wrong = [tmp_path, tmp_path / "file" / "x.npz"]
    for out in wrong if tool in ("doctor", "report", "results_page") else [*wrong, tmp_path / "no" / "x.npz"]:
        assert main_of(tool)(with_out(tool, out)) == BAD_INPUT
        found = capsys.readouterr().err
        assert f"path = '{out}': expected a file" in found
    assert sorted(place.name for place in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("tool", OUT_FOLDERS)
def test_a_file_in_the_place_of_a_folder_is_found_before_any_work(tool, tmp_path, capsys):
    """faults B5: all was computed, and lost with Errno 17."""
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main_of(tool)(with_out(tool, out)) == BAD_INPUT
        assert f"path = '{out}': expected a folder: {tmp_path / 'file'} is no folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_what_can_be_written_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x.npz", f"{tmp_path}/x.npz", "./x.npz"):
        assert out_file(name) == pathlib.Path(name)
    assert out_file("new/x.html", parents=True) == pathlib.Path("new/x.html")
    assert [out_folder(name) for name in (".", "a/b/c")] == [pathlib.Path(), pathlib.Path("a/b/c")]
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(argparse.ArgumentTypeError, match="cannot"):
        out_file("x.npz")


@pytest.mark.parametrize("tool", OUT_FOLDERS)
def test_a_run_is_not_replaced(tool, tmp_path, capsys):
    """faults B5: evaluate --out=RUN replaced the evaluation.json by which a run is finished."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert main_of(tool)(with_out(tool, tmp_path / "run")) == BAD_INPUT
    assert "expected a folder that is not a run" in capsys.readouterr().err


@pytest.mark.parametrize("tool", OUT_FILES)
def test_files_of_runs_and_datasets_are_not_replaced(tool, tmp_path, capsys):
    """faults B5: a page in the place of a manifest."""
    (tmp_path / "manifest.json").write_text("{}")
    assert main_of(tool)(with_out(tool, tmp_path / "manifest.json")) == BAD_INPUT
    assert "this file is of a run or a dataset" in capsys.readouterr().err
    assert (tmp_path / "manifest.json").read_text() == "{}"


@pytest.mark.parametrize("tool", ["filters", "inspect", "local_features", "report"])
def test_a_file_in_the_place_of_the_figures_of_a_page_is_found_before_any_work(tool, tmp_path, capsys):
    """faults B5: only the page itself was looked at."""
    (tmp_path / "x_figures").write_text("mine")
    assert main_of(tool)(with_out(tool, tmp_path / "x.html")) == BAD_INPUT
    assert f"path = '{tmp_path / 'x_figures'}': expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--run"], ["--collect"], ["--run", "--results=FILE"]])
def test_results_of_a_sweep_that_could_not_be_written_are_not_computed(flags, tmp_path, capsys):
    """faults B5: all runs were trained, and their table was lost."""
    (tmp_path / "file").write_text("")
    out = tmp_path if "--results=FILE" in flags else tmp_path / "file"
    flags = [flag.replace("FILE", str(tmp_path / "file")) for flag in flags]
    assert main_of("sweep")(["--grid=nowhere.py", f"--out={out}", *flags]) == BAD_INPUT
    assert f"= '{tmp_path / 'file'}': expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "flags"),
    [
        ("cluster", ["--run=nowhere", "--k=2", "--digits=FILE", "--out=FILE"]),
        ("cluster", ["--run=nowhere", "--k=2", "--digits=FILE", "--out=LINK"]),
        ("cluster", ["--run=nowhere", "--per_class", "--temperatures=FILE", "--out=FILE"]),
        ("doctor", ["--config=FILE", "--out=FILE"]),
        ("inspect", ["--data=FILE", "--out=LINK"]),
        ("prepare", ["--source=folder", "--path=FOLDER", "--out=FOLDER"]),
        ("results_page", ["--grid=nowhere.py", "--runs=nowhere", "--out=FILE", "--summary=LINK"]),
    ],
)
def test_what_is_read_is_not_replaced(tool, flags, tmp_path, capsys):
    """faults B5: --digits and --out of one name lost the stage before."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    names = {"FILE": tmp_path / "file", "LINK": tmp_path / "link", "FOLDER": tmp_path}
    for name, path in names.items():
        flags = [flag.replace(f"={name}", f"={path}") for flag in flags]
    assert main_of(tool)(flags) == BAD_INPUT
    assert "which it would replace" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"
