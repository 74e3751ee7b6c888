"""tools.inspect on the embedded set and on sets made here: its page, what it reads, its errors."""

import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests.data.record_sets import ENCODER
from tests.tools.test_evaluate import save_run
from tests.tools.test_report import read
from xsample_jax.data.records import open_records
from xsample_jax.data.writer import write_records
from xsample_jax.errors import CheckpointError, DataError
from xsample_jax.models import resnet
from xsample_jax.reports.caption_graph import read_sample
from xsample_jax.reports.inspect import weights_and_directions
from xsample_jax.tools import inspect


def png(value) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value % 256, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_set(folder, count=60, embedded=lambda number: True, encoder=ENCODER):
    def records():
        for number in range(count):
            rng = np.random.default_rng(number // 2)  # every caption twice
            record = {"id": number, "image": png(number), "captions": [f"<thing {number // 2}>", "other"]}
            if embedded(number):
                record["caption_embeddings"] = rng.normal(size=(2, 4)).astype(np.float16)
            yield record

    write_records(folder, "made", {"train": records()}, text_encoder=encoder)
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    out = folder / "page.html"
    inspect.run([f"--data={write_set(folder / 'set')}", f"--out={out}", "--batch_size=32", "--tau_s=0.4"])
    return out


def test_page_is_self_contained_and_has_every_part(page):
    outline, text = read(page)
    assert {"advice", "graph", "ladder", "closest", "duplicates"} <= set(outline.ids)
    assert all(source.startswith("data:image/png;base64,") for source in outline.sources)
    assert "<thing 7>" in text  # a caption is text, not markup
    assert "all records" in text
    assert "2 × <thing" in text
    for name in ("similarities", "entropy_against_tau", "effective_neighbors_against_tau", "masses_against_tau-dark"):
        assert Image.open(page.with_name("page_figures") / f"{name}.png").size[0] > 100
    assert "0.5 others with its own caption" in text  # 31 others, one in 59 of them


def test_a_large_set_is_sampled_and_the_page_says_so(tmp_path, capsys):
    folder = write_set(tmp_path / "set")
    inspect.run([f"--data={folder}", f"--out={tmp_path / 'page.html'}", "--sample=40"])
    _, text = read(tmp_path / "page.html")
    assert "40 random records of 60" in text
    assert "random sample of the set" in text
    assert "larger --sample" in text  # 256 images a batch were asked for
    assert "40 random records of 60" in capsys.readouterr().out


def test_own_vectors_may_be_equal_where_captions_are_not(tmp_path, capsys):
    for name, encoder in (("texts", ENCODER), ("own", ENCODER | {"per": "record", "key": "id"})):
        vectors = np.random.default_rng(0).normal(size=(20, 1, 4)).astype(np.float16).repeat(2, axis=0)
        records = [
            {"id": number, "image": png(number), "captions": [f"thing {number}"], "caption_embeddings": vector}
            for number, vector in enumerate(vectors)
        ]
        write_records(tmp_path / name, "made", {"train": records}, text_encoder=encoder)
        inspect.run([f"--data={tmp_path / name}", f"--out={tmp_path / 'page.html'}"])
        assert ("have the embedding of another caption" in capsys.readouterr().out) == (name == "texts")


def test_sample_is_random_bounded_and_counts_what_has_no_embedding(tmp_path):
    source = open_records(write_set(tmp_path / "set", 300, lambda number: number % 3), "train")
    sample = read_sample(source, "first", 90)
    assert len(sample) + sample.without == 90
    assert 15 < sample.without < 45
    assert np.all(np.diff(sample.index) > 0)
    assert np.all(sample.index % 3)
    assert not np.array_equal(sample.index, read_sample(source, "first", 90, seed=1).index)
    record = source[int(sample.index[5])]
    row = record["caption_embeddings"][0].astype(np.float32)
    np.testing.assert_allclose(sample.embedding[5], row / np.linalg.norm(row), atol=1e-3)
    assert sample.captions[5] == record["captions"][0]
    assert read_sample(source, "1", 90).captions[5] == "other"
    assert len(read_sample(source, "mean", 10**6)) == 200


def test_config_says_split_caption_batch_and_temperature(tmp_path):
    folder = write_set(tmp_path / "set", 64)
    config = tmp_path / "config.py"
    config.write_text(
        "from xsample_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.steps, config.batch_size, config.views = 1, 32, 3\n"
        "    config.data.update(source='records', path='nowhere', caption='1')\n"
        "    config.eval.suite = 'none'\n"
        "    config.objective.target_temperature = 0.3\n"
        "    return config\n"
    )
    inspect.run([f"--data={config}", f"--config.data.path={folder}", f"--out={tmp_path / 'page.html'}"])
    _, text = read(tmp_path / "page.html")
    for words in ("32 images × 3 views", "data.caption = 1", "tau_s 0.3"):
        assert words in text


def test_a_batch_of_a_few_images(tmp_path):
    folder = write_set(tmp_path / "set", 64)
    inspect.run([f"--data={folder}", "--batch_size=4", f"--out={tmp_path / 'page.html'}"])
    assert "4 images × " in read(tmp_path / "page.html")[1]


def test_class_texts_in_place_of_captions(tmp_path):
    folder = tmp_path / "set"
    records = ({"id": i, "image": png(i), "label": i % 4 if i < 60 else -1, "captions": []} for i in range(64))
    write_records(folder, "classes", {"train": records}, class_names=["ant", "bee", "cat", "dog"])
    texts = np.eye(4, 8) + 0.1
    np.save(folder / "class_embeddings.npy", texts.astype(np.float16))
    sample = read_sample(open_records(folder, "train"), class_embeddings=texts)
    assert (len(sample), sample.without) == (60, 4)
    np.testing.assert_allclose(sample.embedding[5], texts[1] / np.linalg.norm(texts[1]), rtol=1e-6)
    inspect.run([f"--data={folder}", "--classes", f"--out={tmp_path / 'page.html'}", "--batch_size=32"])
    _, text = read(tmp_path / "page.html")
    assert "class texts; 4 different ones" in text
    assert "15 × ant" in text
    assert "4 of the records looked at have no caption embedding" in text


def test_embedded_set(tmp_path, capsys):
    inspect.run(["--data=emoji", "--split=val", "--tau_s=0.2", f"--out={tmp_path / 'page.html'}"])
    said = capsys.readouterr().out
    assert "all-mpnet-base-v2" in said
    assert "warning: " in said
    assert "unrelated images" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data=missing"], "manifest"),
        (["--data=emoji", "--split=nothing"], "split"),
        (["--data=emoji", "--sample=0"], "from 1 to"),
        (["--data=emoji", "--tau_s=nan"], "from 0.0001 to"),
        (["--data=emoji", "--views=1000000000"], "from 1 to 64"),
        (["--data=emoji", "--seed=-1"], "from 0 to"),
        (["--data=emoji", "--config.seed=1"], "config file"),
        (["--data=emoji", "--sample=8"], "at least 16"),
    ],
)
def test_wrong_arguments(arguments, words, tmp_path):
    with pytest.raises(DataError, match=words):
        inspect.run([*arguments, f"--out={tmp_path / 'page.html'}"])
    assert not (tmp_path / "page.html").exists()


