"""Run folders as a trainer writes them, with invented numbers and images."""

import json
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from xsample_jax.evals.catalog import save_facts
from xsample_jax.evals.emoji import evaluate_emoji
from xsample_jax.evals.features import Features
from xsample_jax.evals.metrics import save_examples
from xsample_jax.evals.snapshot import BatchPanel, error_arrays, find_errors, find_neighbors, map_arrays, save_snapshot
from xsample_jax.metrics.jsonl import JsonlWriter

BASELINES = {"untrained": 0.5, "pixels": 0.25}  # shares of what the run reaches
STYLES = ["noto", "twemoji", "fluent", "emojione", "openmoji"]
GROUPS = ["animals-nature", "food-drink", "objects", "smileys-emotion", "travel-places"]
WIDTH = 24
_rng = np.random.default_rng(5)
_GROUP, _SUBGROUP, _CONCEPT = (_rng.normal(size=(n, WIDTH)) for n in (5, 15, 150))
_SPLITS = {
    "train": (range(110), range(3)),
    "test": (range(110, 150), range(3)),
    "test_styles": (range(110, 150), (3, 4)),
}


def features_of(strength: float, seed: int):
    """The better the encoder (strength), the more its features say about group and concept."""

    def of(split: str, background: str | None = None) -> Features:
        rng = np.random.default_rng([seed, len(split), len(background or "")])
        label, style = (a.ravel() for a in np.meshgrid(*map(np.array, _SPLITS[split]), indexing="ij"))
        meaning = _GROUP[label % 5] + _SUBGROUP[label % 15] + 0.6 * _CONCEPT[label]
        x = strength * meaning + rng.normal(size=meaning.shape) * (1 + (style == 4))[:, None]
        if background == "mixed_rand":
            x += 0.5 * _GROUP[rng.integers(0, 5, len(x))]
        return Features(
            features=x.astype(np.float32),
            embedding=None,
            id=np.arange(len(x)),
            label=label,
            attributes={"style": style, "group": label % 5, "subgroup": label % 15},
            attribute_names={"style": STYLES},
            caption_embedding=meaning.astype(np.float32),
        )

    return of


def image_of(label: int, style: int, side: int = 48) -> np.ndarray:
    """uint8 [side, side, 4]: shape by group, color by subgroup, frame by style."""
    label, style = int(label), int(style)
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    color = tuple(int(c) for c in np.random.default_rng(label % 15).integers(40, 235, 3)) + (255,)
    inset = 5 + label % 7
    pen.regular_polygon((side / 2, side / 2, side / 2 - inset), 3 + label % 5, rotation=7 * label, fill=color)
    if style:
        pen.rectangle((1, 1, side - 2, side - 2), outline=color, width=style)
    return np.asarray(image)


def softmax_graph(similarity: np.ndarray, tau: float) -> np.ndarray:
    logits = similarity / tau
    np.fill_diagonal(logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def write_run(
    folder: Path,
    name: str,
    preset: str,
    *,
    strength: float,
    seed: int = 0,
    steps: int = 400,
    with_evaluation: bool = True,
    tau_s: float = 0.1,
) -> Path:
    """Writes config.json, metrics.jsonl, evaluation.npz and report_data.npz."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    folder.mkdir(parents=True)
    soft = preset == "xclr"
    config = {
        "name": name, "seed": seed, "steps": steps, "batch_size": 64, "views": 2,
        "model": {"encoder": "resnet18", "width": 32, "head": {"hidden": [512], "dim": 128}},
        "objective": {"preset": preset, "graph": None, "target_temperature": tau_s if soft else None},
        "optimizer": {"learning_rate": 1e-3 if soft else 2e-3},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    of = features_of(strength, seed)
    result = evaluate_emoji(of)
    writer = JsonlWriter(folder / "metrics.jsonl")
    for step in range(10, steps + 1, 10):
        entropy = (1.9 if soft else 0.0) + 0.02 * rng.normal() * soft
        kl = 0.6 + 3.5 * np.exp(-step / 120) + 0.08 * rng.normal()
        line = {
            "loss": entropy + kl, "kl": kl, "target_entropy": entropy,
            "own_view_mass": 0.62 + 0.01 * rng.normal() if soft else 1.0,
            "same_class_mass": 0.66 + 0.01 * rng.normal() if soft else 1.0,
            "learning_rate": 1e-3 * min(step / 40, 0.5 + 0.5 * np.cos(np.pi * step / steps)), "temperature": 0.1,
            "images_per_second": 900 + 40 * rng.normal(),
        }  # fmt: skip
        writer.write(step, line)
        if with_evaluation and step % (steps // 2) == 0:
            fade = 0.85 if step < steps else 1.0
            writer.write(step, {f"eval/{key}": fade * value for key, value in result.metrics.items()})
    writer.close()
    if not with_evaluation:
        return folder
    save_examples(folder / "evaluation.npz", result.examples)
    levels = {name: {key: share * value for key, value in result.metrics.items()} for name, share in BASELINES.items()}
    save_facts(folder / "evaluation_facts.json", result, levels)

    train, test = of("train"), of("test")
    rows = np.random.default_rng(1).permutation(len(test))[:48]
    batch, unit = test.rows(rows), lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)
    captions = unit(batch.caption_embedding) @ unit(batch.caption_embedding).T
    twice = np.kron(captions, np.ones((2, 2)))
    z = np.repeat(unit(batch.features), 2, axis=0) + 0.05 * rng.normal(size=(96, WIDTH))
    own = np.kron(np.eye(48), 1 - np.eye(2))
    caption = lambda label: f"<thing {label}>, {GROUPS[label % 5]}"  # noqa: E731
    drawn = lambda of, row: (  # noqa: E731
        image_of(of.label[row], of.attributes["style"][row]),
        caption(of.label[row]),
    )
    save_snapshot(
        folder / "report_data.npz",
        BatchPanel(
            images=np.stack([image_of(l, s) for l, s in zip(batch.label, batch.attributes["style"])]),
            captions=[caption(label) for label in batch.label],
            groups=[GROUPS[label % 5] for label in batch.label],
            target=softmax_graph(twice, 0.15) if soft else own,
            student=softmax_graph(unit(z) @ unit(z).T, 0.15),
            views=2,
            similarity=captions,
        ),
        neighbors=find_neighbors(test),
        image_of=partial(drawn, test),
        more=map_arrays(test)
        | error_arrays(find_errors(train, test), partial(drawn, test), partial(drawn, train), None),
    )
    return folder
