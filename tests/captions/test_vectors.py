"""Own vectors in place of caption embeddings: the right row for every record, by every kind of file and of key."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.data.record_sets import make_record
from xsample_jax.captions.embed import CaptionForm, embed_set
from xsample_jax.captions.vectors import VectorFile
from xsample_jax.data.captions import select_caption
from xsample_jax.data.records import open_records, read_manifest, verify_records
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Fields
from xsample_jax.prepare.vectors import vectors_source
from xsample_jax.tools.embed import main

IDS = [7 * number for number in range(12)]
VECTORS = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
UNITS = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)


@pytest.fixture
def plain(tmp_path):
    """12 records in two splits, of which records have 0, 1 and 2 captions; no embeddings."""

    def record(number):
        kept = {key: value for key, value in make_record(number).items() if key != "caption_embeddings"}
        return kept | {"id": IDS[number], "captions": ["one", "two"][: number % 3]}

    splits = {"train": map(record, range(10)), "test": map(record, range(10, 12))}
    write_records(tmp_path / "set", "tiny", splits, ["a", "b", "c"], {"style": ["x", "y"]}, shard_size=4)
    return tmp_path / "set"


def records_of(folder) -> list[dict]:
    return [record for split in ("train", "test") for record in open_records(folder, split)]


def write_file(path, keys, rows=VECTORS, key="id"):
    """The same in all three forms, shuffled: rows are found by key."""
    order = np.random.default_rng(1).permutation(len(keys))
    keys, rows = [keys[place] for place in order], rows[order]
    if path.suffix == ".npz":
        np.savez(path, **{key: np.array(keys), "features": rows})
    elif path.suffix == ".npy":
        np.save(path, rows)
        path.with_suffix(".json").write_text(json.dumps({"run": "x", key: keys, "label": [1] * len(keys)}))
    else:
        values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), rows.shape[1])
        pyarrow.parquet.write_table(pyarrow.table({key: keys, "caption": ["c"] * len(keys), "features": values}), path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet"])
def test_every_record_gets_its_vector(plain, tmp_path, suffix, capsys):
    before = records_of(plain)
    file = write_file(tmp_path / f"dino{suffix}", [*IDS, 1000], np.concatenate([VECTORS, VECTORS[:1]]))
    assert main(["--data", str(plain), "--vectors", str(file)]) == 0
    assert "records 12, of them new and distinct 12" in capsys.readouterr().out
    assert verify_records(plain) == []
    about = read_manifest(plain).text_encoder
    assert (about["name"], about["dim"], about["per"]) == (f"vectors of dino{suffix}", 5, "record")
    for old, new, unit in zip(before, records_of(plain), UNITS, strict=True):
        np.testing.assert_allclose(new["caption_embeddings"], unit[None], atol=1e-3)
        assert new["captions"] == old["captions"]
        assert new["image"] == old["image"]
        for which, draw in (("first", None), ("random", 5), ("mean", None)):
            np.testing.assert_allclose(select_caption(new, which, draw=draw)[1], unit, atol=1e-3)
    assert select_caption(new, "random", draw=1)[0] == (new["captions"] or [None])[1 % max(len(new["captions"]), 1)]
    assert main(["--data", str(plain), "--vectors", str(file)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    other = write_file(tmp_path / f"other{suffix}", IDS, VECTORS[::-1])
    assert main(["--data", str(plain), "--vectors", str(other)]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "keys"), [("style", ["x", "y"]), ("style", [0, 1]), ("label", ["a", "b", "c"])])
def test_vectors_of_labels_and_attributes(plain, tmp_path, key, keys):
    file = write_file(tmp_path / "meta.npz", keys, VECTORS[: len(keys)], key)
    embed_set(plain, VectorFile(file, key), CaptionForm(stored="int8"), show=False)
    for record in records_of(plain):
        number = record["label"] if key == "label" else record["attributes"][key]
        np.testing.assert_allclose(record["caption_embeddings"][0], UNITS[number], atol=5e-3)


def test_missing_ids_are_named_and_nothing_changes(plain, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in plain.iterdir()}
    file = write_file(tmp_path / "few.npz", IDS[:9], VECTORS[:9])
    assert main(["--data", str(plain), "--vectors", str(file)]) == 2
    assert "3 records without, of id 63, 70, 77" in capsys.readouterr().err
    files = {path.name: path.read_bytes() for path in plain.iterdir() if path.is_file()}
    assert files == before


@pytest.mark.parametrize(
    ("arrays", "key", "said"),
    [
        ({"id": IDS, "a": VECTORS, "b": VECTORS}, "id", "one array of vectors"),
        ({"id": [*IDS[:-1], 0], "a": VECTORS}, "id", "every key once"),
        ({"id": IDS[:-1], "a": VECTORS}, "id", "11 for 12 rows"),
        ({"number": IDS, "a": VECTORS}, "id", "a name in"),
        ({"name": IDS, "a": VECTORS}, "name", "a field of the records: id, label, style"),
        ({"id": IDS, "a": VECTORS * 0}, "id", "not zero"),
        ({"id": IDS, "a": np.full_like(VECTORS, np.nan)}, "id", "finite"),
        ({"id": np.array(IDS) + 0.5, "a": VECTORS}, "id", "an integer or a text"),
        ({"id": 7, "a": VECTORS}, "id", "an entry for each row"),
    ],
)
def test_files_that_do_not_fit(plain, tmp_path, arrays, key, said):
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(DataError, match=said):
        embed_set(plain, VectorFile(tmp_path / "f.npz", key), show=False)
    (tmp_path / "x.npy").write_bytes(b"")
    with pytest.raises(DataError):
        VectorFile(tmp_path / "x.npy")
    assert main(["--data", str(plain), "--vectors", str(tmp_path / "f.npz"), "--model", "x"]) == 2


def test_columns_of_a_set_of_vectors(tmp_path):
    np.savez(tmp_path / "f.npz", x=VECTORS, rate=16_000)
    with pytest.raises(DataError, match=r"rate in .*f\.npz = 'a single value'"):
        vectors_source(str(tmp_path / "f.npz"), Fields(), 10)
    file = tmp_path / "x.npy"
    np.save(file, VECTORS)
    file.with_suffix(".json").write_text("[1, 2]")
    with pytest.raises(DataError, match="a JSON map"):
        vectors_source(str(file), Fields(), 10)
    found = []
    for label in (1, 10):
        file.with_suffix(".json").write_text(json.dumps({"label": [label] * 12}))
        found.append({shard.identity for shard in vectors_source(str(file), Fields(), 10).shards})
    assert not found[0] & found[1]
