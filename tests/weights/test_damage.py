"""Damaged files of weights and of text models: arrays or one DataError, never another exception."""

import json
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.captions.tiny_models import write_model
from xsample_jax.captions.sentence_model import read_folder
from xsample_jax.data.class_texts import class_name_embeddings, class_text_encoder
from xsample_jax.errors import DataError
from xsample_jax.io.files import load_arrays
from xsample_jax.weights.files import read_weights, write_safetensors

TORCH = Path(__file__).parent / "torch.pth"
ARRAYS = {"a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, np.float16)}


def whole_file(kind: str, folder: Path) -> bytes:
    path = folder / f"whole.{kind}"
    if kind == "safetensors":
        write_safetensors(path, ARRAYS, {"load": "x"})
    elif kind == "npz":
        np.savez(path, **ARRAYS)
    elif kind == "deflated.npz":
        np.savez_compressed(path, **ARRAYS)
    elif kind == "npy":
        np.save(path, ARRAYS["a/kernel"])
    else:
        return TORCH.read_bytes()
    return path.read_bytes()


def damaged(whole: bytes, count: int):
    """`whole` cut, or with one to three bytes changed, at `count` places."""
    rng = random.Random(0)
    for number in range(count):
        if number % 4 == 0:
            yield whole[: rng.randrange(len(whole))]
            continue
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        yield bytes(content)


def outcome(read, path):
    """(what was read, "") or (None, why it was refused)."""
    try:
        return read(path), ""
    except DataError as error:
        return None, str(error)


def read_all(read, path):
    """True where the file was read, False where it was refused; every other outcome is raised."""
    found, message = outcome(read, path)
    assert len(message) <= 500
    if message:
        assert path.name in message
        return False
    for array in found.values() if isinstance(found, dict) else [found]:
        np.array(array)  # every byte
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["safetensors", "npz", "deflated.npz", "npy", "pth", "bin"])
def test_damaged_files_are_read_or_refused(kind, tmp_path):
    """faults D5: most damaged .npz files and some .pth files gave a traceback."""
    whole = whole_file(kind, tmp_path)
    path = tmp_path / f"x.{kind}"
    read = load_arrays if kind == "npy" else read_weights
    path.write_bytes(whole)
    assert read_all(read, path)
    refused = 0
    for content in damaged(whole, 240):
        path.write_bytes(content)
        refused += not read_all(read, path)
    assert refused > 60  # at the least all that were cut


def entry(**changes):
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 3},
        {"a": {"dtype": "F32"}},
        {"a": entry(shape=[2, -3])},
        {"a": entry(shape=[-2, -3])},
        {"a": entry(shape=[2, 3.0])},
        {"a": entry(shape=6)},
        {"a": entry(shape=[2, 2])},
        {"a": entry(shape=[2**62, 4])},
        {"a": entry(data_offsets=[24, 0])},
        {"a": entry(data_offsets=[-24, 0])},
        {"a": entry(data_offsets=[0, 10**30])},
        {"a": entry(data_offsets=[0])},
        {"a": entry(dtype=["F32"])},
        {"a": entry(dtype="F8")},
        {"a": entry(), "b": entry()},
        {"a": entry(), "b": entry(shape=[3], data_offsets=[20, 32])},
    ],
)
def test_headers_of_safetensors_are_checked(header, tmp_path):
    """faults D5: the header was believed."""
    text, path = json.dumps(header).encode(), tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(48))
    assert not read_all(read_weights, path)


def test_length_and_depth_of_a_safetensors_header(tmp_path):
    path, deep = tmp_path / "x.safetensors", b"[" * 200_000
    for content in ((2**63).to_bytes(8, "little") + b"{}", len(deep).to_bytes(8, "little") + deep + b"x"):
        path.write_bytes(content)
        assert not read_all(read_weights, path)


def npy(shape: str, data: bytes = bytes(24), dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        npy("(2, 4)"),
        npy("(2, 2)"),
        npy("(-2, -3)"),
        npy("(10 ** 12,)"),
        npy("(1000000000000,)"),
        npy("(0, 100000000000000000000)", b""),
        npy("(3,)", dtype="|O"),
        npy("(" * 5000),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
        b"\x93NUMPY\x09\x00",
        b"",
    ],
)
def test_headers_of_npy_are_checked(content, tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)
    assert not read_all(read_weights, path)
    (tmp_path / "x.npy").write_bytes(content)
    assert not read_all(load_arrays, tmp_path / "x.npy")


def test_an_array_of_words_is_no_weight(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array(["word"]))
    assert not read_all(read_weights, tmp_path / "x.npz")


