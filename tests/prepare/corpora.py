"""Small corpora as people have them: tars of img2dataset, folders of images."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from xsample_jax.data.decode import decode_image
from xsample_jax.data.records import open_records
from xsample_jax.data.sources import EMOJI_FOLDER
from xsample_jax.prepare.example import Fields
from xsample_jax.prepare.job import ImageOptions, Job
from xsample_jax.prepare.prepare import local_runner, prepare
from xsample_jax.prepare.webdataset import webdataset_source


def make_image(seed=0, width=40, height=30, kind="JPEG", mode="RGB", **options) -> bytes:
    """A smooth image with some noise, different for every seed."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sample(number, **changes):
    """Members of one example: {suffix: bytes}; a change to None takes the member away."""
    caption = f"caption number {number % 7}"
    members = {
        "jpg": make_image(number),
        "txt": caption.encode(),
        "json": json.dumps({"caption": caption, "label": number % 3, "key": f"{number:09d}"}).encode(),
    }
    return {suffix: data for suffix, data in {**members, **changes}.items() if data is not None}


def write_tar(path, samples):
    """Writes {key: members} or [(key, members), ...]; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items() if isinstance(samples, dict) else samples:
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def write_corpus(folder, tars=3, each=12):
    """A folder of tars; keys count through all of them."""
    for tar in range(tars):
        numbers = range(tar * each, (tar + 1) * each)
        write_tar(folder / f"{tar:05d}.tar", {f"{number:09d}": sample(number) for number in numbers})
    return folder


def write_emoji_tars(folder, tars, each):
    """Images of the embedded set as img2dataset leaves them: JPEGs on white, first caption, group as label."""
    source = open_records(EMOJI_FOLDER, "train", channels=4)
    places = range(0, len(source), len(source) // (tars * each))  # of all groups
    for tar in range(tars):
        samples = {}
        for number in range(tar * each, (tar + 1) * each):
            record = source[places[number]]
            buffer = io.BytesIO()
            Image.fromarray(decode_image(record["image"], 64, 3)).save(buffer, "JPEG", quality=95)
            caption, key = record["captions"][0], f"{tar:05d}{number:04d}"
            row = {"caption": caption, "key": key, "status": "success", "label": record["attributes"]["group"]}
            samples[key] = {"jpg": buffer.getvalue(), "txt": caption.encode(), "json": json.dumps(row).encode()}
        write_tar(folder / f"{tar:05d}.tar", samples)
        (folder / f"{tar:05d}_stats.json").write_text(json.dumps({"count": each, "successes": each}))
    return folder


def make_job(folder, fields=None, **changes):
    options = {"name": "t", "splits": {"train": 0.8, "val": 0.2}, "image": ImageOptions(size=24)} | changes
    return Job(source=webdataset_source(str(folder), fields or Fields()), **options)


def run(job, out, processes=1):
    return prepare(job, out, local_runner(processes))


def run_one(tmp_path, members, **changes):
    """Prepares one good example and one with these members; returns (its record or None, report, lines of problems)."""
    write_tar(tmp_path / "in" / "a.tar", {"good": sample(0), "odd": members})
    out = tmp_path / "out"
    _, report = run(make_job(tmp_path / "in", splits={"train": 1.0}, **changes), out)
    problems = [json.loads(line) for line in (out / "problems.jsonl").read_text().splitlines()]
    records = {record["id"]: record for record in open_records(out, "train")}
    return records.get(1), report, problems


def contents(folder):
    """{name: bytes} of all files of a folder, at any depth."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
