"""Whether an image prefers its caption to the same caption with a color, a place or a number exchanged.

Both are texts of one length about one thing; only a model that reads the word, and binds it to its neighbor,
tells them apart (arXiv 2204.03162 and 2210.01936 ask this of photographs and sentences written or parsed for it). Here
the other caption is made by a rule without a parser:

1. Words of one kind that exclude each other form cycles (CYCLES), as left, right. Letters decide, not meaning.
2. Two words of a cycle in one caption are exchanged: "a red square and a blue circle" becomes "a blue square and
   a red circle", the same words bound otherwise.
3. A single word is replaced by the next of its cycle.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from xsample_jax.captions.encoders import encode_unique, fill_template, open_encoder
from xsample_jax.captions.sentence_model import find_folder, read_folder
from xsample_jax.data.captions import select_caption
from xsample_jax.data.records import unit_rows
from xsample_jax.data.sources import sampled_records
from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.context import EvalContext, Evaluator, check_two_splits
from xsample_jax.evals.metrics import Collector
from xsample_jax.evals.zero_shot import fit_map, without_text

CYCLES = {
    "color": (("red", "blue", "yellow", "green", "orange", "purple", "pink", "brown"), ("black", "white")),
    "count": (("two", "three", "four"),),
    "place": (("left", "right"), ("top", "bottom"), ("above", "below"), ("over", "under"), ("up", "down"),
              ("inside", "outside"), ("behind", "before"), ("upper", "lower")),
    "pattern": (("plain", "striped", "dotted", "checked"),),
    "size": (("large", "small"), ("big", "little"), ("long", "short"), ("thick", "thin")),
    "person": (("man", "woman"), ("men", "women"), ("boy", "girl"), ("male", "female"), ("king", "queen"),
               ("prince", "princess"), ("father", "mother"), ("he", "she")),
    "state": (("open", "closed"), ("happy", "sad"), ("old", "young"), ("day", "night"), ("hot", "cold"),
              ("full", "empty"), ("light", "dark")),
}  # fmt: skip
WORD = re.compile(r"[^\W\d_]+")


def exchanged(caption: str, kind: str) -> str | None:
    """The caption with words of a kind of CYCLES exchanged; None where it has none of them."""
    words = [word.lower() for word in WORD.findall(caption)]
    for word in words:
        cycle = next((cycle for cycle in CYCLES[kind] if word in cycle), None)
        if cycle is None:
            continue
        other = next((found for found in words if found in cycle and found != word), None)
        following = cycle[(cycle.index(word) + 1) % len(cycle)]
        return _with_words(caption, {word: following} if other is None else {word: other, other: word})
    return None


def _with_words(caption: str, pair: dict[str, str]) -> str:
    def new(match: re.Match) -> str:
        word = pair.get(match[0].lower(), match[0])
        return word.capitalize() if match[0][0].isupper() else word

    return WORD.sub(new, caption)


def captions_of(bench: EvalContext, index: Sequence[int]) -> list[str | None]:
    """The captions that data.caption chooses, of examples of eval.split by number."""
    source = bench.source(bench.config.eval.split)
    return [select_caption(source[int(n)], bench.config.data.caption, needed=False)[0] for n in index]


def swapped_captions(bench: EvalContext, out: Collector) -> None:
    test, units = bench.test, bench.units(bench.test)
    captions = captions_of(bench, np.arange(len(test)) if test.index is None else test.index)
    images, embed = _image_rows(bench), _texts_to_rows(bench)
    every, of_every = [], []
    for kind in CYCLES:
        pairs = [(row, caption, exchanged(caption, kind)) for row, caption in enumerate(captions) if caption]
        pairs = [(row, own, other) for row, own, other in pairs if other is not None]
        if not pairs:
            out.note(f"swapped_captions/{kind}: not measured, no caption has a word of this kind")
            continue
        rows = np.array([row for row, _, _ in pairs])
        own, other = (embed([pair[place] for pair in pairs]) for place in (1, 2))
        lead = np.sum(images[rows] * (own - other), axis=1)
        every.append((lead > 0) + 0.5 * (lead == 0))  # a tie, as of captions cut before the word, is a guess
        of_every.append(units[rows])
        out.add_per_example(f"swapped_captions/{kind}", every[-1], of_every[-1], classes=2, chance=0.5)
    if every:
        out.add_per_example(
            "swapped_captions/all", np.concatenate(every), np.concatenate(of_every), classes=2, chance=0.5
        )


def _image_rows(bench: EvalContext) -> np.ndarray:
    """Unit rows of the images where texts are compared: the model's own embedding, or features mapped to captions."""
    if bench.text_side is not None:
        return bench.test.embedding
    train = bench.train.captioned()
    return unit_rows(fit_map(train.features, train.caption_embedding, bench.units(train))(bench.test.features))


def _texts_to_rows(bench: EvalContext) -> Callable[[Sequence[str]], np.ndarray]:
    """Texts to unit rows: by the model's tower, or by the frozen sentence encoder (and the map that the model has)."""
    text = bench.text_side
    if text is not None and text.reads == "caption_tokens":
        return lambda texts: text.embed(text.tokens(texts))
    encoder = open_encoder(bench.options.text_encoder)
    template = bench.source(bench.config.eval.split).manifest.text_encoder.get("template", "{caption}")
    frozen = lambda texts: unit_rows(encode_unique(encoder, fill_template(template, texts)))  # noqa: E731
    return frozen if text is None else lambda texts: text.embed(frozen(texts))


def check(bench: EvalContext) -> Iterator[UserError]:
    """Whether there are captions with such words, and somebody who can embed them."""
    source, text = bench.source(bench.config.eval.split), bench.text_side
    captions = [record["captions"] for record in sampled_records(source)]
    if not any(exchanged(caption, kind) for of in captions for caption in of or () for kind in CYCLES):
        some = ", ".join(cycle[0] for cycles in CYCLES.values() for cycle in cycles[:1])
        expected = f"captions with words that have an opposite, as {some}"
        yield DataError(f"captions of split {source.split}", "none that can be exchanged", expected)
    if text is not None:
        yield from text.check(source)
    else:
        yield from check_two_splits(bench)
        if bench.source(bench.config.eval.train_split).manifest.text_encoder is None:
            fix = "Embed them with xsample_jax.tools.embed, or evaluate a model with a text side (clip)."
            yield DataError("caption embeddings of the training split", None, "targets of the map to texts", fix)
    if text is None or text.reads == "caption_embedding":
        yield from _check_encoder(bench.options.text_encoder, source.manifest.text_encoder)


def _check_encoder(name: str | None, captions: Mapping | None) -> Iterator[UserError]:
    """Whether the sentence encoder is there and can be that of the captions; reads its settings, not its weights."""
    if name is None:
        expected = "the sentence encoder of the captions: the exchanged ones have no embeddings yet"
        yield DataError("--text_encoder", None, expected, "Give its folder, or evaluate a model with a text tower.")
        return
    if captions and (refused := without_text(captions)):
        yield refused
        return
    width = read_folder(find_folder(name)).config["hidden_size"]
    if captions and width != captions["dim"]:
        yield DataError("--text_encoder", f"{name}, {width} wide", f"that of the captions, {captions['dim']} wide")


SWAPPED_CAPTIONS = Evaluator(
    swapped_captions,
    "whether an image prefers its caption to the same with a color, place, count, ... exchanged",
    check,
    ("swapped_captions/<kind>", "swapped_captions/all"),
)
