"""An explicit map between our names of parameters and those of another library, used in both directions.

A rule says which paths of ours (a regex that must match the whole path below `encoder/`) are which names of theirs (the
numbers in braces are the groups of the regex), and in which form the values are. Nothing is matched by shape or order.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from xsample_jax.distributed import log_info
from xsample_jax.errors import ConfigError, DataError, Problems


@dataclasses.dataclass(frozen=True)
class Form:
    """`to_ours(*theirs)` makes our array, `to_theirs(ours)` the tuple of theirs. Each undoes the other."""

    to_ours: Callable
    to_theirs: Callable


SAME = Form(lambda x: x, lambda x: (x,))
DENSE = Form(lambda x: x.T, lambda x: (x.T,))  # theirs [out, in]
POINTWISE = Form(lambda x: x[:, :, 0, 0].T, lambda x: (x.T[:, :, None, None],))  # theirs a 1x1 convolution
DEPTHWISE = Form(lambda x: x[:, 0].transpose(1, 2, 0), lambda x: (x.transpose(2, 0, 1)[:, None],))  # [out, 1, ...]
CONV = Form(lambda x: x.transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),))  # theirs [out, in, rows, columns]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a map: `theirs` is one name, or several where one array of ours is several of theirs."""

    ours: str
    theirs: str | tuple[str, ...]
    form: Form = SAME

    def names(self, path: str) -> tuple[str, ...] | None:
        """Their names of our `path`, or None where the rule is not about it."""
        match = re.fullmatch(self.ours, path)
        if match is None:
            return None
        theirs = (self.theirs,) if isinstance(self.theirs, str) else self.theirs
        return tuple(name.format(*match.groups()) for name in theirs)


@dataclasses.dataclass(frozen=True)
class Family:
    """The names of one library.

    Attributes:
      title: what it is, in words.
      rules: encoder (a module) -> its rules.
      kind: of the encoders that these weights fit (KINDS of models/towers.py).
      layouts: the layouts of a ViT (models/vit.py) that compute what these weights were trained for; () for a ResNet.
      ignored: regex of names that no encoder has: classifiers, text towers, counters.
      refused: {regex: reason} of names that say that our encoders cannot compute this model.
      prepare: their arrays -> their arrays under the names of the rules.
      constants: encoder -> {name: array} that they store and we do not, as fixed position tables.
      position: their name of a ViT's learned positions, [..., tokens, width], which may be of another image size.
    """

    title: str
    rules: Callable[[object], Sequence[Rule]]
    kind: str = "vit"
    layouts: tuple[str, ...] = ()
    ignored: str = "$^"
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prepare: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = dict
    constants: Callable[[object], Mapping[str, np.ndarray]] = lambda encoder: {}
    position: str = ""


