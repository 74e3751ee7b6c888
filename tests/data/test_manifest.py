"""The manifest: it describes the files, and one that is foreign, edited or of other files is refused with a fix."""

import dataclasses
import hashlib
import json

import pytest

from xsample_jax.data.records import read_manifest, verify_records
from xsample_jax.errors import DataError


def edit_manifest(folder, refresh_fingerprint=False, **fields):
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **fields}
    if refresh_fingerprint:
        rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        manifest["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(manifest))


def test_manifest_describes_the_files(folder):
    manifest = read_manifest(folder)
    assert [shard["count"] for shard in manifest.splits["train"]["shards"]] == [10, 10, 5]
    for shard in (*manifest.splits["train"]["shards"], *manifest.splits["test"]["shards"]):
        data = (folder / shard["file"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    fields = {key: value for key, value in json.loads((folder / "manifest.json").read_text()).items()}
    fingerprint = fields.pop("fingerprint")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_manifest_is_what_the_contract_says(folder):
    assert set(dataclasses.asdict(read_manifest(folder))) == {
        *("schema", "name", "splits", "class_names", "attributes", "text_encoder", "fingerprint"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "readable JSON"),
        ("[1]", "manifest of a dataset"),
        ('{"features": {}}', "manifest of a dataset"),
        ('{"schema": 7}', "schema 1"),
        ('{"schema": 1}', "exactly attributes"),
    ],
)
def test_foreign_manifest(folder, text, message):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(folder)


def test_edited_manifest_does_not_match_its_fingerprint(folder):
    edit_manifest(folder, class_names=["a", "c", "b"])
    with pytest.raises(DataError, match="changed by hand"):
        read_manifest(folder)
    edit_manifest(folder, refresh_fingerprint=True)
    assert read_manifest(folder).class_names == ("a", "c", "b")


def test_verify_reports_files_of_another_set(folder):
    assert verify_records(folder) == []
    (folder / "stray-00000-of-00001.arrayrecord").write_bytes(b"x")
    (problem,) = verify_records(folder)
    assert "stray-00000" in str(problem)
