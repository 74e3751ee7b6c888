"""The words after the colon of `--config=file.py:word,smoke`."""

from collections.abc import Sequence

from xsample_jax.errors import ConfigError, did_you_mean


def parse_variants(argument: str, choices: tuple[str, ...] = ()) -> tuple[str | None, bool]:
    """Returns (the one word of `choices` in the comma-separated `argument` or None, whether `smoke` is in it).

    Raises ConfigError for an unknown word and for two choices at once.
    """
    (chosen,), small = parse_variant_groups(argument, (choices,))
    return chosen, small


def parse_variant_groups(argument: str, groups: Sequence[tuple[str, ...]]) -> tuple[list[str | None], bool]:
    """As `parse_variants`, for questions that are answered one by one: at most one word of each group."""
    words = [word.strip() for word in argument.split(",") if word.strip()]
    known = (*(word for group in groups for word in group), "smoke")
    for word in words:
        if word not in known:
            raise ConfigError("config variant", word, f"one of {', '.join(known)}", did_you_mean(word, known))
    answers = []
    for group in groups:
        chosen = sorted({word for word in words if word in group})
        if len(chosen) > 1:
            raise ConfigError("config variant", argument, f"only one of {', '.join(chosen)}", "Start one run for each.")
        answers.append(chosen[0] if chosen else None)
    return answers, "smoke" in words
