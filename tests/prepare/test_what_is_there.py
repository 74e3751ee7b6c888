"""Nothing is passed over without a word: records + drops + skips = what was there, for every source of files."""

import io
import json
import os
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tests.prepare.corpora import make_image, sample, write_tar
from xsample_jax.data.records import open_records
from xsample_jax.errors import DataError
from xsample_jax.prepare import webdataset
from xsample_jax.prepare.example import KINDS, Fields
from xsample_jax.prepare.folder import folder_source
from xsample_jax.prepare.job import ImageOptions, Job
from xsample_jax.prepare.parquet import parquet_source
from xsample_jax.prepare.prepare import local_runner, prepare, summary
from xsample_jax.prepare.vectors import vectors_source
from xsample_jax.prepare.webdataset import expand_braces, webdataset_source

KEPT = (
    "no_caption", "near_empty_caption", "cut_caption", "not_unicode", "missing_field", "unknown_label", "dark_16_bit",
)  # fmt: skip


def make(source, out, splits=None, **options):
    job = Job("t", source, splits or {"train": 1.0}, ImageOptions(None), **options)
    return prepare(job, out, local_runner(1))


def counted(report):
    dropped = sum(report.get(kind, 0) for kind in KINDS if kind not in KEPT)
    return report["kept"] + dropped + sum(report.get("skipped", {}).values())


def test_every_file_of_a_folder_is_a_record_a_drop_or_a_skip(tmp_path):
    """faults C3, C10: other suffixes, hidden files, pipes, dangling links and damaged images are counted."""
    root = tmp_path / "in"
    (root / "cat").mkdir(parents=True)
    for name in ("1.jpg", "2.JFIF", "3.jpeg"):
        (root / "cat" / name).write_bytes(make_image(1))
    for name in ("4.heic", "5.avif", "notes.md", ".hidden.jpg", "README", "6.jpg"):
        (root / "cat" / name).write_bytes(b"x")
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    _, report = make(folder_source(str(root), Fields()), tmp_path / "out")
    assert counted(report) == len(list((root / "cat").iterdir()))
    assert (report["kept"], report["unread_image"], report["no_image"], report["broken_image"]) == (3, 2, 2, 1)
    assert report["skipped"] == {"files .md": 1, "files without a suffix": 1, "hidden files": 1}


def test_every_member_of_a_tar_is_counted_where_it_is_unsorted(tmp_path):
    """faults C3: the texts of an unsorted tar are scattered members, not examples without an image."""
    samples = [(f"{n:03d}", {"jpg": make_image(n)}) for n in range(3)] + [
        (f"{n:03d}", {"txt": b"text"}) for n in range(3)
    ]
    write_tar(tmp_path / "a.tar", samples)
    _, report = make(webdataset_source(str(tmp_path / "a.tar"), Fields()), tmp_path / "out")
    assert (report["kept"], report["scattered_members"], report.get("no_image", 0)) == (3, 3, 0)


def test_further_images_of_a_key_are_counted(tmp_path):
    """faults C3: the second was dropped without a word."""
    png = make_image(5, kind="PNG")
    rows = {"000": sample(0, png=png, webp=make_image(6, kind="WEBP")), "001": {"png": png, "json": b"[", "jpg": png}}
    write_tar(tmp_path / "a.tar", rows)
    _, report = make(webdataset_source(str(tmp_path / "a.tar"), Fields()), tmp_path / "out")
    assert (report["second_image"], counted(report)) == (3, 5)
    assert [record["image"] for record in open_records(tmp_path / "out", "train")] == [sample(0)["jpg"]]
    lines = [json.loads(line) for line in (tmp_path / "out" / "problems.jsonl").read_text().splitlines()]
    assert ["a.tar", "000.png", "second_image", "beside .jpg"] in lines


def test_a_text_is_of_the_first_image_of_its_key(tmp_path):
    """faults C3: of a.jpg, a.jpg, a.txt the first was kept without its text, and the second lost with it."""
    first, second, other = (make_image(number) for number in range(3))
    samples = [("a", {"jpg": first}), ("a", {"jpg": second, "txt": b"one"}), ("b", {"txt": b"two", "jpg": other})]
    write_tar(tmp_path / "a.tar", [*samples, ("b", {"jpg": second}), ("c", {"jpg": other})])
    _, report = make(webdataset_source(str(tmp_path / "a.tar"), Fields()), tmp_path / "out")
    found = [(record["image"], record["captions"]) for record in open_records(tmp_path / "out", "train")]
    assert found == [(first, ["one"]), (other, ["two"]), (other, [])]
    assert (report["second_image"], report["duplicate_key"], counted(report)) == (1, 1, 5)


