"""CSV, JSON lines and Parquet: one row per picture or per caption."""

import csv
import json
from collections.abc import Collection
from pathlib import Path

from xsample_jax.errors import DataError, did_you_mean

IMAGE_COLUMNS = ("image", "file_name", "filename", "file", "path", "filepath", "image_path")


def read_table(path: str | Path) -> list[dict]:
    """Returns all rows of a .csv, .tsv, .jsonl or .parquet file.

    Raises:
      DataError: missing, of another kind, not readable (with the line), or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("--table", str(path), "an existing file")
    try:
        kind = path.suffix.lower()
        if kind in (".csv", ".tsv"):
            rows = _read_csv(path, "\t" if kind == ".tsv" else ",")
        elif kind in (".jsonl", ".ndjson"):
            rows = _read_json_lines(path)
        elif kind == ".parquet":
            import pyarrow.parquet  # half a second to import, which only tables of this kind should cost

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            raise DataError("--table", str(path), "a .csv, .tsv, .jsonl or .parquet file")
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pyarrow and unicode errors are ValueErrors
        raise DataError("--table", str(path), f"a readable table ({error})") from error
    if not rows:
        raise DataError("--table", str(path), "at least one row")
    return rows


def image_column(columns: Collection[str], name: str, path: str | Path) -> str:
    """The column with the pictures' paths: `name`, or the first usual one."""
    if name:
        check_column(columns, name, "--image_field", path)
        return name
    for usual in IMAGE_COLUMNS:
        if usual in columns:
            return usual
    fix = f"Columns: {', '.join(columns)}. Say which it is: --image_field=COLUMN."
    raise DataError(f"columns of {path}", sorted(columns), "one with the paths of the pictures", fix)


def check_column(columns: Collection[str], name: str, flag: str, path: str | Path) -> None:
    if name not in columns:
        raise DataError(flag, name, f"a column of {path}", did_you_mean(name, columns))


def _read_csv(path: Path, comma: str) -> list[dict]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=comma, strict=True)
        rows = list(reader)
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            expected = f"{len(reader.fieldnames)} values, as the first line"
            raise DataError(f"{path}, row {number}", list(row.values()), expected, "Put quotes around commas.")
    return rows


def _read_json_lines(path: Path) -> list[dict]:
    rows = []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}", line[:80], f"JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}", line[:80], "a JSON map")
            rows.append(row)
    return rows
