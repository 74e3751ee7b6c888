"""Results that stay: one small JSON file per finished run, from which tables and figures are made without the run.

RESULTS/GRID/POINT.json holds the config, the versions of the code that trained and evaluated, the last training metrics
and every metric with its values example by example, packed. What the examples are of (concepts, names) is the same in
many runs: each such list is a file of its own in RESULTS/units, named by its content.
"""

import base64
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import platform
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.config.load import default_config, load_config
from xsample_jax.config.saved import OF_THE_MACHINE, config_from_json, config_to_json, diff_configs
from xsample_jax.data.vectors import LOSS, float16_loss
from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.catalog import load_facts, metric_facts, sound_facts
from xsample_jax.evals.metrics import Facts, Scores, load_examples
from xsample_jax.io.checkpoint_files import images_of
from xsample_jax.io.code_version import code_digest, code_version, trained_by
from xsample_jax.io.console import say
from xsample_jax.io.files import CONFIG, EXAMPLES, FACTS, atomic_write
from xsample_jax.sweeps.grid import Point, Protocol
from xsample_jax.sweeps.local import FINISHED, state_of

FORMAT = 1
UNITS = "units"
CURVE = 30  # logged lines that are kept of a run
LOGGED = ("step", "loss", "kl", "target_entropy", "temperature")
# Keys that do not say what was computed: names, places, how a machine works. The fingerprint says which data it was.
NOT_COMPARED = (*OF_THE_MACHINE, "name", "data.path", "checkpoint.every", "log.every")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on beside our code."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")
    }


# Values example by example, as text.


KINDS = {"float16": "<f2", "float32": "<f4"}


def pack(values: np.ndarray) -> dict[str, object]:
    """Hits (0 or 1) as one bit each, other numbers as compressed float16, or float32 where that loses much."""
    values = np.asarray(values, np.float32)
    if np.isin(values, (0, 1)).all():
        return {"n": len(values), "bits": _text(np.packbits(values.astype(bool)).tobytes())}
    kind = "float16" if float16_loss(values) <= LOSS else "float32"
    return {"n": len(values), kind: _text(zlib.compress(values.astype(KINDS[kind]).tobytes(), 9))}


def unpack(packed: Mapping[str, object]) -> np.ndarray:
    """float32 [n] of what `pack` made; float16 numbers have lost what follows their third digit."""
    count = packed["n"]
    if "bits" in packed:
        bits = np.frombuffer(base64.b85decode(packed["bits"]), np.uint8)
        return np.unpackbits(bits, count=count).astype(np.float32)
    kind = "float32" if "float32" in packed else "float16"
    values = np.frombuffer(zlib.decompress(base64.b85decode(packed[kind])), KINDS[kind]).astype(np.float32)
    if len(values) != count:
        raise ValueError(f"{len(values)} values, not {count}")
    return values


def _text(data: bytes) -> str:
    return base64.b85encode(data).decode()


def write_units(results: Path, units: np.ndarray) -> str:
    """Writes what the examples are of, int [n], where it is not there yet; returns the name of its file."""
    data = np.asarray(units, "<i4").tobytes()
    name = hashlib.sha256(data).hexdigest()[:12]
    path = results / UNITS / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"n": len(units), "int32": _text(zlib.compress(data, 9))}) + "\n"
        atomic_write(path, lambda partial: partial.write_text(text))
    return name


@functools.lru_cache(maxsize=256)
def read_units(results: Path, name: str) -> np.ndarray:
    """int32 [n] of the file that `write_units` named."""
    packed = _read(results / UNITS / f"{name}.json")
    return np.frombuffer(zlib.decompress(base64.b85decode(packed["int32"])), "<i4")


# One result: written from a run folder, read back, and compared with the config that the grid asks for today.


def result_file(results: Path, grid: str, point: Point) -> Path:
    """Where the result of a point is; `grid`: the file of the grid without its argument, as text."""
    return results / Path(grid.partition(":")[0]).stem / f"{point.name}.json"


