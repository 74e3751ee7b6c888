"""Named objectives, as data: a sum of weighted terms, each naming its anchors, keys, graph and normaliser."""

import dataclasses

from xsample_jax.errors import ConfigError, lookup
from xsample_jax.graphs.normalise import NORMALISERS
from xsample_jax.graphs.sources import REQUIRES, SOURCES


@dataclasses.dataclass(frozen=True)
class Term:
    """One cross-entropy between a target graph and a student graph.

    Attributes:
      graph: source of the target graph (graphs/sources.py).
      normaliser: how its rows become distributions (graphs/normalise.py).
      anchors, keys: "image" (rows of the image head) or "text" (rows of the text tower).
      weight: factor of the term in the loss.
    """

    graph: str
    normaliser: str
    anchors: str = "image"
    keys: str = "image"
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Objective:
    """Terms and temperatures. `text` is the text side: None, linear (of frozen embeddings) or transformer."""

    terms: tuple[Term, ...]
    temperature: float
    target_temperature: float = 0.1
    learn_temperature: bool = False
    centre: bool = False
    text: str | None = None

    @property
    def requires(self) -> frozenset[str]:
        """Batch entries that the graphs and the text side read."""
        graphs = {name for term in self.terms for name in REQUIRES[term.graph]}
        text = {"linear": {"caption_embedding"}, "transformer": {"caption_tokens"}, None: set()}[self.text]
        return frozenset(graphs | text)


_CLIP_TERMS = (
    Term("identity", "row_sum", anchors="image", keys="text", weight=0.5),
    Term("identity", "row_sum", anchors="text", keys="image", weight=0.5),
)

PRESETS = {
    # X-CLR (arXiv 2407.18134): T = softmax(cos(e_i, e_k) / tau_s) over k != i, S = z_i . z_k / tau, tau = tau_s = 0.1.
    "xclr": Objective((Term("caption", "softmax"),), temperature=0.1, target_temperature=0.1),
    # SimCLR, NT-Xent (arXiv 2002.05709, eq. 1): T = 1 on the other view of the image.
    "simclr": Objective((Term("identity", "row_sum"),), temperature=0.1),
    # SupCon, the "out" form (arXiv 2004.11362, eq. 2): T uniform over the rows of the same class.
    "supcon": Objective((Term("label", "row_sum"),), temperature=0.1),
    # CLIP (arXiv 2103.00020, fig. 3): image against text in both directions, learned temperature from 0.07.
    "clip": Objective(_CLIP_TERMS, temperature=0.07, learn_temperature=True, text="transformer"),
    # CLIP whose text side is the frozen caption embedding under a learned linear map: the fair baseline for X-CLR.
    "clip_frozen_text": Objective(_CLIP_TERMS, temperature=0.07, learn_temperature=True, text="linear"),
}


def build_objective(config) -> Objective:
    """The preset of `config.objective` with the config's own values in place of the preset's.

    Raises ConfigError for an unknown preset or graph, and for `graph` with an objective that compares images with text.
    """
    objective = lookup(PRESETS, config.preset, "objective.preset")
    changes = {
        field: config[field]
        for field in ("temperature", "target_temperature", "learn_temperature")
        if config[field] is not None
    }
    changes["centre"] = config.centre
    if config.graph is not None:
        lookup(SOURCES, config.graph, "objective.graph")
        if objective.text is not None:
            raise ConfigError("objective.graph", config.graph, "None for an image-text preset", "Choose preset xclr.")
        changes["terms"] = tuple(dataclasses.replace(term, graph=config.graph) for term in objective.terms)
    if config.graph in ("caption", "class_text") and any(term.normaliser == "row_sum" for term in objective.terms):
        raise ConfigError(
            "objective.graph",
            config.graph,
            "identity or label with a row-sum preset, since cosines can be negative",
            "Choose preset xclr.",
        )
    objective = dataclasses.replace(objective, **changes)
    for term in objective.terms:
        lookup(NORMALISERS, term.normaliser, "normaliser")
    return objective
