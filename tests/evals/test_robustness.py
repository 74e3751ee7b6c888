"""Every loader of the robustness table on its official layout, end to end through one probe; counts of all tables."""

import dataclasses
import shutil

import numpy as np
import pytest

from tests.evals.color_world import COLORS, ORDER, WORDNET_IDS, ColorStore, color_config, image, write_sets
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.context import EvalContext, Options
from xsample_jax.evals.metrics import Collector
from xsample_jax.evals.robust_sets import SETS, VARIANTS, Images, by_wordnet_id, imagenet_numbers, table
from xsample_jax.evals.robustness import ROBUSTNESS, correct


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return color_config(tmp_path_factory.mktemp("records") / "set")


@pytest.fixture(scope="module")
def evaluated(root, config):
    store = ColorStore()
    bench, out = EvalContext(store, config, Options(probe="ridge", sets=root)), Collector()
    assert list(ROBUSTNESS.check(bench)) == []
    ROBUSTNESS.run(bench, out)
    return out.result(), store


def test_every_set_through_one_probe(evaluated):
    expected = {
        "imagenet": 4 / 6,
        "imagenet-real": 4 / 5,
        "imagenet-v2": 3 / 4,
        "imagenet-a": 3 / 4,
        "imagenet-r": 1 / 2,
        "imagenet-sketch": 1 / 3,
        **{f"imagenet-9/{variant}": 4 / 6 for variant in VARIANTS},
        "imagenet-9/mixed_rand": 3 / 6,
        "imagenet-9/gap": 1 / 6,
        "objectnet": 3 / 4,
        "objectnet-113": 4 / 4,  # the red one cannot be taken for a tench, and pink is next
    }
    result, _ = evaluated
    found = {name.removeprefix("robustness/"): value for name, value in result.metrics.items()}
    assert found == pytest.approx(expected)
    assert result.interval("robustness/imagenet-9/gap").low < 0 < result.interval("robustness/imagenet-9/gap").high


def test_images_of_a_folder_are_encoded_once_and_whole_where_the_protocol_says_so(evaluated):
    _, store = evaluated
    titles = [title for title, _ in store.encodings]
    assert len(titles) == len(set(titles)) == 5 + len(VARIANTS) + 1  # ReaL and ObjectNet's 113 share theirs
    assert {title for title, whole in store.encodings if whole} == {
        "objectnet-1.0/images",
        *(f"bg_challenge/{variant}/val" for variant in VARIANTS),
    }


def test_counts_that_differ_from_the_official_ones_are_said(evaluated):
    notes = "\n".join(evaluated[0].notes)
    assert "imagenet-a: 4 images are here, the official set has 7,500" in notes
    assert "imagenet-9/only_bg_t: 6 images are here, the official set has 4,050" in notes


def test_a_missing_and_a_spoilt_set_are_reported_and_the_rest_goes_on(root, config, tmp_path):
    shutil.copytree(root / "sketch", tmp_path / "sketch")
    image(tmp_path / "imagenet-a" / WORDNET_IDS[0] / "a.jpg", 0)  # tench is none of the 200
    image(tmp_path / "imagenet" / "val" / WORDNET_IDS[6] / "ILSVRC2012_val_00000001.JPEG", 6)
    bench, out = EvalContext(ColorStore(), config, Options(probe="ridge", sets=tmp_path)), Collector()
    ROBUSTNESS.run(bench, out)
    assert set(out.metrics) == {"robustness/imagenet-sketch", "robustness/imagenet"}
    notes = "\n".join(out.notes)
    assert "imagenet-r: not in" in notes
    assert "https://github.com/hendrycks/imagenet-r" in notes
    assert "imagenet-9/original, imagenet-9/mixed_same" in notes
    assert f"'{WORDNET_IDS[0]}': expected WordNet ids of the 200 classes" in notes
    assert "real.json" in notes


def evaluated_in(folder, config):
    store = ColorStore()
    bench, out = EvalContext(store, config, Options(probe="ridge", sets=folder)), Collector()
    ROBUSTNESS.run(bench, out)
    return out, store


def test_an_image_that_cannot_be_read_leaves_the_other_sets(root, config, tmp_path):
    for name in ("imagenet", "sketch"):
        shutil.copytree(root / name, tmp_path / name)
    shutil.copy(root / "real.json", tmp_path)
    next((tmp_path / "imagenet").rglob("*.JPEG")).write_bytes(b"no image")
    out, store = evaluated_in(tmp_path, config)
    assert set(out.metrics) == {"robustness/imagenet-sketch"}
    notes = [note for note in out.notes if "ILSVRC2012_val_" in note and "these are its first bytes" in note]
    assert [note.partition(":")[0] for note in notes] == ["imagenet", "imagenet-real"]
    assert [title for title, _ in store.encodings] == ["imagenet/val", "sketch"]  # the broken ones only once


