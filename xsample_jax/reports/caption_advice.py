"""Advice about a caption graph: which tau_s gives how many neighbors, and what is unusual about its target."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from xsample_jax.reports.caption_graph import at, temperature_for

MASSES = ("own_view_mass", "alike_mass", "same_caption_mass", "ordinary_mass")
WANTED = (1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
MOSTLY_OWN, MOSTLY_SAME, TOO_ORDINARY, NARROW = 0.9, 0.5, 0.2, 0.05


@dataclasses.dataclass(frozen=True)
class Choice:
    """A tau_s with what its target rows look like: effective neighbors, and the masses by name."""

    tau_s: float
    neighbors: float
    masses: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Advice:
    """One sentence or two; level is "good", "note" or "warning"."""

    level: str
    text: str


def choice_at(curves: Mapping[str, np.ndarray], temperatures: np.ndarray, tau_s: float) -> Choice:
    """Reads the curves of caption_graph.target_curves at one tau_s."""
    value = lambda name: at(curves[name], temperatures, tau_s)  # noqa: E731
    return Choice(tau_s, value("effective_neighbors"), {name: value(name) for name in MASSES})


def choices(curves: Mapping[str, np.ndarray], temperatures: np.ndarray, rows: int) -> list[Choice]:
    """The tau_s for each wanted number of effective neighbors there is, up to an eighth of the rows of a batch."""
    found = []
    for wanted in WANTED:
        tau_s = temperature_for(curves["effective_neighbors"], temperatures, wanted)
        if tau_s is not None and wanted <= rows / 8:
            found.append(dataclasses.replace(choice_at(curves, temperatures, tau_s), neighbors=wanted))
    return found


def softest(curves: Mapping[str, np.ndarray], temperatures: np.ndarray) -> Choice | None:
    """The largest tau_s that keeps the mass on ordinary pairs at TOO_ORDINARY; None where no tau_s on the grid does."""
    if curves["ordinary_mass"][0] > TOO_ORDINARY:
        return None
    tau_s = temperature_for(curves["ordinary_mass"], temperatures, TOO_ORDINARY)
    return choice_at(curves, temperatures, temperatures[-1] if tau_s is None else tau_s)


def advise(
    now: Choice,
    limit: Choice | None,
    spread: float,
    same_images: float,
    batch_size: int,
    without: int,
) -> Sequence[Advice]:
    """Sentences about a graph.

    Args:
      now: at the tau_s in use; limit: of `softest`.
      spread: of the cosines of random pairs, from the lowest to the highest but 1 % at either end.
      same_images: other images with its own caption that an image meets in a batch, on average.
      batch_size: B; without: records looked at that have no embedding.
    """
    found = [*_about_target(now, limit)] or [_praise(now)]
    if limit is not None:
        found.append(_softest(limit))
    if same_images >= 0.05:
        met = f"In a batch of {batch_size} images one meets {same_images:.1f} others with its own caption, on average."
        found.append(_advice("note", met, "X-CLR counts them as positives; SimCLR and CLIP push them apart."))
    if spread < NARROW:
        found.append(
            _advice(
                "warning",
                f"All cosines lie within {spread:.3f}: the encoder hardly tells these captions apart. Try",
                "`objective.center=True`, another text encoder, or look at the captions.",
            )
        )
    if without:
        found.append(_advice("warning", f"{without} of the records looked at have no caption embedding."))
    return found


def advise_on_confused(confused: int) -> Sequence[Advice]:
    """Of `confused` records the embedding is that of another caption (caption_graph.one_vector)."""
    if not confused:
        return ()
    said = f"{confused:,} of the records looked at have the embedding of another caption: the text encoder has no words"
    return (_advice("warning", said, "for them. Embed them with a model of their language (tools.embed --model)."),)


def _softest(limit: Choice) -> Advice:
    return _advice(
        "note",
        f"The softest target with at most {TOO_ORDINARY:.0%} on ordinary pairs has tau_s = {limit.tau_s:.3f} and",
        f"{limit.neighbors:.1f} effective neighbors: `--config.objective.target_temperature={limit.tau_s:.3f}`,",
        f"or `--config.objective.target_neighbors={limit.neighbors:.1f}`, which follows the batch.",
    )


def _about_target(now: Choice, limit: Choice | None) -> Iterator[Advice]:
    """What is wrong with the masses of the target at the tau_s in use."""
    own, _, same, ordinary = (now.masses[name] for name in MASSES)
    if ordinary > TOO_ORDINARY:
        yield _advice(
            "warning",
            f"{ordinary:.0%} of the target falls on ordinary pairs, which are no more alike than 95% of random pairs:",
            "the model is asked to draw unrelated images together.",
            f"Lower tau_s: at {limit.tau_s:.3f} it is {limit.masses['ordinary_mass']:.0%}."
            if limit is not None
            else "No tau_s mends that: captions that say more, or another text encoder, would.",
        )
    if same > MOSTLY_SAME:
        yield _advice(
            "warning",
            f"{same:.0%} of the target falls on other images with the same caption: this graph is nearly that of",
            "SupCon with the captions as classes. A larger tau_s, several captions per image (`data.caption=random`)",
            "or captions that say more make it softer.",
        )
    if own > MOSTLY_OWN:
        yield _advice(
            "warning",
            f"{own:.0%} of the target falls on an image's own other views: this graph is nearly SimCLR's, and the",
            "captions hardly count. Raise tau_s.",
        )


def _praise(now: Choice) -> Advice:
    own, alike, same, ordinary = (now.masses[name] for name in MASSES)
    return _advice(
        "good",
        f"At tau_s = {now.tau_s:g} a row has {now.neighbors:.1f} effective neighbors: {own:.0%} of its target on",
        f"its own views, {same:.0%} on images with the same caption, {alike:.0%} on alike ones, {ordinary:.0%} on",
        "ordinary ones.",
    )


def _advice(level: str, *sentences: str) -> Advice:
    return Advice(level, " ".join(sentences))
