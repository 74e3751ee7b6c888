"""The concepts of the emoji set: which emoji it holds, in which split each is, and its captions."""

import dataclasses
import hashlib


@dataclasses.dataclass(frozen=True)
class Concept:
    """One emoji, whatever its drawing. `codepoints` is lower-case hex without the variation selector FE0F."""

    codepoints: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str

    @property
    def captions(self) -> list[str]:
        """[label and tags, the same with the words of subgroup and group between them]."""
        tags = ", ".join(self.tags)
        words = f"{self.subgroup.replace('-', ' ')}, {self.group.replace('-', ' ')}"
        return [", ".join((self.label, *self.tags)), f"{self.label}. {words}." + (f" {tags}" if tags else "")]

    @property
    def split(self) -> str:
        """train, val or test (80/10/10) from a hash of the code points, so that no other concept has a say in it."""
        bucket = int.from_bytes(hashlib.sha256(self.codepoints.encode()).digest()[:8], "big") % 10
        return "val" if bucket == 8 else "test" if bucket == 9 else "train"


def bare(codepoints: str) -> str:
    """Lower-cases hex code points joined by "-" and drops FE0F, which only asks for the coloured drawing."""
    return "-".join(part for part in codepoints.lower().split("-") if part != "fe0f")


def list_concepts(emoji: list[dict], messages: dict) -> list[Concept]:
    """Returns the concepts in the order of the Unicode chart, without flags, components and skin tones.

    Args:
      emoji: emojibase-data en/data.json.
      messages: emojibase-data en/messages.json, which names groups and subgroups.
    """
    groups = {entry["order"]: entry["key"] for entry in messages["groups"]}
    subgroups = {entry["order"]: entry["key"] for entry in messages["subgroups"]}
    kept = [entry for entry in emoji if groups.get(entry.get("group")) not in (None, "component", "flags")]
    kept.sort(key=lambda entry: entry["order"])
    concepts = []
    for entry in kept:
        tags = tuple(tag for tag in entry.get("tags", ()) if tag.lower() != entry["label"].lower())
        group, subgroup = groups[entry["group"]], subgroups[entry["subgroup"]]
        concepts.append(Concept(bare(entry["hexcode"]), entry["label"], tags, group, subgroup))
    return concepts


def group_names(concepts: list[Concept]) -> tuple[list[str], list[str]]:
    """Returns the names of groups and of subgroups, each in order of first appearance."""
    return list(dict.fromkeys(c.group for c in concepts)), list(dict.fromkeys(c.subgroup for c in concepts))
