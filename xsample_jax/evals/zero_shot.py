"""Zero-shot classification: the class whose text is nearest to the image, among the classes of the split.

A model with a text side compares in its own embedding. One without (X-CLR, SimCLR) gets a linear map from its features
to the frozen caption embeddings, fitted to the training split in closed form; the metric is then called mapped.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from xsample_jax.captions.encoders import encode_unique, fill_template, open_encoder
from xsample_jax.data.captions import load_tokenizer, select_caption, tokenize
from xsample_jax.data.class_texts import TEMPLATE, class_name_embeddings, class_text_encoder, spelled_out
from xsample_jax.data.records import unit_rows
from xsample_jax.data.sources import open_source, sampled_records, source_folder
from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.context import EvalContext, Evaluator, check_two_splits
from xsample_jax.evals.features import check_finite
from xsample_jax.evals.knn import neighbors
from xsample_jax.evals.linear_probes import RIDGE_L2_VALUES, Spectrum, hold_out, ridge_weights, spectrum
from xsample_jax.evals.metrics import Collector, majority
from xsample_jax.metrics.progress_bar import progress
from xsample_jax.objectives.objective import TEXT_READS
from xsample_jax.setup import RunSetup
from xsample_jax.sharding import replicated
from xsample_jax.state import TrainState

# Texts of classes for zero-shot classification: frozen embeddings of class names, or their tokens, over prompts.


def frozen_class_embeddings(bench: EvalContext) -> np.ndarray:
    """Unit rows float32 [classes, E]: of the prompts by the frozen sentence encoder, averaged per class (CLIP, arXiv
    2103.00020, section 3.1.4); without prompts those that were made from the class names (class_embeddings.py).

    Captions of the evaluated split are never read: averaged by its labels they would tell the answer. Raises DataError
    where there are neither prompts nor embeddings.
    """
    source = bench.source(bench.config.eval.split)
    if not bench.options.prompts:
        made = class_name_embeddings(source_folder(bench.config.data), source)
        if made is None:
            raise missing_class_texts(bench)
        return unit_rows(made)
    encoder = open_encoder(bench.options.text_encoder or source.manifest.text_encoder["name"])
    return mean_over_prompts(
        spelled_out(source.manifest.class_names), bench.options.prompts, lambda texts: encode_unique(encoder, texts)
    )


def missing_class_texts(bench: EvalContext) -> DataError:
    """The refusal of a set whose class names have no embeddings, with the command that makes them."""
    data = bench.config.data
    encoder = bench.source(bench.config.eval.split).manifest.text_encoder
    model = f" --model={encoder['name']}" if encoder else ""
    command = f"python -m xsample_jax.tools.embed --data={data.path} --what=classes{model}"
    fix = "Give templates for the class names: --prompts=FILE, a line as: a photo of a {caption}."
    if data.path:
        fix = f"Run `{command}`, or give --prompts=FILE with a template on each line."
    return DataError("class texts for zero-shot", None, "embeddings of the class names", fix)


def embedded_class_texts(bench: EvalContext) -> np.ndarray:
    """Unit rows [classes, D] of the class names by the text side of the model."""
    text = bench.text_side
    if text.reads == "caption_embedding":
        return text.embed(frozen_class_embeddings(bench))
    names = spelled_out(bench.source(bench.config.eval.split).manifest.class_names)
    return mean_over_prompts(names, bench.options.prompts or (TEMPLATE,), lambda texts: text.embed(text.tokens(texts)))


def mean_over_prompts(names: Sequence[str], prompts: Sequence[str], embed) -> np.ndarray:
    """Unit rows [classes, D]: the mean over prompts of the unit embeddings of every name in every prompt."""
    return unit_rows(sum(unit_rows(embed(fill_template(prompt, names))) for prompt in prompts) / len(prompts))


def check(bench: EvalContext) -> Iterator[UserError]:
    source = bench.source(bench.config.eval.split)
    names = source.manifest.class_names
    if not names:
        yield DataError(f"class names of split {source.split}", None, "names in the manifest, for zero-shot")
    if not any(record["label"] >= 0 for record in sampled_records(source)):
        yield _without_labels(source.split)
    for prompt in bench.options.prompts:
        fill_template(prompt, names[:1])
    frozen = bench.text_side is None or bench.text_side.reads == "caption_embedding"
    if bench.text_side is not None:
        yield from bench.text_side.check(source) if frozen else ()
    else:
        yield from check_two_splits(bench)
        train = bench.source(bench.config.eval.train_split)
        if train.manifest.text_encoder is None:
            fix = "Embed them with xsample_jax.tools.embed, or evaluate a model with a text side (clip)."
            yield DataError(f"caption embeddings of split {train.split}", None, "targets of the map to texts", fix)
    captions = source.manifest.text_encoder
    if frozen and captions and (refused := without_text(captions)):
        yield refused
        return
    made = frozen and names and not bench.options.prompts
    if made and class_name_embeddings(source_folder(bench.config.data), source) is None:
        yield missing_class_texts(bench)
    if frozen and captions and not bench.options.prompts:
        made = class_text_encoder(source_folder(bench.config.data), source)
        if made and not _same_encoder(made, captions):
            fix = "Embed the classes with it (xsample_jax.tools.embed --what=classes), or give --prompts."
            expected = f"that of the captions, {_named(captions)}"
            yield DataError("encoder of the class texts", _named(made), expected, fix)
    if frozen and bench.options.prompts and not (bench.options.text_encoder or source.manifest.text_encoder):
        yield DataError("--prompts", bench.options.prompts[0], "an encoder for them", "Name it: --text_encoder=FOLDER.")


def _without_labels(split: str) -> DataError:
    fix = "Evaluate on another split or set: --config.eval.split=NAME, --config.data.path=FOLDER."
    return DataError(f"labels of split {split}", "none", "labeled records, for zero-shot", fix)


def without_text(text_encoder: Mapping) -> DataError | None:
    """The refusal of vectors that no text has (captions/vectors.py): no class or caption can be embedded like them."""
    if text_encoder.get("per") != "record":
        return None
    fix = "Leave the evaluator out, or embed the captions: python -m xsample_jax.tools.embed --overwrite."
    return DataError("text encoder of the dataset", text_encoder["name"], "a model that embeds texts", fix)


def _same_encoder(a: Mapping, b: Mapping) -> bool:
    """One model may have two names (a folder, a name of the hub) or two kinds of revision (a hash, a commit)."""
    same_name = Path(a["name"]).name == Path(b["name"]).name
    return a["dim"] == b["dim"] and (same_name or a.get("revision") == b.get("revision") is not None)


def _named(encoder: Mapping) -> str:
    return f"{encoder['name']} ({encoder['dim']} wide)"


def zero_shot(bench: EvalContext, out: Collector) -> None:
    test = bench.test
    test = test.rows(test.label >= 0)
    if not len(test.label):  # those that `check` saw may be broken
        raise _without_labels(bench.config.eval.split)
    if bench.text_side is not None:
        name, queries, texts = "zero_shot/label", test.embedding, embedded_class_texts(bench)
    else:
        name, texts = "zero_shot/mapped/label", frozen_class_embeddings(bench)
        train = bench.train.captioned()
        if not len(train.label):
            split = bench.config.eval.train_split
            raise DataError(f"captions of split {split}", "none", "embedded ones, targets of the map to texts")
        to_text = fit_map(train.features, train.caption_embedding, bench.units(train))
        queries = to_text(test.features)
    classes = np.unique(test.label)
    nearest, _ = neighbors(texts[classes], queries, 5)
    right = classes[nearest] == test.label[:, None]
    units = bench.units(test)
    count = len(classes)
    out.add_per_example(name, right[:, 0].astype(np.float32), units, classes=count, chance=majority(test.label))
    if count > 5:
        top = right.any(axis=1).astype(np.float32)
        out.add_per_example(f"{name}_top5", top, units, classes=count, chance=majority(test.label, 5))


def fit_map(features: np.ndarray, embeddings: np.ndarray, groups: np.ndarray, share: float = 0.2, seed: int = 0):
    """The linear map [n, F] -> [n, E] of least squares with an L2 penalty from features to unit embeddings.

    Its L2 has the largest mean cosine on held-out groups (int [n]). Returns a function of features.
    """
    targets = unit_rows(embeddings)
    kept, held = hold_out(groups, share, seed)
    inner = spectrum(features[kept])
    cosine = []
    for l2, mapped in _maps(inner, features[kept], targets[kept], RIDGE_L2_VALUES):
        cosine.append((np.mean(np.sum(unit_rows(mapped(features[held])) * targets[held], axis=1)), l2))
    return next(mapped for _, mapped in _maps(spectrum(features), features, targets, [max(cosine)[1]]))


def _maps(of: Spectrum, features: np.ndarray, targets: np.ndarray, l2_values):
    center = targets.mean(axis=0)
    weights = ridge_weights(of, features, lambda rows: targets[rows], l2_values)
    for l2, w in zip(l2_values, weights, strict=True):
        yield l2, lambda x, w=w: of.standardize(x) @ w + center


ZERO_SHOT = Evaluator(
    zero_shot,
    "nearest class text, by the model's text side or a map to the frozen texts",
    check,
    ("zero_shot/label", "zero_shot/mapped/label", "_top5"),
)


# The text side of a trained model: unit embeddings of the captions of a split, or of any texts.


CHUNK = 1024


class TextSide:
    """reads: "caption_embedding" (a map of frozen embeddings) or "caption_tokens" (a transformer).

    features_of: gives the caption embeddings of a split.
    """

    def __init__(self, parts: RunSetup, state: TrainState, features_of):
        self._parts, self._state, self._features_of = parts, state, features_of
        self.reads = TEXT_READS[parts.objective.text]

        def embed(state: TrainState, rows):
            state = state.averaged()
            network = parts.model.merge(state.params, state.statistics, training=False)
            return network.embed_text({self.reads: rows})

        self._splits: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._embed = jax.jit(embed, out_shardings=replicated(parts.mesh))

    def check(self, source) -> Iterator[UserError]:
        """What a dataset lacks for this model, from its manifest and a sample of its records."""
        if self.reads == "caption_embedding":
            there = source.manifest.text_encoder is not None
        else:
            there = any(record["captions"] for record in sampled_records(source))
        if not there:
            what = "caption embeddings" if self.reads == "caption_embedding" else "captions"
            yield DataError(f"{what} of split {source.split}", None, "those that the text side of this model reads")
        elif self.reads == "caption_embedding":
            dim, here = self._parts.facts.caption_dim, source.manifest.text_encoder["dim"]
            if dim != here:
                fix = "Embed its captions with the encoder of the training set."
                yield DataError(f"caption embeddings of split {source.split}", f"{here} wide", f"{dim}", fix)

    def embed(self, rows: np.ndarray) -> np.ndarray:
        """Unit rows float32 [n, D] of caption embeddings [n, E] or tokens int32 [n, L], the same in all processes."""
        parts = []
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            short = min(CHUNK, len(rows)) - len(part)  # one compiled shape for all chunks
            padded = np.pad(part, ((0, short), (0, 0)))
            parts.append(np.asarray(jax.device_get(self._embed(self._state, padded)))[: len(part)])
        found = np.concatenate(parts)
        check_finite(found, "the texts", range(len(found)))
        return found

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [n, L], by the tokenizer of the dataset."""
        tokenizer = load_tokenizer(source_folder(self._parts.config.data))
        return tokenize(tokenizer, texts, self._parts.config.model.text.length)

    def of_split(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows int [m] of the features of the split that have a caption, its embedding float32 [m, D], ids int [m]).

        Equal captions have equal ids.
        """
        if split not in self._splits:
            features = self._features_of(split)
            if self.reads == "caption_embedding":
                there = np.flatnonzero(features.has_caption)
                rows = features.caption_embedding[there]
            else:
                captions = self._captions(split, features.index)
                there = np.array([row for row, caption in enumerate(captions) if caption is not None], int)
                rows = self.tokens([captions[row] for row in there])
            distinct, ids = np.unique(rows, axis=0, return_inverse=True)
            ids = ids.reshape(-1)
            self._splits[split] = there, self.embed(distinct)[ids], ids
        return self._splits[split]

    def _captions(self, split: str, indices: np.ndarray) -> list[str | None]:
        config = self._parts.config
        source = open_source(config.data, split)
        show = progress(indices, f"captions of {split}", len(indices), enabled=jax.process_index() == 0)
        return [select_caption(source[int(index)], config.data.caption, needed=False)[0] for index in show]
