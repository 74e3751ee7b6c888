"""What values a target graph has: negative ones, zeros, masked pairs; and what a normalizer cannot take of them."""

from collections.abc import Iterator

from xsample_jax.errors import ConfigError
from xsample_jax.graphs.targets import LOCAL, WITH_TEMPERATURE, Graph, bounds_after, describe
from xsample_jax.registry import Choice, name_of, options_of

# Sources whose values can be negative: a row sum of them is no distribution.
SIGNED = (
    "caption",
    "class_text",
    "teacher",
    "self_similarity",
    "text_similarity",
    "image_similarity",
    "swapped",
    "swapped_keys",
    "swapped_pair",
    "random",
)
# Sources that are zero for some pairs.
WITH_ZEROS = (
    "identity",
    "label",
    "labels",
    "cluster",
    "same_target",
    "other_label",
    "second_label",
    "own_center",
    "geometry",
    "mixed",
    "mixed_keys",
)


def value_bounds(part: Graph) -> tuple[float, float]:
    """Between which values the similarities of a graph lie after its transforms."""
    lowest, highest = (-1.0 if name_of(part.source) in SIGNED else 0.0), 1.0
    for transform in part.transforms:
        if name_of(transform) in LOCAL:
            lowest, highest = bounds_after((transform,), lowest, highest)
        else:
            lowest, highest = min(lowest, 0.0), max(highest, 0.0)
        if name_of(transform) == "threshold" and options_of(transform)["at"] >= 0:
            lowest = 0.0
        if name_of(transform) == "power":
            lowest = 0.0
    return lowest, highest


def find_masked(part: Graph, field: str) -> Iterator[ConfigError]:
    """Pairs that are masked with a large negative number need a softmax right after it."""
    masked = [number for number, one in enumerate(part.transforms) if is_masked_top_k(one)]
    soft = name_of(part.normalizer) in WITH_TEMPERATURE
    if masked and (not soft or masked[-1] != len(part.transforms) - 1 or len(masked) > 1):
        fix = "Set its option masked=False, or take the normalizer softmax."
        expected = "a masking top_k only as the last transform before a softmax: it leaves out what it does not keep"
        yield ConfigError(f"{field}.graph.transforms", describe(part), expected, fix)
    without_own = name_of(part.source) == "teacher" and not options_of(part.source).get("own", True)
    if without_own and (not soft or len(masked) < len(part.transforms)):
        expected = "the normalizer softmax or sinkhorn and no transform: own=False leaves the own pair out"
        yield ConfigError(f"{field}.graph", describe(part), expected)


def is_masked_top_k(transform: Choice) -> bool:
    return name_of(transform) == "top_k" and options_of(transform).get("masked", True)


def has_zeros(part: Graph) -> bool:
    """Whether some pairs of a graph have no target."""
    if name_of(part.normalizer) in WITH_TEMPERATURE:
        return any(is_masked_top_k(one) for one in part.transforms)
    zeros = name_of(part.source) in WITH_ZEROS
    for transform in part.transforms:
        options = options_of(transform)
        if name_of(transform) == "affine":
            zeros = zeros and options.get("offset", 0.5) == 0
        elif name_of(transform) == "threshold":
            zeros = zeros or options["at"] > 0
        else:
            zeros = zeros or name_of(part.source) in SIGNED or name_of(transform) == "top_k"
    return zeros