def test_a_set_of_classes_that_the_probe_has_not_leaves_the_other_sets(root, config, tmp_path, monkeypatch):
    for name in ("imagenet-r", "sketch"):
        shutil.copytree(root / name, tmp_path / name)
    others = lambda folder: dataclasses.replace(by_wordnet_id(folder), candidates=np.array([5]))  # noqa: E731
    monkeypatch.setitem(SETS, "imagenet-r", dataclasses.replace(SETS["imagenet-r"], lister=others))
    out, _ = evaluated_in(tmp_path, config)
    assert set(out.metrics) == {"robustness/imagenet-sketch"}
    assert any(note.startswith("imagenet-r: classes of the probe") for note in out.notes)


def test_empty_folders_are_said(root, config, tmp_path):
    for robust in SETS.values():
        (tmp_path / robust.places[0]).mkdir(parents=True, exist_ok=True)
    (tmp_path / "imagenet" / "val" / WORDNET_IDS[0]).mkdir()
    (tmp_path / "real.json").write_text("[]")
    shutil.copytree(root / "imagenet-r", tmp_path / "imagenet-r", dirs_exist_ok=True)
    out, store = evaluated_in(tmp_path, config)
    assert set(out.metrics) == {"robustness/imagenet-r"}
    assert [title for title, _ in store.encodings] == ["imagenet-r"]
    for name, robust in SETS.items():
        said = f"{name}: images in {tmp_path / robust.places[0]} = 0: expected at least one"
        assert (name == "imagenet-r") != any(note.startswith(said) for note in out.notes)


def test_real_needs_files_and_a_list_that_is_whole(root, tmp_path):
    shutil.copytree(root / "imagenet", tmp_path / "imagenet")
    (tmp_path / "real.json").write_text("[[0], [0")
    with pytest.raises(DataError, match=r"ImageNet-ReaL.*JSON"):
        SETS["imagenet-real"].listed(tmp_path / "imagenet" / "val")
    shutil.copy(root / "real.json", tmp_path)
    image(tmp_path / "one.png", 0)
    record = {"id": 0, "image": (tmp_path / "one.png").read_bytes(), "label": 0}
    records = [record, record | {"id": 1, "label": -1}]
    write_records(tmp_path / "imagenet" / "validation", "val", {"test": records}, [WORDNET_IDS[0]])
    images = SETS["imagenet"].listed(tmp_path / "imagenet" / "validation")
    assert images.right[images.group].any(axis=1).tolist() == [True, False]  # without a label it does not count
    with pytest.raises(DataError, match=r"'a dataset'.*ILSVRC2012_val_"):
        SETS["imagenet-real"].listed(tmp_path / "imagenet" / "validation")


def test_a_record_set_stands_in_for_a_folder(root, config, tmp_path):
    names = [WORDNET_IDS[number] for number in (407, 0, 409)]
    records = []
    for place, (label, said) in enumerate([(0, 407), (1, 0), (2, 0)]):
        image(tmp_path / "one.png", said)
        records.append({"id": place, "image": (tmp_path / "one.png").read_bytes(), "label": label})
    write_records(tmp_path / "imagenet-v2", "v2", {"test": records}, names)
    bench, out = EvalContext(ColorStore(), config, Options(probe="ridge", sets=tmp_path)), Collector()
    ROBUSTNESS.run(bench, out)
    assert out.metrics == {"robustness/imagenet-v2": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("place", "name", "odd"),
    [
        ("bg_challenge/original/val", "imagenet-9/original", "\u00b2\u00b2_dog"),
        ("imagenetv2-matched-frequency-format-val", "imagenet-v2", "\u00b2"),
        ("imagenetv2-matched-frequency-format-val", "imagenet-v2", "\u0663"),
        ("imagenetv2-matched-frequency-format-val", "imagenet-v2", "1000"),
    ],
)
def test_a_folder_named_by_other_digits_leaves_the_other_sets(root, config, tmp_path, place, name, odd):
    """faults B11: "\u00b2".isdigit() is true, and int() of it ended the whole evaluation."""
    shutil.copytree(root / "sketch", tmp_path / "sketch")
    shutil.copytree(root / place, tmp_path / place)
    (tmp_path / place / odd).mkdir()
    out, _ = evaluated_in(tmp_path, config)
    assert set(out.metrics) == {"robustness/imagenet-sketch"}
    assert any(note.startswith(f"{name}: folder {tmp_path / place / odd} = ") for note in out.notes)


def test_names_of_images_that_are_none_are_left_out_and_said(root, config, tmp_path, capsys):
    """faults B11: one hidden file of macOS, link to nothing or folder took the whole set."""
    place = "imagenetv2-matched-frequency-format-val"
    shutil.copytree(root / place, tmp_path / place)
    folder = tmp_path / place / "11"
    (folder / "._1.jpeg").write_bytes(b"\0\5\x16\7")
    (folder / "x.jpeg").symlink_to("/nowhere.jpeg")
    (folder / "y.jpeg").mkdir()
    image(tmp_path / place / "__MACOSX" / "11" / "0.jpeg", 0)
    out, _ = evaluated_in(tmp_path, config)
    assert out.metrics == {"robustness/imagenet-v2": pytest.approx(3 / 4)}
    said = capsys.readouterr()
    for what in ("1 hidden files left out", "2 names without a file left out", "1 hidden folders left out"):
        assert f"{tmp_path / place}: {what}" in said.out + said.err


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("[[-1], [0], [207], [11], [], [409]]", "-1 is no class"),
        ("[[true], [0], [207], [11], [], [409]]", "True is no class"),
        ("[[1000]]", "1000 is no class"),
        ('{"0": [1]}', "it is another value"),
        ("[0, 1]", "it is another value"),
        ("[[], [], [], [], [], []]", "images with a label in"),
    ],
)
def test_labels_of_real_are_classes_and_some_are_there(root, config, tmp_path, labels, said):
    """faults B11: -1 was class 999, and a set without a label gave the metric nan."""
    shutil.copytree(root / "imagenet", tmp_path / "imagenet")
    (tmp_path / "real.json").write_text(labels)
    out, _ = evaluated_in(tmp_path, config)
    assert set(out.metrics) == {"robustness/imagenet"}
    assert any(note.startswith("imagenet-real: ") and said in note for note in out.notes)