@pytest.mark.parametrize("kind", ["npz", "pth"])
def test_zip_members_that_promise_more_than_they_hold(kind, tmp_path):
    """A member's declared size, method and encryption are checked before it is read."""
    path = tmp_path / f"x.{kind}"
    fields = {"size": (24, "<I", 0xF0000000), "method": (10, "<H", 99), "flags": (8, "<H", 1), "at": (42, "<I", 2**31)}
    whole = whole_file(kind, tmp_path)
    for offset, form, value in fields.values():
        content, place = bytearray(whole), whole.find(b"PK\x01\x02")
        while place >= 0:
            struct.pack_into(form, content, place + offset, value)
            place = whole.find(b"PK\x01\x02", place + 4)
        path.write_bytes(content)
        assert not read_all(read_weights, path)


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("xsample_jax.io.files.ROOM", 1 << 20)
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        for _ in range(8):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match="unpack"):
        read_weights(path)


def persistent(count: int, shape: str, strides: str, offset: int = 0, put: int = 0) -> bytes:
    """A pickle of {"a": tensor}, whose storage `0` has `count` floats, in protocol 0."""
    storage = f"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI{count}\ntQ"
    return f"(dS'a'\nctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n{shape}{strides}tRp{put}\ns.".encode()


@pytest.mark.parametrize(
    ("pickled", "good"),
    [
        (persistent(6, "(I2\nI3\nt", "(I3\nI1\nt"), True),
        (persistent(-1, "(I2\nI3\nt", "(I3\nI1\nt"), False),
        (persistent(7, "(I2\nI3\nt", "(I3\nI1\nt"), False),
        (persistent(10**15, "(I2\nI3\nt", "(I3\nI1\nt"), False),
        (persistent(6, "(I-2\nI-3\nt", "(I3\nI1\nt"), False),
        (persistent(6, "(I2\nI3\nt", "(I1\nt"), False),  # fewer strides than sides
        (persistent(6, "(I2\nI3\nt", "(I3\nI1\nt", offset=-1), False),
        (persistent(6, "(I2\nI3\nt", "(I3\nI1\nt", offset=1), False),
        (persistent(6, "(I100000000000\nt", "(I0\nt"), False),  # one number as a terabyte
        (persistent(6, "(I2\nI3\nt", "(I3\nI1\nt", put=10**9), False),  # a table of memos of gigabytes
        (b"(" * 100_000 + b".", False),
        (b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".", False),
    ],
)
def test_pickles_are_checked(pickled, good, tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/data/0", bytes(24))
    assert read_all(read_weights, path) == good


def test_a_folder_in_place_of_a_file(tmp_path):
    for kind in ("safetensors", "npz", "pth"):
        (tmp_path / f"x.{kind}").mkdir()
        assert not read_all(read_weights, tmp_path / f"x.{kind}")


class Source:
    class manifest:
        class_names = ("x", "y")


@pytest.mark.parametrize("about", ["{}", "[]", "3", "{", "\udcff", '{"class_names": 3}', '{"class_names": {}}'])
def test_what_is_said_about_class_embeddings(about, tmp_path):
    np.save(tmp_path / "class_embeddings.npy", np.ones((2, 4), np.float16))
    (tmp_path / "class_embeddings.json").write_text(about, errors="surrogateescape")
    with pytest.raises(DataError, match=r"class_embeddings\.json"):
        class_name_embeddings(tmp_path, Source)
    with pytest.raises(DataError, match=r"class_embeddings\.json"):
        class_text_encoder(tmp_path, Source)


@pytest.mark.parametrize("array", [np.float16(1), np.ones(2, np.float16), np.array([["a"], ["b"]]), np.ones((2, 1, 1))])
def test_class_embeddings_of_another_kind(array, tmp_path):
    np.save(tmp_path / "class_embeddings.npy", array)
    with pytest.raises(DataError, match=r"class_embeddings\.npy"):
        class_name_embeddings(tmp_path, Source)


FILES = ("config.json", "modules.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json")
WRONG = (None, [], {}, 3, -1, 0, "x", [3], {"a": 1}, True, 10**30, float("nan"))


@pytest.mark.parametrize("name", [*FILES, "1_Pooling/config.json"])
def test_settings_of_a_text_model(name, tmp_path):
    """faults D5: every value of every file of a folder replaced by one of another kind, and the file cut."""
    folder = write_model(tmp_path / "m", "bert")
    file = folder / name
    text = file.read_text() if file.exists() else "{}"
    content = json.loads(text)
    keys = range(len(content)) if isinstance(content, list) else [*content]
    variants = [json.dumps(wrong) for wrong in WRONG] + [text[: len(text) // 2], "[" * 100_000]
    for key in keys:
        for wrong in WRONG:
            changed = json.loads(text)
            changed[key] = wrong
            variants.append(json.dumps(changed))
    for variant in variants:
        file.write_text(variant)
        assert len(outcome(read_folder, folder)[1]) <= 500
    file.unlink(missing_ok=True)
    file.mkdir()
    with pytest.raises(DataError):
        read_folder(folder)
