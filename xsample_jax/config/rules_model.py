"""Rules about the network and the weights that it starts from."""

from collections.abc import Iterator

from xsample_jax.errors import ConfigError
from xsample_jax.weights.families import FAMILIES


def _patches(c: dict) -> Iterator[ConfigError]:
    size, patch = c["augment.size"], c["model.patch_size"]
    if c["model.encoder"].startswith("vit") and size % patch:
        divisors = ", ".join(str(side) for side in range(2, size + 1) if size % side == 0 and side <= 32)
        yield ConfigError(
            "model.patch_size", patch, f"a divisor of augment.size ({size}) for a ViT", f"Possible: {divisors}."
        )


def _pretrained(c: dict) -> Iterator[ConfigError]:
    path, family, encoder, layout = (c[f"model.{name}"] for name in ("init_from", "init_family", "encoder", "layout"))
    if (path is None) != (family is None):
        missing, fix = ("init_family", f"one of {', '.join(FAMILIES)}") if path else ("init_from", "a file of weights")
        yield ConfigError(f"model.{missing}", None, f"{fix}, as the other of the two is set", "Set both, or neither.")
    if family is not None:
        layouts, vit = FAMILIES[family].layouts, encoder.startswith("vit")
        if bool(layouts) != vit:
            expected = f"a family with weights of {encoder}: "
            expected += ", ".join(name for name, other in FAMILIES.items() if bool(other.layouts) == vit)
            yield ConfigError("model.init_family", family, expected)
        elif vit and layout not in layouts:
            fix = "timm" if "timm" in layouts else layouts[0]
            expected = f"a layout of {family}: {', '.join(layouts)}"
            yield ConfigError("model.layout", layout, expected, f"Set --config.model.layout={fix}.")
    if path is not None and c["checkpoint.resume_from"] is not None:
        yield ConfigError(
            "model.init_from",
            path,
            "None when checkpoint.resume_from is set, whose weights would take their place",
            "Set --config.checkpoint.resume_from=None, or both init_from and init_family to None.",
        )


RULES = (_patches, _pretrained)