def test_a_record_set_has_only_labels_of_its_subset(tmp_path):
    """Folders of other classes than ImageNet-A's 200 were refused, a dataset of them was not."""
    image(tmp_path / "one.png", 0)
    record = {"id": 0, "image": (tmp_path / "one.png").read_bytes(), "label": 0}
    names = [WORDNET_IDS[number] for number in (6, 0)]  # tench (0) is none of the 200
    write_records(tmp_path / "imagenet-a", "a", {"test": [record]}, names)
    assert len(SETS["imagenet-a"].listed(tmp_path / "imagenet-a").group) == 1
    shutil.rmtree(tmp_path / "imagenet-a")
    write_records(tmp_path / "imagenet-a", "a", {"test": [record | {"label": 1}]}, names)
    with pytest.raises(DataError, match=rf"'{WORDNET_IDS[0]}'.*labels of the 200 classes of imagenet-a"):
        SETS["imagenet-a"].listed(tmp_path / "imagenet-a")


def test_candidates_limit_the_choice():
    scores = np.array([[0.1, 0.9, 0.5], [0.9, 0.2, 0.1]])
    right = np.zeros((2, 1000), bool)
    right[0, 6] = right[1, 11] = True
    group = np.array([0, 1])
    columns = np.array([11, 0, 6])
    everything = Images(lambda size: [], group, right)
    np.testing.assert_array_equal(correct(scores, columns, everything), [0, 1])  # 0 wins the first
    few = Images(lambda size: [], group, right, candidates=np.array([6, 11]))
    np.testing.assert_array_equal(correct(scores, columns, few), [1, 1])
    with pytest.raises(DataError, match="this set is about"):
        correct(scores, columns, Images(lambda size: [], group, right, candidates=np.array([5])))


def test_tables_have_the_published_counts():
    superclasses = table("imagenet9")
    counts = {name: len(classes) for name, classes in superclasses.items()}
    assert counts == {
        "dog": 116, "bird": 52, "vehicle": 42, "reptile": 36, "carnivore": 35, "insect": 27, "instrument": 26,
        "primate": 20, "fish": 16,
    }  # fmt: skip
    every = [number for classes in superclasses.values() for number in classes]
    assert len(every) == len(set(every)) == 370
    names = {WORDNET_IDS[number]: kind for kind, classes in superclasses.items() for number in classes}
    assert names["n02099601"] == "dog"  # golden retriever
    assert names["n02701002"] == "vehicle"  # ambulance
    assert names["n02128385"] == "carnivore"  # leopard
    assert not {"n02123045", "n03063599"} & set(names)  # tabby cat, coffee mug

    folders = table("objectnet")
    assert len(folders) == 113
    assert sum(map(len, folders.values())) == len({n for classes in folders.values() for n in classes}) == 125
    assert [WORDNET_IDS[number] for number in folders["banana"]] == ["n07753592"]
    assert len(folders["chair"]) == 3
    for name in ("imagenet-a", "imagenet-r"):
        assert len(set(table("subsets")[name])) == 200
    assert len(VARIANTS) == 8
    assert sum(name.startswith("imagenet-9/") for name in SETS) == 8


def test_classes_are_found_by_id_and_by_name():
    assert imagenet_numbers(["n01443537", "Tench"]).tolist() == [1, 0]
    assert imagenet_numbers(["golden_retriever", "golden retriever"]).tolist() == [207, 207]
    assert imagenet_numbers(["grinning face"]) is None
    assert imagenet_numbers([]) is None


def problems(bench):
    try:
        return "\n".join(map(str, ROBUSTNESS.check(bench)))
    except UserError as error:
        return str(error)


def test_what_cannot_be_evaluated_is_refused_first(config, tmp_path, root):
    assert "--sets" in problems(EvalContext(ColorStore(), config, Options()))
    assert "at least one test set below it" in problems(EvalContext(ColorStore(), config, Options(sets=tmp_path)))
    text = problems(EvalContext(ColorStore(), config, Options(sets=root, probe="logistics")))
    assert "Did you mean logistic?" in text
    assert "style" in problems(EvalContext(ColorStore(), config, Options(sets=root, target="style")))
    assert len(ORDER) == len(COLORS)
