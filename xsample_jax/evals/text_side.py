"""The text side of a trained model: unit embeddings of the captions of a split, or of any texts."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from xsample_jax.captions.tokenizer import load_tokenizer, tokenize
from xsample_jax.data.select_caption import select_caption
from xsample_jax.data.sources import open_source, source_folder
from xsample_jax.errors import DataError, UserError
from xsample_jax.mesh import replicated
from xsample_jax.metrics.progress import progress
from xsample_jax.parts import Parts
from xsample_jax.state import TrainState

CHUNK = 1024


class TextSide:
    """reads: "caption_embedding" (a map of frozen embeddings) or "caption_tokens" (a transformer).

    features_of: gives the caption embeddings of a split.
    """

    def __init__(self, parts: Parts, state: TrainState, features_of):
        self._parts, self._state, self._features_of = parts, state, features_of
        self.reads = {"linear": "caption_embedding", "transformer": "caption_tokens"}[parts.objective.text]

        def embed(state: TrainState, rows):
            state = state.averaged()
            network = parts.model.merge(state.params, state.statistics, training=False)
            return network.embed_text({self.reads: rows})

        self._splits: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._embed = jax.jit(embed, out_shardings=replicated(parts.mesh))

    def check(self, source) -> Iterator[UserError]:
        """What a record set lacks for this model, from its manifest and first record."""
        there = source.manifest.text_encoder is not None if self.reads == "caption_embedding" else source[0]["captions"]
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
        return np.concatenate(parts)

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [n, L], by the tokenizer of the record set."""
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