def test_what_is_remarked_of_an_image_moves_no_id(tmp_path):
    """faults C3: a further image of a key, and a label that is missing, gave all that follow other ids."""
    ids = []
    for name, changes in {"plain": {}, "odd": {"png": make_image(5, kind="PNG")}}.items():
        write_tar(tmp_path / f"{name}.tar", {"000": sample(0, **changes), "001": sample(1), "002": sample(2)})
        for fields in (Fields(), Fields(label="label")):
            out = tmp_path / f"{name}{fields.label}"
            rows = {"000": sample(0, json=b"{}", **changes), "001": sample(1), "002": sample(2)}
            write_tar(tmp_path / f"{name}.tar", rows)
            make(webdataset_source(str(tmp_path / f"{name}.tar"), fields), out)
            ids.append([record["id"] for record in open_records(out, "train")])
    assert ids == [[0, 1, 2]] * 4


def test_images_that_share_their_texts_are_counted(tmp_path):
    """faults C3: a.png beside a.jpg has the caption of a.txt too, without a word."""
    for name, data in {"a.jpg": make_image(1), "a.png": make_image(2), "b.jpg": make_image(3), "a.txt": b"one"}.items():
        (tmp_path / name).write_bytes(data)
    notes = folder_source(str(tmp_path), Fields()).notes
    assert any(note.startswith("1 images have the texts of another image of the same name") for note in notes)


@pytest.mark.parametrize("flag", ["label", "captions"])
def test_a_misspelt_field_of_tars_is_an_error(tmp_path, flag):
    """faults C3: an entry that no example has is a mistake, not a set without labels."""
    write_tar(tmp_path / "a.tar", {"000": sample(0), "001": sample(1)})
    fields = Fields(label="lable") if flag == "label" else Fields(captions=("captoin",))
    asked = "--label_field" if flag == "label" else "--caption_fields"
    with pytest.raises(DataError, match=f"{asked} = 'in no example'"):
        make(webdataset_source(str(tmp_path), fields), tmp_path / "out", asked=(asked,))


def test_a_tar_that_is_a_dangling_link_stops_the_command(tmp_path):
    """faults C3"""
    write_tar(tmp_path / "a.tar", {"000": sample(0)})
    (tmp_path / "b.tar").symlink_to(tmp_path / "gone.tar")
    for path in (tmp_path, tmp_path / "*.tar", tmp_path / "b.tar"):
        with pytest.raises(DataError, match=r"b\.tar"):
            webdataset_source(str(path), Fields())


def test_a_folder_that_cannot_be_listed_stops_the_command(tmp_path, monkeypatch):
    """faults C3: its class would be missing."""
    (tmp_path / "in" / "cat").mkdir(parents=True)
    (tmp_path / "in" / "1.jpg").write_bytes(make_image(1))
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"folder .*cat = 'Permission denied'"):
        folder_source(str(tmp_path / "in"), Fields())


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_quote_without_a_partner_does_not_swallow_rows(tmp_path, kind):
    """faults C3: the quote opens in row 2 and closes in row 4; row 3 would be gone."""
    comma = "," if kind == "csv" else "\t"
    rows = ["image,caption", 'a.jpg,"6 inch pipe', "b.jpg,a dog", 'c.jpg,6"', "d.jpg,a cat"]
    table = tmp_path / f"t.{kind}"
    table.write_text("\n".join(rows).replace(",", comma) + "\n")
    (tmp_path / "a.jpg").write_bytes(make_image(1))
    with pytest.raises(DataError, match=r"line 2.*closes on line 4"):
        folder_source(str(tmp_path), Fields(), str(table))


