"""Side information that records do not hold: from files by record index, or made of attributes (data.side).

A file is a .npz archive that numpy wrote, with three arrays:

    values       [records] or [records, M], in the order of the records of the split
    split        the name of the split
    fingerprint  that of the manifest of the set

so that a file of another set, another version of it or another split is refused whatever its name is. What entries
there are, and of which type: BY_RECORD of objectives/side_information.py.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from xsample_jax.data.loader import Rates
from xsample_jax.data.records import file_checksum
from xsample_jax.data.sources import RATED, check_kept, read_labels
from xsample_jax.distributed import log_info
from xsample_jax.errors import ConfigError, DataError, UserError, did_you_mean, raise_all
from xsample_jax.io.files import load_arrays, require_regular, write_arrays
from xsample_jax.io.paths import as_path
from xsample_jax.objectives.side_information import BY_RECORD

PARTS = ("fingerprint", "split", "values")
FROM_ATTRIBUTES = ("cluster", "group", "labels", "target", "is_target")
OF_TARGET = "tools.cluster, or xsample_jax.data.side.write_side, writes such files."
Reader = Callable[[dict, int], np.ndarray]  # (record, its place in the split) -> its entry of a batch


def find_side_problems(entries: Sequence[Mapping], mixed: bool) -> Iterator[ConfigError]:
    """Yields a ConfigError for every entry of data.side that has no meaning. mixed: several sets are trained on."""
    form = "{'name': an entry, 'file': a .npz file} or {'name': an entry, 'attributes': names of attributes}"
    seen = set()
    for number, entry in enumerate(entries):
        field, name = f"data.side[{number}]", entry.get("name")
        if set(entry) not in ({"name", "file"}, {"name", "attributes"}):
            yield ConfigError(field, dict(entry), form)
        elif not isinstance(name, str) or name not in BY_RECORD:
            expected = f"one of {', '.join(BY_RECORD)}"
            yield ConfigError(f"{field}.name", name, expected, did_you_mean(str(name), BY_RECORD))
        elif name in seen:
            yield ConfigError(f"{field}.name", name, "every entry once")
        elif "file" in entry:
            yield from _file_problems(entry, field, mixed)
        else:
            yield from _attribute_problems(entry, field)
        seen.add(str(name))


def _file_problems(entry: Mapping, field: str, mixed: bool) -> Iterator[ConfigError]:
    if not isinstance(entry["file"], str) or not entry["file"]:
        yield ConfigError(f"{field}.file", entry["file"], "the path of a .npz file", OF_TARGET)
    elif mixed:
        fix = "Set --config.data.mix='()', or give attributes that all sets have."
        yield ConfigError(f"{field}.file", entry["file"], "no file with data.mix: it is of the records of one set", fix)


def _attribute_problems(entry: Mapping, field: str) -> Iterator[ConfigError]:
    name, given = entry["name"], entry["attributes"]
    if name not in FROM_ATTRIBUTES:
        fix = f"Give a file: {BY_RECORD[name].how}."
        yield ConfigError(f"{field}.attributes", given, f"a file for {name!r}: {BY_RECORD[name].says}", fix)
    elif not isinstance(given, tuple | list) or not given or not all(isinstance(one, str) for one in given):
        yield ConfigError(f"{field}.attributes", given, "a tuple of names of attributes, as ('count',)")
    elif not BY_RECORD[name].wide and len(given) > 1:
        yield ConfigError(f"{field}.attributes", given, f"one attribute for {name!r}")


def open_side(entries: Sequence[Mapping], source, names: Collection[str]) -> dict[str, Reader]:
    """Readers of those entries of data.side that are in `names`.

    Args:
      entries: of the config, without problems (find_side_problems).
      source: the records of a split (data/records.py), or of several sets.

    Raises ConfigError or DataError (Problems where there are several) for a file that is missing, damaged, of another
    set or split or holds wrong values, and for attributes that the set does not have.
    """
    readers, problems = {}, []
    for number, entry in enumerate(entries):
        name, field = entry["name"], f"data.side[{number}]"
        if name not in names:
            continue
        try:
            if "file" in entry:
                readers[name] = _at(_of_file(entry, source, field))
            else:
                readers[name] = _of_attributes(name, tuple(entry["attributes"]), source, field)
        except UserError as error:
            problems.append(error)
    raise_all(problems, "data.side")
    return readers


def _of_file(entry: Mapping, source, field: str) -> np.ndarray:
    """The values of all records, [records] or [records, M]."""
    values = read_side(entry["file"], entry["name"], source, f"{field}.file")
    if entry["name"] == "weight":  # rates are compared with their mean
        values = (values / values.mean(dtype=np.float64)).astype(values.dtype)
    return values


def _at(values: np.ndarray) -> Reader:
    return lambda record, place: values[place]


# What the order of training batches depends on.


def read_groups(data, source, batch_size: int) -> np.ndarray | None:
    """int [records], -1 for none: the groups of `data.batches_of`; None where batches are of all records.

    Raises ConfigError for groups of several clusterings, or for one that does not fill a batch.
    """
    by = data.batches_of
    if by is None:
        return None
    check_kept("data.batches_of", by, len(source), 40, "None")
    groups = read_labels(source) if by == "label" else _of_all_records(data.side, source, by)
    if groups.ndim > 1 and groups.shape[1] > 1:
        raise ConfigError("data.batches_of", by, f"one clustering in data.side: it has {groups.shape[1]}")
    groups = groups.reshape(len(source))
    names, sizes = np.unique(groups[groups >= 0], return_counts=True)
    if not len(names):
        raise ConfigError("data.batches_of", by, f"records of split {source.split} that have one")
    smallest = sizes.argmin()
    if sizes[smallest] < batch_size:
        expected = f"at most {sizes[smallest]}, the records of {by} {names[smallest]}, with data.batches_of = {by!r}"
        raise ConfigError("batch_size", batch_size, expected, "Take fewer clusters, or smaller batches.")
    left_out = len(groups) - int(np.sum(sizes // batch_size * batch_size))
    log_info(f"batches of one {by}: {len(names)} groups; each pass leaves out {left_out} of {len(groups):,} records")
    return groups


def count_clusters(data, source) -> tuple[int, int]:
    """(clusterings, the most clusters of one) of the entry cluster in data.side; (0, 0) where there is none.

    Raises ConfigError or DataError as open_side does.
    """
    for number, entry in enumerate(data.side):
        if entry["name"] == "cluster" and "file" in entry:
            values = _of_file(entry, source, f"data.side[{number}]")
            return values.shape[1], int(values.max()) + 1
        if entry["name"] == "cluster":
            return len(entry["attributes"]), max(len(source.manifest.attributes[one]) for one in entry["attributes"])
    return 0, 0


def recorded_rates(data, source) -> Rates | None:
    """How often each record is drawn where data.side has a weight; None where it has none."""
    if not any(entry["name"] == "weight" for entry in data.side):
        return None
    check_kept("data.side", "weight", len(source), RATED, "()")
    weights = _of_all_records(data.side, source, "weight")
    return Rates(weights.astype(np.float64), np.zeros(len(source), np.int64))


def _of_all_records(entries: Sequence[Mapping], source, name: str) -> np.ndarray:
    """An entry of data.side of all records, [records] or [records, M]. Of attributes, every record is read."""
    for number, entry in enumerate(entries):
        if entry["name"] == name and "file" in entry:
            return _of_file(entry, source, f"data.side[{number}]")
    read = open_side(entries, source, {name})[name]

    def value(place: int) -> np.ndarray:
        try:
            return read(source[place], place)
        except DataError:  # training will meet it too, and stop or go on as data.on_error says
            return np.full((1,) * BY_RECORD[name].wide, -1)

    return np.stack([value(place) for place in range(len(source))])


# Values of a file, and of attributes.


def read_side(path: str, name: str, source, field: str = "side file") -> np.ndarray:
    """The values of a side file for the entry `name`: [records] or [records, M], of the type of the entry.

    Raises ConfigError where the file is missing, of another set or split, or holds what the entry cannot be; DataError
    where it is damaged.
    """
    check_kept("data.side", path, len(source), 16, "()")  # the array, and its copy of the type of the entry
    try:
        found = load_arrays(as_path(path, field))
    except FileNotFoundError:
        raise ConfigError(field, path, "an existing file", OF_TARGET) from None
    except OSError as error:
        raise ConfigError(field, path, f"a file that can be read ({str(error)[:100]})") from error
    if not isinstance(found, dict) or not set(PARTS) <= set(found):
        raise ConfigError(field, path, f"a .npz file with the arrays {', '.join(PARTS)}", OF_TARGET)
    fix = f"Make it again for split {source.split} of {source.folder}."
    for part, wanted in (("split", source.split), ("fingerprint", source.manifest.fingerprint)):
        if str(found[part]) != wanted:
            raise ConfigError(f"{part} of {field} {path}", str(found[part]), f"{wanted!r}, that of the records", fix)
    return _checked(found["values"], name, len(source), f"values of {field} {path}")


def _checked(values: np.ndarray, name: str, records: int, field: str) -> np.ndarray:
    """The values as the entry has them; ConfigError for a wrong shape, type, or number."""
    kind = BY_RECORD[name]
    whole = np.dtype(kind.dtype).kind == "i"
    shapes = f"[{records}]" + (f" or [{records}, M]" if kind.wide else "")
    if values.ndim not in ((1, 2) if kind.wide else (1,)) or len(values) != records or 0 in values.shape:
        raise ConfigError(field, f"shape {list(values.shape)}", f"{shapes}: {kind.says}")
    if values.dtype.kind not in ("iub" if whole else "iuf"):
        raise ConfigError(field, f"type {values.dtype}", f"{'integers' if whole else 'numbers'}: {kind.says}")
    values = values if whole else values.astype(np.float64)
    lowest, highest = (
        (max(kind.lowest, -(2.0**31)), min(kind.highest, 2.0**31 - 1)) if whole else (kind.lowest, kind.highest)
    )
    wrong = ~(np.isfinite(values) & (values >= lowest) & (values <= highest))
    if wrong.any():
        place = np.argwhere(wrong)[0]
        bounds = " and ".join(
            f"{words} {bound:g}" for words, bound in (("at least", lowest), ("at most", highest)) if np.isfinite(bound)
        )
        expected = "finite numbers" + (f", {bounds}" if bounds else "") + f": {kind.says}"
        raise ConfigError(f"{field}, record {place[0]}", values[tuple(place)].item(), expected)
    values = values.astype(kind.dtype)
    return values[:, None] if kind.wide and values.ndim == 1 else values


def _of_attributes(name: str, attributes: tuple[str, ...], source, field: str) -> Reader:
    """The reader of an entry that is made of attributes; DataError where the set lacks one.

    A target is the number that the name of the value is, where all names of an attribute are numbers, else its place
    among them; labels are 1 at the value of each attribute, the attributes one after the other; a cluster or a group is
    the number of the value; is_target is 0 at the first value of an attribute and 1 at the others. The value "" says
    that a record has none: no label, -1 of the others, and a DataError when its target is read.
    """
    there = source.manifest.attributes
    for attribute in attributes:
        if attribute not in there:
            expected = f"an attribute of the set: {', '.join(there) or 'it has none'}"
            raise DataError(f"{field}.attributes", attribute, expected, did_you_mean(attribute, there))
    dtype = BY_RECORD[name].dtype
    if name == "labels":
        ends = np.cumsum([sum(map(bool, there[attribute])) for attribute in attributes])
        starts = [0, *ends[:-1]]
        tables = [_table(name, there[attribute]) for attribute in attributes]

        def labels(record: dict, place: int) -> np.ndarray:
            row = np.zeros(ends[-1], dtype)
            for start, table, one in zip(starts, tables, attributes, strict=True):
                number = table[record["attributes"][one]]
                if number >= 0:
                    row[start + number] = 1
            return row

        return labels
    tables = [_table(name, there[attribute]) for attribute in attributes]

    def numbers(record: dict, place: int) -> np.ndarray:
        row = [table[record["attributes"][one]] for table, one in zip(tables, attributes, strict=True)]
        if np.isnan(row).any():
            where = f"{attributes[int(np.argmax(np.isnan(row)))]} of record {source.locate(place)}, id {record['id']}"
            fix = 'Leave the record out (tools.prepare --leave_out), or set --config.data.on_error="skip".'
            raise DataError(where, "", f"a value, of which data.side makes the {name}", fix)
        return np.array(row if BY_RECORD[name].wide else row[0], dtype)

    return numbers


def _table(name: str, values: Sequence[str]) -> np.ndarray:
    """What an entry is for each value of an attribute; for "" -1, and NaN of a target."""
    named = np.array([bool(value) for value in values])
    found = np.full(len(values), np.nan if name == "target" else -1)
    places = np.arange(named.sum())
    if name == "target":
        found[named] = _numbers([value for value in values if value])
    else:
        found[named] = np.minimum(places, 1) if name == "is_target" else places
    return found


def _numbers(names: Sequence[str]) -> np.ndarray:
    """What the values of an attribute are as numbers, float64 [values]."""
    try:
        values = np.array([float(name) for name in names])
    except ValueError:
        return np.arange(len(names), dtype=np.float64)
    return values if np.isfinite(values).all() else np.arange(len(names), dtype=np.float64)


def side_checksums(entries: Sequence[Mapping]) -> dict[str, str]:
    """{entry: checksum of its file} of those entries of data.side that are files.

    Raises ConfigError for a file that cannot be read.
    """
    found = {}
    for number, entry in enumerate(entries):
        if "file" in entry:
            field = f"data.side[{number}].file"
            path = as_path(entry["file"], field)
            try:
                require_regular(path)
                found[entry["name"]] = file_checksum(path)
            except OSError as error:
                raise ConfigError(field, str(path), f"a file that can be read ({error})", OF_TARGET) from error
    return found


def write_side(path, values: np.ndarray, source) -> None:
    """Writes `values` [records] or [records, M] of the records of `source` as a side file, all of it or nothing.

    Raises ConfigError where there are not as many as records, DataError where the file cannot be written.
    """
    values = np.asarray(values)
    if values.ndim not in (1, 2) or len(values) != len(source):
        raise ConfigError("values", f"shape {list(values.shape)}", f"[{len(source)}] or [{len(source)}, M], by record")
    parts = {"values": values, "split": np.array(source.split), "fingerprint": np.array(source.manifest.fingerprint)}
    write_arrays(as_path(path), parts)
