"""Captions on their way into a batch: a byte-level BPE tokenizer for text towers, and the choice of the caption."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from xsample_jax.data.records import PRECISION, differing, unit_rows
from xsample_jax.errors import ConfigError, DataError
from xsample_jax.io.files import atomic_write
from xsample_jax.io.paths import as_path

TOKENIZER = "tokenizer.json"  # beside the dataset
PADDING, START, END = 0, 1, 2
SPECIAL = ("<pad>", "<start>", "<end>")  # their places are the numbers above


def train_tokenizer(captions: Iterable[str], vocab_size: int, path: str | Path) -> Tokenizer:
    """Learns byte-pair merges (Sennrich et al. 2016, over bytes) from captions and saves them as JSON.

    Text is lower-cased (after Unicode NFC). All 256 bytes are in the vocabulary, so no text is ever unknown. The same
    captions, in any order, give the same file.

    Args:
      captions: training text; a caption that occurs twice counts twice.
      vocab_size: upper bound on the entries, with 3 special tokens and 256 bytes; fewer if the text runs out of pairs.
      path: file to write.
    """
    smallest = len(SPECIAL) + 256
    if vocab_size < smallest:
        raise DataError("vocab_size", vocab_size, f"at least {smallest}: the special tokens and every byte")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Ties between equally frequent pairs are broken by ids, which follow the order of the input: sort it.
    tokenizer.train_from_iterator(sorted(captions), trainer)
    text = tokenizer.to_str(pretty=False) + "\n"
    atomic_write(as_path(path), lambda partial: partial.write_text(text, encoding="utf-8"))
    return tokenizer


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads tokenizer.json of a dataset; DataError when it is missing or not one of ours."""
    path = as_path(folder) / TOKENIZER
    fix = f"Write one: python -m xsample_jax.tools.train_tokenizer --data={folder}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError("tokenizer", str(path), "an existing file", fix) from None
    except (OSError, ValueError) as error:
        raise DataError("tokenizer", str(path), f"a saved tokenizer ({str(error)[:200]})", fix) from error
    return parse_tokenizer(text, str(path), fix)


def parse_tokenizer(text: str, where: str, fix: str = "") -> Tokenizer:
    """The tokenizer that is saved as `text`, the content of a tokenizer.json; DataError when it is not one of ours."""
    try:
        tokenizer = Tokenizer.from_str(text)
        # A tokenizer that was saved with padding or truncation would apply them behind our back.
        tokenizer.no_padding()
        tokenizer.no_truncation()
    except Exception as error:  # the library raises bare Exception for what it cannot parse
        raise DataError("tokenizer", where, f"a saved tokenizer ({str(error)[:200]})", fix) from error
    ids = [tokenizer.token_to_id(token) for token in SPECIAL]
    if ids != [PADDING, START, END]:
        expected = f"{json.dumps(SPECIAL)} as entries 0, 1, 2"
        raise DataError(f"special tokens of {where}", ids, expected, fix)
    return tokenizer


def tokenize(tokenizer: Tokenizer, captions: Sequence[str], length: int) -> np.ndarray:
    """Returns int32 [n, length]: start, the tokens of the caption (cut to fit), end, then padding (0).

    Every row ends its text with the end token, also where the caption was cut; `length` is at least 2.
    """
    if length < 2:
        raise DataError("length", length, "at least 2: room for the start and the end token")
    rows = np.full((len(captions), length), PADDING, np.int32)
    # Not the tokenizer's own templates: a caption that spells "<end>" must not become the special token.
    for row, encoding in zip(rows, tokenizer.encode_batch(list(captions), add_special_tokens=False), strict=True):
        body = [token for token in encoding.ids if token > END][: length - 2]
        row[0] = START
        row[1 : 1 + len(body)] = body
        row[1 + len(body)] = END
    return rows


# Which caption of a record a batch gets.


