"""What a named objective is: the data, and what a reader wants to know of it."""

import dataclasses

from xsample_jax.objectives.blocks import IMAGE, TEXT, Rows
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.terms import Term


@dataclasses.dataclass(frozen=True)
class Preset:
    """An objective with what a reader wants to know.

    Attributes:
      formula: the loss in a line; source: where it comes from.
      objective: the data itself.
      golden: the number of a published implementation that it is tested against (tests/objectives/goldens.json);
        "": none was to be had, the tests compare with the formula.
    """

    formula: str
    source: str
    objective: Objective
    golden: str = ""


VIEW_0, VIEW_1 = Rows("image", 0), Rows("image", 1)


def both_ways(first: Rows, second: Rows, **fields) -> tuple[Term, Term]:
    """A term in both directions, half the weight each."""
    weight = fields.pop("weight", 1.0) / 2
    return (
        Term(anchors=first, keys=second, weight=weight, **fields),
        Term(anchors=second, keys=first, weight=weight, **fields),
    )


def image_text(**fields) -> tuple[Term, Term]:
    """Image against text and text against image."""
    return both_ways(IMAGE, TEXT, **fields)
