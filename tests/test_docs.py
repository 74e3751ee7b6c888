"""README.md and docs/: links and anchors resolve, commands and keys are those of the code, pages keep their form."""

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
import warnings

import pytest
from absl import flags as absl_flags

from xsample_jax.config import load_config, renamed
from xsample_jax.config.schema import SCHEMA, Key, flat_keys
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.tools import cli
from xsample_jax.tools.__main__ import command_names

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
OTHERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "launch/README.md")]
GUIDE = [
    *(
        "getting_started",
        "data",
        "side_information",
        "plans",
        "captions",
        "vectors",
        "augmentation",
        "objectives",
        "rows",
        "models",
        "training",
    ),
    *("scaling", "evaluation", "reports", "sweeps", "weights", "config"),
]
WIDTH, CODE_WIDTH, LENGTH, README_LENGTH = 100, 120, 350, 150
# A word with one of these is filled in by the reader: NAME, RUN, runs/*, 'LIST OF THINGS', ...
PLACEHOLDER = re.compile(r"\.\.\.|\*|[A-Z]{3}|^[A-Z]$")
TOP = ("benchmarks", "configs", "docs", "launch", "notebooks", "scripts", "tests", "xsample_jax")


@dataclasses.dataclass(frozen=True)
class Line:
    number: int
    text: str
    kind: str  # prose, code, table, heading or generated


def lines_of(page: pathlib.Path) -> list[Line]:
    """The lines of a page with what each is. generated: between <!-- name --> and <!-- /name -->."""
    found, fenced, generated, before = [], False, False, ""
    for number, text in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        kind = "prose"
        if marker := re.fullmatch(r"<!-- (/?)\w+ -->", text):
            generated = not marker[1]
        if text.lstrip().startswith("```"):
            fenced, kind = not fenced, "code"
        elif fenced or (text.startswith("    ") and before in ("", "indented")):
            kind = "code"
        elif text.startswith("|"):
            kind = "table"
        elif text.startswith("#"):
            kind = "heading"
        before = "indented" if kind == "code" and not fenced and text.startswith("    ") else text.strip()
        found.append(Line(number, text, "generated" if generated and kind != "code" else kind))
    return found


def prose_of(page: pathlib.Path) -> str:
    return "\n".join(line.text for line in lines_of(page) if line.kind != "code")


def inline_code(page: pathlib.Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose_of(page))]


