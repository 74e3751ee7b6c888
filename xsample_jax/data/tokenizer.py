"""A small byte-level BPE tokenizer for text towers that are trained from scratch; it lives beside the dataset."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from xsample_jax.errors import DataError
from xsample_jax.io.files import atomic_write
from xsample_jax.io.paths import as_path

TOKENIZER = "tokenizer.json"
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
        tokenizer = Tokenizer.from_str(text)
        # A tokenizer that was saved with padding or truncation would apply them behind our back.
        tokenizer.no_padding()
        tokenizer.no_truncation()
    except FileNotFoundError:
        raise DataError("tokenizer", str(path), "an existing file", fix) from None
    except Exception as error:  # the library raises bare Exception for what it cannot parse
        raise DataError("tokenizer", str(path), f"a saved tokenizer ({str(error)[:200]})", fix) from error
    ids = [tokenizer.token_to_id(token) for token in SPECIAL]
    if ids != [PADDING, START, END]:
        expected = f"{json.dumps(SPECIAL)} as entries 0, 1, 2"
        raise DataError(f"special tokens of {path}", ids, expected, fix)
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