def to_ours(
    family: Family, encoder, shapes: Mapping[str, tuple[int, ...]], theirs: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """Our arrays, float32, out of theirs.

    Args:
      family: whose names they have.
      encoder: the module (abstract will do) whose parameters are wanted.
      shapes: {our path: shape} of these parameters and running statistics.
      theirs: all arrays of their file.
      where: names the file in errors.

    Raises:
      Problems: every name that is missing, left over or of another shape, at once.
    """
    theirs = dict(family.prepare(theirs))
    if family.position in theirs and "position" in shapes:
        theirs[family.position] = resized_positions(theirs[family.position], shapes["position"][0], where)
    rules, constants = family.rules(encoder), family.constants(encoder)
    ours, used, problems = {}, set(), []
    for path, shape in shapes.items():
        rule, names = _rule_of(rules, path)
        used |= set(names)
        abstract = jax.ShapeDtypeStruct(shape, np.float32)
        expected = [leaf.shape for leaf in jax.eval_shape(rule.form.to_theirs, abstract)]
        found = [theirs[name].shape if name in theirs else None for name in names]
        problems += [
            DataError(name, there, "to be there" if there is None else f"shape {right}", f"It is our encoder/{path}.")
            for name, right, there in zip(names, expected, found, strict=True)
            if there != right
        ]
        if found == expected:
            arrays = (np.asarray(theirs[name], np.float32) for name in names)
            ours[path] = np.ascontiguousarray(rule.form.to_ours(*arrays))
    for name, value in constants.items():
        used.add(name)
        if name in theirs and not _close(theirs[name], value):
            fix = f"Set --config.model.layout={family.layouts[-1]}."
            problems.append(DataError(name, "other values", "the fixed table of this layout", fix))
    for name in theirs.keys() - used:
        reasons = [reason for pattern, reason in family.refused.items() if re.fullmatch(pattern, name)]
        if reasons:
            problems.append(DataError(name, theirs[name].shape, reasons[0]))
        elif not re.fullmatch(family.ignored, name):
            problems.append(DataError(name, theirs[name].shape, "a name that this encoder has"))
    if problems and not used & theirs.keys():
        some = ", ".join(sorted(theirs)[:5])
        raise ConfigError("model.init_family", family.title, f"the family of {where}, whose names are {some}, ...")
    if problems:
        raise Problems(sorted(problems, key=lambda problem: problem.field), where)
    return ours


def to_theirs(family: Family, encoder, ours: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Their arrays, float32, out of ours {path: array}: the inverse of `to_ours`."""
    rules = family.rules(encoder)
    theirs = {name: np.asarray(value, np.float32) for name, value in family.constants(encoder).items()}
    for path, value in ours.items():
        rule, names = _rule_of(rules, path)
        arrays = rule.form.to_theirs(np.asarray(value, np.float32))
        theirs |= {name: np.ascontiguousarray(array) for name, array in zip(names, arrays, strict=True)}
    return theirs


def _rule_of(rules: Sequence[Rule], path: str) -> tuple[Rule, tuple[str, ...]]:
    found = [(rule, names) for rule in rules if (names := rule.names(path)) is not None]
    if len(found) != 1:
        raise AssertionError(f"{len(found)} rules for {path}")  # a map of ours that is not complete
    return found[0]


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and np.allclose(np.asarray(found, np.float32), expected, atol=1e-5)


def resized_positions(found: np.ndarray, tokens: int, where: str) -> np.ndarray:
    """Learned positions [..., t, width] for another number of tokens; as they are where no square grid explains it.

    The grid of the patches is resampled by cubic convolution, antialiased, in float32, as timm does; the position of a
    class token stays. That another grid was found is logged.
    """
    count, width = found.shape[-2:]
    for token in (0, 1):
        old, new = math.isqrt(count - token), math.isqrt(tokens - token)
        if old != new and old**2 == count - token and new**2 == tokens - token:
            rows = np.asarray(found, np.float32).reshape(count, width)
            grid = jax.image.resize(rows[token:].reshape(old, old, width), (new, new, width), "cubic", antialias=True)
            log_info(f"{where}: learned positions of {old} x {old} patches resampled to {new} x {new}")
            rows = np.concatenate([rows[:token], np.asarray(grid).reshape(-1, width)])
            return rows.reshape(*found.shape[:-2], tokens, width)
    return found


# The forms in which other libraries keep the arrays of our ViT (models/vit.py, models/layers.py).
#
# Ours: patch kernel [rows * columns * 3, width], and one map qkv [width, heads * 3 * size] with query, key and value
# of a
# head side by side.


# Theirs [1, tokens, width] and [1, 1, width].
POSITION = Form(lambda x: x[0], lambda x: (x[None],))
TOKEN = Form(lambda x: x[0, 0], lambda x: (x[None, None],))


def _side(patch) -> int:
    return math.isqrt(patch.shape[0] // 3)


# A torch convolution [width, 3, rows, columns].
PATCH = Form(
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
    lambda x: (x.reshape(_side(x), _side(x), 3, -1).transpose(3, 2, 0, 1),),
)


# A torch convolution of any number of channels [out, in, side, side], whose patches do not overlap.
def patches(side: int) -> Form:
    return Form(
        lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
        lambda x: (x.reshape(side, side, -1, x.shape[1]).transpose(3, 2, 0, 1),),
    )


# A flax convolution [rows, columns, 3, width].
PATCH_FLAX = Form(
    lambda x: x.reshape(-1, x.shape[-1]),
    lambda x: (x.reshape(_side(x), _side(x), 3, -1),),
)


def qkv_weight(heads: int) -> Form:
    """torch's [3 * width, width]: all queries, all keys, all values."""

    def to_ours(x):
        width = x.shape[1]
        return x.reshape(3, heads, -1, width).transpose(3, 1, 0, 2).reshape(width, -1)

    def to_theirs(x):
        width = x.shape[0]
        return (x.reshape(width, heads, 3, -1).transpose(2, 1, 3, 0).reshape(-1, width),)

    return Form(to_ours, to_theirs)


# Two arrays of theirs in one of ours: gates and values of SwiGLU, side by side; biases of queries and of values.
DENSE_HALVES = Form(
    lambda gates, values: np.concatenate([gates, values]).T,
    lambda x: (x[:, : x.shape[1] // 2].T, x[:, x.shape[1] // 2 :].T),
)
HALVES = Form(lambda gates, values: np.concatenate([gates, values]), lambda x: (x[: len(x) // 2], x[len(x) // 2 :]))
ROWS = Form(lambda queries, values: np.stack([queries, values]), lambda x: (x[0], x[1]))


def qkv_bias(heads: int) -> Form:
    """torch's [3 * width]."""
    return Form(
        lambda x: x.reshape(3, heads, -1).transpose(1, 0, 2).reshape(-1),
        lambda x: (x.reshape(heads, 3, -1).transpose(1, 0, 2).reshape(-1),),
    )
