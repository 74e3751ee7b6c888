"""Who provides the side information that slots read, and which rows carry it.

Every name that a slot declares (registry.Slot) is looked up here: a name without a provider is refused by the check of
the config. To provide another one, add it to PROVIDERS and put it into the blocks (step_blocks.py); one that a dataset
has for each of its records is an entry of BY_RECORD alone.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from xsample_jax.registry import name_of

# Blocks of a step by what they carry (step_blocks.py).
EVERY_IMAGE = ("image", "text", "teacher", "text_teacher", "neighbors", "local", "predicted", "frozen", "slim")
TEXT_VIEWS = ("text_views", "text_views_teacher")
OF_HEADS = ("image", "text", "teacher", "text_teacher", "local", *TEXT_VIEWS)  # blocks with the outputs of named heads
OF_PAIRS = ("mixed_images", "mixed_features")  # two images mixed before encoder or head
MIXED = ("mixed", "mixed_text", *OF_PAIRS)  # a row is of two images: it has no id, label or caption of its own
HARD = ("hard_text", "hard_text_teacher")  # versions of captions that are wrong: they belong to an image, by `owner`
LOCALS = ("teacher_cells", "teacher_words")  # parts of images and of texts, by EMA encoders
STORED = (*EVERY_IMAGE, *TEXT_VIEWS, *LOCALS, "queue", "text_queue", "frozen_queue")
ALL = (*STORED, *HARD, "prototypes", "meta", "centers", "classes", "class_texts", "bank")


@dataclasses.dataclass(frozen=True)
class Provider:
    """Where side information comes from.

    Attributes:
      blocks: the blocks whose rows carry it.
      batch: entries of the batch that it is, or is made of; empty for what every step makes itself.
      state: what the objective must have for it (STATES); None: nothing.
    """

    blocks: tuple[str, ...]
    batch: tuple[str, ...] = ()
    state: str | None = None


@dataclasses.dataclass(frozen=True)
class ByRecord:
    """What the config key data.side can give for every record, from a file or from attributes (data/side.py).

    Attributes:
      dtype: of the entry of a batch.
      wide: several numbers of each record, [records, M]; else one, [records].
      lowest, highest: bounds of a value.
      says: what it is, in a few words; how: where it usually comes from.
    """

    dtype: str
    wide: bool
    says: str
    how: str
    lowest: float = -float("inf")
    highest: float = float("inf")


BY_RECORD: Mapping[str, ByRecord] = {
    "cluster": ByRecord(
        "int32", True, "clusters, a column for each clustering, -1 = unknown", "tools.cluster or attributes", -1
    ),
    "group": ByRecord("int32", False, "a group, -1 = none", "an attribute or a file of yours", -1),
    "target": ByRecord("float32", True, "real-valued labels", "attributes or a file of yours", -1e15, 1e15),
    "labels": ByRecord(
        "int32", True, "several labels of one image, 0 or 1 for each", "attributes or a file of yours", 0, 1
    ),
    "class_temperature": ByRecord(
        "float32", False, "the temperature of the class of a record, times tau", "tools.cluster --per_class", 1e-3, 1e3
    ),
    "is_target": ByRecord(
        "int32", False, "1 in the set of interest, 0 in the background", "an attribute or a file of yours", -1, 1
    ),
    "weight": ByRecord("float32", False, "how often a record is drawn", "a file of yours", 1e-6, 1e6),
}

PROVIDERS: Mapping[str, Provider] = {
    "id": Provider(ALL),
    "id_words": Provider(ALL),
    "row": Provider(ALL),
    "view": Provider(ALL),
    "embedding": Provider(ALL),
    "other_view": Provider(("image",)),
    "index": Provider((*EVERY_IMAGE, "bank"), ("index",)),
    "label": Provider((*STORED, "classes", "class_texts"), ("label",)),
    "part": Provider(EVERY_IMAGE, ("part",)),
    "path": Provider(STORED, ("path",)),
    "caption_embedding": Provider(STORED, ("caption_embedding",)),
    "class_embedding": Provider(STORED, ("class_embedding",)),
    "teacher": Provider(("image", "text", "teacher", "text_teacher", "queue", "text_queue"), state="teacher"),
    "same_view_teacher": Provider(("image",), state="teacher"),
    "frozen": Provider(("image", "frozen", "frozen_queue"), state="frozen"),
    "frozen_features": Provider(("image", "frozen"), state="frozen"),
    "frozen_pair": Provider(("image", "text"), state="frozen_texts"),
    "class_center": Provider(("image", "frozen"), ("label",), state="frozen"),
    "first": Provider(MIXED),
    "partner": Provider(MIXED),
    "beta": Provider(MIXED),
    "first_label": Provider(OF_PAIRS, ("label",)),
    "partner_label": Provider(OF_PAIRS, ("label",)),
    "text": Provider(EVERY_IMAGE, state="text"),
    "image": Provider(EVERY_IMAGE, state="text"),
    "gate": Provider(EVERY_IMAGE, ("label",), state="gate"),
    "second_label": Provider(EVERY_IMAGE, ("label",), state="gate"),
    "pair_first": Provider(("image", "text", "teacher"), state="pair_network"),
    "pair_second": Provider(("image", "text", "teacher"), state="pair_network"),
    "pair_out": Provider(("image", "text", "teacher"), state="pair_network"),
    "pair_channel": Provider(("image", "text", "teacher"), state="pair_network"),
    "token_loss": Provider(("image",), ("caption_tokens",), state="decoder"),
    "token_count": Provider(("image",), ("caption_tokens",), state="decoder"),
    "caption_number": Provider(EVERY_IMAGE, ("caption_tokens",)),
    "latent": Provider(("image",), state="log_variance"),
    "reconstruction": Provider(("image",), state="log_variance"),
    "owner": Provider(("text", "text_teacher", *HARD), state="hard_texts"),
    "crop": Provider(("image", "teacher"), state="cells"),
    "prompt": Provider(("image",), state="prompts"),
    "head_temperature": Provider(OF_HEADS, state="heads"),
    "clustering": Provider(("centers",), state="centers"),
    "center": Provider(("centers",), state="centers"),
    "sharpness": Provider(("centers",), state="centers"),
    "past": Provider(("image",), ("index",), state="past"),
    "column": Provider(("prototypes", "classes"), state="past"),
    "log_average": Provider(("image",), ("index",), state="memory"),
    "anchor_temperature": Provider(("image",), ("index",), state="anchor_temperature"),
    **{name: Provider(STORED, (name,)) for name in BY_RECORD},
    "cluster": Provider((*STORED, "bank"), ("cluster",)),
}

# State of an objective by name: whether it has it.
STATES: Mapping[str, Callable[[Any], bool]] = {
    "teacher": lambda objective: objective.teacher is not None,  # a teacher may have the momentum 0
    "frozen": lambda objective: objective.frozen,
    "frozen_texts": lambda objective: objective.frozen and objective.text is not None,
    "past": lambda objective: objective.past > 0,
    "slim": lambda objective: objective.slim,
    "queue": lambda objective: objective.queue > 0,
    "prototypes": lambda objective: objective.prototypes > 0,
    "classes": lambda objective: objective.classes,
    "local_views": lambda objective: objective.local_views > 0,
    "text": lambda objective: objective.text is not None,
    "decoder": lambda objective: objective.text == "causal",
    "log_variance": lambda objective: objective.log_variance is not None,
    "predictor": lambda objective: objective.predictor,
    "gate": lambda objective: objective.gate,
    "heads": lambda objective: bool(objective.heads),
    "prompts": lambda objective: "prompts" in objective.heads,
    "class_texts": lambda objective: any(head.of == "class_text" for head in objective.heads.values()),
    "cells": lambda objective: any(head.of == "cells" for head in objective.heads.values()),
    "pair_network": lambda objective: objective.pair_network is not None,
    "text_views": lambda objective: objective.text_views > 0,
    "hard_texts": lambda objective: objective.hard_texts > 0,
    "centers": lambda objective: objective.centers,
    "bank": lambda objective: objective.bank is not None,
    "average": lambda objective: objective.memory is not None and name_of(objective.memory) == "average",
    "anchor_temperature": lambda objective: objective.memory is not None and name_of(objective.memory) == "temperature",
    "memory": lambda objective: objective.memory is not None,
}


def provider_of(name: str) -> Provider | None:
    """The provider of side information; None where nothing provides it."""
    if name.startswith("view_") and name.removeprefix("view_").isdigit():
        return Provider(("image", "local", "text_views"))
    return PROVIDERS.get(name)


def batch_entries(names) -> frozenset[str]:
    """Entries of a batch behind side information; a name that nothing provides is its own entry."""
    found = set()
    for name in names:
        provider = provider_of(name)
        found |= {name} if provider is None else set(provider.batch)
    return frozenset(found)