def anchors_of(page: pathlib.Path) -> set[str]:
    """The anchors that GitHub and MyST give to the headings of a page."""
    titles = [line.text.lstrip("#").strip() for line in lines_of(page) if line.text.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def code_lines(page: pathlib.Path) -> list[str]:
    """The lines of code blocks, continued ones joined, and inline code."""
    blocks = "\n".join(line.text for line in lines_of(page) if line.kind == "code").replace("\\\n", " ")
    return [as_module(line) for line in [*blocks.splitlines(), *inline_code(page)]]


def as_module(line: str) -> str:
    """A line where `xsample NAME` is written as `python -m MODULE`."""
    names = command_names() | {"list": "__main__ list"}
    return re.sub(r"(?<![\w-])xsample (\w+)", lambda m: f"python -m xsample_jax.{names.get(m[1], m[1])}", line)


def name(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_links_and_anchors_resolve(page):
    text = re.sub(r"`[^`]*`", "", prose_of(page))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    wrong = []
    for target in targets:
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path).resolve()
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            wrong.append(target)
    assert wrong == []


class _Parser(BaseException):
    """Carries the parser of a command out of its main."""


@functools.cache
def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser that `python -m module` builds itself, caught where it begins to read the command line."""

    def caught(parser, *arguments, **options):
        raise _Parser(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", caught)
        patch.setattr(sys, "argv", [module])
        patch.setattr(warnings, "showwarning", warnings.showwarning)  # a command sets its own
        patch.delitem(sys.modules, module, raising=False)
        with pytest.raises(_Parser) as found:
            runpy.run_module(module, run_name="__main__")
    return found.value.args[0]


@functools.cache
def main_flags() -> frozenset[str]:
    importlib.import_module("xsample_jax.main")
    own = absl_flags.FLAGS.flags_by_module_dict()["xsample_jax.main"]
    return frozenset(flag for one in own for flag in (f"--{one.name}", f"--no{one.name}"))


def problems_of(command: str) -> list[str]:
    """What is wrong with one `python -m MODULE FLAGS`: module, flags, their values, keys, configs."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        return ["a quotation without an end"]
    ends = [words.index(word) for word in ("|", ">", "&", "||", "&&", ";", "do") if word in words]
    module, *words = words[2 : min(ends, default=len(words))]
    module = module.rstrip(";")
    if PLACEHOLDER.search(module):
        return []
    if importlib.util.find_spec(module) is None:
        return [f"no module {module}"]
    if not module.startswith("xsample_jax") or module.startswith(("xsample_jax.config", "xsample_jax.reports")):
        return []  # scripts and benchmarks: that they are there
    given = [word for word in words if word.startswith("--") and not word.startswith("--config.")]
    wrong = []
    actions = {} if module == "xsample_jax.main" else parser_of(module)._option_string_actions
    known = main_flags() | {"--help"} if module == "xsample_jax.main" else actions.keys()
    for word in given:
        flag, _, value = word.partition("=")
        takes_others = module.endswith((".evaluate", ".inspect", ".doctor")) and flag == "--config"
        if flag not in known and not takes_others:
            wrong.append(f"{module} has no {flag}")
        elif flag in actions and actions[flag].help == argparse.SUPPRESS:
            wrong.append(f"{flag} is an old name")
        elif flag in actions and actions[flag].choices and value and not PLACEHOLDER.search(value):
            wrong += [f"{word}: one of {actions[flag].choices}"] * (value not in actions[flag].choices)
        elif flag == "--config" and value and not PLACEHOLDER.search(value):
            load_config(value)  # raises where there is no such config or variant
    return wrong


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_commands_are_those_of_the_code(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    wrong = {}
    for before, start, words in (line.partition("python -m ") for line in code_lines(page)):
        command = start + (words.rstrip(before[-1]) if before.endswith(("'", '"')) else words)
        if start and (found := problems_of(command)):
            wrong[command] = found
    assert wrong == {}


def test_a_wrong_command_would_be_found():
    assert problems_of("python -m xsample_jax.tools.inspct --data=x") == ["no module xsample_jax.tools.inspct"]
    assert problems_of("python -m xsample_jax.tools.inspect --set=x")
    assert problems_of("python -m xsample_jax.main --confg=quickstart --workdir=x")
    assert problems_of("python -m xsample_jax.tools.export --run=a --format=tf --out=b")
    assert problems_of("python -m xsample_jax --list=config")
    assert problems_of(as_module("xsample trian --config=quickstart")) == ["no module xsample_jax.trian"]
    assert problems_of(as_module("xsample export --run=a --format=tf --out=b"))
    assert not problems_of(as_module("xsample train --config=quickstart --workdir=r"))
    assert not problems_of("python -m xsample_jax.tools.sweep --grid=a.py --out=b --options='--zone=Z' > start.sh")
    with pytest.raises(ValueError, match="quickstart"):
        problems_of("python -m xsample_jax.main --config=quickstat")


@functools.cache
def all_flags() -> frozenset[str]:
    """The flags of all commands, those of the trainer among them."""
    tools = {path.stem for path in pathlib.Path(cli.__file__).parent.glob("*.py")} - {"__init__", "__main__", "cli"}
    modules = ["xsample_jax", *(f"xsample_jax.tools.{tool}" for tool in sorted(tools))]
    return main_flags().union(*(parser_of(module)._option_string_actions for module in modules))


@functools.cache
def other_sources() -> str:
    """The launchers, benchmarks and scripts, whose flags are looked for as text."""
    folders = [*ROOT.glob("launch/*"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("scripts/*.py")]
    return "\n".join(path.read_text(encoding="utf-8") for path in folders if path.is_file())


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_flags_in_the_text_exist(page):
    # Of other programs, named for comparison or to be called: gcloud, kubectl, srun, pip.
    foreign = {"--port", "--data-file", "--from-file", "--ntasks-per-node", "--worker", "--command", "--build-arg"}
    named = {flag for code in inline_code(page) for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)}
    named = {flag for flag in named if flag not in foreign and not flag.startswith("--config")}
    assert {flag for flag in named if flag not in all_flags() and flag not in other_sources()} == set()


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_config_keys_exist(page):
    keys, sections = flat_keys(), {"--config"}
    for key in keys:
        sections |= {key.rpartition(".")[0]}
    whole = page.read_text(encoding="utf-8")
    named = {key.rstrip(".") for key in re.findall(r"--config\.([a-z_.0-9]+)", whole)}
    named |= set(re.findall(r"\bconfig\.((?!json|md|py|rules)[a-z_]+\.[a-z_.]+)\b", "\n".join(code_lines(page))))
    roots = "|".join(section for section, entry in SCHEMA.items() if not isinstance(entry, Key))
    for code in inline_code(page):
        if key := re.fullmatch(rf"((?:{roots})\.[a-z_0-9.]+)(?:\s?=.*)?", code):
            named |= {key[1]} if not key[1].endswith((".py", ".md", ".json", ".safetensors")) else set()
    if page.name == "getting_started.md":  # it says which keys were renamed
        named -= set(renamed.KEYS)
    assert {key for key in named if key not in keys and key not in sections} == set()


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_make_targets_exist(page):
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = {
        found[1] for line in code_lines(page) if (found := re.match(r"\s*(?:[A-Z_]+=\S+ )*make ([a-z][\w-]*)", line))
    }
    assert called <= set(rules)


@pytest.mark.parametrize("page", [page for page in (*PAGES, *OTHERS) if page.name != "CHANGELOG.md"], ids=name)
def test_files_in_the_text_exist(page):
    """`launch/README.md`, `xsample_jax/step.py`, and files of the package without its name, as `graphs/sources.py`."""
    wrong = set()
    for code in inline_code(page):
        path = code.partition(":")[0].partition(" ")[0].rstrip("/")
        ours = path.split("/")[0] in TOP or (path.endswith(".py") and "/" in path)
        if not ours or PLACEHOLDER.search(path.replace("*", "")) or re.search(r"[<>=(]", path):
            continue
        if not any(any(folder.glob(path)) for folder in (ROOT, ROOT / "xsample_jax")):
            wrong.add(path)
    assert wrong - {"launch/code.tar.gz"} == set()  # of a run folder


def test_pages_that_the_repository_names_exist():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    wrong = {}
    for file in listed.stdout.splitlines():
        path = ROOT / file
        if path.suffix not in {".py", ".sh", ".sbatch", ".yaml", ".toml", ""} or not path.is_file():
            continue
        text = path.read_bytes().decode(errors="ignore")
        for page in re.findall(r"(?<![/\w}])docs/[\w/-]+\.(?:md|png)", text):
            if not (ROOT / page).exists():
                wrong.setdefault(file, set()).add(page)
    assert wrong == {}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_form_of_a_page(page):
    """At most 350 lines of 100 characters, a sentence a line.

    Exceptions: tables, headings and generated parts (config.md, between <!-- x --> and <!-- /x -->) may be longer, code
    up to 120 characters, and so may a line that is one word, link or piece of code, which cannot be broken.
    """
    lines = lines_of(page)
    assert len(lines) <= LENGTH
    long, joined = [], []
    for line in lines:
        limit = {"code": CODE_WIDTH, "prose": WIDTH}.get(line.kind)
        whole = re.sub(r"`[^`]*`|\[[^\]]*\]\([^)]*\)|<!--.*?-->", "x", line.text)
        single = line.kind == "prose" and not re.search(r"\S \S", re.sub(r"^[\s*-]+", "", whole))
        image = line.text.lstrip().startswith(("![", "<img", "<source"))
        if limit and len(line.text) > limit and not single and not image:
            long.append(f"{line.number}: {line.text[:60]}")
        if line.kind == "prose" and re.search(r"[a-z0-9)`\]%]\. [A-Z`]", line.text):
            joined.append(f"{line.number}: {line.text}")
    assert long == []
    assert joined == [], "one sentence a line"


def test_the_pages_are_those_of_the_design_and_in_the_table_of_contents():
    assert {page.stem for page in DOCS.glob("*.md")} == {"index", *GUIDE}
    index = (DOCS / "index.md").read_text()
    contents = set(re.findall(r"^(?:api/|notes/)?[a-z_]+$", index, re.MULTILINE))
    assert contents == {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES} - {"index"}
    for page in GUIDE:
        first = next(line for line in lines_of(DOCS / f"{page}.md")[1:] if line.text.strip())
        assert page in ("augmentation",) or first.kind == "code" or first.text.startswith("<!--"), page


def test_readme_is_short_and_its_tree_is_true():
    lines = lines_of(ROOT / "README.md")
    assert len(lines) <= README_LENGTH
    text = "\n".join(line.text for line in lines)
    tree = text.partition("## What is where\n\n```\n")[2].partition("```")[0]
    top, package = tree.partition("xsample_jax/\n")[::2]
    folders = re.findall(r"(\w+)/", top.split("   ")[0])
    assert len(folders) >= 7
    assert [name for name in folders if not (ROOT / name).is_dir()] == []
    shown = set()
    for line in package.splitlines():
        for word in line.strip().split("   ")[0].split():
            path = ROOT / "xsample_jax" / word
            assert path.is_dir() if word.endswith("/") else path.with_suffix(".py").is_file(), word
            shown.add(word.rstrip("/"))
    assert f"**{len(PRESETS)} objectives" in "\n".join(line.text for line in lines)
    rooms = {path.parent.name for path in (ROOT / "xsample_jax").glob("*/__init__.py")}
    assert rooms <= shown, "every folder of the package has a line"


@pytest.mark.parametrize(
    ("room", "file", "says"),
    [
        ("objectives", "cross_entropy", "THE EQUATION"),
        ("objectives", "logits", "clamped here"),
        ("captions", "encoders", "becomes a vector"),
        ("prepare", "sources", "ADD A DATASET"),
    ],
)
def test_a_stranger_finds_it_in_one_guess(room, file, says):
    tree = (ROOT / "README.md").read_text().partition("## What is where")[2]
    line = next(line for line in tree.splitlines() if says in line)
    assert f"{room}/" in line
    assert re.search(rf"\b{file}: [^;]*{says}", line)
    assert (ROOT / "xsample_jax" / room / f"{file}.py").is_file()


def test_every_system_has_one_state_and_the_presets_it_names_exist():
    lines = (DOCS / "notes" / "systems.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert len({row[0] for row in rows}) == len(rows) == 1 + 70
    for _, system, state, how, golden in rows[1:]:
        assert state in ("whole", "loss", "part", "not yet", "out"), system
        named = set(re.findall(r"`(\w+)`", how.partition(";")[0])) if re.match("presets? ", how) else set()
        assert named <= set(PRESETS), system
        if golden == "preset":
            assert any(PRESETS[name].golden for name in named), system
        assert (state == "out") == ("[offer](#" in how), system
        assert how != "–" or state == "not yet", system