def test_columns_of_one_name_are_refused_and_there_ones_are_named(tmp_path):
    """faults C3, C14"""
    (tmp_path / "t.csv").write_text("image,caption,caption\na.jpg,x,y\n")
    with pytest.raises(DataError, match=r"caption.*names that occur once"):
        folder_source(str(tmp_path), Fields(), str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,x\n")
    with pytest.raises(DataError, match=r"--label_field = 'klass'.*image, caption"):
        folder_source(str(tmp_path), Fields(label="klass"), str(tmp_path / "t.csv"))


@pytest.mark.parametrize("name", ["/dev/zero", "../secret.jpg", "cat/../../secret.jpg"])
def test_a_file_outside_the_folder_is_dropped_not_read(tmp_path, name):
    """faults C10: /dev/zero would never end."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(make_image(1))
    (tmp_path / "secret.jpg").write_bytes(make_image(2))
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps({"image": file, "caption": "a cat"}) + "\n" for file in ("a.jpg", name)))
    _, report = make(folder_source(str(tmp_path / "in"), Fields(), str(table)), tmp_path / "out")
    assert (report["kept"], report["no_image"]) == (1, 1)


def test_an_absolute_path_inside_the_folder_is_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(make_image(1))
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": str(tmp_path / "a.jpg"), "caption": "a cat"}))
    _, report = make(folder_source(str(tmp_path), Fields(), str(tmp_path / "t.jsonl")), tmp_path / "out")
    assert report["kept"] == 1


def header_of(size: bytes) -> bytes:
    info = tarfile.TarInfo("001.jpg")
    data = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    data[124:136] = size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + bytes(3) + b"\x7f" * 8, b"\xff" * 12], ids=str)
def test_a_header_with_an_impossible_size_ends_the_tar_and_no_more(tmp_path, size):
    """faults C10: it would take all memory, or read backwards."""
    whole = write_tar(tmp_path / "a.tar", {"000": sample(0)}).read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    (tmp_path / "a.tar").write_bytes(whole + header_of(size) + bytes(2048))
    _, report = make(webdataset_source(str(tmp_path / "a.tar"), Fields()), tmp_path / "out")
    assert (report["kept"], report["truncated_tar"]) == (1, 1)


def test_texts_beside_images_are_captions_and_their_folders_are_no_classes(tmp_path):
    """faults C4: img2dataset's `files` format; 00000 is a shard, not a class."""
    root = tmp_path / "in" / "00000"
    root.mkdir(parents=True)
    for number in range(3):
        (root / f"{number}.jpg").write_bytes(make_image(number))
        (root / f"{number}.txt").write_text(f"text {number}")
        (root / f"{number}.json").write_text(json.dumps({"caption": "no", "label": number, "style": "ab"[number % 2]}))
    (root / "3.jpg").write_bytes(make_image(3))
    fields = Fields(attributes=("style",))
    manifest, report = make(folder_source(str(tmp_path / "in"), fields), tmp_path / "out")
    records = list(open_records(tmp_path / "out", "train"))
    assert manifest.class_names == ()
    assert [record["captions"] for record in records] == [["text 0"], ["text 1"], ["text 2"], []]
    assert [record["label"] for record in records] == [0, 1, 2, -1]
    assert manifest.attributes["style"] == ("", "a", "b")
    assert [record["attributes"]["style"] for record in records] == [1, 2, 1, 0]
    assert "not from folder names" in report["notes"][0]


def test_json_is_not_sampled_for_a_note_that_cannot_come(tmp_path, monkeypatch):
    """faults C9: 400 members of a tar, perhaps in a bucket, were read before the first record."""
    tar = tmp_path / "0.tar"
    write_tar(tar, {"0": sample(0, txt=None, json=b'{"prompt": "a red dog"}')})
    monkeypatch.setattr(webdataset.tarfile, "open", lambda *args, **kinds: pytest.fail("it was read"))
    assert webdataset_source(str(tar), Fields(captions=("prompt",))).notes == ()


def test_texts_in_json_that_are_not_read_are_named(tmp_path):
    """faults C3: {"prompt": ...} beside every image was no caption, and nothing said so."""
    row = {"prompt": "a red dog", "url": "https://x", "label": 1, "tags": ["two words"], "size": 3}
    members = [sample(number, txt=None, json=json.dumps(row).encode()) for number in range(3)]
    write_tar(tmp_path / "tars" / "0.tar", {str(number): files for number, files in enumerate(members)})
    for number, files in enumerate(members):
        for suffix, data in files.items():
            (tmp_path / "in").mkdir(exist_ok=True)
            (tmp_path / "in" / f"{number}.{suffix}").write_bytes(data)
    (tmp_path / "in" / "1.json").write_text("{")
    for read, path in ((folder_source, tmp_path / "in"), (webdataset_source, tmp_path / "tars")):
        assert read(str(path), Fields()).notes[-1].endswith("--caption_fields takes prompt, tags.")
        assert not any("Captions: none" in note for note in read(str(path), Fields(captions=("prompt",))).notes)
    _, report = make(webdataset_source(str(tmp_path / "tars"), Fields()), tmp_path / "out")
    assert "--caption_fields takes prompt, tags." in report["notes"][-1]
    for number in range(3):
        (tmp_path / "in" / f"{number}.txt").write_text("a caption")
    write_tar(tmp_path / "tars" / "0.tar", {"0": sample(0)})
    for read, path in ((folder_source, tmp_path / "in"), (webdataset_source, tmp_path / "tars")):
        assert not any("Captions: none" in note for note in read(str(path), Fields()).notes)


def test_texts_in_capitals_are_read_and_those_without_an_image_counted(tmp_path):
    """faults C3, C4: the caption of b.PNG in b.TXT was lost, and that of no image not mentioned."""
    root = tmp_path / "in" / "cat"
    root.mkdir(parents=True)
    for name in ("a.jpg", "a.png", "b.PNG", "d.jpg"):
        (root / name).write_bytes(make_image(len(name), kind="JPEG" if name.endswith("jpg") else "PNG"))
    for name in ("a.txt", "a.TXT", "b.TXT", "c.txt", "b.Json"):
        (root / name).write_text("{}" if name == "b.Json" else f"text of {name}")
    (root / "d.txt").symlink_to(root / "nowhere")
    _, report = make(folder_source(str(tmp_path / "in"), Fields()), tmp_path / "out")
    captions = [record["captions"] for record in open_records(tmp_path / "out", "train")]
    assert captions == [["text of a.txt"], ["text of a.txt"], ["text of b.TXT"], []]
    assert report["skipped"] == {"texts without an image": 2}
    _, report = make(folder_source(str(tmp_path / "in"), Fields(label_level="1")), tmp_path / "levels")
    assert report["skipped"] == {"texts beside images": 4, "texts without an image": 2}


@pytest.mark.parametrize(
    ("level", "names"), [("", ("dog", "toon")), ("1", ("a", "b")), ("path", ("a/dog", "a/toon", "b/toon"))]
)
def test_levels_of_folders(tmp_path, level, names):
    """faults C5: unrelated folders of one name are one class only where that was asked for, and it is said."""
    for place in ("a/toon", "b/toon", "a/dog"):
        (tmp_path / "in" / place).mkdir(parents=True)
        (tmp_path / "in" / place / "1.jpg").write_bytes(make_image(1))
    source = folder_source(str(tmp_path / "in"), Fields(label_level=level, attributes=("kind", "style")))
    assert source.class_names == names
    assert source.attributes == {"kind": ("a", "b"), "style": ("dog", "toon")}
    assert any("toon (2 folders)" in note for note in source.notes) == (level == "")
    with pytest.raises(DataError, match="--label_level"):
        folder_source(str(tmp_path / "in"), Fields(label_level="0"))


def write_parquet(path, rows, features=None):
    table = pyarrow.Table.from_pylist(rows)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path, row_group_size=2)


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_with_images(tmp_path, struct):
    """faults C4: the form in which most sets are published; class names and splits as Hugging Face writes them."""
    rows = [
        {
            "image": {"bytes": make_image(n), "path": f"{n}.jpg"} if struct else make_image(n),
            "label": n % 2,
            "text": f"t {n}",
        }
        for n in range(5)
    ]
    rows[4]["image"] = {"bytes": None, "path": "x.jpg"} if struct else b""
    names = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    write_parquet(tmp_path / "train-00000-of-00001.parquet", rows, names)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", rows[:1], names)
    source = parquet_source(str(tmp_path), Fields())
    assert [shard.split for shard in source.shards] == ["test", "train", "train", "train"]
    manifest, report = make(source, tmp_path / "out")
    assert manifest.class_names == ("cat", "dog")
    assert {split: entry["count"] for split, entry in manifest.splits.items()} == {"test": 1, "train": 4}
    assert [record["captions"] for record in open_records(tmp_path / "out", "train")] == [[f"t {n}"] for n in range(4)]
    assert (report["no_image"], report["images_in_two_splits"]) == (1, {"test and train": 1})
    with pytest.raises(DataError, match="--source=parquet") as error:
        folder_source(str(tmp_path), Fields(), str(tmp_path / "test-00000-of-00001.parquet"))
    assert len(str(error.value)) < 500


