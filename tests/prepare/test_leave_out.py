"""Records that are left out: by attribute, and by an image that is nearly one of another set."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from xsample_jax.data.records import open_records, read_manifest
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Source
from xsample_jax.prepare.leave_out import NEAR, mean_ink, nearest_images, parse_left_out
from xsample_jax.tools.prepare import run

NAMES = {"style": ["flat", "line", "emoji"], "kind": ["a", "b"]}


def disk(center, color, side=64, radius=14, alpha=True):
    """The PNG of a disk on a transparent (or white) square."""
    y, x = np.mgrid[:side, :side]
    inside = (x - center[0]) ** 2 + (y - center[1]) ** 2 < radius**2
    pixels = np.full((side, side, 4), 255, np.uint8)
    pixels[..., 3] = 255 * (inside | (not alpha))
    pixels[inside, :3] = color
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def sets(tmp_path):
    """Two sets: ten disks along a line with attributes, and one with near copies of number 3 and, larger, of 6."""
    records = [
        {"id": 10 * i, "image": disk((16 + 3 * i, 30), (200, 40, 10 * i)), "captions": [f"disk {i}"], "label": i % 2}
        | {"attributes": {"style": i % 3, "kind": i % 2}}
        for i in range(10)
    ]
    write_records(tmp_path / "all", "all", {"train": records[:7], "val": records[7:]}, ("even", "odd"), NAMES)
    other = [
        {"id": 0, "image": disk((25, 30), (196, 44, 33), alpha=False)},
        {"id": 1, "image": disk((68, 60), (200, 40, 60), side=128, radius=28)},
        {"id": 2, "image": disk((43, 30), (20, 40, 200))},  # where number 9 is, in another color
    ]
    write_records(tmp_path / "other", "other", {"test": other})
    return tmp_path


def prepare(sets, *flags):
    run([f"--path={sets / 'all'}", f"--out={sets / 'out'}", "--source=records", "--processes=1", *flags])
    splits = read_manifest(sets / "out").splits
    found = [record for split in splits for record in open_records(sets / "out", split, channels=4)]
    lines = [json.loads(line) for line in (sets / "out" / "problems.jsonl").read_text().splitlines()]
    return found, [(key, kind, detail) for _, key, kind, detail in lines]


def test_attributes_and_near_images_go_and_all_else_stays(sets):
    flags = ["--leave_out=style=emoji,line", "--leave_out=kind=a", f"--leave_out_near={sets / 'other'}"]
    found, problems = prepare(sets, *flags)
    # Style emoji or line: 1, 2, 4, 5, 7, 8; kind a: even; near: 3 (and 6, which is even). 9 has another color.
    assert [record["id"] for record in found] == [90]
    kinds = {int(key) // 10: kind for key, kind, _ in problems}
    assert kinds == {i: "near_image" if i == 3 else "left_out" for i in range(9)}
    (detail,) = [detail for key, kind, detail in problems if kind == "near_image"]
    assert detail.endswith("id 0 of test")
    assert float(detail.split()[0]) <= NEAR
    (kept,) = found
    (before,) = [record for record in open_records(sets / "all", "val", channels=4) if record["id"] == 90]
    for name in ("image", "captions", "label", "attributes"):
        assert kept[name] == before[name]


def test_near_images_alone(sets):
    found, problems = prepare(sets, f"--leave_out_near={sets / 'other'}")
    assert [record["id"] for record in found] == [0, 10, 20, 40, 50, 70, 80, 90]
    assert {detail.partition(" from ")[2] for *_, detail in problems} == {"id 0 of test", "id 1 of test"}


def test_thin_lines_are_not_alike_for_being_mostly_white():
    across, down = np.zeros((2, 8, 8, 3), np.float32)
    across[3], down[:, 3] = 0.05, 0.05
    ink = np.stack([across.ravel(), down.ravel()])
    index, distance = nearest_images(ink, ink[1:])
    assert index.tolist() == [0, 0]
    expected = np.linalg.norm(ink[0] - ink[1]) / np.linalg.norm(ink[0])
    assert distance == pytest.approx([expected, 0], abs=1e-3)
    assert expected > 1 > NEAR


def test_ink_is_one_minus_the_mean_color():
    image = disk((20, 40), (200, 40, 0), alpha=False)
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), np.float64) / 255
    expected = [1 - pixels[8 * i : 8 * i + 8, 8 * j : 8 * j + 8].mean(axis=(0, 1)) for i in range(8) for j in range(8)]
    assert mean_ink(image) == pytest.approx(np.concatenate(expected), abs=1e-6)


def test_bars_beside_an_image_hold_no_ink():
    def wide(rows, columns):
        pixels = np.full((32, 64, 3), 255, np.uint8)
        pixels[rows, columns] = 0
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return mean_ink(buffer.getvalue())

    across, down = wide(slice(4, 6), slice(None)), wide(slice(None), slice(50, 52))
    assert across.max() == pytest.approx(0.25)
    assert across.reshape(8, 8, 3)[[0, 1, 6, 7]].max() == 0
    _, distance = nearest_images(np.stack([across, down]), down[None])
    assert distance[0] > 0.9
    assert distance[1] == 0


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--leave_out=style", "ATTRIBUTE=VALUE"),
        ("--leave_out=stile=flat", "Did you mean style"),
        ("--leave_out=style=flat,emojy", "Did you mean emoji"),
        ("--leave_out_near=nowhere", "nowhere"),
    ],
)
def test_wrong_flags(sets, flag, message):
    with pytest.raises(DataError, match=message):
        prepare(sets, flag)
    assert not (sets / "out").exists()


def test_another_choice_is_another_job(sets):
    prepare(sets, "--leave_out=kind=a")
    with pytest.raises(DataError, match="--out"):
        prepare(sets, "--leave_out=kind=b")


def test_values_with_a_comma_and_without_a_letter():
    """faults C5: they could not be named."""
    source = Source((), attributes={"s": ("", "x", "x,y", "z")})
    found = [parse_left_out([text], source) for text in ('s="x,y"', "s=", 's="",z', 's=x,"x,y"')]
    assert found == [{"s": (2,)}, {"s": (0,)}, {"s": (0, 3)}, {"s": (1, 2)}]
    with pytest.raises(DataError, match=r"--leave_out = 'y'.*in double quotes"):
        parse_left_out(["s=x,y"], source)
