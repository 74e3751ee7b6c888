"""Which parameters are trained, and how fast: rules by regular expression (optimizer.rules), layer-wise rates.

A rule is a dict {"parameters": regex, "freeze": bool, "rate": number, "decay": number}. Of all rules whose regex is
found in the path of a parameter the first one decides: whether it keeps its value, and what its learning rate and its
weight decay are multiplied by. Parameters without a rule are trained as the optimizer says.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import optax

from xsample_jax.errors import ConfigError, did_you_mean, fits_float32, raise_all

KEYS = {"freeze": False, "rate": 1.0, "decay": 1.0}
# Of the stages of a ConvNeXt, whose downsampling is as deep as the first block after it, blocks have a name.
BLOCK = re.compile(r"encoder/(?:blocks|stages)/(\d+)(?:/(?:blocks/)?(\d+))?/")
LARGEST_FACTOR = 1e6


@dataclasses.dataclass(frozen=True)
class ParamGroups:
    """The rules of a config.

    Attributes:
      rules: as the config has them, checked by `find_rule_problems`.
      layer_decay: factor of the rate from one block of the encoder to the one before it; 1: all alike.
    """

    rules: tuple[Mapping, ...]
    layer_decay: float = 1.0

    @classmethod
    def of(cls, optimizer) -> "ParamGroups":
        """Those of a config's section `optimizer`."""
        return cls(tuple(optimizer.rules), optimizer.layer_decay)

    @property
    def freezes(self) -> bool:
        return any(rule.get("freeze") for rule in self.rules)

    @property
    def rates(self) -> bool:
        """Whether any parameter has a rate of its own."""
        return self.layer_decay != 1 or any("rate" in rule for rule in self.rules)

    @property
    def decay_factors(self) -> tuple[float, ...]:
        """All factors of the weight decay, in ascending order."""
        return tuple(sorted({1.0, *(float(rule["decay"]) for rule in self.rules if "decay" in rule)}))

    def _value(self, name: str, key: str):
        rule = next((rule for rule in self.rules if re.search(rule["parameters"], name)), {})
        return rule.get(key, KEYS[key])

    def frozen(self, name: str) -> bool:
        return bool(self._value(name, "freeze"))

    def decay(self, name: str) -> float:
        return float(self._value(name, "decay"))

    def rate_factors(self, names: Iterable[str]) -> dict[str, float]:
        """{path: what its learning rate is multiplied by}; `names` are all parameters, which say how deep a model is.

        A block that is n blocks below the last one has layer_decay ** (n + 1), what comes before all blocks one more,
        and what comes after them, head and text tower included, 1 (arXiv 2106.08254, appendix).
        """
        names = list(names)
        depths = layer_depths(names)
        top = max(depths.values(), default=0)
        return {name: float(self._value(name, "rate")) * self.layer_decay ** (top - depths[name]) for name in names}

    def labels(self, parameters):
        """A tree of "frozen" and "trained" for optax.partition."""
        label = lambda path, leaf: "frozen" if self.frozen(name_of(path)) else "trained"  # noqa: E731
        return jax.tree_util.tree_map_with_path(label, parameters)

    def hold(self, params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The parameters, without a gradient where they are frozen: no backward pass is computed for those."""
        return {name: jax.lax.stop_gradient(value) if self.frozen(name) else value for name, value in params.items()}


def layer_depths(names: Iterable[str]) -> dict[str, int]:
    """{path: 0 before the first block of the encoder, 1 in it, ..., number of blocks + 1 after the last}."""
    names = list(names)
    found = {name: tuple(int(n) for n in match.groups(default="0")) for name in names if (match := BLOCK.match(name))}
    place = {block: number for number, block in enumerate(sorted(set(found.values())), 1)}
    end = len(place) + 1

    def depth(name: str) -> int:
        if name in found:
            return place[found[name]]
        return 0 if name.startswith("encoder/") and not name.startswith("encoder/norm/") else end

    return {name: depth(name) for name in names}


def name_of(path) -> str:
    """The path of a leaf as "encoder/stem/kernel", of flat and of nested parameters."""
    return "/".join(str(getattr(entry, "key", entry)) for entry in path)


def scale_by_group(groups: ParamGroups) -> optax.GradientTransformation:
    """Multiplies each update by the factor of its parameter."""

    def scaled(updates, params=None):
        named, structure = jax.tree_util.tree_flatten_with_path(updates)
        factors = groups.rate_factors(name_of(path) for path, _ in named)
        return jax.tree.unflatten(structure, [factors[name_of(path)] * update for path, update in named])

    return optax.stateless(scaled)


def find_rule_problems(rules: Sequence[Mapping]) -> Iterator[ConfigError]:
    """What is wrong with optimizer.rules whatever the model."""
    for number, rule in enumerate(rules):
        field = f"optimizer.rules[{number}]"
        if "parameters" not in rule or len(rule) < 2 or set(rule) - {"parameters", *KEYS}:
            wrong = next(iter(set(rule) - {"parameters", *KEYS}), "")
            expected = f"a dict with parameters (a regex) and one or more of {', '.join(KEYS)}"
            yield ConfigError(field, dict(rule), expected, did_you_mean(wrong, KEYS) if wrong else "")
            continue
        try:
            re.compile(rule["parameters"])
        except (re.error, TypeError, OverflowError, RecursionError) as error:
            yield ConfigError(f"{field}.parameters", rule["parameters"], f"a regular expression ({error})")
        if not isinstance(rule.get("freeze", False), bool):
            yield ConfigError(f"{field}.freeze", rule["freeze"], "True or False")
        for key in ("rate", "decay"):
            value = rule.get(key, 1.0)
            number_like = isinstance(value, int | float) and not isinstance(value, bool) and fits_float32(value)
            if not number_like or not 0 <= value <= LARGEST_FACTOR:
                yield ConfigError(f"{field}.{key}", value, f"a factor from 0 to {LARGEST_FACTOR:g}")
        if rule.get("freeze") is True and len(rule) > 2:
            yield ConfigError(field, dict(rule), "no rate and no decay for what is frozen")


def check_rules(groups: ParamGroups, names: Iterable[str]) -> None:
    """Raises ConfigError or Problems: a rule that decides about no parameter, or nothing left to train."""
    names = list(names)
    used = {
        next((n for n, rule in enumerate(groups.rules) if re.search(rule["parameters"], name)), None) for name in names
    }
    problems = [
        ConfigError(
            f"optimizer.rules[{number}]",
            rule["parameters"],
            "a pattern that is found in the path of a parameter which no earlier rule takes",
            did_you_mean(rule["parameters"], names),
        )
        for number, rule in enumerate(groups.rules)
        if number not in used
    ]
    if names and all(map(groups.frozen, names)):
        fix = "Let the head be trained: {'parameters': '^encoder/', 'freeze': True}."
        problems.append(ConfigError("optimizer.rules", "freeze", "a parameter that is left to train", fix))
    raise_all(problems, "optimizer.rules")