def test_braces_and_joined_patterns(tmp_path):
    """faults C4"""
    assert expand_braces("a{08..10}b{x,y}") == ["a08bx", "a08by", "a09bx", "a09by", "a10bx", "a10by"]
    for number in range(3):
        write_tar(tmp_path / f"{number:03d}.tar", {f"{number}": sample(number)})
    joined = f"{tmp_path}/{{000..001}}.tar::{tmp_path}/002.tar"
    assert [shard.name for shard in webdataset_source(joined, Fields()).shards] == ["000.tar", "001.tar", "002.tar"]
    with pytest.raises(DataError, match=r"003\.tar"):
        webdataset_source(f"{tmp_path}/{{000..003}}.tar", Fields())


def test_equal_images_are_counted_and_kept_on_one_side(tmp_path):
    """faults C12"""
    root = tmp_path / "in"
    root.mkdir()
    for number in range(40):
        (root / f"{number:02d}.jpg").write_bytes(make_image(number % 10))
    splits = {"train": 0.5, "test": 0.5}
    _, by_name = make(folder_source(str(root), Fields()), tmp_path / "a", splits)
    manifest, by_image = make(folder_source(str(root), Fields()), tmp_path / "b", splits, split_by_image=True)
    assert by_name["images_in_two_splits"]["test and train"] > 0
    assert by_image["images_in_two_splits"] == {}
    assert by_image["duplicate_images"] == 30
    assert all(entry["count"] % 4 == 0 for entry in manifest.splits.values())