def grid_name(grid: str) -> str:
    """What tells grids of one file name apart, on any machine: FOLDER/FILE without the ending."""
    path = Path(grid.partition(":")[0]).resolve()
    return f"{path.parent.name}/{path.stem}"


def _replaceable(path: Path, found: Mapping, grid: str, config: Mapping) -> list[str]:
    """The keys in which a result differs from `config`; DataError where it does and is of another grid."""
    changed = other_config(found, config)
    if changed and found.get("grid", grid_name(grid)) != grid_name(grid):
        fix = "Give another --results, or another name to one of the files."
        raise DataError(f"grid of {path}", found["grid"], f"{grid_name(grid)}: results of its own", fix)
    return changed


@dataclasses.dataclass(frozen=True)
class Keep:
    """Where the results of a sweep stay, and how they are made.

    Attributes:
      grid: as it was given, FILE or FILE:ARGUMENT. out: the folder of the runs. results: the folder of the results.
      configs: {name of the point: its resolved config}.
    """

    grid: str
    out: Path
    results: Path
    configs: Mapping[str, Mapping]

    def done(self, point: Point) -> bool:
        """Whether there is a result of this very config, and of the data that is there today.

        Raises DataError where another grid has its result there.
        """
        path, config = result_file(self.results, self.grid, point), self.configs[point.name]
        if not path.is_file():
            return False
        found = _read(path)
        if changed := _replaceable(path, found, self.grid, config):
            say(f"warning: {path} is of another config ({', '.join(changed)[:100]}): it is made again", error=True)
            return False
        today, before = _fingerprint_today(config), found["data"].get("trained")
        if today in (None, before):
            return True
        prints = f"{str(before)[:12]}, today {today[:12]}"
        say(f"warning: {path} is of other data ({prints}): it is made again", error=True)
        return False

    def command(self, point: Point) -> list[str]:
        """What evaluates the finished run of a point and writes its result, after `python`."""
        places = [f"--out={self.out}", f"--results={self.results}", f"--keep={point.name}"]
        return ["-m", "xsample_jax.tools.sweep", f"--grid={self.grid}", *places]


def keep_result(keep: Keep, point: Point, protocol: Protocol) -> Path:
    """Evaluates the finished run of a point as the protocol says and writes its result.

    Raises DataError: the run is not finished or has learned from other data than is there today, two evaluations have a
    metric of one name, or another grid has its result there.
    """
    from xsample_jax.data.sources import fingerprints_of
    from xsample_jax.evals.context import Options
    from xsample_jax.evals.evaluate import evaluate_checkpoint  # jax takes seconds, which listing should not cost

    folder, path = keep.out / point.name, result_file(keep.results, keep.grid, point)
    if state_of(folder).status != FINISHED:
        raise DataError("--keep", point.name, "a finished run", "Run the sweep with --run first.")
    if path.is_file():
        _replaceable(path, _read(path), keep.grid, _config_of(folder))
    _check_trained(folder)
    measured = _own_evaluation(folder)
    for one in protocol.evaluations:
        done = evaluate_checkpoint(folder, one.evals, one.overrides, Options(target=one.target))
        kept = [name for name in done.result.metrics if not one.keep or name.startswith(one.keep)]
        if twice := measured["metrics"].keys() & set(kept):
            fix = "Choose other evaluators in get_protocol of the grid."
            raise DataError(f"evaluation {one.name}", sorted(twice)[:3], "metrics that no other evaluation has", fix)
        metrics, examples, facts = done.result.metrics, done.result.examples, done.result.facts
        measured["metrics"] |= {name: metrics[name] for name in kept}
        measured["examples"] |= {name: examples[name] for name in kept if name in examples}
        measured["facts"] |= {name: metric_facts(name, facts.get(name, Facts()), done.baselines) for name in kept}
        measured["notes"] += done.result.notes
        measured["data"][one.name] = fingerprints_of(done.config.data)[0]  # the set that evaluations read
    measured["grid"] = grid_name(keep.grid)
    write_result(path, folder, point, measured)
    return path


