"""The icons set, from a package made here: which sets are taken, captions, licenses, splits by name."""

import json

import pytest

from xsample_jax.data.decode import decode_image
from xsample_jax.data.records import open_records
from xsample_jax.errors import DataError
from xsample_jax.prepare.icons import LICENSES, PACKAGE, VERSION, icons_source, spoken_names
from xsample_jax.prepare.job import ImageOptions, Job
from xsample_jax.prepare.prepare import local_runner, prepare

SQUARE = '<path fill="currentColor" d="M0 0h24v24H0z"/>'
NAMES = [f"thing{number}" for number in range(40)]


@pytest.fixture
def npm(tmp_path):
    """A folder with four sets: two to take, one of another license, one of logos."""
    package = tmp_path / "npm" / "node_modules" / PACKAGE
    (package / "json").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": VERSION}))
    sets = {
        "alpha": ("MIT", "UI 24px"),
        "beta": ("CC-BY-4.0", None),
        "gnu": ("GPL-3.0", None),
        "logos": ("MIT", "Logos"),
    }
    collections = {name: {"license": {"spdx": spdx}, "category": kind} for name, (spdx, kind) in sets.items()}
    (package / "collections.json").write_text(json.dumps(collections))
    for name in sets:
        icons = {f"{thing}-outline": {"body": SQUARE} for thing in NAMES} | {"blank": {"body": "<g/>"}}
        icons |= {"broken": {"body": "<path"}} if name == "beta" else {}
        data = {"prefix": name, "icons": icons, "width": 24, "height": 24}
        data |= {"categories": {"Tools": ["thing1-outline"], "Home": ["thing1-outline"]}} if name == "alpha" else {}
        (package / "json" / f"{name}.json").write_text(json.dumps(data))
    return tmp_path / "npm"


def test_the_set(npm, tmp_path):
    job = Job("icons", icons_source(str(npm)), {"train": 0.5, "val": 0.5}, ImageOptions())
    manifest, report = prepare(job, tmp_path / "out", local_runner(1))
    assert (report["kept"], report["no_image"], report["broken_image"]) == (80, 2, 1)
    assert manifest.attributes == {"style": ["alpha", "beta"], "license": list(LICENSES)}
    names = {}
    for split in manifest.splits:
        records = list(open_records(tmp_path / "out", split, channels=4))
        names[split] = {record["captions"][0].split(".")[0] for record in records}
        assert len(records) == 2 * len(names[split])  # both styles of a name are in the same split
        for record in records:
            license = LICENSES[record["attributes"]["license"]]
            assert license == ("MIT", "CC-BY-4.0")[record["attributes"]["style"]]
            if record["captions"][0].startswith("thing1.") or record["captions"][0] == "thing1":
                assert record["captions"] == [("thing1. Tools, Home", "thing1")[record["attributes"]["style"]]]
        assert tuple(decode_image(records[0]["image"], 64, 4)[32, 32]) == (0x33, 0x33, 0x33, 255)
    assert not names["train"] & names["val"]
    assert names["train"] | names["val"] == set(NAMES)


@pytest.mark.parametrize(
    ("icons", "shown"),
    [
        ("cart-plus-outline-24 line-chart outline", "cart plus|line chart|outline"),
        ("star-line star-fill star", "star|star|star"),
        ("traffic-light traffic-light-fill pipe-line", "traffic light|traffic light|pipe line"),
        ("wave-dark-skin-tone wave-light-skin-tone", "wave dark skin tone|wave light skin tone"),
        ("bell-two-tone bell-sharp", "bell|bell"),
        ("dice-3 dice-4-fill bell-20-filled bell-10px", "dice 3|dice 4|bell|bell"),
        ("home home-2-line home-2-fill home-05 html-5", "home|home|home|home|html 5"),
        ("round-home sharp-home round-table", "home|home|round table"),  # the set has the prefixes round, sharp
        ("sun-remix sun house-remix-24", "sun|sun|house remix"),  # and the suffix remix
    ],
)
def test_names(icons, shown):
    data = {"icons": dict.fromkeys(icons.split()), "prefixes": {"round": "", "sharp": ""}, "suffixes": {"remix": ""}}
    assert list(spoken_names(data).values()) == shown.split("|")


def test_another_version_is_refused(npm):
    (npm / "node_modules" / PACKAGE / "package.json").write_text('{"version": "1.0.0"}')
    with pytest.raises(DataError, match=f"version {VERSION}"):
        icons_source(str(npm))