def test_a_set_of_classes_has_no_line_for_every_missing_caption_and_empty_splits_are_said(tmp_path):
    """faults C14"""
    (tmp_path / "in" / "cat").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "in" / "cat" / f"{number}.jpg").write_bytes(make_image(number))
    source, out = folder_source(str(tmp_path / "in"), Fields()), tmp_path / "out"
    manifest, report = make(source, out, {"train": 0.999, "val": 0.001})
    assert report["no_caption"] == 3
    assert (out / "problems.jsonl").read_text() == ""
    assert "problems.jsonl" not in "".join(summary(manifest, report, out))
    assert report["empty_splits"] == ["val"]


def test_one_odd_label_does_not_stop_the_work(tmp_path):
    """faults C10: a text as `label` in JSON that nobody asked for."""
    odd = json.dumps({"caption": "a", "label": "a sentence"}).encode()
    write_tar(tmp_path / "a.tar", {"000": sample(0, json=odd), "001": sample(1)})
    _, report = make(webdataset_source(str(tmp_path / "a.tar"), Fields()), tmp_path / "out")
    assert (report["kept"], report["unknown_label"]) == (2, 1)


def test_a_negative_number_is_no_class(tmp_path):
    """faults C3, C10: -1 is "no label"; -2 is counted, and refused where labels were asked for."""
    np.savez(tmp_path / "v.npz", vectors=np.eye(4, dtype=np.float32), label=np.array([0, 1, -1, -2]))
    source = vectors_source(str(tmp_path / "v.npz"), Fields(), 4)
    _, report = make(source, tmp_path / "out")
    assert (report["kept"], report["unknown_label"]) == (4, 1)
    assert sorted(record["label"] for record in open_records(tmp_path / "out", "train")) == [-1, -1, 0, 1]
    with pytest.raises(DataError, match="label of 3 = -2: expected a number from 0 to 2147483646"):
        make(source, tmp_path / "asked", asked=("--label_field",))


def test_a_file_without_a_row_is_refused(tmp_path):
    """faults C10: no input shard at all made the command count ids for ever."""
    np.savez(tmp_path / "v.npz", vectors=np.zeros((0, 4), np.float32), label=np.zeros(0, np.int64))
    with pytest.raises(DataError, match="records of t = 0: expected at least one"):
        make(vectors_source(str(tmp_path / "v.npz"), Fields(), 4), tmp_path / "out")


def test_images_that_use_few_of_their_bits_have_a_line(tmp_path):
    """faults C1: they are kept, nearly black."""
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8)).save(buffer, "PNG")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(buffer.getvalue())
    manifest, report = make(folder_source(str(tmp_path / "in"), Fields()), tmp_path / "out")
    assert (report["kept"], report["dark_16_bit"], report["image_16_bit"]) == (1, 1, 1)
    assert (tmp_path / "out" / "problems.jsonl").read_text().count('"a.png", "dark_16_bit"') == 1
    assert any("dark_16_bit: 1" in line for line in summary(manifest, report, tmp_path / "out"))