def fingerprint_of(config) -> str:
    """The fingerprint of the data a config trains on: its set, or all sets of data.mix with shares and side files."""
    from xsample_jax.data.side import side_checksums
    from xsample_jax.data.sources import fingerprints_of

    prints, files = fingerprints_of(config.data), side_checksums(config.data.side)
    if len(prints) == 1 and not files:
        return prints[0]
    found = [prints, [entry["share"] for entry in config.data.mix], files]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _fingerprint_today(config) -> str | None:
    """The fingerprint of the dataset of a config; None where it is not here, or cannot be read now."""
    try:
        return fingerprint_of(config)
    except (UserError, OSError):
        return None


def _check_trained(folder: Path) -> None:
    """Raises DataError where the images of a run, as its newest checkpoint has them, are not those of today."""
    from xsample_jax.data.sources import fingerprints_of, identify_images

    before, config = images_of(folder), _config_of(folder)
    if before and before != (today := identify_images(config, fingerprints_of(config.data))):
        fix = "Remove the run folder, to train again, or put the dataset back."
        expected = f"those of the data of today, {today}"
        raise DataError(f"images that {folder} has learned from", before, expected, fix)


def _config_of(folder: Path):
    return config_from_json((folder / CONFIG).read_text(encoding="utf-8"))


def _own_evaluation(folder: Path) -> dict:
    """What the run has measured itself at its end; nothing for eval.suite=none."""
    facts, notes = load_facts(folder / FACTS)
    examples = load_examples(folder / EXAMPLES) if (folder / EXAMPLES).exists() else {}
    metrics = {name: value for name, value in state_of(folder).evaluation.items() if name in facts}
    return {"metrics": metrics, "examples": dict(examples), "facts": facts, "notes": notes, "data": {}}


