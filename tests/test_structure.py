"""The shape of the package: no cycles of files or rooms, the ladder of rooms, and the sizes of files and functions."""

import ast
import pathlib

import pytest

import xsample_jax

PACKAGE = pathlib.Path(xsample_jax.__file__).parent
# A room imports rooms to the left of it, and none to the right. A new room needs a reason in CONTRIBUTING.md.
LADDER = (
    "io", "augment", "models", "metrics", "faults", "graphs", "objectives", "weights", "data", "captions", "config",
    "prepare", "evals", "sweeps", "reports", "tools",
)  # fmt: skip
ENTRIES = ("__init__.py", "__main__.py")
MOST_LINES, FEW_LINES, MOST_SHORT_FILES, MOST_ROOT_FILES, LEAST_MEAN = 450, 60, 2, 17, 200
LONGEST_FUNCTION = 60  # from the line of its `def` to its last one, with signature and docstring
MOST_PARAMETERS = 6  # without self and cls; * and ** count as one each
# Functions with more: kernels and the passes around them, modules of a network, whose options are theirs as
# in flax's own, two rules that a config gives many options, and the public writer of datasets, called by keyword.
WIDE = {
    "models/attention_kernel.py": {"_per_image"},
    "data/writer.py": {"write_records"},
    "models/convnext.py": {"__init__"},
    "models/decoder.py": {"__init__"},
    "models/layers.py": {"__init__"},
    "models/resnet.py": {"__init__"},
    "models/towers.py": {"__init__"},
    "models/vit.py": {"__init__"},
    "objectives/links.py": {"conditional"},
    "objectives/pair_network.py": {"adaptive_contrast"},
    "objectives/streaming/mesh.py": {"gradients", "local"},
    "objectives/streaming/pallas.py": {"_gradient_kernel", "_operands", "_sums_kernel", "gradients_by_kernel"},
    "objectives/streaming/tiles.py": {"gradients"},
}


def modules(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """{dotted name: file} of the package in `root`."""
    files = (path for path in root.rglob("*.py") if "__pycache__" not in path.parts)
    names = {".".join((root.name, *path.relative_to(root).with_suffix("").parts)): path for path in files}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def imports(root: pathlib.Path) -> dict[str, set[str]]:
    """{file: files that it imports}, anywhere in it: at the top or inside a function."""
    known = modules(root)
    found = {name: set() for name in known}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                wholes = [f"{node.module}.{alias.name}" for alias in node.names]
                found[name] |= {whole if whole in known else node.module for whole in wholes}
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
    return {name: {other for other in others if other in known and other != name} for name, others in found.items()}


def room(name: str, root: pathlib.Path) -> str:
    """The folder of a file; a file at the root of the package is a room of its own."""
    first = name.split(".")[1] if "." in name else name
    return first if (root / first).is_dir() else name


def of_rooms(files: dict[str, set[str]], root: pathlib.Path) -> dict[str, set[str]]:
    """{room: rooms that its files import}."""
    rooms: dict[str, set[str]] = {}
    for name, others in files.items():
        if name != root.name:  # __init__ offers names of several rooms
            own = room(name, root)
            rooms.setdefault(own, set()).update(room(other, root) for other in others if other != root.name)
    return {own: others - {own} for own, others in rooms.items()}


def knots(graph: dict[str, set[str]]) -> list[set[str]]:
    """Nodes that reach each other, in groups of at least two."""

    def reach(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            following = graph.get(waiting.pop(), set()) - seen
            seen |= following
            waiting += following
        return seen

    reached = {node: reach(node) for node in graph}
    groups = {frozenset(n for n in reached[node] if node in reached.get(n, ())) for node in graph}
    return [set(group) for group in groups if group]


def lines_of(path: pathlib.Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: pathlib.Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def parameters(function: ast.FunctionDef) -> int:
    given = function.args
    positional = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    own = positional[:1] in (["self"], ["cls"])
    return len(positional) - own + len(given.kwonlyargs) + bool(given.vararg) + bool(given.kwarg)


@pytest.fixture(scope="module")
def files():
    return {str(path.relative_to(PACKAGE)): path for path in modules(PACKAGE).values()}


@pytest.fixture(scope="module")
def graph():
    return imports(PACKAGE)


def test_no_file_imports_itself_through_others(graph):
    assert knots(graph) == []


def test_no_room_imports_itself_through_others(graph):
    assert knots(of_rooms(graph, PACKAGE)) == []


def test_rooms_form_the_ladder(graph):
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders == set(LADDER)
    rooms = of_rooms(graph, PACKAGE)
    upward = [
        f"{own} imports {other}"
        for own, others in rooms.items()
        for other in others
        if own in LADDER and other in LADDER and LADDER.index(other) > LADDER.index(own)
    ]
    assert upward == []


def test_no_file_is_long(files):
    assert {name: lines_of(path) for name, path in files.items() if lines_of(path) > MOST_LINES} == {}


def test_few_files_are_short(files):
    """Commands are thin, and do not count."""
    counted = {n: path for n, path in files.items() if path.name not in ENTRIES and not n.startswith("tools/")}
    short = [n for n, path in counted.items() if lines_of(path) <= FEW_LINES]
    assert len(short) <= MOST_SHORT_FILES, short


def test_files_are_not_splinters(files):
    """The mean over all files, empty ones included: a small file is joined with the one where a reader looks for it."""
    assert sum(map(lines_of, files.values())) / len(files) >= LEAST_MEAN


def test_few_files_are_at_the_root(files):
    root = [name for name in files if "/" not in name]
    assert len(root) <= MOST_ROOT_FILES, root


def test_no_function_is_long(files):
    long = {
        f"{name}:{function.name}": function.end_lineno - function.lineno + 1
        for name, path in files.items()
        for function in functions(path)
        if function.end_lineno - function.lineno >= LONGEST_FUNCTION
    }
    assert long == {}


def test_no_function_is_wide(files):
    """A list of those that are, so that a new one is a decision, and one that is mended leaves the list."""
    wide = {
        name: {function.name for function in functions(path) if parameters(function) > MOST_PARAMETERS}
        for name, path in files.items()
    }
    assert {name: found for name, found in wide.items() if found} == WIDE


def test_the_checks_see_what_they_are_for(tmp_path):
    """A package with a cycle inside a function, a relative path of rooms and a wide method."""
    root = tmp_path / "made"
    for name, text in {
        "__init__.py": "",
        "a/__init__.py": "",
        "b/__init__.py": "",
        "a/one.py": "from made.b import two\n",
        "b/two.py": "def f():\n    import made.b.three\n",
        "b/three.py": "from made.a.one import g\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = imports(root)
    assert knots(graph) == [{"made.a.one", "made.b.two", "made.b.three"}]
    assert knots(of_rooms(graph, root)) == [{"a", "b"}]
    (root / "b" / "three.py").write_text("class C:\n    def g(self, a, b, *c, d, e, **f):\n        pass\n")
    assert knots(imports(root)) == []
    assert [parameters(function) for function in functions(root / "b" / "three.py")] == [6]
