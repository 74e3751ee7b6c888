"""A run with a text side after training: texts in Python, one file, and the whole model as open_clip has it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer

import xsample_jax
from tests.tiny import tiny_config
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.config import config_to_json, default_config, find_problems, resolve
from xsample_jax.data.captions import END, PADDING
from xsample_jax.data.class_texts import spelled_out
from xsample_jax.data.sources import open_source
from xsample_jax.errors import ConfigError, DataError, Problems
from xsample_jax.evals.evaluate import evaluate_checkpoint
from xsample_jax.evals.zero_shot import mean_over_prompts
from xsample_jax.export import export_open_clip, find_open_clip_problems
from xsample_jax.models import vit
from xsample_jax.reports.model_card import write_repository
from xsample_jax.setup import build_run
from xsample_jax.state import Progress
from xsample_jax.tools.export import main as export_main
from xsample_jax.weights.files import read_safetensors

TEXTS = ["a red fox", "Two   cats, one with a very long description that has to be cut", "", "spells <end> itself"]
MODEL = {
    "model__encoder": "vit_ti",
    "model__layout": "open_clip",
    "model__patch_size": 16,
    "model__head__hidden": (),
    "model__text__layers": 2,
    "model__text__width": 32,
    "model__text__heads": 2,
    "model__text__length": 12,
    "model__text__causal": True,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of a run with a causal text tower, every parameter moved from where it starts, and its encoder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit.VARIANTS, "ti", vit.Shape(48, 2, 3))
        folder = tmp_path_factory.mktemp("run")
        config = tiny_config(steps=1, objective__preset="clip", **MODEL)
        parts, _ = build_run(config)
        state, rng = parts.new_state(), np.random.default_rng(0)
        moved = {name: jax.numpy.asarray(value + 0.1 * rng.normal(size=value.shape), value.dtype)
                 for name, value in state.params.items()}  # fmt: skip
        checkpoints = Checkpoints(folder, config.checkpoint)
        checkpoints.save(dataclasses.replace(state, params=moved), Progress(1, 0), config_to_json(config))
        checkpoints.wait()
        checkpoints.close()
        yield folder, xsample_jax.load_encoder(folder)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """The run in the layout of open_clip, by the command."""
    out = tmp_path_factory.mktemp("published") / "model"
    assert export_main([f"--run={run[0]}", "--format=open_clip", f"--out={out}"]) == 0
    return out


def images(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)


def test_zero_shot_in_three_lines_is_what_the_evaluator_finds(run):
    folder, encoder = run
    evaluation = evaluate_checkpoint(folder, ["zero_shot"], overrides=["--config.eval.split=val_styles"])
    source = open_source(evaluation.config.data, "val_styles")
    records = [source[i] for i in range(len(source))]
    names = spelled_out(source.manifest.class_names)
    classes = mean_over_prompts(names, ["a photo of a {caption}"], encoder.encode_text)
    z = encoder.encode([record["image"] for record in records], project=True)
    labels = np.array([record["label"] for record in records])
    there = np.unique(labels)
    best = there[np.argmax(z @ classes[there].T, axis=1)]
    assert np.mean(best == labels) == pytest.approx(evaluation.result.metrics["zero_shot/label"], abs=1.5 / len(labels))
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    assert np.abs(z[0] - z[-1]).max() > 1e-3


def test_texts_tokens_and_batches(run):
    _, encoder = run
    rows = encoder.encode_text(TEXTS)
    assert (rows.shape, rows.dtype) == ((4, encoder.config.model.head.dim), np.float32)
    np.testing.assert_allclose(encoder.encode_text(TEXTS, batch_size=3), rows, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_text(TEXTS[0]), rows[0], atol=1e-5)
    assert encoder.encode_text([]).shape == (0, rows.shape[1])
    np.testing.assert_allclose(encoder.encode_text(text for text in TEXTS), rows, atol=1e-5)
    for given, batch_size in ((TEXTS, -1), (TEXTS[0], 0), (None, 64), ({"a": 1}, 64)):  # faults C1
        with pytest.raises(DataError, match=r"texts|batch_size"):
            encoder.encode_text(given, batch_size)
    assert np.abs(rows[0] - rows[1]).max() > 1e-2
    tokens = np.array([[1, 7, 8, END, PADDING, PADDING], [1, 7, END, 9, 9, 9]], np.int32)
    short, later = encoder.encode_text(tokens), encoder.encode_text(np.array([[1, 7, 8, END], [1, 7, END, 200]]))
    np.testing.assert_allclose(short, later, atol=1e-5)  # padding, and what comes after the end, changes nothing
    for wrong in (tokens.astype(np.float32), tokens * 0 - 1, np.zeros((1, 13), np.int32)):
        with pytest.raises(DataError, match=r"tokens int \[n, up to 12\]"):
            encoder.encode_text(wrong)
    with pytest.raises(DataError, match="texts = 'int'"):
        encoder.encode_text(["a", 3])
    with pytest.raises(DataError, match=r"source=FOLDER with the tokenizer\.json"):
        encoder.encode_text(["a"], source="nowhere")


def test_one_file_and_the_folder_bring_texts_back(run, folder, tmp_path, monkeypatch):
    _, encoder = run
    expected = encoder.encode_text(TEXTS), encoder.encode(images(), project=True)
    encoder.save(tmp_path / "e.npz")
    saved, published = xsample_jax.load_encoder(tmp_path / "e.npz"), xsample_jax.load_encoder(folder)
    monkeypatch.setattr("xsample_jax.encoder.source_folder", None)  # the dataset may be gone
    for again in (saved, published):
        np.testing.assert_array_equal(again.encode_text(TEXTS), expected[0])
        np.testing.assert_allclose(again.encode(images(), project=True), expected[1], atol=1e-6)
    (folder / "xsample_jax.npz").rename(tmp_path / "kept.npz")
    with pytest.raises(DataError, match=r"model\.init_from"):
        xsample_jax.load_encoder(folder)
    (tmp_path / "kept.npz").rename(folder / "xsample_jax.npz")


def test_a_repository_of_the_hub_holds_the_whole_model(run, tmp_path):
    place, encoder = run
    write_repository(place, tmp_path / "r", repository="me/clip")
    about = json.loads((tmp_path / "r" / "open_clip_config.json").read_text())
    assert about["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "me/clip"  # where open_clip fetches the tokenizer
    card = (tmp_path / "r" / "README.md").read_text()
    assert "zero-shot-image-classification" in card
    assert "encoder.encode_text" in card
    again = xsample_jax.load_encoder(tmp_path / "r")
    np.testing.assert_array_equal(again.encode_text(TEXTS[:1]), encoder.encode_text(TEXTS[:1]))


def test_a_run_without_text_side_says_so():
    demo = xsample_jax.load_encoder("demo")
    with pytest.raises(ConfigError, match=r"text side.*objective\.preset=clip"):
        demo.encode_text(["a"])
    with pytest.raises(DataError, match="save it again"):
        demo.encode(images(1), project=True)


def test_a_causal_text_side_needs_a_transformer():
    config = default_config()
    config.steps, config.model.text.causal = 1, True
    assert [problem.field for problem in find_problems(config)] == ["model.text.causal"]


def test_names_and_shapes_are_those_of_open_clip(run, folder):
    """Of the CLIP of open_clip 3.3.0 with this config; test_open_clip_loads_it compares where that is installed."""
    _, encoder = run
    arrays = read_safetensors(folder / "open_clip_model.safetensors")
    about = json.loads((folder / "open_clip_config.json").read_text())
    block = {
        "ln_1.weight": (1,), "ln_1.bias": (1,), "ln_2.weight": (1,), "ln_2.bias": (1,),
        "attn.in_proj_weight": (3, 1), "attn.in_proj_bias": (3,), "attn.out_proj.weight": (1, 1),
        "attn.out_proj.bias": (1,), "mlp.c_fc.weight": (4, 1), "mlp.c_fc.bias": (4,), "mlp.c_proj.weight": (1, 4),
        "mlp.c_proj.bias": (1,),
    }  # fmt: skip
    dim, vocab = encoder.config.model.head.dim, about["model_cfg"]["text_cfg"]["vocab_size"]
    patches = (encoder.config.augment.size // 16) ** 2
    expected = {
        "logit_scale": (), "visual.proj": (48, dim), "visual.class_embedding": (48,), "text_projection": (32, dim),
        "visual.positional_embedding": (patches + 1, 48), "visual.conv1.weight": (48, 3, 16, 16),
        "positional_embedding": (12, 32), "token_embedding.weight": (vocab, 32),
    }  # fmt: skip
    for name, width in (("visual.ln_pre", 48), ("visual.ln_post", 48), ("ln_final", 32)):
        expected |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for prefix, width in (("visual.", 48), ("", 32)):
        for number in range(2):
            place = f"{prefix}transformer.resblocks.{number}."
            expected |= {place + name: tuple(k * width for k in shape) for name, shape in block.items()}
    assert {name: array.shape for name, array in arrays.items()} == expected
    np.testing.assert_array_equal(arrays["text_projection"], encoder.sides["text/out/kernel"])
    assert arrays["logit_scale"] == encoder.sides["objective/log_scale"]
    assert 0 < abs(float(arrays["logit_scale"]) + np.log(0.07)) < 1  # it was learned from there
    assert about["model_cfg"]["vision_cfg"]["head_width"] == 16


def test_the_bias_of_a_sigmoid_loss_goes_along(run, tmp_path):
    _, encoder = run
    config = encoder.config.copy_and_resolve_references().unlock()
    config.objective.preset = "siglip"
    other = dataclasses.replace(encoder, config=config)  # a preset of a user may have a bias and a transformer
    assert [problem.field for problem in find_open_clip_problems(other)] == ["objective/bias of the encoder"]
    export_open_clip(
        dataclasses.replace(other, sides={**other.sides, "objective/bias": np.float32(-7.5)}), tmp_path / "m"
    )
    about = json.loads((tmp_path / "m" / "open_clip_config.json").read_text())
    assert about["model_cfg"]["init_logit_bias"] == -7.5
    assert read_safetensors(tmp_path / "m" / "open_clip_model.safetensors")["logit_bias"] == -7.5


def test_its_tokenizer_gives_our_tokens(run, folder):
    _, encoder = run
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.enable_truncation(12)
    theirs.enable_padding(length=12)
    rows = [encoding.ids for encoding in theirs.encode_batch(TEXTS[:3])]
    np.testing.assert_array_equal(rows, encoder._rows_of(TEXTS[:3], None))


def test_what_open_clip_cannot_compute_is_named_at_once(run, tmp_path):
    _, encoder = run
    config = encoder.config.copy_and_resolve_references().unlock()
    config.model.update(layout="openai_clip")
    config.model.head.hidden, config.model.text.causal = (8,), False
    other = type(encoder)(resolve(config), 1, encoder.arrays, encoder.sides)
    with pytest.raises(Problems) as caught:
        export_open_clip(other, tmp_path / "out")
    for words in ("openai_clip", "one linear map", "model.text.causal", "cannot mask padding"):
        assert words in str(caught.value)
    assert not (tmp_path / "out").exists()
    problems = find_open_clip_problems(xsample_jax.load_encoder("demo"))
    assert [p.field for p in problems][::2] == [
        "model.encoder and model.layout of the run",
        "model.text.layers of the run",
    ]


def test_a_linear_text_side_reads_vectors_or_opens_its_encoder(tmp_path, monkeypatch):
    config = tiny_config(objective__preset="clip_frozen_text")
    kernel = np.random.default_rng(0).normal(size=(6, config.model.head.dim)).astype(np.float32)
    demo = xsample_jax.load_encoder("demo")
    encoder = type(demo)(config, 1, {}, {"text/out/kernel": kernel})
    vectors = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float16)
    mapped = vectors.astype(np.float32) @ kernel
    expected = mapped / np.linalg.norm(mapped, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_text(vectors), expected, atol=1e-5)
    with pytest.raises(DataError, match=r"\[n, 6\], floating"):
        encoder.encode_text(vectors[:, :5])

    class Opened:
        info = {"dim": 6}  # noqa: RUF012

        def encode(self, texts, advance):
            return np.array([vectors[len(text) % 3] for text in texts], np.float32)

    opened = []
    monkeypatch.setattr("xsample_jax.captions.encoders.open_encoder", lambda name: opened.append(name) or Opened())
    found = encoder.encode_text(["abc", "abcd", "abcde"])  # of the emoji set: its encoder and template
    np.testing.assert_allclose(found, expected[[0, 1, 2]], atol=1e-2)
    encoder.encode_text("abc", source="folder/mine")
    assert opened[1] == "folder/mine"
    assert opened[0].startswith("sentence-transformers/")
    Opened.info = {"dim": 5}
    with pytest.raises(DataError, match=r"5 wide.*source=FOLDER"):
        encoder.encode_text(["abc"])


def test_open_clip_loads_it(run, folder):
    """strict=True by its own factory, from the folder alone, with the same embeddings of images and texts."""
    torch = pytest.importorskip("torch")
    open_clip = pytest.importorskip("open_clip")
    _, encoder = run
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    arrays = read_safetensors(folder / "open_clip_model.safetensors")
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    model.load_state_dict(state, strict=True)
    tokens = torch.from_numpy(encoder._rows_of(TEXTS, None).astype(np.int64))
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        texts = model.eval().encode_text(tokens, normalize=True).numpy()
        pictures = model.encode_image(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), normalize=True).numpy()
    np.testing.assert_allclose(texts, encoder.encode_text(TEXTS), atol=1e-4)
    ours = encoder.project(encoder.module(jax.numpy.asarray(x)))
    np.testing.assert_allclose(pictures, ours, atol=1e-4)