def write_result(path: Path, folder: Path, point: Point, measured: Mapping) -> None:
    """Writes the result of the run in `folder`; `measured`: metrics, examples, facts, notes, data, grid."""
    config = _config_of(folder)
    results = path.parent.parent
    training = dict(state_of(folder).training)
    found = {
        "format": FORMAT,
        "point": point.name,
        "grid": measured["grid"],
        "config_digest": config_digest(config),
        "code": code_version(),
        "trained_by": trained_by(folder),
        "versions": versions(),
        "data": {"trained": fingerprint_of(config), **measured["data"]},
        "training": {name: _rounded(value) for name, value in training.items()},
        "curve": _curve(folder),
        "metrics": {
            name: {"value": _rounded(value)}
            | measured["facts"].get(name, {})
            | (_packed(measured["examples"][name], results) if name in measured["examples"] else {})
            for name, value in measured["metrics"].items()
        },
        "notes": list(dict.fromkeys(measured["notes"])),
        "config": json.loads(config_to_json(config)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()) + "\n}\n"
    atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _packed(scores: Scores, results: Path) -> dict:
    return {"units": write_units(results, scores.concepts), "examples": pack(scores.values)}


def _curve(folder: Path) -> list[dict]:
    """A few of the logged lines of the training, spread evenly over it, the last among them."""
    from xsample_jax.io.files import JSONL
    from xsample_jax.metrics.jsonl import read_jsonl

    lines = [line for line in read_jsonl(folder / JSONL) if "loss" in line]
    places = np.unique(np.linspace(0, len(lines) - 1, min(CURVE, len(lines))).astype(int))
    return [{name: _rounded(lines[i][name]) for name in LOGGED if name in lines[i]} for i in places]


def _rounded(value):
    return float(f"{value:.6g}") if isinstance(value, float) else value


def config_digest(config: Mapping) -> str:
    """12 hex digits of what a config changes of the defaults, without the keys NOT_COMPARED."""
    changed = {name: new for name, (_, new) in diff_configs(default_config(), config).items()}
    kept = {name: value for name, value in changed.items() if name not in NOT_COMPARED}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def other_config(found: Mapping, config: Mapping) -> list[str]:
    """The keys in which the config of a result differs from `config`; a key that is newer counts as its default."""
    try:
        stored = config_from_json(json.dumps(found["config"]))
    except UserError:  # it has keys or values that no longer exist
        return ["config"]
    left_out = (*NOT_COMPARED, "data.source") if config["data"]["source"] == "folder" else NOT_COMPARED
    return [name for name in diff_configs(stored, config) if name not in left_out]  # (a run makes records of a folder)


def is_outdated(found: Mapping) -> bool:
    """Whether other code than today's has trained or evaluated this result, or unknown code has."""
    trained = found.get("trained_by", [])
    return not trained or any(one["digest"] != code_digest() for one in (found["code"], *trained))


def read_results(results: Path, grid: str, points: Sequence[Point]) -> dict[str, dict]:
    """{name of a point: its result} of those that are there, with `scores`: {metric: Scores}.

    A result whose config is not that of the point today is left out, and said.

    Raises DataError for a damaged file, one of another format, and seeds of other data than the others of their series.
    """
    found, others = {}, []
    for point in points:
        path = result_file(results, grid, point)
        if not path.is_file():
            continue
        result = _read(path)
        if other_config(result, load_config(point.config, point.overrides(path.parent.name))):
            others.append(point.name)
            continue
        try:
            result["scores"] = {
                name: Scores(unpack(metric["examples"]), read_units(results, metric["units"]))
                for name, metric in result["metrics"].items()
                if "examples" in metric
            }
        except UserError:  # of the file of its units
            raise
        except (KeyError, ValueError, TypeError, zlib.error) as error:
            raise _damaged(path, error) from error
        found[point.name] = result
    if others:
        names = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
        say(f"warning: results of another config than today's, left out: {len(others)} ({names})", error=True)
    _check_data([point for point in points if point.name in found], found)
    return found


def _check_data(points: Sequence[Point], found: Mapping[str, Mapping]) -> None:
    """Raises DataError where seeds of one series were trained or evaluated on several versions of a dataset."""
    prints: dict[tuple[str, str], set[str]] = {}
    for point in points:
        values = {key: value for key, value in point.values.items() if key != "seed"}
        series = dataclasses.replace(point, values=values).name
        for use, fingerprint in found[point.name]["data"].items():
            prints.setdefault((series, use), set()).add(fingerprint[:12])
    mixed = {where: versions for where, versions in prints.items() if len(versions) > 1}
    if mixed:
        (series, use), versions = next(iter(mixed.items()))
        more = f", and {len(mixed) - 1} more" if len(mixed) > 1 else ""
        fix = "Remove the files of the older data: the next sweep makes them again."
        where = f"data of {use} in results of {series}"
        raise DataError(where, ", ".join(sorted(versions)) + more, "one fingerprint for all seeds", fix)


PARTS = {"code": dict, "data": dict, "training": dict, "curve": list, "metrics": dict, "notes": list, "config": dict}


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if path.parent.name != UNITS:
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise _damaged(path, ValueError(f"no result of format {FORMAT}"))
        wrong = [name for name, kind in PARTS.items() if not isinstance(found.get(name), kind)]
        metrics = found["metrics"] if "metrics" not in wrong else {}
        wrong += [name for name, about in metrics.items() if not _is_sound(about)]
        if wrong:
            raise _damaged(path, ValueError(f"wrong or missing: {', '.join(wrong[:3])}"))
    return found


def _is_sound(about) -> bool:
    return isinstance(about, dict) and isinstance(about.get("value"), int | float) and sound_facts(about) == about


def _damaged(path: Path, error: Exception) -> DataError:
    fix = "Restore it with git, or remove it: the next sweep makes it again."
    return DataError("result", str(path), f"a file that tools.sweep --results wrote ({str(error)[:100]})", fix)