def select_caption(
    record: dict, which: str, where: str = "manifest.json", draw: int | None = None, needed: bool = True
) -> tuple[str | None, np.ndarray | None]:
    """Picks the caption and the embedding that `data.caption` asks for.

    Args:
      record: as a RecordSource returns it.
      which: "first", "mean" (renormalized mean of the embeddings; no single caption), "random", or an index as text.
      where: names the set in errors, as the path of its manifest.
      draw: a random number >= 0, for "random"; None (evaluation) takes the first.
      needed: a record without what is asked for is an error; else it gives (None, None).

    Returns:
      (caption or None, float16 [E] of unit length or None). Without captions "first" and "random" give (None, None).
      An own vector of the record (captions/vectors.py) is its embedding with any caption, or none.

    Raises:
      DataError: the record has no embeddings to average, or not that many captions.
    """
    captions, embeddings = record["captions"], record["caption_embeddings"]
    if which == "mean":
        if embeddings is None:
            if not needed:
                return None, None
            fix = "Embed its captions with `python -m xsample_jax.tools.embed`, or set data.caption=first."
            raise DataError("data.caption", which, f"caption embeddings in the set of {where}", fix)
        return None, _unit(unit_rows(embeddings).mean(axis=0), record, where)
    if embeddings is not None and len(embeddings) == 1 != len(captions):  # a vector of the record, for any caption
        captions, embeddings = captions or [None], np.repeat(embeddings, len(captions) or 1, axis=0)
    if which in ("first", "random"):
        if not captions:
            return None, None
        index = draw % len(captions) if which == "random" and draw is not None else 0
    else:
        index = int(which)
    if index >= len(captions):
        if not needed:
            return None, None
        expected = f"one of the {len(captions)} captions that a record has in the set of {where}"
        fix = "Set data.caption=first or a smaller index, or prepare the set with more captions."
        raise DataError("data.caption", which, expected, fix)
    embedding = None if embeddings is None else _unit(embeddings[index].astype(np.float32), record, where)
    return captions[index], embedding


def _unit(vector: np.ndarray, record: dict, where: str) -> np.ndarray:
    """Scales to unit length in float32, then rounds to float16."""
    norm = np.linalg.norm(vector)
    if not norm > 1e-6:
        field = f"caption embedding of id {record['id']}"
        raise DataError(field, "a zero vector", f"a direction, in the set of {where}", "Embed the captions again.")
    return (vector / norm).astype(np.float16)


# Whether the text side of a frozen teacher reads the captions that the text side of a run reads.


def find_text_misfits(config, text: str, size: int, teacher) -> Iterator[ConfigError]:
    """What keeps the text side of a frozen teacher, an Encoder, from reading the captions of a run of `config`.

    text, size: kind and input size of the run's text side, as `build_model` takes them. If the teacher's dataset is
    gone, and its tokenizer or text encoder with it, only the sizes are compared.
    """
    about = teacher.with_texts().text_source
    ours = dataclasses.replace(teacher, config=config, text_source={}).with_texts().text_source
    kind, own = teacher.text_kind or (None, 0)
    found, expected, fix = None, None, "Take a teacher that was trained on the captions of this dataset."
    if kind == "causal" or (kind == "linear") != (text == "linear") or kind is None:
        what = {"linear": "maps caption embeddings"}
        found = {None: None, "causal": "of a run that predicts captions"}.get(kind, what.get(kind, "reads tokens"))
        expected = f"one that {what.get(text, 'reads tokens')}, as this run's does"
        fix = (
            f"Train a teacher with --config.objective.preset={'clip_frozen_text' if text == 'linear' else 'clip'}, or "
        )
        fix += "take --config.objective.preset=seed, which reads features of images alone."
    elif own != size or (about and ours and _other_texts(about, ours)):
        what, of = ("text encoder", "wide") if kind == "linear" else ("tokenizer", "entries")
        found, expected = f"another {what}, {own} {of}", f"the {what} of this dataset, {size} {of}"
    elif kind != "linear" and teacher.config.model.text.length < config.model.text.length:
        longest = teacher.config.model.text.length
        found, expected = f"at most {longest} tokens", f"model.text.length = {config.model.text.length} tokens"
        fix = f"Set --config.model.text.length={longest}."
    if expected is not None:
        yield ConfigError(f"text side of {config.objective.frozen} (objective.frozen)", found, expected, fix)


def _other_texts(about: dict, ours: dict) -> bool:
    """Whether two descriptions as `Encoder.text_source` are of other tokens, or of embeddings of another encoder."""
    if about == ours or "text_encoder" not in about:
        return about != ours
    return bool(differing(ours["text_encoder"], about["text_encoder"]).keys() - PRECISION)
