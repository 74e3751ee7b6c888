"""The words after the colon of `--config=file.py:word,smoke`."""

from xsample_jax.errors import ConfigError, did_you_mean


def parse_variants(argument: str, choices: tuple[str, ...] = ()) -> tuple[str | None, bool]:
    """Returns (the one word of `choices` in the comma-separated `argument` or None, whether `smoke` is in it).

    Raises ConfigError for an unknown word and for two choices at once.
    """
    words = [word.strip() for word in argument.split(",") if word.strip()]
    known = (*choices, "smoke")
    for word in words:
        if word not in known:
            raise ConfigError("config variant", word, f"one of {', '.join(known)}", did_you_mean(word, known))
    chosen = sorted({word for word in words if word in choices})
    if len(chosen) > 1:
        raise ConfigError("config variant", argument, f"only one of {', '.join(chosen)}", "Start one run for each.")
    return (chosen[0] if chosen else None), "smoke" in words