def test_a_set_without_embeddings_is_told_to_embed(tmp_path):
    folder = write_set(tmp_path / "set", 20, lambda number: False)
    with pytest.raises(DataError, match=r"tools\.embed --data="):
        inspect.run([f"--data={folder}", f"--out={tmp_path / 'page.html'}"])


def test_weights_and_directions_are_the_published_ones():
    """Golden, transcribed from arXiv 2510.14824: z1 against z3 at tau = 0.1."""
    tests = pathlib.Path(__file__).parents[1]
    cases = json.loads((tests / "evals" / "goldens.json").read_text())["cases"]
    case = next(case for case in cases if case["name"].startswith("weight and direction"))
    common = json.loads((tests / "objectives" / "goldens.json").read_text())["common"]
    z1, z3 = (np.asarray(common[name]) for name in ("z1", "z3"))
    found, apart = (weights_and_directions(z1, z3, 0.1, compete) for compete in (True, False))
    assert found["positive"].mean() == pytest.approx(case["expected"], rel=1e-5)
    assert found["negative"].mean() == pytest.approx(case["also"]["negative_weight_infonce"], rel=1e-5)
    assert apart["positive"].mean() == pytest.approx(case["also"]["positive_weight_sigmoid"], rel=1e-5)
    assert apart["negative"].mean() == pytest.approx(case["also"]["negative_weight_sigmoid"], rel=1e-5)
    np.testing.assert_allclose(found["norm"], case["also"]["row_gradient_norms"], rtol=1e-5)
    np.testing.assert_allclose(found["cosine"], case["also"]["row_direction_cosine_with_positive"], rtol=1e-5)


def test_the_gradient_of_a_run_is_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))
    save_run(tmp_path / "run", steps=(3,), eval__split="test_styles")
    out = tmp_path / "page.html"
    flags = [f"--data={write_set(tmp_path / 'set', 20)}", f"--out={out}", "--batch_size=16"]
    with pytest.raises(CheckpointError, match="nowhere"):
        inspect.run([*flags, f"--run={tmp_path / 'nowhere'}"])
    assert not out.exists()
    inspect.run([*flags, f"--run={tmp_path / 'run'}"])
    *_, head, softmax, sigmoid, last = capsys.readouterr().out.splitlines()
    assert head == "gradient at step 3: two views of 229 images of split test_styles, tau 0.1"
    assert softmax.startswith("  softmax: weight of the positive 0.")
    assert sigmoid.startswith("  sigmoid: ")
    assert last == str(out)
